//! `kvstore inspect`: what it says of a real node's directory is what a start of the node does, and
//! the directory stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvstore::storage::{Batch, FileDisk, Options, Storage};
use kvstore::types::{ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::entry::{Configuration, Entry, Member, Payload, Snapshot};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::setup::{Ended, founded, kv, prepared, program, run};

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

#[test]
fn inspect_of_a_directory_that_cannot_be_written_works() -> Result<()> {
    let cluster = killed()?;
    let data = cluster.data(0);
    for file in fs::read_dir(&data)? {
        fs::set_permissions(file?.path(), fs::Permissions::from_mode(0o444))?;
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555))?;
    let said = inspect(&data, &[])?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
    // Root may write everywhere; anybody else is told that a start of his would fail.
    let is_root = rustix::process::getuid().is_root();
    let words = if is_root { "would start" } else { "may not write" };
    ensure!(said.text().lines().last().is_some_and(|line| line.contains(words)), "{said:?}");
    Ok(())
}

#[test]
fn inspect_and_start_refuse_a_snapshots_state_of_an_unknown_version_in_the_same_words() -> Result<()> {
    let cluster = prepared(1)?;
    // A directory whose bytes are all intact; but the state in its snapshot begins with a version 9.
    let disk = FileDisk::open(&cluster.data(0))?;
    let (mut storage, found) = Storage::open(disk, NodeId(1), Options::default(), Incarnation(5))?;
    let member = Member { id: NodeId(1), incarnation: found.incarnation };
    let configuration = Configuration::new(ClusterId(1), vec![member]).context("a member")?;
    let payload = Payload::Configuration(configuration.clone());
    let entry = Entry::new(LogIndex(1), Term(0), ClusterTime(0), payload);
    storage.persist(&Batch { entries: &[entry], ..Batch::default() })?;
    let (index, term, stamp) = (LogIndex(1), Term(0), ClusterTime(0));
    storage.begin_snapshot(Snapshot { index, term, stamp, configuration })?;
    let header = [21_u32.to_le_bytes().as_slice(), &[1], &9_u32.to_le_bytes(), &[0; 16]].concat();
    storage.write_snapshot(&header)?;
    storage.save_snapshot()?;
    drop(storage);
    let said = inspect(&cluster.data(0), &[])?;
    let refusal = said.text().lines().last().and_then(|line| line.strip_prefix("would refuse: "));
    let refusal = refusal.context("a refusal")?;
    ensure!(said.status == 1 && refusal.contains("version 9"), "{said:?}");
    let start = run(cluster.command(0), b"")?;
    ensure!(start.status == 1 && start.stderr.contains(refusal), "{start:?}");
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
    ensure!(missing.status == 1 && missing.stderr.contains("correct the path"), "{missing:?}");
    Ok(())
}
