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
#[derive(Clone, Debug, Default)]
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

    pub(crate) fn outputs(
        &mut self,
        conn: u64,
        kind: MessageType,
        tx: u32,
        payload: &[u8],
    ) -> Vec<Out> {
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

/// Makes up inputs: few paths, few domains, so that they meet.
#[derive(Clone, Debug)]
pub(crate) struct Inventor {
    seed: u64,
}

impl Inventor {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state_machine::mix64(self.seed) % bound
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn path(&mut self) -> Vec<u8> {
        let mut path = self.pick(&[&b""[..], b"/local/domain/5", b"/local/domain/6"]).to_vec();
        for _ in 0..self.below(4) {
            path.push(b'/');
            path.push(*self.pick(b"abc"));
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if self.below(12) == 0 {
            // Relative, or no path at all.
            path.remove(0);
        }
        path
    }

    /// One of so many paths that few meet; some are very long.
    pub(crate) fn far_path(&mut self) -> Vec<u8> {
        let mut path = Vec::new();
        let depth = if self.below(100) == 0 { self.below(400) } else { 1 + self.below(4) };
        for level in 0..depth.max(1) {
            path.push(b'/');
            let name = self.below([5, 30, 30, 30][level.min(3) as usize]);
            path.extend_from_slice(alloc::format!("f{name}").as_bytes());
        }
        path
    }

    fn perms(&mut self) -> Vec<u8> {
        let mut strings = Vec::new();
        for _ in 0..=self.below(3) {
            strings.push(*self.pick(b"nrwb"));
            strings.push(*self.pick(b"00567"));
            strings.push(0);
        }
        strings
    }

    /// A request about nodes.
    pub(crate) fn on_nodes(&mut self) -> (MessageType, Vec<u8>) {
        use MessageType::{Directory, DirectoryPart, GetPerms, Mkdir, Read, Rm, SetPerms, Write};
        let kinds = [
            Read,
            Read,
            Directory,
            DirectoryPart,
            GetPerms,
            Write,
            Write,
            Write,
            Mkdir,
            Rm,
            SetPerms,
        ];
        let kind = *self.pick(&kinds);
        let mut payload = self.path();
        payload.push(0);
        match kind {
            Write => {
                let value: &[u8] = self.pick::<&[u8]>(&[b"x", b"yy", b"", b"zzzzzzzzzzzz"]);
                payload.extend_from_slice(value);
            }
            SetPerms => payload.extend(self.perms()),
            DirectoryPart => {
                let offset: &[u8] = self.pick::<&[u8]>(&[b"0\0", b"2\0", b"99\0"]);
                payload.extend_from_slice(offset);
            }
            _ => {}
        }
        (kind, payload)
    }

    /// Any request.
    pub(crate) fn request(&mut self) -> (MessageType, Vec<u8>) {
        use MessageType::{
            Control, GetDomainPath, GetFeature, GetQuota, Introduce, IsDomainIntroduced, Release,
            ResetWatches, SetQuota, SetTarget, TransactionEnd, TransactionStart, Unwatch, Watch,
        };
        let domid = *self.pick(&[b"5\0", b"6\0", b"7\0"]);
        let with = |payload: &[u8]| [&domid[..], payload].concat();
        match self.below(40) {
            0..=3 => (TransactionStart, b"\0".to_vec()),
            4..=8 => (TransactionEnd, self.pick(&[b"T\0", b"T\0", b"F\0"]).to_vec()),
            9..=11 => {
                let token = *self.pick(&[b"1", b"2"]);
                let path = match self.below(6) {
                    0 => b"@releaseDomain".to_vec(),
                    _ => self.path(),
                };
                (Watch, text(&[&path, token]))
            }
            12 => (Watch, text(&[&self.path(), b"3", b"1"])),
            13 => {
                let token = *self.pick(&[b"1", b"2"]);
                (Unwatch, text(&[&self.path(), token]))
            }
            14 => (Introduce, with(b"1\x003\0")),
            15 if self.below(4) == 0 => (Release, with(b"")),
            16 if self.below(4) == 0 => (ResetWatches, Vec::new()),
            17 => (SetTarget, with(b"6\0")),
            18 => match self.below(8) {
                0 => (Control, b"quota\0set\0nodes\x0010\0".to_vec()),
                1 => (SetQuota, with(b"nodes\x0012\0")),
                2 => (GetQuota, b"nodes\0".to_vec()),
                3 => (GetFeature, Vec::new()),
                4 => (GetDomainPath, with(b"")),
                5 => (IsDomainIntroduced, with(b"")),
                6 => (Control, b"memreport\0".to_vec()),
                _ => (Control, b"check\0".to_vec()),
            },
            _ => self.on_nodes(),
        }
    }

    /// Any input: the control domain on connections 1 and 2, guests on 5 and 6.
    /// `bytes` keeps the frame.
    pub(crate) fn input<'b>(&mut self, bytes: &'b mut Vec<u8>) -> Input<'b> {
        let conn = ConnId(*self.pick(&[1, 1, 2, 2, 5, 6]));
        let domid = |conn: ConnId| DomId(if conn.0 < 3 { 0 } else { conn.0 as u16 });
        match self.below(200) {
            0 => return Input::Close { conn },
            1..=3 => return Input::Open { conn, domid: domid(conn) },
            4 => return Input::DomainGone { domid: DomId(self.below(8) as u16) },
            5 if self.below(5) == 0 => return Input::Boot,
            6 => return Input::DomainShutDown,
            7 => return Input::DomainExists { domid: DomId(self.below(8) as u16) },
            _ => {}
        }
        let (kind, payload) = self.request();
        let tx = match kind {
            MessageType::TransactionEnd => 1 + self.below(6) as u32,
            MessageType::TransactionStart => 0,
            _ => [0, 0, 1, 2, 3, 4, 5, 6][self.below(8) as usize],
        };
        bytes.clear();
        frame(kind, self.below(1000) as u32, tx, &payload, bytes);
        if self.below(50) == 0 {
            // Something is wrong with it.
            let at = self.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.below(8);
        }
        Input::Request { conn, frame: bytes }
    }
}
