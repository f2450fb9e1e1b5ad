//! A machine on a test bench: requests in, replies and events out.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use state_machine::{Class, ConnId, DomId, Input, InputNo, Outputs, StateMachine};

use crate::effect::Effect;
use crate::machine::Xenstore;
use crate::wire::{Errno, MessageType, frame, split};

/// One output, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    Reply { conn: u64, kind: MessageType, req_id: u32, tx_id: u32, payload: Vec<u8> },
    Event { conn: u64, path: Vec<u8>, token: Vec<u8> },
    Effect(Effect),
}

/// Collects outputs.
#[derive(Debug, Default)]
pub(crate) struct Collector(pub(crate) Vec<Out>);

impl Outputs for Collector {
    fn reply(&mut self, conn: ConnId, frame: &[u8]) {
        let (header, payload) = split(frame).expect("replies are frames");
        self.0.push(Out::Reply {
            conn: conn.0,
            // What was no request is answered with an error all the same.
            kind: MessageType::from_u32(header.kind).expect("a known type"),
            req_id: header.req_id,
            tx_id: header.tx_id,
            payload: payload.to_vec(),
        });
    }

    fn event(&mut self, conn: ConnId, frame: &[u8]) {
        let (header, payload) = split(frame).expect("events are frames");
        assert_eq!((header.kind, header.req_id, header.tx_id), (15, 0, 0));
        let parts: Vec<_> = payload.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let [path, token, rest] = &parts[..] else { panic!("an event has two strings") };
        assert!(rest.is_empty());
        self.0.push(Out::Event { conn: conn.0, path: path.clone(), token: token.clone() });
    }

    fn effect(&mut self, bytes: &[u8]) {
        self.0.push(Out::Effect(Effect::decode(bytes).expect("effects decode")));
    }
}

/// The bench.
#[derive(Debug, Default)]
pub(crate) struct Rig {
    pub(crate) machine: Xenstore,
    last: u64,
    pub(crate) events: VecDeque<(u64, Vec<u8>, Vec<u8>)>,
    pub(crate) effects: Vec<Effect>,
}

impl Rig {
    /// A bench with one connection of the control domain, number 1.
    pub(crate) fn new() -> Self {
        let mut rig = Self::default();
        rig.input(&Input::Boot);
        rig.open(1, 0);
        rig
    }

    pub(crate) fn input(&mut self, input: &Input<'_>) -> Vec<Out> {
        self.last += 1;
        let no = InputNo(self.last);
        let mut out = Collector::default();
        if Xenstore::classify(input) == Class::Query {
            self.machine.query(no, input, &mut out).expect("sound state");
        } else {
            self.machine.apply(no, input, &mut out).expect("sound state");
        }
        for output in &out.0 {
            match output {
                Out::Event { conn, path, token } => {
                    self.events.push_back((*conn, path.clone(), token.clone()));
                }
                Out::Effect(effect) => self.effects.push(effect.clone()),
                Out::Reply { .. } => {}
            }
        }
        out.0
    }

    pub(crate) fn open(&mut self, conn: u64, domid: u16) {
        let out = self.input(&Input::Open { conn: ConnId(conn), domid: DomId(domid) });
        assert!(out.is_empty());
    }

    pub(crate) fn outputs(&mut self, conn: u64, kind: MessageType, tx: u32, payload: &[u8]) -> Vec<Out> {
        let mut bytes = Vec::new();
        let req_id = self.last as u32 + 1000;
        frame(kind, req_id, tx, payload, &mut bytes);
        let out = self.input(&Input::Request { conn: ConnId(conn), frame: &bytes });
        let replies: Vec<_> = out.iter().filter(|out| matches!(out, Out::Reply { .. })).collect();
        let [Out::Reply { conn: to, kind: answer, req_id: id, tx_id, .. }] = replies[..] else {
            panic!("one reply a request, not {replies:?}");
        };
        assert_eq!((*to, *id, *tx_id), (conn, req_id, tx));
        assert!(*answer == kind || *answer == MessageType::Error);
        out
    }

    /// A request's reply.
    pub(crate) fn ask(
        &mut self,
        conn: u64,
        kind: MessageType,
        tx: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let out = self.outputs(conn, kind, tx, payload);
        reply_of(&out)
    }

    /// A request of the first connection that is answered with `OK`.
    pub(crate) fn ok(&mut self, kind: MessageType, payload: &[u8]) {
        assert_eq!(self.ask(1, kind, 0, payload), Ok(b"OK\0".to_vec()), "{kind:?}");
    }

    pub(crate) fn read(&mut self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        self.ask(1, MessageType::Read, 0, &text(&[path]))
    }

    pub(crate) fn write(&mut self, path: &[u8], value: &[u8]) {
        self.ok(MessageType::Write, &pair(path, value));
    }

    pub(crate) fn start(&mut self, conn: u64) -> u32 {
        let reply = self.ask(conn, MessageType::TransactionStart, 0, b"\0").expect("no quota");
        let text = core::str::from_utf8(&reply).expect("a number");
        text.trim_end_matches('\0').parse().expect("a number")
    }

    pub(crate) fn commit(&mut self, conn: u64, tx: u32) -> Result<(), Errno> {
        self.ask(conn, MessageType::TransactionEnd, tx, b"T\0").map(|_| ())
    }

    /// The events since the last call.
    pub(crate) fn fired(&mut self) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
        self.events.drain(..).collect()
    }

    pub(crate) fn introduce(&mut self, domid: u16, conn: u64) {
        let payload = alloc::format!("{domid}\x001\x005\0");
        self.ok(MessageType::Introduce, payload.as_bytes());
        self.open(conn, domid);
    }
}

/// The reply among `out`.
pub(crate) fn reply_of(out: &[Out]) -> Result<Vec<u8>, Errno> {
    let reply = out.iter().find_map(|out| match out {
        Out::Reply { kind, payload, .. } => Some((*kind, payload.clone())),
        _ => None,
    });
    match reply.expect("a reply") {
        (MessageType::Error, name) => Err(Errno::from_name(&name).expect("a known error")),
        (_, payload) => Ok(payload),
    }
}

/// Strings, each with a NUL.
pub(crate) fn text(strings: &[&[u8]]) -> Vec<u8> {
    strings.iter().flat_map(|text| text.iter().chain(b"\0")).copied().collect()
}

/// A string with a NUL, and bytes without.
pub(crate) fn pair(path: &[u8], value: &[u8]) -> Vec<u8> {
    [path, b"\0", value].concat()
}
