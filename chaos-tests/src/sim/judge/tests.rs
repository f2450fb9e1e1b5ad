//! Right runs pass; of each wrong one, the right promise is found broken.

mod right;
mod wrong;

use state_machine::{ConnId, DomId, Input, InputNo, Numbered, Output, StateMachine};
use xenstore::Xenstore;
use xenstore::wire::{self, MessageType};

use super::*;

/// A component that is fed by hand.
struct Bench {
    judge: Judge,
    machine: Numbered<Xenstore>,
    last: u64,
    requests: u32,
}

/// What an input has yielded, in order.
type Yield = Vec<Output>;

impl Bench {
    /// With two connections of the control domain, 1 and 2.
    fn new() -> Self {
        let mut bench =
            Self { judge: Judge::new(0), machine: Numbered::default(), last: 0, requests: 0 };
        bench.input(&Input::Boot);
        bench.open(1);
        bench.open(2);
        bench
    }

    fn open(&mut self, conn: u64) {
        self.input(&Input::Open { conn: ConnId(conn), domid: DomId(0) });
    }

    fn admit(&mut self, input: &Input<'_>) -> InputNo {
        self.last += 1;
        let no = InputNo(self.last);
        let mut bytes = Vec::new();
        input.encode(no, &mut bytes);
        self.judge.admitted(no, &bytes, self.last);
        no
    }

    fn apply(&mut self, no: InputNo, input: &Input<'_>, quarantined: bool) -> Yield {
        let mut outputs = Vec::new();
        if Xenstore::classify(input) == Class::Query && !quarantined {
            self.machine.query(no, input, &mut outputs).expect("sound");
        } else {
            self.machine.apply(no, input, quarantined, &mut outputs).expect("sound");
        }
        outputs
    }

    fn input(&mut self, input: &Input<'_>) -> Yield {
        let no = self.admit(input);
        self.apply(no, input, false)
    }

    fn frame(&mut self, kind: MessageType, tx: u32, payload: &[u8]) -> Vec<u8> {
        self.requests += 1;
        let mut frame = Vec::new();
        wire::frame(kind, self.requests, tx, payload, &mut frame);
        frame
    }

    /// Admits and applies a request; what it yields is still to be delivered.
    fn ask(&mut self, conn: u64, kind: MessageType, payload: &[u8]) -> Yield {
        let frame = self.frame(kind, 0, payload);
        self.input(&Input::Request { conn: ConnId(conn), frame: &frame })
    }

    fn deliver<'a>(&mut self, outputs: impl IntoIterator<Item = &'a Output>) {
        for output in outputs {
            match output {
                Output::Reply { conn, frame, .. } | Output::Event { conn, frame, .. } => {
                    self.judge.delivered(*conn, frame, self.last);
                }
                Output::Effect { bytes, .. } => self.judge.effect(bytes, self.last),
            }
        }
    }

    /// Asks, and delivers what it yields.
    fn done(&mut self, conn: u64, kind: MessageType, payload: &[u8]) {
        let outputs = self.ask(conn, kind, payload);
        self.deliver(&outputs);
    }

    fn kinds(&mut self) -> Vec<ViolationKind> {
        self.judge.finish(self.last).iter().map(|violation| violation.kind).collect()
    }
}
