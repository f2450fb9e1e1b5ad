//! What a replica's memory really takes of each kind of thing that a store holds,
//! beside what the store counts for it: that has to be more.
//!
//! `cargo run --release -p xenstore --example sizes`

use std::process::Command;

use state_machine::{ConnId, DomId, Input, InputNo, Outputs, StateMachine};
use xenstore::Xenstore;
use xenstore::wire::{MessageType, frame};

/// Memory that the process has in use, bytes, as Linux counts it.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096.0 * pages.unwrap_or(0.0)
}

/// Nobody listens.
struct Nobody;

impl Outputs for Nobody {
    fn reply(&mut self, _conn: ConnId, frame: &[u8]) {
        assert_ne!(frame[0], MessageType::Error as u8, "{}", frame.escape_ascii());
    }

    fn event(&mut self, _conn: ConnId, _frame: &[u8]) {}

    fn effect(&mut self, _bytes: &[u8]) {}
}

#[derive(Default)]
struct Filler {
    machine: Xenstore,
    frame: Vec<u8>,
    no: u64,
}

impl Filler {
    fn input(&mut self, input: &Input<'_>) {
        self.no += 1;
        self.machine.apply(InputNo(self.no), input, &mut Nobody).expect("sound");
    }

    fn open(&mut self, conn: u64) {
        self.input(&Input::Open { conn: ConnId(conn), domid: DomId(0) });
    }

    fn ask(&mut self, kind: MessageType, tx: u32, payload: impl AsRef<[u8]>) {
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.clear();
        frame(kind, 1, tx, payload.as_ref(), &mut bytes);
        self.input(&Input::Request { conn: ConnId(1), frame: &bytes });
        self.frame = bytes;
    }
}

/// A kind of thing, how many of it, what is there before, and how the `n`th is made.
type Kind = (&'static str, u64, fn(&mut Filler), fn(&mut Filler, u64));

fn nothing(_: &mut Filler) {}

/// A directory of 100,000 nodes, and an open transaction.
fn tree(it: &mut Filler) {
    for n in 0..100_000 {
        it.ask(MessageType::Write, 0, format!("/t/{n}\0twenty bytes of text"));
    }
    it.ask(MessageType::TransactionStart, 0, b"\0");
}

/// Spreads numbers, so that nothing is in order.
fn far(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

const KINDS: &[Kind] = &[
    ("empty nodes in one directory", 100_000, nothing, |it, n| {
        it.ask(MessageType::Mkdir, 0, format!("/d/{}\0", far(n)));
    }),
    ("nodes of 20 bytes in a tree", 100_000, nothing, |it, n| {
        let path = format!("/d/{}/{}/{}", n % 37, n / 37 % 53, n / 37 / 53);
        it.ask(MessageType::Write, 0, format!("{path}\0twenty bytes of text"));
    }),
    ("nodes of 3000 bytes", 20_000, nothing, |it, n| {
        it.ask(MessageType::Write, 0, format!("/d/{}\0{}", far(n), "x".repeat(3000)));
    }),
    ("nodes alone in their directories, 2 deep", 50_000, nothing, |it, n| {
        it.ask(MessageType::Mkdir, 0, format!("/d/{}/a/b\0", far(n)));
    }),
    ("nodes alone in their directories, 300 deep", 100, nothing, |it, n| {
        it.ask(MessageType::Mkdir, 0, format!("/d/{}{}\0", far(n), "/x".repeat(300)));
    }),
    ("nodes with permissions of their own, 2 deep", 50_000, nothing, |it, n| {
        it.ask(MessageType::Mkdir, 0, format!("/d/{}/a\0", far(n)));
        it.ask(MessageType::SetPerms, 0, format!("/d/{}/a\0n0\0", far(n)));
        it.ask(MessageType::SetPerms, 0, format!("/d/{}\0n0\0", far(n)));
    }),
    ("watches", 100_000, nothing, |it, n| {
        it.ask(MessageType::Watch, 0, format!("/d/{}\0t\0", far(n)));
    }),
    ("open transactions", 100_000, nothing, |it, _| {
        it.ask(MessageType::TransactionStart, 0, b"\0");
    }),
    ("operations of a transaction, two reads", 30_000, tree, |it, n| {
        it.ask(MessageType::Directory, 1, b"/tool\0");
        it.ask(MessageType::DirectoryPart, 1, format!("/tool\0{}\0", far(n)));
    }),
    ("writes of a transaction in a tree of 100000", 30_000, tree, |it, n| {
        it.ask(MessageType::Write, 1, format!("/t/{}\0other twenty bytes o", n * 7919 % 100_000));
    }),
    ("one write each in 2000 transactions", 2_000, tree, |it, n| {
        it.ask(MessageType::TransactionStart, 0, b"\0");
        let path = format!("/t/{}", n * 7919 % 100_000);
        it.ask(MessageType::Write, n as u32 + 2, format!("{path}\0other twenty bytes o"));
    }),
    ("writes of others beside a transaction", 30_000, tree, |it, n| {
        it.ask(MessageType::Write, 0, format!("/t/{}\0other twenty bytes o", n * 7919 % 100_000));
    }),
    ("connections", 60_000, nothing, |it, n| it.open(n + 2)),
    ("domains", 30_000, nothing, |it, n| {
        it.ask(MessageType::SetQuota, 0, format!("{}\0nodes\x001\0", n + 1));
        it.ask(MessageType::Introduce, 0, format!("{}\x001\x001\0", n + 1));
    }),
];

/// Measures one kind, in a process of its own: freed memory is not used again.
fn measure(&(name, count, prepare, make): &Kind) {
    let mut filler = Filler::default();
    filler.open(1);
    prepare(&mut filler);
    let (before, counted) = (resident(), filler.machine.size_bytes());
    (0..count).for_each(|n| make(&mut filler, n));
    let each = |bytes: f64| bytes / count as f64;
    let (real, counts) =
        (each(resident() - before), each((filler.machine.size_bytes() - counted) as f64));
    println!("{name:<46} {real:>9.0} {counts:>9.0} {:>6.2}", counts / real);
}

fn main() {
    if let Some(wanted) = std::env::args().nth(1) {
        KINDS.iter().filter(|kind| kind.0 == wanted).for_each(measure);
        return;
    }
    println!("{:<46} {:>9} {:>9} {:>6}", "bytes of each of", "real", "counted", "ratio");
    let own = std::env::current_exe().expect("there is one");
    for (name, ..) in KINDS {
        let status = Command::new(&own).arg(name).status().expect("runs");
        assert!(status.success(), "{name}");
    }
}
