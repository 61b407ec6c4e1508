//! Data directories that cannot be used, though no byte in them is wrong: a start names the path and the
//! cure, `inspect` says the same, and once the cause is gone the node starts with all that it had.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::full_disk::SmallDisk;
use crate::inspect::inspect;
use crate::setup::{Ended, eventually, founded, kv, kv_client, prepared, program, run};

/// Every name that a node gives to a file of its own.
const NAMES: [&str; 9] = [
    "lock",
    "0000000001.wal",
    "0000000009.wal",
    "spare.wal",
    "spare.tmp",
    "spare-0000000007.wal",
    "snapshot.tmp",
    "large.tmp",
    "0000000002.snap",
];

type Obstacle = fn(&Path) -> io::Result<()>;

const OBSTACLES: [(&str, Obstacle); 3] = [
    ("a directory", |path| fs::create_dir(path)),
    ("a broken link", |path| symlink("nowhere", path)),
    ("something else", |path| {
        Command::new("mkfifo").arg(path).status().map(|status| assert!(status.success(), "{status}"))
    }),
];

fn stop(cluster: &mut Cluster) -> Result<()> {
    cluster.signal(0, Signal::TERM)?;
    ensure!(cluster.wait_for_exit(0)?.success());
    Ok(())
}

/// The one line with which a start is refused, without the program's name.
fn refusal(ended: &Ended) -> Result<&str> {
    ensure!(ended.status == 1 && ended.stdout.is_empty(), "{ended:?}");
    let line = ended.stderr.strip_prefix("kvstore: ").and_then(|line| line.strip_suffix('\n'));
    line.filter(|line| !line.contains('\n')).with_context(|| format!("one line: {ended:?}"))
}

#[test]
fn what_stands_in_the_way_of_a_file_is_named_with_the_cure() -> Result<()> {
    let mut cluster = founded(1)?;
    ensure!(kv(&cluster, 0, "put key value")?.status == 0);
    stop(&mut cluster)?;
    let data = cluster.data(0);
    let kept = cluster.directory().join("kept");
    for (what, make) in OBSTACLES {
        for name in NAMES {
            let path = data.join(name);
            let was_there = path.exists();
            if was_there {
                fs::rename(&path, &kept)?;
            }
            make(&path)?;
            let started = run(cluster.command(0), b"")?;
            let expected = format!("{} is {what}, where a node keeps a file: move it away", path.display());
            ensure!(refusal(&started)?.contains(&expected), "{expected}: {started:?}");
            ensure!(inspect(&data, &[])?.stderr == started.stderr, "{name}: they do not agree");
            let as_json = inspect(&data, &["--json"])?;
            ensure!(as_json.json()["message"] == refusal(&started)?, "{as_json:?}");
            if what == "a directory" {
                fs::remove_dir(&path)?
            } else {
                fs::remove_file(&path)?
            }
            if was_there {
                fs::rename(&kept, &path)?;
            }
        }
    }
    // What a node has no name for is left alone, whatever it is.
    fs::create_dir(data.join("lost+found"))?;
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 0, "get key")?.text() == "value\n");
    Ok(())
}

#[test]
fn link_to_a_file_is_as_good_as_the_file() -> Result<()> {
    let mut cluster = founded(1)?;
    ensure!(kv(&cluster, 0, "put key value")?.status == 0);
    stop(&mut cluster)?;
    let (segment, elsewhere) =
        (cluster.data(0).join("0000000001.wal"), cluster.directory().join("elsewhere"));
    fs::rename(&segment, &elsewhere)?;
    symlink(&elsewhere, &segment)?;
    ensure!(inspect(&cluster.data(0), &[])?.status == 0);
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 0, "get key")?.text() == "value\n");
    Ok(())
}

