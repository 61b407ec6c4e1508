//! Starts that are refused, and nodes that do not belong: one line names the cause and the cure,
//! and nobody else is harmed.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cluster::{Cluster, Port, free_ports, list_of_others};
use crate::setup::{CALM, Ended, founded, kv, prepared, prepared_with, program, run, with_options};

/// A start that is refused: exactly one line, which holds these words.
fn refused(command: Command, status: i32, words: &[&str]) -> Result<Ended> {
    let ended = run(command, b"")?;
    ensure!(ended.status == status, "exit {status} was expected: {ended:?}");
    ensure!(ended.stderr.lines().count() == 1 && ended.stdout.is_empty(), "one line: {ended:?}");
    for word in words {
        ensure!(ended.stderr.contains(word), "{word:?} is not in {ended:?}");
    }
    Ok(ended)
}

fn with(cluster: &Cluster, node: usize, options: &[&str]) -> Command {
    let mut command = cluster.command(node);
    command.args(options);
    command
}

/// A node that none of the cluster's own nodes is.
fn another(id: &str, port: &Port, peers: &str, data: PathBuf) -> Command {
    let mut command = Command::new(program());
    command
        .args(["--id", id, "--port", &port.number().to_string(), "--peers", peers])
        .arg("--data-dir")
        .arg(data);
    command
}

fn all_ports(cluster: &Cluster) -> String {
    [0, 1, 2].map(|node| cluster.port(node).to_string()).join(",")
}

/// The same leader in the same term, and a write goes through.
fn check_unharmed(cluster: &Cluster) -> Result<()> {
    ensure!(cluster.wait_until_whole()? == 0 && cluster.status(1)?.term.0 == 1, "leadership has moved");
    let put = kv(cluster, 1, "put unharmed yes")?;
    ensure!(put.status == 0, "{put:?}");
    Ok(())
}

#[test]
fn wrong_usage_is_one_line_and_exit_2() -> Result<()> {
    let cluster = prepared(3)?;
    for (options, words) in [
        (["--election-ms", "150-150"].as_slice(), ["MIN must be below MAX", "150-150"]),
        (&["--election-ms", "fast"], ["write MIN-MAX", "fast"]),
        (&["--heartbeat-ms", "100"], ["does not fit", "at most 150"]),
        (&["--heartbeat-ms", "0"], ["must be at least 1", "--heartbeat-ms 0"]),
        (&["--host", "0.0.0.0"], ["--advertise", "0.0.0.0"]),
        (&["--advertise", "9001"], ["--advertise", "HOST:PORT"]),
        (&["--nonsense"], ["--nonsense", "--help"]),
    ] {
        refused(with(&cluster, 0, options), 2, &words)?;
    }
    let data = cluster.data(0);
    let port = &free_ports(1)?[0];
    let number = port.number();
    let twice = format!("2=h:{number},2=g:{number}");
    for (id, peers, words) in [
        ("0", "9002", ["--id 0", "begin with 1"]),
        ("one", "9002", ["--id", "one"]),
        ("1", "nine", ["--peers", "nine"]),
        ("1", "1=elsewhere:9002", ["own id", "elsewhere"]),
        ("1", &twice, ["--peers", "2=g"]),
    ] {
        refused(another(id, port, peers, data.clone()), 2, &words)?;
    }
    let mut nothing = Command::new(program());
    nothing.args(["--id", "1"]);
    refused(nothing, 2, &["--port"])?;
    ensure!(!data.exists(), "a wrong command line left a directory behind");
    Ok(())
}

#[test]
fn directory_in_use_is_refused_and_names_the_process() -> Result<()> {
    let cluster = founded(3)?;
    let pid = cluster.pid(1)?.as_raw_nonzero().to_string();
    let port = &free_ports(1)?[0];
    let second = another("2", port, &all_ports(&cluster), cluster.data(1));
    refused(second, 1, &[&pid, "in use", "--data-dir"])?;
    check_unharmed(&cluster)
}

