//! Clients that write all the time, and remember what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use kvstore::client::{Client, Options};

use crate::cluster::{Cluster, PATIENCE};
use crate::setup::eventually;

/// Keys and values that were acknowledged.
pub(crate) type Acknowledged = BTreeMap<String, String>;

/// Several writers, each with a client of its own that knows all nodes.
pub(crate) struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<(Acknowledged, Vec<String>)>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
}

/// What the writers saw.
pub(crate) struct Written {
    pub(crate) acknowledged: Acknowledged,
    /// What calls failed with, in words.
    pub(crate) errors: Vec<String>,
}

impl Writers {
    /// Starts `count` writers, whose keys begin with `prefix`. A call may take as long as `timeout`.
    pub(crate) fn start(
        cluster: &Cluster,
        nodes: usize,
        count: usize,
        prefix: &str,
        timeout: Duration,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let endpoints: Vec<String> = (0..nodes).map(|node| cluster.endpoint(node)).collect();
        let writer = |number| {
            let (shared, endpoints) = (Arc::clone(&shared), endpoints.clone());
            let prefix = format!("{prefix}-{number}");
            thread::spawn(move || write(&shared, endpoints, &prefix, timeout))
        };
        let threads = (0..count).map(writer).collect();
        Self { shared, threads }
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) fn wait_for(&self, more: usize) -> Result<()> {
        let acknowledged = || self.shared.acknowledged.load(Ordering::SeqCst);
        let goal = acknowledged() + more;
        eventually(&format!("{goal} acknowledged writes"), || (acknowledged() >= goal).then_some(()))
    }

    /// Tells the writers to stop, and collects what they know.
    pub(crate) fn stop(mut self) -> Written {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut all = Written { acknowledged: Acknowledged::new(), errors: Vec::new() };
        for thread in self.threads.drain(..) {
            let (acknowledged, errors) = thread.join().expect("a writer does not panic");
            all.acknowledged.extend(acknowledged);
            all.errors.extend(errors);
        }
        all
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn write(
    shared: &Shared,
    endpoints: Vec<String>,
    prefix: &str,
    timeout: Duration,
) -> (Acknowledged, Vec<String>) {
    let mut client = Client::connect(Options::new(endpoints).with_timeout(timeout)).expect("endpoints");
    let (mut acknowledged, mut errors) = (Acknowledged::new(), Vec::new());
    for number in 0.. {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let (key, value) = (format!("{prefix}-{number:06}"), format!("value {number}"));
        match client.put(&key, &value) {
            Ok(_) => {
                acknowledged.insert(key, value);
                shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    (acknowledged, errors)
}

/// Checks that a node has every acknowledged write.
pub(crate) fn check_nothing_is_lost(cluster: &Cluster, node: usize, written: &Written) -> Result<()> {
    let mut client = crate::setup::client_of(cluster, &[node], PATIENCE)?;
    let mut found = Acknowledged::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = client.scan("", after.as_deref(), u32::MAX)?.value;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.extend(page.rows.iter().map(|(key, value)| (text(key), text(value))));
        after = page.rows.last().map(|(key, _)| key.to_vec());
        if !page.more {
            break;
        }
    }
    let lost: Vec<&String> =
        written.acknowledged.iter().filter(|(k, v)| found.get(*k) != Some(v)).map(|(k, _)| k).collect();
    ensure!(lost.is_empty(), "node {} has not: {lost:?}", node + 1);
    Ok(())
}
