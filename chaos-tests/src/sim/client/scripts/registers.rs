//! Reads and writes few nodes that all share, several requests at once.

use std::collections::BTreeMap;

use xenstore::wire::{Errno, MessageType};

use super::{number, pair, path, think};
use crate::rng::Rng;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};
use crate::sim::client::{RegisterCall, RegisterEvent};

/// Percent of requests that write.
const WRITES: u32 = 35;

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Registers {
    client: u32,
    keys: u32,
    depth: usize,
    think_us: u64,
    /// Reads nothing for a while now and then.
    lazy: bool,
    last_op: u64,
    under_way: BTreeMap<u64, RegisterCall>,
    stopped: bool,
    /// Its transaction, if it has one beside all that it asks.
    beside: Beside,
}

/// A transaction that is never ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// There is to be none.
    No,
    /// There is to be one.
    Wanted,
    /// It is asked for by the request with this tag.
    Opening(u64),
    /// It is open.
    Open(u32),
}

impl Registers {
    /// Up to `depth` requests at once.
    pub(in crate::sim::client) fn new(
        client: u32,
        keys: u32,
        depth: usize,
        think_us: u64,
        lazy: bool,
    ) -> Self {
        Self {
            client,
            keys,
            depth,
            think_us,
            lazy,
            last_op: 0,
            under_way: BTreeMap::new(),
            stopped: false,
            beside: Beside::No,
        }
    }

    /// The same, with an open transaction to write in beside the rest.
    pub(in crate::sim::client) fn entangled(mut self) -> Self {
        self.beside = Beside::Wanted;
        self
    }

    fn ask_beside(&mut self, line: &mut Line) {
        self.last_op += 1;
        let op = self.last_op;
        match self.beside {
            Beside::No | Beside::Opening(_) => {}
            Beside::Wanted => {
                self.beside = Beside::Opening(op);
                line.ask(MessageType::TransactionStart.to_u32(), 0, b"\0", op);
            }
            Beside::Open(tx) => {
                let node = format!("/sim/beside/{}", self.client);
                line.ask(MessageType::Write.to_u32(), tx, &pair(&node, b"1"), op);
            }
        }
    }
}

impl Script for Registers {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        if self.lazy && !self.stopped && rng.percent(3) {
            self.stopped = true;
            let pause_us = 1_000_000 + rng.below(4_000_000) as u64;
            return Turn::StopReading { until_us: now_us + pause_us };
        }
        self.stopped = false;
        let burst = 1 + rng.below(self.depth);
        while line.due() < burst {
            if self.beside != Beside::No && rng.percent(30) {
                self.ask_beside(line);
            }
            let key = u32::try_from(rng.below(self.keys as usize)).unwrap_or(0);
            let node = format!("/sim/r/{key}");
            self.last_op += 1;
            let op = self.last_op;
            let call = if rng.percent(WRITES) {
                let value = u64::from(self.client) << 32 | op;
                let text = value.to_string();
                line.ask(MessageType::Write.to_u32(), 0, &pair(&node, text.as_bytes()), op);
                RegisterCall::Write(value)
            } else {
                line.ask(MessageType::Read.to_u32(), 0, &path(&node), op);
                RegisterCall::Read
            };
            self.under_way.insert(op, call);
            registers.push(RegisterEvent::Invoked { op, key, call });
        }
        Turn::Think { until_us: now_us + think(rng, self.think_us) }
    }

    fn answer(
        &mut self,
        tag: u64,
        answer: Result<&[u8], Errno>,
        _rng: &mut Rng,
        _now_us: u64,
        registers: &mut Vec<RegisterEvent>,
    ) -> Result<(), String> {
        let call = self.under_way.remove(&tag);
        if call.is_none() && self.beside != Beside::No {
            if let (Beside::Opening(op), Ok(text)) = (self.beside, answer)
                && op == tag
            {
                let id = number(text).and_then(|id| u32::try_from(id).ok());
                self.beside = Beside::Open(id.ok_or("a transaction without a number")?);
            }
            return Ok(());
        }
        let event = match (call, answer) {
            (Some(RegisterCall::Write(_)), Ok(_)) => {
                RegisterEvent::Returned { op: tag, seen: None }
            }
            (Some(RegisterCall::Read), Err(Errno::ENOENT)) => {
                RegisterEvent::Returned { op: tag, seen: None }
            }
            (Some(RegisterCall::Read), Ok(text)) => {
                let seen = number(text).ok_or("a register holds what nobody writes")?;
                RegisterEvent::Returned { op: tag, seen: Some(seen) }
            }
            (_, Err(errno)) if super::is_quarantine(errno) => RegisterEvent::Unknown { op: tag },
            (_, Err(errno)) => return Err(format!("a register was answered {errno}")),
            (None, Ok(_)) => return Err("an answer to no request".to_owned()),
        };
        registers.push(event);
        Ok(())
    }

    fn lost(&mut self, registers: &mut Vec<RegisterEvent>) {
        let lost = std::mem::take(&mut self.under_way);
        registers.extend(lost.into_keys().map(|op| RegisterEvent::Unknown { op }));
    }
}