#[test]
fn directory_of_another_node_is_refused() -> Result<()> {
    let mut cluster = founded(3)?;
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;
    let port = &free_ports(1)?[0];
    let wrong = another("4", port, &all_ports(&cluster), cluster.data(2));
    refused(wrong, 1, &["belongs to node 3", "not to node 4", "--data-dir"])?;
    cluster.start(2)?;
    check_unharmed(&cluster)
}

#[test]
fn port_in_use_is_refused() -> Result<()> {
    let cluster = prepared(3)?;
    let _taken = TcpListener::bind(cluster.endpoint(0))?;
    let port = cluster.port(0).to_string();
    refused(cluster.command(0), 1, &["port taken", &port, "--port"])?;
    ensure!(!cluster.data(0).exists(), "a start that failed left a directory behind");
    Ok(())
}

#[test]
fn name_that_cannot_be_resolved_is_refused() -> Result<()> {
    let cluster = prepared(1)?;
    let (port, data) = (&free_ports(1)?[0], cluster.directory().join("new"));
    // Too long for a name: no name service is asked, which might keep us waiting for minutes.
    let nowhere = format!("{}.invalid:9002", "nowhere".repeat(10));
    refused(another("1", port, &nowhere, data.clone()), 1, &[&nowhere, "correct"])?;
    ensure!(!data.exists(), "a start that failed left a directory behind");
    Ok(())
}

#[test]
fn data_directory_that_is_a_file_is_refused() -> Result<()> {
    let cluster = prepared(1)?;
    fs::write(cluster.data(0), "no directory")?;
    let name = cluster.data(0).display().to_string();
    refused(cluster.command(0), 1, &[&name, "--data-dir"])?;
    Ok(())
}

#[test]
fn peers_list_that_contradicts_the_log_is_refused() -> Result<()> {
    let mut cluster = founded(3)?;
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;
    let peers = format!("9={}", cluster.endpoint(0));
    let port = cluster.port(2).to_string();
    let mut command = Command::new(program());
    command.args(["--id", "3", "--port", &port, "--peers", &peers]).arg("--data-dir").arg(cluster.data(2));
    refused(command, 1, &["node 9", "1, 2, 3"])?;
    cluster.start(2)?;
    check_unharmed(&cluster)
}

#[test]
fn damaged_log_is_refused_with_file_and_offset_and_left_as_it_is() -> Result<()> {
    let mut cluster = founded(3)?;
    for number in 0..20 {
        kv(&cluster, 0, &format!("put key{number} value-to-damage-{number}-"))?;
    }
    cluster.wait_until_whole()?;
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;

    let (file, offset) = find(&cluster.data(2), b"value-to-damage-7-").context("the value in some file")?;
    let whole = fs::read(&file)?;
    let mut damaged = whole.clone();
    damaged[offset] ^= 1;
    fs::write(&file, &damaged)?;
    let name = file.display().to_string();
    refused(cluster.command(2), 1, &[&name, "damaged at offset", "must not start", "Keep the directory"])?;
    ensure!(fs::read(&file)? == damaged, "the damaged file was changed");
    check_unharmed(&cluster)?;

    fs::write(&file, &whole)?;
    cluster.start(2)?;
    check_unharmed(&cluster)
}

fn find(directory: &PathBuf, wanted: &[u8]) -> Option<(PathBuf, usize)> {
    let files = fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .filter_map(|file| {
            let bytes = fs::read(&file).ok()?;
            let offset = bytes.windows(wanted.len()).position(|window| window == wanted)?;
            Some((file, offset))
        })
        .next()
}

/// Somebody who does not belong: told so on both sides, and nobody else notices.
fn check_intruder(cluster: &mut Cluster, intruder: Command, theirs: &[&str], ours: &[&str]) -> Result<()> {
    let since = Instant::now();
    // It takes the place of a fourth node, of which the others know nothing.
    cluster.start_as(3, intruder)?;
    let has = |line: &str, words: &[&str]| words.iter().all(|word| line.contains(word));
    cluster.wait_for_line(3, since, |line| has(line, theirs))?;
    cluster.wait_for(since, |line| line.node != 3 && has(&line.text, ours))?;
    cluster.signal(3, Signal::KILL)?;
    cluster.wait_for_exit(3)?;
    check_unharmed(cluster)
}

