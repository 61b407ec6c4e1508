//! The same work for everybody.

/// So many keys of 16 bytes, chosen uniformly.
pub(crate) const KEYS: u64 = 10_000;
pub(crate) const VALUE_BYTES: usize = 64;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Put,
    Get,
    StaleGet,
}

/// One line of the table: a closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) op: Op,
    pub(crate) clients: usize,
    /// Requests in flight of each client.
    pub(crate) pipeline: usize,
}

/// The lines of the table.
pub(crate) const WORKS: [Work; 7] = [
    Work { op: Op::Put, clients: 1, pipeline: 1 },
    Work { op: Op::Put, clients: 64, pipeline: 1 },
    Work { op: Op::Put, clients: 256, pipeline: 1 },
    Work { op: Op::Put, clients: 64, pipeline: 16 },
    Work { op: Op::Get, clients: 1, pipeline: 1 },
    Work { op: Op::Get, clients: 64, pipeline: 1 },
    Work { op: Op::StaleGet, clients: 64, pipeline: 1 },
];

/// What one system made of a work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Work {
    pub(crate) fn name(self) -> String {
        let op = match self.op {
            Op::Put => "put",
            Op::Get => "get",
            Op::StaleGet => "stale get",
        };
        let clients = if self.clients == 1 { "1 client".into() } else { format!("{} clients", self.clients) };
        let in_flight =
            if self.pipeline == 1 { String::new() } else { format!(", {} in flight each", self.pipeline) };
        format!("{op}, {clients}{in_flight}")
    }
}
