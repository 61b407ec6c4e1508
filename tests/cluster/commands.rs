//! Every command of `kv_client` on a real cluster: words, fields and exit statuses.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cluster::{Cluster, free_ports};
use crate::setup::{
    Ended, PATIENT, answered_by, eventually, founded, founded_with, kv, kv_client, run, stop,
};

/// Checks a script: `arguments => status stdout`, where `$` is a newline and `^` a tab. Every line
/// is asked of another node.
fn check(cluster: &Cluster, script: &str) -> Result<()> {
    let steps = script.lines().map(str::trim).filter(|step| !step.is_empty());
    for (place, step) in steps.enumerate() {
        let (words, expected) = step.split_once(" => ").expect("arguments => status stdout");
        let ended = kv(cluster, place % 3, words)?;
        let stdout = ended.text().replace('\n', "$").replace('\t', "^");
        let seen = format!("{} {stdout}", ended.status);
        ensure!(seen.trim_end() == expected, "{words}: {ended:?}");
    }
    Ok(())
}

fn bytes(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

fn words(words: &[&str], last: &[u8]) -> Vec<OsString> {
    let words = words.iter().map(OsString::from);
    words.chain([bytes(last)]).collect()
}

fn with_input(cluster: &Cluster, node: usize, arguments: &str, stdin: &[u8]) -> Result<Ended> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
    command.args(["--port", &cluster.port(node).to_string()]).args(arguments.split(' '));
    run(command, stdin)
}

#[test]
fn commands_print_their_words_whichever_node_is_asked() -> Result<()> {
    let cluster = founded(3)?;
    check(
        &cluster,
        r"
        get colour => 1
        put colour blue => 0 OK$
        get colour => 0 blue$
        get colour --raw => 0 blue
        delete colour => 0 OK$
        delete colour => 1
        get colour => 1
        cas --absent colour red => 0 OK$
        cas --absent colour green => 1 mismatch: current value is red$
        cas colour red green => 0 OK$
        cas colour red blue => 1 mismatch: current value is green$
        cas nothing old new => 1 mismatch: key not found$
        --client-id shop --seq 1 put a 1 => 0 OK$
        --client-id shop --seq 1 put a 1 => 0 OK (cached)$
        --client-id shop --seq 1 put a 2 => 4
        put ab 2 => 0 OK$
        put b 3 => 0 OK$
        scan => 0 a^1$ab^2$b^3$colour^green$
        scan a => 0 a^1$ab^2$
        scan a --limit 1 => 0 a^1$
        scan zebra => 0
        session close shop => 0 OK$
        session list => 0 NAME  LAST SEQ  KEPT RESULTS  LAST WRITE$
        transfer 2 => 0 OK$
        transfer 2 => 0 OK$
        transfer 3 => 0 OK$
        transfer 9 => 4
        get a => 0 1$
        get a --port => 2
        put a => 2
        cas a b => 2
        --seq 1 put a b => 2
        nonsense => 2
        ",
    )?;
    ensure!(cluster.wait_until_whole()? == 2, "node 3 was to lead");
    for line in ["get nothing", "delete nothing", "nonsense"] {
        let stderr = kv(&cluster, 0, line)?.stderr;
        ensure!(stderr.lines().count() == 1, "{line}: {stderr}");
    }
    Ok(())
}

#[test]
fn json_has_the_promised_fields() -> Result<()> {
    let cluster = founded(3)?;
    let put = kv(&cluster, 1, "--json put k v")?.json();
    ensure!(put["ok"] == true && put["cached"] == false && put["attempts"].is_u64(), "{put}");
    for node in 0..3 {
        let get = answered_by(&cluster, node, "--json get k")?;
        ensure!(get["ok"] == true && get["value"] == "v", "{get}");
        ensure!(get["revision"].as_u64() >= put["revision"].as_u64(), "{get}, {put}");
    }
    let no = kv(&cluster, 0, "--json get nothing")?;
    ensure!(no.status == 1 && no.json()["ok"] == false && no.json()["error"] == "not_found", "{no:?}");
    let mismatch = kv(&cluster, 0, "--json cas k x y")?;
    ensure!(mismatch.status == 1 && mismatch.json()["error"] == "mismatch", "{mismatch:?}");
    ensure!(mismatch.json()["value"] == "v", "{mismatch:?}");
    kv(&cluster, 0, "--client-id shop --seq 4 put k w")?;
    let sessions = kv(&cluster, 2, "--json session list")?.json();
    ensure!(sessions["client_id"] == "shop" && sessions["last_seq"] == 4, "{sessions}");
    let status = kv(&cluster, 2, "--json status")?.json();
    ensure!(status["ok"] == true && status["leader"] == 1 && status["term"] == 1, "{status}");
    for node in 0..3 {
        let view = &status["nodes"][node];
        let role = if node == 0 { "leader" } else { "follower" };
        ensure!(view["id"] == node + 1 && view["role"] == role && view["reachable"] == true, "{view}");
        ensure!(view["addr"] == cluster.endpoint(node) && view["leader"] == 1, "{view}");
        for index in ["term", "commit", "applied", "last_index", "first_index"] {
            ensure!(view[index].is_u64(), "{index}: {view}");
        }
        ensure!(view["version"] == env!("CARGO_PKG_VERSION") && view["bounds"].is_object(), "{view}");
    }
    Ok(())
}

