//! What requests cost, and how much memory nodes take, at several sizes.
//!
//! `cargo run --release -p xenstore --example costs`

use std::hint::black_box;
use std::time::{Duration, Instant};

use state_machine::{Class, ConnId, DomId, Input, InputNo, Outputs, StateMachine};
use xenstore::Xenstore;
use xenstore::wire::{MessageType, frame};

/// Memory that the process has in use, bytes, as Linux counts it.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096.0 * pages.unwrap_or(0.0)
}

/// Counts outputs.
#[derive(Default)]
struct Sink {
    events: usize,
    bytes: usize,
    errors: usize,
}

impl Outputs for Sink {
    fn reply(&mut self, _conn: ConnId, frame: &[u8]) {
        self.bytes += black_box(frame).len();
        self.errors += usize::from(frame[0] == MessageType::Error as u8);
    }

    fn event(&mut self, _conn: ConnId, frame: &[u8]) {
        self.events += 1;
        self.bytes += black_box(frame).len();
    }

    fn effect(&mut self, _bytes: &[u8]) {}
}

#[derive(Default)]
struct Bench {
    machine: Xenstore,
    sink: Sink,
    no: u64,
    frame: Vec<u8>,
}

impl Bench {
    fn ask(&mut self, kind: MessageType, tx: u32, payload: &[u8]) {
        self.no += 1;
        self.frame.clear();
        frame(kind, 1, tx, payload, &mut self.frame);
        let input = Input::Request { conn: ConnId(1), frame: &self.frame };
        let no = InputNo(self.no);
        let done = match Xenstore::classify(&input) {
            Class::Query => self.machine.query(no, &input, &mut self.sink),
            _ => self.machine.apply(no, &input, &mut self.sink),
        };
        done.expect("sound");
    }