#[test]
fn file_that_may_not_be_read_is_named_with_the_cure() -> Result<()> {
    let mut cluster = founded(1)?;
    stop(&mut cluster)?;
    let data = cluster.data(0);
    fs::set_permissions(cluster.directory(), fs::Permissions::from_mode(0o755))?;
    let program = cluster.directory().join("program");
    fs::copy(crate::setup::program(), &program)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777))?;
    let as_another = |arguments: &mut dyn Iterator<Item = &std::ffi::OsStr>| {
        let mut command = Command::new(&program);
        command.args(arguments);
        if rustix::process::getuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        run(command, b"")
    };
    for unreadable in ["lock", "0000000001.wal"] {
        for file in fs::read_dir(&data)? {
            let file = file?;
            let mode = if file.file_name() == unreadable { 0 } else { 0o666 };
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))?;
        }
        let start = as_another(&mut cluster.command(0).get_args())?;
        let words = format!("cannot use {}: Permission denied", data.join(unreadable).display());
        ensure!(
            refusal(&start)?.contains(&words) && refusal(&start)?.contains("the permissions"),
            "{start:?}"
        );
        let inspect = Command::new("inspect");
        let said = as_another(&mut [inspect.get_program(), data.as_os_str()].into_iter())?;
        let said_so = said.text().contains(refusal(&start)?) || said.stderr == start.stderr;
        ensure!(said.status == 1 && said_so, "{said:?}");
    }
    Ok(())
}

#[test]
fn file_system_that_is_read_only_is_named_with_the_cure() -> Result<()> {
    let mut cluster = prepared(1)?;
    let Some(disk) = SmallDisk::mount(&cluster.data(0), "size=72m")? else { return Ok(()) };
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 0, "put key value")?.status == 0);
    stop(&mut cluster)?;
    disk.remount("ro")?;
    let data = cluster.data(0);
    let start = run(cluster.command(0), b"")?;
    let path = data.display().to_string();
    let words = [path.as_str(), "Read-only file system", "mount it for writing"];
    ensure!(words.iter().all(|word| start.stderr.contains(word)), "{start:?}");
    let said = inspect(&data, &[])?;
    let verdict = format!("would refuse: {}\n", refusal(&start)?);
    ensure!(said.status == 1 && said.text().ends_with(&verdict), "{said:?}");
    // A directory that is to be made there cannot be, either.
    let new = data.join("new").join("node-1");
    let arguments = cluster
        .command(0)
        .get_args()
        .map(|argument| match argument == data {
            true => new.clone().into_os_string(),
            false => argument.to_owned(),
        })
        .collect::<Vec<_>>();
    let mut elsewhere = Command::new(program());
    elsewhere.args(arguments);
    let start = run(elsewhere, b"");
    disk.remount("rw")?;
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 0, "get key")?.text() == "value\n");
    drop(cluster);
    let start = start?;
    ensure!(
        refusal(&start)?.contains("mount it for writing") && refusal(&start)?.contains("node-1"),
        "{start:?}"
    );
    Ok(())
}

/// As after an error of the medium: what is open for writing stays open, and every write fails from then on.
#[test]
fn file_system_that_goes_over_to_reading_alone_ends_the_node_which_comes_back_with_all_it_promised()
-> Result<()> {
    let mut cluster = prepared(1)?;
    let (image, place) = (cluster.directory().join("image"), cluster.data(0));
    let Some(disk) = SmallDisk::mount_file(&image, &place)? else { return Ok(()) };
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 0, "put key value")?.status == 0);
    eventually("a spare", || place.join("spare.wal").exists().then_some(()))?;
    let since = Instant::now();
    disk.remount("abort")?;
    // It cannot be stored, so it is not acknowledged; whether the next start finds it is another matter.
    let put = kv_client(&cluster, 0, &["put", "other", "value", "--timeout-ms", "500"])?;
    ensure!(put.status != 0, "{put:?}");
    ensure!(cluster.wait_for_exit(0)?.code() == Some(1));
    cluster.wait_for_line(0, since, |line| {
        // A write is told so; a sync that was under way, that it failed.
        let is_told = line.contains("Read-only file system") && line.contains("mount it for writing first");
        (is_told || line.contains("Input/output error")) && line.contains("nothing can be stored safely")
    })?;
    let start = run(cluster.command(0), b"")?;
    ensure!(refusal(&start)?.contains("mount it for writing"), "{start:?}");
    let said = inspect(&place, &[])?;
    let verdict = format!("would refuse: {}\n", refusal(&start)?);
    ensure!(said.status == 1 && said.text().ends_with(&verdict), "{said:?}, {start:?}");

    disk.unmount()?;
    disk.mount_again(&image)?;
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 0, "get key")?.text() == "value\n");
    drop(cluster);
    Ok(())
}
