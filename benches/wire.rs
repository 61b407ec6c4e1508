//! Values to bytes and back: what every request and every message between nodes costs.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use kvstore::types::{ClientId, ClusterTime, LogIndex, Sequence, Term};
use kvstore::wire::client::{Command, Operation, Request, RequestBody, Write};
use kvstore::wire::entry::{Entry, Payload};
use kvstore::wire::frame::{self, Decoder, FrameKind};
use kvstore::wire::peer::{AppendEntries, Message};
use kvstore::wire::{MAX_CLIENT_FRAME_BYTES, Writer};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    requests(&mut criterion);
    messages(&mut criterion);
    frames(&mut criterion);
    criterion.final_summary();
}

fn put() -> Write {
    Write {
        client: ClientId::Library { born: ClusterTime(1_000), nonce: 7 },
        sequence: Sequence(42),
        acknowledged: Sequence(42),
        operation: Operation::Put {
            key: Bytes::from_static(b"a key"),
            value: Bytes::from_static(&[b'v'; 64]),
        },
    }
}

fn request() -> Request {
    Request { id: 9, time_left_ms: 5_000, silent_leader: None, body: RequestBody::Write(put()) }
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/put of 64 bytes");
    let mut bytes = Writer::new();
    request().encode(&mut bytes);
    let bytes = bytes.into_bytes();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let value = request();
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            let mut out = Writer::new();
            frame::encode(FrameKind::Request, &mut out, |out| black_box(&value).encode(out));
            out.into_bytes()
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Request::decode(black_box(bytes.clone())).expect("it was encoded just so"));
    });
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/append of 64 puts");
    let mut command = Writer::new();
    Command::Write(put()).encode(&mut command);
    let command = command.into_bytes();
    let entry =
        |index| Entry::new(LogIndex(index), Term(1), ClusterTime(1), Payload::Command(command.clone()));
    let append = AppendEntries {
        term: Term(1),
        prev_log_index: LogIndex(9),
        prev_log_term: Term(1),
        entries: (10..74).map(entry).collect(),
        leader_commit: LogIndex(9),
    };
    let message = Message::AppendEntries(append);
    let mut bytes = Writer::new();
    message.encode(&mut bytes);
    let bytes = bytes.into_bytes();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            let mut out = Writer::new();
            frame::encode(FrameKind::Message, &mut out, |out| black_box(&message).encode(out));
            out.into_bytes()
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Message::decode(black_box(bytes.clone())).expect("it was encoded just so"));
    });
}

/// What a loaded connection gives the decoder: many small frames, cut where reads happen to end.
fn frames(criterion: &mut Criterion) {
    let mut stream = Writer::new();
    let value = request();
    while stream.len() < 64 << 10 {
        frame::encode(FrameKind::Request, &mut stream, |out| value.encode(out));
    }
    let stream = stream.into_bytes();
    let mut group = criterion.benchmark_group("wire/frames of 64 KiB");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    for read_bytes in [1 << 10, 64 << 10] {
        group.bench_function(format!("in reads of {read_bytes} bytes"), |bencher| {
            let decoder = || Decoder::new(MAX_CLIENT_FRAME_BYTES);
            bencher.iter_batched(decoder, |decoder| cut(decoder, &stream, read_bytes), BatchSize::SmallInput);
        });
    }
}

fn cut(mut decoder: Decoder, stream: &[u8], read_bytes: usize) -> usize {
    let mut frames = 0;
    for read in stream.chunks(read_bytes) {
        decoder.push(read);
        while let Some(frame) = decoder.next().expect("the stream is sound") {
            black_box(frame);
            frames += 1;
        }
    }
    frames
}
