//! A small component with everything that matters for a failover: queries,
//! tentative requests inside a transaction, commands, events and effects.

use std::collections::{BTreeMap, BTreeSet};

use state_machine::{
    Class, ConnId, Corruption, Digest, Input, InputNo, Mixer, Outputs, Reader, RestoreError,
    ScrubProgress, StateMachine,
};

pub(crate) const GET: u8 = 0;
pub(crate) const PUT: u8 = 1;
pub(crate) const BEGIN: u8 = 2;
pub(crate) const TX_GET: u8 = 3;
pub(crate) const TX_PUT: u8 = 4;
pub(crate) const COMMIT: u8 = 5;
pub(crate) const WATCH: u8 = 6;

type Values = BTreeMap<u8, u64>;

/// Values by key; a value remembers all that was ever put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Board {
    values: Values,
    /// The last command that was applied.
    as_of: u64,
    transactions: BTreeMap<ConnId, Values>,
    watchers: BTreeSet<ConnId>,
}

fn mixed(old: u64, new: u8) -> u64 {
    Mixer::new().word(old).word(u64::from(new)).finish()
}

/// What a query answers: the key, its value, and the last command it saw.
pub(crate) fn seen(frame: &[u8]) -> (u8, u64, u64) {
    let mut reader = Reader::new(frame);
    let mut take = || -> Option<(u8, u64, u64)> {
        Some((reader.u8().ok()?, reader.u64().ok()?, reader.u64().ok()?))
    };
    take().expect("the answer to a query")
}

impl Board {
    pub(crate) fn value(&self, key: u8) -> u64 {
        self.values.get(&key).copied().unwrap_or(0)
    }

    fn put(&mut self, conn: ConnId, key: u8, value: u64, out: &mut dyn Outputs) {
        self.values.insert(key, value);
        let told = [&[key][..], &value.to_le_bytes()].concat();
        for &watcher in &self.watchers {
            out.event(watcher, &told);
        }
        if value.is_multiple_of(4) {
            out.effect(&[&told[..], &conn.0.to_le_bytes()].concat());
        }
    }

    fn request(&mut self, conn: ConnId, frame: &[u8], out: &mut dyn Outputs) {
        let [op, key, new] = *frame else { return out.reply(conn, b"what?") };
        match op {
            PUT => {
                let value = mixed(self.value(key), new);
                self.put(conn, key, value, out);
                out.reply(conn, &value.to_le_bytes());
            }
            BEGIN => {
                self.transactions.insert(conn, self.values.clone());
                out.reply(conn, b"begun");
            }
            TX_GET | TX_PUT => {
                let Some(values) = self.transactions.get_mut(&conn) else {
                    return out.reply(conn, b"no transaction");
                };
                let value = values.entry(key).or_default();
                if op == TX_PUT {
                    *value = mixed(*value, new);
                }
                out.reply(conn, &value.to_le_bytes());
            }
            COMMIT => {
                for (key, value) in self.transactions.remove(&conn).unwrap_or_default() {
                    if self.value(key) != value {
                        self.put(conn, key, value, out);
                    }
                }
                out.reply(conn, b"committed");
            }
            WATCH => {
                self.watchers.insert(conn);
                out.reply(conn, b"watching");
            }
            _ => out.reply(conn, b"what?"),
        }
    }
}

impl StateMachine for Board {
    type Snapshot = Self;
    type Cursor = ();

    fn classify(input: &Input<'_>) -> Class {
        match input {
            Input::Request { frame: [GET, ..], .. } => Class::Query,
            Input::Request { frame: [TX_GET | TX_PUT, ..], .. } => Class::Tentative,
            Input::Request { frame: [BEGIN, ..], .. } => Class::Opening,
            _ => Class::Command,
        }
    }

    fn apply(
        &mut self,
        no: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        if Self::classify(input) == Class::Command {
            self.as_of = no.0;
        }
        match *input {
            Input::Request { conn, frame } => self.request(conn, frame, out),
            Input::Close { conn } => {
                self.transactions.remove(&conn);
                self.watchers.remove(&conn);
            }
            Input::Poison => panic!("a poison is never applied"),
            _ => {}
        }
        Ok(())
    }

    fn query(
        &self,
        _: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        if let Input::Request { conn, frame: [_, key, _] } = *input {
            let mut answer = vec![*key];
            answer.extend_from_slice(&self.value(*key).to_le_bytes());
            answer.extend_from_slice(&self.as_of.to_le_bytes());
            out.reply(conn, &answer);
        }
        Ok(())
    }

    fn quarantine(&mut self, no: InputNo, input: &Input<'_>, out: &mut dyn Outputs) {
        self.as_of = no.0;
        out.reply(input.conn().unwrap_or(ConnId::HOST), b"quarantined");
    }

    fn can_answer(_: &Input<'_>, _: &[u8]) -> bool {
        true
    }

    fn can_be_event(_: &[u8]) -> bool {
        true
    }

    fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        Self::encode(self, &mut bytes);
        Digest(Mixer::new().bytes(&bytes).finish())
    }

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn encode_part(board: &Self, (): &mut (), out: &mut Vec<u8>) -> bool {
        let mut word = |word: u64| out.extend_from_slice(&word.to_le_bytes());
        word(board.as_of);
        word(board.watchers.len() as u64);
        board.watchers.iter().for_each(|conn| word(conn.0));
        let mut values = |conn: u64, values: &Values| {
            word(conn);
            word(values.len() as u64);
            for (key, value) in values {
                word(u64::from(*key));
                word(*value);
            }
        };
        values(0, &board.values);
        board.transactions.iter().for_each(|(conn, tx)| values(conn.0, tx));
        true
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut reader = Reader::new(bytes);
        let mut board = Self { as_of: reader.u64()?, ..Self::default() };
        for _ in 0..reader.u64()? {
            board.watchers.insert(ConnId(reader.u64()?));
        }
        while !reader.is_empty() {
            let conn = ConnId(reader.u64()?);
            let mut values = Values::new();
            for _ in 0..reader.u64()? {
                values.insert(reader.u64()?.to_le_bytes()[0], reader.u64()?);
            }
            match conn {
                ConnId(0) => board.values = values,
                conn => drop(board.transactions.insert(conn, values)),
            }
        }
        Ok(board)
    }

    fn scrub(&mut self, _: usize) -> Result<ScrubProgress, Corruption> {
        Ok(ScrubProgress::PassDone)
    }

    fn flip_bit(&mut self, seed: u64) {
        self.as_of ^= 1 << (seed % 64);
    }
}
