//! `kvstore inspect`: what it says of a real node's directory is what a start of the node does, and
//! the directory stays as it was.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvstore::storage::{Batch, FileDisk, Options, Storage};
use kvstore::types::{ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::entry::{Configuration, Entry, Member, Payload, Snapshot};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::setup::{Ended, eventually, founded, kv, prepared, program, run};

const SEGMENT: &str = "0000000001.wal";

pub(crate) fn inspect(directory: &Path, options: &[&str]) -> Result<Ended> {
    let mut command = Command::new(program());
    command.arg("inspect").arg(directory).args(options);
    run(command, b"")
}

/// A cluster of one that was killed after some writes.
fn killed() -> Result<Cluster> {
    let mut cluster = founded(1)?;
    for number in 1..=9 {
        let put = kv(&cluster, 0, &format!("put key{number} value{number} --client-id job --seq {number}"))?;
        ensure!(put.status == 0, "{put:?}");
    }
    cluster.signal(0, Signal::KILL)?;
    cluster.wait_for_exit(0)?;
    Ok(cluster)
}

/// Names and contents of all files, and when they were written last.
fn content(directory: &Path) -> Result<BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)>> {
    let files = fs::read_dir(directory)?.map(|file| {
        let path = file?.path();
        let written = fs::metadata(&path)?.modified()?;
        Ok((path.clone(), (fs::read(&path)?, written)))
    });
    files.collect()
}

/// Where the records end, as `inspect` says.
fn used_bytes(directory: &Path) -> Result<u64> {
    let ended = inspect(directory, &["--json"])?;
    ended.json()["segments"][0]["used_bytes"].as_u64().context("a segment")
}

type Damage = fn(&Path, u64) -> Result<()>;

fn overwrite(directory: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(directory.join(SEGMENT))?;
    Ok(file.write_all_at(bytes, offset)?)
}

const DAMAGES: [(&str, Damage); 8] = [
    ("none", |_, _| Ok(())),
    ("a torn tail", |directory, used| overwrite(directory, used, &[1, 2, 3])),
    ("a header page", |directory, _| overwrite(directory, 20, b"x")),
    ("an unknown version", |directory, _| {
        let mut page = fs::read(directory.join(SEGMENT))?;
        page[8] = 99;
        let checksum = crc32c::crc32c(&page[..4092]);
        page[4092..4096].copy_from_slice(&checksum.to_le_bytes());
        overwrite(directory, 0, &page[..4096])
    }),
    ("a record that was acknowledged", |directory, used| overwrite(directory, used - 60, &[0; 16])),
    ("a file cut short", |directory, used| {
        Ok(fs::OpenOptions::new().write(true).open(directory.join(SEGMENT))?.set_len(used)?)
    }),
    ("a segment that is another's copy", |directory, _| {
        fs::copy(directory.join(SEGMENT), directory.join("0000000002.wal"))?;
        Ok(())
    }),
    ("everything gone", |directory, _| {
        for file in fs::read_dir(directory)? {
            fs::remove_file(file?.path())?;
        }
        Ok(())
    }),
];

#[test]
fn inspect_of_damaged_directories_says_what_a_start_does_and_changes_nothing() -> Result<()> {
    let mut cluster = killed()?;
    let (data, kept) = (cluster.data(0), cluster.directory().join("kept"));
    fs::rename(&data, &kept)?;
    let used = used_bytes(&kept)?;
    for (damage, inflict) in DAMAGES {
        fs::create_dir(&data)?;
        for file in fs::read_dir(&kept)? {
            let path = file?.path();
            fs::copy(&path, data.join(path.file_name().context("a name")?))?;
        }
        inflict(&data, used)?;
        let before = content(&data)?;
        let said = inspect(&data, &["--entries", "1.."])?;
        ensure!(content(&data)? == before, "{damage}: inspecting changes nothing");
        let verdict = said.text().lines().last().context("a verdict")?.to_owned();
        match said.status {
            0 => {
                ensure!(verdict.starts_with("would start"), "{damage}: {verdict}");
                ensure!(
                    (damage == "a torn tail") == verdict.contains("dropping a torn tail of 3 bytes"),
                    "{verdict}"
                );
                cluster.start(0)?;
                cluster.wait_until_whole()?;
                cluster.signal(0, Signal::KILL)?;
                cluster.wait_for_exit(0)?;
            }
            1 => {
                let refusal = verdict.strip_prefix("would refuse: ").context("a refusal")?;
                let start = run(cluster.command(0), b"")?;
                ensure!(
                    start.status == 1 && start.stderr.contains(refusal),
                    "{damage}: {verdict}: {start:?}"
                );
                ensure!(content(&data)?.len() == before.len(), "{damage}: what is refused is left alone");
            }
            _ => anyhow::bail!("{damage}: {said:?}"),
        }
        fs::remove_dir_all(&data)?;
    }
    Ok(())
}