/// Three of four prepared nodes, founded among themselves; the fourth place is an intruder's.
fn three_and_a_place() -> Result<Cluster> {
    let mut cluster =
        Cluster::new(program(), 4, |node, ports| with_options(list_of_others(node, &ports[..3]), &CALM))?;
    for node in 0..3 {
        cluster.start(node)?;
    }
    cluster.wait_until_whole()?;
    Ok(cluster)
}

#[test]
fn stranger_is_refused_with_a_line_on_both_sides() -> Result<()> {
    let mut cluster = three_and_a_place()?;
    let stranger = cluster.command(3);
    check_intruder(
        &mut cluster,
        stranger,
        &["refuses this node", "node 4 is not a member", "--peers"],
        &["refused", "node 4"],
    )
}

#[test]
fn duplicate_id_is_refused_with_a_line_on_both_sides() -> Result<()> {
    let mut cluster = three_and_a_place()?;
    let port = &free_ports(1)?[0];
    let double = another("2", port, &all_ports(&cluster), cluster.data(3));
    check_intruder(&mut cluster, double, &["refuses this node", "id 2", "--id"], &["refused", "id 2", "--id"])
}

#[test]
fn emptied_directory_under_its_old_id_is_refused() -> Result<()> {
    let mut cluster = founded(3)?;
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;
    let kept = cluster.directory().join("kept");
    fs::rename(cluster.data(2), &kept)?;
    let since = Instant::now();
    cluster.start(2)?;
    cluster.wait_for_line(2, since, |line| line.contains("refuses this node"))?;
    cluster.wait_for(since, |line| {
        line.node != 2 && line.text.contains("refused") && line.text.contains("id 3 belongs to another")
    })?;
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;
    fs::remove_dir_all(cluster.data(2))?;
    fs::rename(&kept, cluster.data(2))?;
    cluster.start(2)?;
    check_unharmed(&cluster)
}

#[test]
fn directory_of_another_cluster_is_refused_on_both_sides() -> Result<()> {
    let mut cluster = three_and_a_place()?;
    let mut other = founded(3)?;
    other.signal(2, Signal::KILL)?;
    other.wait_for_exit(2)?;
    let port = &free_ports(1)?[0];
    let foreign = another("3", port, &all_ports(&cluster), other.data(2));
    check_intruder(&mut cluster, foreign, &["in cluster", "--data-dir"], &["refused", "in cluster"])?;
    other.start(2)?;
    check_unharmed(&other)
}

#[test]
fn founding_with_an_id_used_twice_says_so_on_both_sides() -> Result<()> {
    let mut cluster = prepared(2)?;
    let port = cluster.port(1).to_string();
    let mut double = Command::new(program());
    double.args(["--id", "1", "--port", &port, "--peers", &cluster.port(0).to_string()]);
    double.arg("--data-dir").arg(cluster.data(1));
    let since = Instant::now();
    cluster.start(0)?;
    cluster.start_as(1, double)?;
    for node in [0, 1] {
        cluster.wait_for_line(node, since, |line| {
            line.contains("id 1 is this node's own") && line.contains("--id")
        })?;
    }
    Ok(())
}

#[test]
fn founding_with_a_node_missing_says_which_every_second() -> Result<()> {
    let mut cluster = prepared_with(3, &CALM)?;
    let mut since = Instant::now();
    cluster.start(0)?;
    cluster.start(1)?;
    let missing = cluster.endpoint(2);
    for _ in 0..2 {
        let said = |line: &str| line.contains("no cluster yet") && line.contains(&missing);
        since = cluster.wait_for_line(0, since, said)?.at + std::time::Duration::from_nanos(1);
    }
    cluster.start(2)?;
    ensure!(cluster.wait_until_whole()? == 0);
    Ok(())
}
