//! The quest as a person types it, word for word but for the ports: `./build/kvstore`,
//! `./build/kv_client`, `kill $(pgrep -f …)`, and the new leader's port taken from the logs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::cluster::{Port, free_ports};
use crate::setup::{eventually, program};

/// The script waits for what the logs say, where a person would look at them.
const SCRIPT: &str = r#"
set -u
command -v pgrep >/dev/null || pgrep() { # where it is missing: the one use of it that is made here
    for process in /proc/[0-9]*; do
        { tr '\0' ' ' <$process/cmdline; } 2>/dev/null | grep -q -- "$2" && echo ${process#/proc/}
    done
}
await() { # a pattern, the logs; for 20 seconds
    pattern=$1; shift
    tries=0
    until grep -q "$pattern" "$@"; do
        tries=$((tries + 1)); [ $tries -lt 2000 ] || { echo "nowhere: $pattern"; exit 1; }
        sleep 0.01
    done
}

./build/kvstore --id 1 --port P1 --peers P2,P3 2>log1 >out1 &
./build/kvstore --id 2 --port P2 --peers P1,P3 2>log2 >out2 &
./build/kvstore --id 3 --port P3 --peers P1,P2 2>log3 >out3 &
await "listening on" out1
await "elected leader id=1 port=P1 " log1

./build/kv_client --port P1 put key1 value1
./build/kv_client --port P1 put key2 value2
./build/kv_client --port P1 put key3 value3
kill -SIGNAL $(pgrep -f "kvstore --id 1 --port P1")
await "elected leader" log2 log3
port=$(sed -n 's/.*elected leader.* port=\([0-9]*\) .*/\1/p' log2 log3 | tail -n 1)
./build/kv_client --port $port put key4 value4
./build/kv_client --port $port put key5 value5
./build/kv_client --port $port get key1
./build/kv_client --port $port get key5
"#;

const EXPECTED: &str = "OK\nOK\nOK\nOK\nOK\nvalue1\nvalue5\n";

#[test]
fn quest_typed_ten_times_with_sigterm_holds() -> Result<()> {
    (0..10).try_for_each(|_| type_it("TERM"))
}

#[test]
fn quest_typed_ten_times_with_sigkill_holds() -> Result<()> {
    (0..10).try_for_each(|_| type_it("KILL"))
}

fn type_it(signal: &str) -> Result<()> {
    let directory = TempDir::with_prefix("kvstore-quest-")?;
    let build = directory.path().join("build");
    fs::create_dir(&build)?;
    symlink(program(), build.join("kvstore"))?;
    symlink(env!("CARGO_BIN_EXE_kv_client"), build.join("kv_client"))?;

    let ports = free_ports(3)?;
    let mut script = SCRIPT.replace("-SIGNAL", &format!("-{signal}"));
    for (place, port) in ports.iter().map(Port::number).enumerate() {
        script = script.replace(&format!("P{}", place + 1), &port.to_string());
    }
    // Typed, not an argument: else pgrep would find the shell itself.
    let mut command = Command::new("sh");
    command.arg("-s").current_dir(&directory).process_group(0);
    let out = directory.path().join("typed");
    command
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(directory.path().join("errors"))?);
    let mut shell = Terminal(command.spawn()?);
    shell.0.stdin.take().context("a stdin")?.write_all(script.as_bytes())?;
    eventually("the end of the script", || shell.0.try_wait().ok().flatten())?;
    let typed = fs::read_to_string(&out)?;
    ensure!(typed == EXPECTED, "{typed}\n{}", all_that_was_said(&directory));
    Ok(())
}

fn all_that_was_said(directory: &TempDir) -> String {
    let read = |name| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    ["errors", "log1", "log2", "log3"].map(|name| format!("{name}:\n{}", read(name))).join("\n")
}

/// A shell and all that was started in it. Nothing of it outlives this value.
struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.0.wait();
    }
}