#[test]
fn inspect_shows_entries_sessions_and_where_the_log_ends() -> Result<()> {
    let cluster = killed()?;
    let tables = inspect(&cluster.data(0), &["--entries", "3..4"])?;
    ensure!(tables.status == 0, "{tables:?}");
    for words in
        ["\"key1\" = \"value1\"", "job", "live", "would start as node 1, with a boot above 1, at index "]
    {
        ensure!(tables.text().contains(words), "{words:?} is not in\n{}", tables.text());
    }
    ensure!(!tables.text().contains("key3"), "entries that were not asked for:\n{}", tables.text());
    let beyond = inspect(&cluster.data(0), &["--entries", "900.."])?;
    ensure!(beyond.text().contains("none of these entries is in the log, which has 1 to"), "{beyond:?}");
    let json = inspect(&cluster.data(0), &["--json", "--entries", "..3"])?.json();
    ensure!(json["would_start"] == true && json["node"] == 1, "{json}");
    let texts = json.as_object().context("one object")?.iter().filter(|(_, value)| value.is_string());
    let texts: Vec<&str> = texts.map(|(name, _)| name.as_str()).collect();
    ensure!(texts == ["cluster", "directory", "incarnation", "verdict"], "figures are numbers: {json}");
    ensure!(json["log_entries"] == json["last_index"] && json["snapshot"].is_null(), "{json}");
    ensure!(json["members"][0]["id"] == 1 && json["term"].is_u64() && json["vote"] == 1, "{json}");
    ensure!(json["entries"].as_array().map(Vec::len) == Some(3), "{json}");
    ensure!(json["named_sessions"][0]["name"] == "job", "{json}");
    ensure!(json["named_sessions"][0]["last_seq_in_log"] == 9, "{json}");
    Ok(())
}

#[test]
fn inspect_of_a_running_nodes_directory_is_refused_and_harms_nobody() -> Result<()> {
    let cluster = founded(1)?;
    let refused = inspect(&cluster.data(0), &[])?;
    let pid = cluster.pid(0)?.as_raw_nonzero().to_string();
    ensure!(refused.status == 1 && refused.stderr.contains(&format!("process {pid}")), "{refused:?}");
    ensure!(kv(&cluster, 0, "put k v")?.status == 0, "the node goes on");
    Ok(())
}

/// Runs the program as somebody who owns nothing here, if this is root; else as ourselves.
fn as_another(cluster: &Cluster, arguments: &[OsString]) -> Result<Ended> {
    let copy = cluster.directory().join("program");
    if !copy.exists() {
        // By another process: a file that a fork of this one still has open for writing cannot be run.
        let mut command = Command::new("cp");
        command.arg(program()).arg(&copy);
        ensure!(run(command, b"")?.status == 0, "the program cannot be copied");
    }
    let mut command = Command::new(copy);
    command.args(arguments);
    if rustix::process::getuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    run(command, b"")
}

#[test]
fn inspect_and_start_of_what_may_not_be_written_refuse_in_the_same_words() -> Result<()> {
    let cluster = killed()?;
    let data = cluster.data(0);
    fs::set_permissions(cluster.directory(), fs::Permissions::from_mode(0o755))?;
    let start: Vec<OsString> = cluster.command(0).get_args().map(OsString::from).collect();
    let inspect = [OsString::from("inspect"), data.clone().into()];
    let cases = [
        (0o555, 0o444, 0o444, "run as the user who owns it"),
        (0o555, 0o666, 0o666, "run as the user who owns it"),
        (0o777, 0o444, 0o666, "lock: Permission denied"),
        (0o777, 0o666, 0o444, "0000000001.wal: Permission denied"),
    ];
    for (of_directory, of_lock, of_files, words) in cases {
        for file in fs::read_dir(&data)? {
            let file = file?;
            let mode = if file.file_name() == "lock" { of_lock } else { of_files };
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))?;
        }
        fs::set_permissions(&data, fs::Permissions::from_mode(of_directory))?;
        let (said, started) = (as_another(&cluster, &inspect)?, as_another(&cluster, &start)?);
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
        let refusal = said.text().lines().last().and_then(|line| line.strip_prefix("would refuse: "));
        let refusal = refusal.with_context(|| format!("a refusal: {said:?}"))?;
        ensure!(said.status == 1 && refusal.contains(words), "{said:?}");
        ensure!(started.status == 1 && started.stderr.contains(refusal), "{refusal}: {started:?}");
    }
    Ok(())
}