    /// The least disturbed of nine rounds, nanoseconds a call.
    fn time(&mut self, name: &str, calls: usize, mut each: impl FnMut(&mut Self, usize)) {
        let mut rounds: Vec<f64> = (0..9)
            .map(|round| {
                let start = Instant::now();
                (0..calls).for_each(|call| each(self, round * calls + call));
                start.elapsed().as_nanos() as f64 / calls as f64
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("  {name:<44} {:>10.0} ns", rounds[0]);
        assert_eq!(self.sink.errors, 0, "{name}");
    }
}

fn path(number: usize, flat: bool) -> String {
    match flat {
        true => format!("/flat/{number}"),
        false => format!("/d/{}/{}/leaf{}", number % 37, number / 37 % 53, number / 37 / 53),
    }
}

fn run(nodes: usize, flat: bool) {
    let shape = if flat { "in one directory" } else { "in a tree" };
    println!("{nodes} nodes {shape}");
    let mut bench = Bench::default();
    let open = Input::Open { conn: ConnId(1), domid: DomId(0) };
    bench.machine.apply(InputNo(1), &open, &mut bench.sink).expect("sound");
    let before = resident();
    let start = Instant::now();
    let value = "twenty bytes of text";
    for number in 0..nodes {
        let payload = format!("{}\0{value}", path(number, flat));
        bench.ask(MessageType::Write, 0, payload.as_bytes());
    }
    let each = start.elapsed().as_nanos() as f64 / nodes as f64;
    println!("  {:<44} {each:>10.0} ns", "populate, a node");
    let memory = (resident() - before) / bench.machine.node_count() as f64;
    println!("  {:<44} {memory:>10.0} bytes", "memory, a node");
    let pick = |call: usize| path(call.wrapping_mul(7919) % nodes, flat);
    let text = |call: usize| format!("{}\0", pick(call));
    let write = |call: usize| format!("{}\0twenty bytes of {call:4.4}", pick(call));
    bench.time("READ", 20_000, |bench, call| {
        bench.ask(MessageType::Read, 0, text(call).as_bytes());
    });
    bench.time("WRITE", 20_000, |bench, call| {
        bench.ask(MessageType::Write, 0, write(call).as_bytes());
    });
    bench.time("WRITE of a new node, and RM", 5_000, |bench, call| {
        bench.ask(MessageType::Write, 0, format!("{}/new\0x", pick(call)).as_bytes());
        bench.ask(MessageType::Rm, 0, format!("{}/new\0", pick(call)).as_bytes());
    });
    let transaction = |bench: &mut Bench, call: usize, disturb: bool| {
        bench.ask(MessageType::TransactionStart, 0, b"\0");
        // The connection's transactions are numbered from 1.
        let tx = call as u32 + 1;
        for number in 0..10 {
            bench.ask(MessageType::Write, tx, write(call * 10 + number).as_bytes());
        }
        if disturb {
            bench.ask(MessageType::Write, 0, write(call * 10 + 11).as_bytes());
        }
        bench.ask(MessageType::TransactionEnd, tx, b"T\0");
    };
    bench.time("transaction of 10 WRITEs", 500, |bench, call| transaction(bench, call, false));
    let done = 9 * 500;
    bench.time("the same, replayed", 500, |bench, call| transaction(bench, done + call, true));
    bench.time("freeze, and a WRITE after it", 2_000, |bench, call| {
        let frozen = bench.machine.freeze();
        bench.ask(MessageType::Write, 0, write(call).as_bytes());
        drop(frozen);
    });
    bench.time("digest", 20_000, |bench, _| {
        black_box(bench.machine.digest());
    });
    bench.time("scrub, a node", 20_000, |bench, _| {
        bench.machine.scrub(1).expect("sound");
    });
    if flat {
        bench.time("DIRECTORY_PART, first page", 200, |bench, _| {
            bench.ask(MessageType::DirectoryPart, 0, b"/flat\x000\0");
        });
        bench.time("DIRECTORY_PART, a page in the middle", 200, |bench, _| {
            bench.ask(MessageType::DirectoryPart, 0, format!("/flat\0{}\0", nodes * 3).as_bytes());
        });
    }
    for number in 0..10_000 {
        bench.ask(MessageType::Watch, 0, format!("/elsewhere/{number}\0t\0").as_bytes());
    }
    bench.time("WRITE, with 10k unrelated watches", 20_000, |bench, call| {
        bench.ask(MessageType::Write, 0, write(call).as_bytes());
    });
    for number in 0..1_000 {
        bench.ask(MessageType::Watch, 0, format!("/watched\0{number}\0").as_bytes());
    }
    bench.sink.events = 0;
    let start = Instant::now();
    for _ in 0..100 {
        bench.ask(MessageType::Write, 0, b"/watched\0x");
    }
    let each = start.elapsed().as_nanos() as f64 / bench.sink.events as f64;
    println!("  {:<44} {each:>10.0} ns", "1000 watches fired, an event");
    let start = Instant::now();
    let mut bytes = Vec::new();
    Xenstore::encode(&bench.machine.freeze(), &mut bytes);
    let encoded = start.elapsed();
    let (frozen, mut cursor, mut parts) = (bench.machine.freeze(), Default::default(), Vec::new());
    let mut is_last = false;
    while !is_last {
        let mut part = Vec::new();
        let start = Instant::now();
        is_last = Xenstore::encode_part(&frozen, &mut cursor, &mut part);
        parts.push((start.elapsed(), part.len()));
    }
    let start = Instant::now();
    let restored = Xenstore::restore(&bytes).expect("a snapshot");
    println!(
        "  snapshot of {} bytes: encoded in {encoded:.1?}, restored in {:.1?}",
        bytes.len(),
        start.elapsed()
    );
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    let mut of_nodes = parts[1..parts.len() - 1].to_vec();
    of_nodes.sort_unstable();
    let shown = |(time, bytes): (Duration, usize)| format!("{time:.1?} for {bytes} bytes");
    println!("  its {} parts: first {}, last {}", parts.len(), shown(first), shown(last));
    let (middle, slowest) = (of_nodes[of_nodes.len() / 2], of_nodes[of_nodes.len() - 1]);
    println!("  those of nodes: median {}, slowest {}", shown(middle), shown(slowest));
    assert_eq!(restored.digest(), bench.machine.digest());
    let start = Instant::now();
    bench.ask(MessageType::Rm, 0, if flat { b"/flat\0" } else { b"/d\0" });
    println!("  RM of it all: {:.1?}", start.elapsed());
}

fn main() {
    for nodes in [1_000, 10_000, 100_000] {
        run(nodes, false);
    }
    run(100_000, true);
}
