//! The floor's three processes, and the client that writes to them.
//!
//! A bench that includes this file is each of these processes, too: see [`play`].

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;

/// What is written for each request.
const RECORD_BYTES: usize = 128;
/// Records go one after the other through a file of this size, and then begin again.
const FILE_BYTES: usize = 4 << 20;
/// An acknowledgement: the number of the request.
const ACK_BYTES: usize = 8;

/// Plays one of the processes, if these arguments ask for it.
pub(crate) fn play(words: &[&str]) -> Option<Result<()>> {
    let parsed = |port: &str| port.parse().context("a port");
    match *words {
        ["follower", port, file] => Some(parsed(port).and_then(|port| follow(port, Path::new(file)))),
        ["leader", port, file, ref followers @ ..] => {
            Some(parsed(port).and_then(|port| lead(port, Path::new(file), followers)))
        }
        _ => None,
    }
}

/// A file of written zeroes: overwriting them changes no metadata, so a sync is as cheap as it gets.
struct Records {
    file: File,
    offset: usize,
}

impl Records {
    fn create(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(&vec![0; FILE_BYTES])?;
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    fn store(&mut self, record: &[u8; RECORD_BYTES]) -> Result<()> {
        self.file.write_all_at(record, self.offset as u64)?;
        self.offset = (self.offset + RECORD_BYTES) % FILE_BYTES;
        Ok(self.file.sync_data()?)
    }
}

/// Reads exactly one message; false if the other end is gone.
fn receive(stream: &mut TcpStream, message: &mut [u8]) -> Result<bool> {
    match stream.read_exact(message) {
        Ok(()) => Ok(true),
        // Whoever ends with an acknowledgement unread resets the connection.
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Says that this process listens, and waits for whoever is to send to it.
fn accept(port: u16) -> Result<TcpStream> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening");
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn dial(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn follow(port: u16, file: &Path) -> Result<()> {
    let mut records = Records::create(file)?;
    let mut leader = accept(port)?;
    let mut record = [0; RECORD_BYTES];
    while receive(&mut leader, &mut record)? {
        records.store(&record)?;
        leader.write_all(&record[..ACK_BYTES])?;
    }
    Ok(())
}

fn lead(port: u16, file: &Path, followers: &[&str]) -> Result<()> {
    let mut records = Records::create(file)?;
    let mut followers = followers.iter().map(|port| dial(port.parse()?)).collect::<Result<Vec<_>>>()?;
    let mut client = accept(port)?;
    let mut record = [0; RECORD_BYTES];
    while receive(&mut client, &mut record)? {
        for follower in &mut followers {
            follower.write_all(&record)?;
        }
        records.store(&record)?;
        await_one(&mut followers, &record[..ACK_BYTES])?;
        client.write_all(&record[..ACK_BYTES])?;
    }
    Ok(())
}

/// Waits until one follower has acknowledged. The other's late answer is read in the next round.
fn await_one(followers: &mut [TcpStream], wanted: &[u8]) -> Result<()> {
    loop {
        let mut waiting: Vec<PollFd> = followers
            .iter()
            .map(|follower| PollFd::from_borrowed_fd(follower.as_fd(), PollFlags::IN))
            .collect();
        poll(&mut waiting, None)?;
        let readable: Vec<bool> = waiting.iter().map(|waiting| !waiting.revents().is_empty()).collect();
        for (follower, _) in followers.iter_mut().zip(readable).filter(|(_, readable)| *readable) {
            let mut ack = [0; ACK_BYTES];
            ensure!(receive(follower, &mut ack)?, "a follower is gone");
            if ack == *wanted {
                return Ok(());
            }
        }
    }
}

/// The client of the floor, and its processes.
pub(crate) struct Floor {
    leader: TcpStream,
    requests: u64,
    processes: Vec<Child>,
    _directory: TempDir,
}

impl Floor {
    /// Starts the three, on ports that the caller has claimed.
    pub(crate) fn start(ports: [u16; 3]) -> Result<Self> {
        let directory = TempDir::with_prefix("kvstore-floor-")?;
        let file = |name: &str| directory.path().join(name).display().to_string();
        let [leader, first, second] = ports.map(|port| port.to_string());
        let processes = vec![
            start_process(&["follower", &first, &file("first")])?,
            start_process(&["follower", &second, &file("second")])?,
            start_process(&["leader", &leader, &file("leader"), &first, &second])?,
        ];
        let leader = dial(ports[0])?;
        Ok(Self { leader, requests: 0, processes, _directory: directory })
    }

    /// One record, on two disks of three when this returns.
    pub(crate) fn write(&mut self) -> Result<()> {
        self.requests += 1;
        let mut record = [b'r'; RECORD_BYTES];
        record[..ACK_BYTES].copy_from_slice(&self.requests.to_le_bytes());
        self.leader.write_all(&record)?;
        let mut ack = [0; ACK_BYTES];
        ensure!(receive(&mut self.leader, &mut ack)? && ack == record[..ACK_BYTES], "no answer of the floor");
        Ok(())
    }
}

impl Drop for Floor {
    /// The processes end by themselves, one after the other, once this connection has.
    fn drop(&mut self) {
        let _ = self.leader.shutdown(Shutdown::Both);
        for process in &mut self.processes {
            let _ = process.wait();
        }
    }
}

/// Starts this program in another role and waits until it listens.
fn start_process(arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut process = command.args(arguments).stdout(Stdio::piped()).spawn()?;
    let stdout = process.stdout.take().context("a process without stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "listening\n", "the floor's {} did not start", arguments[0]);
    Ok(process)
}