/// A directory of node 1, founded alone, whose log has this entry 2 and, where there is one, a snapshot of it.
fn written(directory: &Path, entry: Payload, state: Option<&[u8]>) -> Result<()> {
    let disk = FileDisk::open(directory)?;
    let (mut storage, found) = Storage::open(disk, NodeId(1), Options::default(), Incarnation(5))?;
    let member = Member { id: NodeId(1), incarnation: found.incarnation };
    let configuration = Configuration::new(ClusterId(1), vec![member]).context("a member")?;
    let payloads = [Payload::Configuration(configuration.clone()), entry];
    let entry = |(index, payload)| Entry::new(LogIndex(index), Term(0), ClusterTime(0), payload);
    let entries: Vec<Entry> = (1..).zip(payloads).map(entry).collect();
    storage.persist(&Batch { entries: &entries, ..Batch::default() })?;
    if let Some(state) = state {
        let (index, term, stamp) = (LogIndex(2), Term(0), ClusterTime(0));
        storage.begin_snapshot(Snapshot { index, term, stamp, configuration })?;
        storage.write_snapshot(state)?;
        storage.save_snapshot()?;
    }
    Ok(())
}

/// All bytes of these directories are intact; but something in them is of a version that is not known.
#[test]
fn inspect_and_start_refuse_what_is_intact_and_not_understood_in_the_same_words() -> Result<()> {
    let no_op = Payload::NoOp { leader: NodeId(1) };
    let state = [21_u32.to_le_bytes().as_slice(), &[1], &9_u32.to_le_bytes(), &[0; 16]].concat();
    let unknown_command = Payload::Command(Bytes::from_static(&[99]));
    type Make<'a> = &'a dyn Fn(&Path) -> Result<()>;
    let cases: [(&str, Make<'_>); 3] = [
        ("version 9", &|data| written(data, no_op.clone(), Some(&state))),
        ("version 9", &|data| {
            let old = tempfile::tempdir()?;
            written(old.path(), no_op.clone(), Some(&state))?;
            fs::create_dir_all(data)?;
            fs::copy(old.path().join("0000000002.snap"), data.join("restored-1.snap"))?;
            Ok(())
        }),
        ("the command in entry 2", &|data| written(data, unknown_command.clone(), None)),
    ];
    for (words, make) in cases {
        let cluster = prepared(1)?;
        make(&cluster.data(0))?;
        // This process has held the directory, and so does for a moment whatever another test has just forked.
        let said = eventually("a directory that nobody uses", || {
            inspect(&cluster.data(0), &[]).ok().filter(|said| !said.stderr.contains("is in use"))
        })?;
        let refusal = said.text().lines().last().and_then(|line| line.strip_prefix("would refuse: "));
        let refusal = refusal.with_context(|| format!("a refusal: {said:?}"))?;
        ensure!(said.status == 1 && refusal.contains(words), "{said:?}");
        let start = run(cluster.command(0), b"")?;
        ensure!(start.status == 1 && start.stderr.contains(refusal), "{refusal}: {start:?}");
    }
    Ok(())
}

#[test]
fn inspect_with_wrong_usage_is_exit_2() -> Result<()> {
    let cluster = killed()?;
    ensure!(inspect(&cluster.data(0), &["--entries", "7..3"])?.status == 2);
    ensure!(
        run(
            {
                let mut command = Command::new(program());
                command.arg("inspect");
                command
            },
            b""
        )?
        .status
            == 2
    );
    let missing = inspect(&cluster.directory().join("nowhere"), &[])?;
    let words = ["No such file or directory", "correct the path"];
    ensure!(missing.status == 1 && words.iter().all(|word| missing.stderr.contains(word)), "{missing:?}");
    Ok(())
}