#[test]
fn status_table_shows_every_node_and_who_cannot_be_reached() -> Result<()> {
    let mut cluster = founded(3)?;
    let table = kv(&cluster, 1, "status")?;
    ensure!(table.status == 0 && table.text().lines().count() == 4, "{table:?}");
    let head: Vec<&str> = table.text().lines().next().unwrap_or("").split_whitespace().collect();
    let columns = "ID ADDRESS ROLE TERM LEADER COMMIT APPLIED LAST LAG FREE VERSION";
    ensure!(head == columns.split(' ').collect::<Vec<_>>(), "{head:?}");
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;
    let table = kv(&cluster, 1, "status")?;
    let gone = format!("3   {}  unreachable", cluster.endpoint(2));
    ensure!(table.status == 0 && table.text().contains(&gone), "{table:?}");

    let view = &kv(&cluster, 1, "--json status")?.json()["nodes"][2];
    ensure!(view["reachable"] == false && view.get("role").is_some_and(|role| role.is_null()), "{view}");

    cluster.signal(1, Signal::KILL)?;
    cluster.wait_for_exit(1)?;
    cluster.start(1)?;
    // It has met node 1 and not node 3, which must be where the list still has an entry for.
    let table = eventually("a restarted node that tells where the one is that it has not met", || {
        kv(&cluster, 1, "status").ok().filter(|table| table.text().contains(&gone))
    })?;
    ensure!(table.status == 0, "{table:?}");
    cluster.signal(0, Signal::KILL)?;
    cluster.wait_for_exit(0)?;
    cluster.signal(1, Signal::KILL)?;
    cluster.wait_for_exit(1)?;
    cluster.start(1)?;
    let table = kv(&cluster, 1, "status")?;
    ensure!(table.status == 1 && table.text().contains("1   -                unreachable"), "{table:?}");
    Ok(())
}

#[test]
fn keys_and_values_of_any_bytes_and_of_the_largest_sizes_come_back() -> Result<()> {
    let cluster = founded(3)?;
    let odd = bytes(b"\xff\xfe\n\t= ");
    let put = kv_client(&cluster, 0, &[OsStr::new("put"), &odd, &odd])?;
    ensure!(put.status == 0, "{put:?}");
    let get = kv_client(&cluster, 1, &words(&["get", "--raw"], odd.as_bytes()))?;
    ensure!(get.stdout == odd.as_bytes(), "{get:?}");
    let json = kv_client(&cluster, 2, &words(&["--json", "get"], odd.as_bytes()))?.json();
    ensure!(json["value_hex"] == "fffe0a093d20", "{json}");

    let largest = vec![0xa5; 1 << 20];
    ensure!(with_input(&cluster, 1, "put largest -", &largest)?.status == 0);
    ensure!(kv(&cluster, 2, "get --raw largest")?.stdout == largest, "another value came back");
    ensure!(with_input(&cluster, 1, "put empty -", b"")?.status == 0);
    ensure!(kv(&cluster, 2, "get empty")?.stdout == b"\n");

    let longest = vec![b'k'; 4 << 10];
    let mut put = words(&["put"], &longest);
    put.push("v".into());
    ensure!(kv_client(&cluster, 0, &put)?.status == 0);
    ensure!(kv_client(&cluster, 1, &words(&["get"], &longest))?.stdout == b"v\n");
    Ok(())
}

#[test]
fn too_large_is_definite_and_empty_keys_are_wrong_usage() -> Result<()> {
    let cluster = founded(3)?;
    let before = cluster.status(0)?.commit;
    let mut too_large = vec![with_input(&cluster, 0, "put k -", &vec![0; (1 << 20) + 1])?];
    let mut put = words(&["put"], &vec![b'k'; (4 << 10) + 1]);
    put.push("v".into());
    too_large.push(kv_client(&cluster, 0, &put)?);
    for ended in &too_large {
        ensure!(ended.status == 4 && ended.stderr.contains("too large"), "{ended:?}");
        ensure!(ended.stderr.lines().count() == 1, "{ended:?}");
    }
    for arguments in [["put", "", "v"].as_slice(), &["get", ""], &["delete", ""]] {
        let ended = kv_client(&cluster, 0, arguments)?;
        ensure!(ended.status == 2 && ended.stderr.lines().count() == 1, "{ended:?}");
    }
    ensure!(cluster.status(0)?.commit == before, "something was written");
    Ok(())
}

