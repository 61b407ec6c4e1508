//! The commands: each asks the cluster and prints what came of it, and returns the exit status.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvstore::client::{Client, Comparison, Error, Options, Reply};
use kvstore::types::NodeId;
use kvstore::wire::MAX_VALUE_BYTES;
use kvstore::wire::client::{MAX_SCAN_ROWS, Operation, Outcome};

use crate::Failure;
use crate::arguments::{Arguments, Cas, Command, SessionCommand, bytes, parse_client_id};
use crate::backup;
use crate::bench;
use crate::output::Output;
use crate::terminal::{Progress, complain};

/// A definite no.
const NO: u8 = 1;
const DONE: u8 = 0;

/// Runs the command that the arguments name.
pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<u8, Failure> {
    let mut client = Client::connect(arguments.options())?;
    match &arguments.command {
        Command::Put { key, value } => put(arguments, &mut client, key, value, output),
        Command::Get { key, stale, raw } => get(&mut client, key, *stale, *raw, output),
        Command::Delete { key } => delete(arguments, &mut client, key, output),
        Command::Cas(cas) => compare_and_set(arguments, &mut client, cas, output),
        Command::Scan { prefix, limit } => {
            let deadline = Instant::now() + arguments.options().timeout;
            scan(&mut client, prefix.as_bytes(), limit.unwrap_or(u64::MAX), deadline, output)
        }
        Command::Status => status(&mut client, output),
        Command::Snapshot => snapshots(arguments, output),
        Command::Backup { file, force } => {
            let backup = backup::make(&mut client, Path::new(file), *force)?;
            done(output.backup(&backup))
        }
        Command::Transfer { id } => done(output.done(&client.transfer(NodeId(*id))?)),
        Command::Session(SessionCommand::List) => done(output.sessions(&client.sessions()?)),
        Command::Session(SessionCommand::Close { id }) => {
            let operation = Operation::CloseSession { client: parse_client_id(id.as_bytes())? };
            done(output.session_closed(&write(arguments, &mut client, operation)?))
        }
        Command::Bench(load) => {
            let all_answered = bench::run(load, &arguments.options(), arguments.json)?;
            Ok(if all_answered { DONE } else { NO })
        }
    }
}

/// Where nobody answers no leader is known either: a definite no, and no request that failed.
fn status(client: &mut Client, output: &mut Output) -> Result<u8, Failure> {
    match client.cluster_status() {
        Ok(nodes) => Ok(if output.status(&nodes)?.is_some() { DONE } else { NO }),
        Err(wrong @ Error::Invalid(_)) => Err(wrong.into()),
        Err(error) => {
            output.failure(&error.into());
            Ok(NO)
        }
    }
}

fn put(
    arguments: &Arguments,
    client: &mut Client,
    key: &OsString,
    value: &OsString,
    output: &mut Output,
) -> Result<u8, Failure> {
    let value = if value == "-" { read_value()? } else { bytes(value) };
    let operation = Operation::Put { key: bytes(key).into(), value: value.into() };
    done(output.put(&write(arguments, client, operation)?))
}

fn get(
    client: &mut Client,
    key: &OsString,
    stale: bool,
    raw: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let key = key.as_bytes();
    let reply = if stale { client.get_stale(key)? } else { client.get(key)? };
    match &reply.value {
        Some(value) => done(output.value(value, raw, &reply)),
        None => no(output.not_found(&reply)),
    }
}

fn delete(
    arguments: &Arguments,
    client: &mut Client,
    key: &OsString,
    output: &mut Output,
) -> Result<u8, Failure> {
    let reply = write(arguments, client, Operation::Delete { key: bytes(key).into() })?;
    match reply.value {
        Outcome::Done => done(output.done(&reply)),
        Outcome::NotFound | Outcome::Mismatch { .. } => no(output.not_found(&reply)),
    }
}

fn compare_and_set(
    arguments: &Arguments,
    client: &mut Client,
    cas: &Cas,
    output: &mut Output,
) -> Result<u8, Failure> {
    let (key, expected, new) = cas.operands();
    let operation = Operation::CompareAndSet {
        key: Bytes::copy_from_slice(key),
        expected: expected.map(Bytes::copy_from_slice),
        new: Bytes::copy_from_slice(new),
    };
    let reply = write(arguments, client, operation)?;
    match Comparison::of(reply.value.clone()) {
        Comparison::Set => done(output.done(&reply)),
        Comparison::Mismatch { current, truncated } => {
            no(output.mismatch(current.as_deref(), truncated, &reply))
        }
    }
}

/// One snapshot on each of the nodes that are named, one after the other.
fn snapshots(arguments: &Arguments, output: &mut Output) -> Result<u8, Failure> {
    let Options { endpoints, timeout } = arguments.options();
    let deadline = Instant::now() + timeout;
    let _progress = Progress::begin("kv_client", "waiting for a snapshot");
    for endpoint in endpoints {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut client = Client::connect(Options::new([endpoint]).with_timeout(left))?;
        output.snapshot(&client.take_snapshot()?)?;
        output.flush()?;
    }
    Ok(DONE)
}

/// Page by page, within one deadline.
fn scan(
    client: &mut Client,
    prefix: &[u8],
    mut limit: u64,
    deadline: Instant,
    output: &mut Output,
) -> Result<u8, Failure> {
    let mut after: Option<Bytes> = None;
    let mut revisions = None;
    loop {
        let rows = u32::try_from(limit).unwrap_or(u32::MAX).min(MAX_SCAN_ROWS);
        client.set_timeout(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        let page = client.scan(prefix, after.as_deref(), rows)?;
        output.rows(&page)?;
        let (first, _) = *revisions.get_or_insert((page.revision, page.revision));
        revisions = Some((first, page.revision));
        limit = limit.saturating_sub(page.value.rows.len() as u64);
        match page.value.rows.last() {
            Some((key, _)) if page.value.more && limit != 0 => after = Some(key.clone()),
            _ => break,
        }
    }
    if let Some((first, last)) = revisions.filter(|(first, last)| first != last) {
        complain(format_args!(
            "kv_client: note: the rows come from several pages, between revisions {first} and {last}: \
             together they are no single moment's state"
        ));
    }
    Ok(DONE)
}

/// Writes under the caller's name for it, or under a fresh session's.
fn write(
    arguments: &Arguments,
    client: &mut Client,
    operation: Operation,
) -> Result<Reply<Outcome>, Failure> {
    Ok(match arguments.identity()? {
        Some(identity) => client.write_as(identity, operation)?,
        None => client.write(operation)?,
    })
}

/// Standard input to its end, but never more than a value can hold.
fn read_value() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let limit = MAX_VALUE_BYTES as u64 + 1;
    std::io::stdin().lock().take(limit).read_to_end(&mut value).map_err(Failure::Input)?;
    if MAX_VALUE_BYTES < value.len() {
        let message = format!("standard input has more than {MAX_VALUE_BYTES} bytes: split the value");
        return Err(Error::TooLarge(message).into());
    }
    Ok(value)
}

fn done(printed: std::io::Result<()>) -> Result<u8, Failure> {
    printed?;
    Ok(DONE)
}

fn no(printed: std::io::Result<()>) -> Result<u8, Failure> {
    printed?;
    Ok(NO)
}