#[test]
fn scan_of_many_pages_is_whole_and_in_order_on_every_node() -> Result<()> {
    let cluster = founded(3)?;
    let mut client = cluster.client()?;
    let value = vec![b'v'; 300 << 10];
    for number in 0..12 {
        client.put(format!("row{number:02}"), &value)?;
    }
    for node in 0..3 {
        let scan = kv(&cluster, node, "scan row")?;
        let keys: Vec<&str> = scan.text().lines().filter_map(|line| line.get(..5)).collect();
        let expected: Vec<String> = (0..12).map(|number| format!("row{number:02}")).collect();
        ensure!(scan.status == 0 && keys == expected, "node {}: {keys:?}", node + 1);
        ensure!(scan.text().len() == 12 * (5 + 1 + value.len() + 1));
        let limited = kv(&cluster, node, "scan row --limit 7")?;
        ensure!(limited.text().lines().count() == 7);
    }
    Ok(())
}

#[test]
fn stale_read_is_answered_by_a_node_without_a_leader_and_others_are_not() -> Result<()> {
    let mut cluster = founded(3)?;
    kv(&cluster, 0, "put k v")?;
    cluster.wait_until_whole()?;
    for node in [0, 1] {
        cluster.signal(node, Signal::KILL)?;
        cluster.wait_for_exit(node)?;
    }
    eventually("no leader", || cluster.status(2).ok()?.leader.is_none().then_some(()))?;
    let stale = kv(&cluster, 2, "get --stale --json k")?.json();
    ensure!(stale["value"] == "v" && stale["node"] == 3, "{stale}");
    let short = |line: &str| kv(&cluster, 2, &format!("--timeout-ms 300 {line}"));
    ensure!(short("get k")?.status == 4);
    // No log can have taken it. But a loaded machine may deliver the answers after the deadline, and
    // then nobody knows.
    eventually("a definite no", || (short("put k w").ok()?.status == 4).then_some(()))?;
    ensure!(short("status")?.status == 1);
    Ok(())
}

#[test]
fn outcome_is_unknown_only_if_a_log_may_have_taken_the_write() -> Result<()> {
    // The leader leads on for a while, and takes writes that it cannot commit.
    let cluster = founded_with(3, &PATIENT)?;
    for node in [1, 2] {
        stop(&cluster, node)?;
    }
    let unknown = kv(&cluster, 0, "--timeout-ms 1000 --client-id shop --seq 9 put k v")?;
    ensure!(unknown.status == 3, "{unknown:?}");
    ensure!(unknown.stderr.contains("--client-id shop --seq 9"), "{unknown:?}");
    let json = kv(&cluster, 0, "--json --timeout-ms 1000 put k v")?.json();
    ensure!(json["error"] == "outcome_unknown" && json["seq"].is_u64(), "{json}");
    for node in [1, 2] {
        cluster.signal(node, Signal::CONT)?;
    }
    let asked_again = kv(&cluster, 0, "--client-id shop --seq 9 put k v")?;
    ensure!(asked_again.status == 0, "{asked_again:?}");

    let free = free_ports(1)?; // held to the end: another test's node may not listen there meanwhile
    let nobody = free[0].number().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
    command.args(["--port", &nobody, "--timeout-ms", "200", "put", "k", "v"]);
    let refused = run(command, b"")?;
    ensure!(refused.status == 4 && refused.stderr.contains("no node reachable"), "{refused:?}");
    Ok(())
}

/// What the table of docs/bounds.md gives: each bound with its cap, where that is a number.
fn documented_bounds() -> BTreeMap<&'static str, Option<u64>> {
    let page = include_str!("../../docs/bounds.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(name, rest)| {
        let cap = rest.split(" |").next().unwrap_or_default();
        (name, cap.replace(',', "").parse().ok())
    })
    .collect()
}

#[test]
fn status_shows_each_bound_of_the_table() -> Result<()> {
    let cluster = founded(1)?;
    kv(&cluster, 0, "put k v")?;
    let status = kv(&cluster, 0, "--json status")?.json();
    let shown = status["nodes"][0]["bounds"].as_object().context("no bounds")?.clone();
    let documented = documented_bounds();
    ensure!(documented.len() > 20, "{documented:?}");
    let names: Vec<&str> = documented.keys().copied().collect();
    let mut seen: Vec<&str> = shown.keys().map(String::as_str).collect();
    seen.sort_unstable();
    ensure!(seen == names, "the status has {seen:?}, the table {names:?}");
    for (name, cap) in documented {
        let (used, shown) = (shown[name]["used"].as_u64(), shown[name]["cap"].as_u64());
        ensure!(used.is_some() && used <= shown, "{name}: {used:?} of {shown:?}");
        ensure!(cap.is_none() || cap == shown, "{name}: {shown:?}, the table says {cap:?}");
    }
    Ok(())
}
