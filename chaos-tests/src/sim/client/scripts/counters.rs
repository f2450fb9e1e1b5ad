//! Adds one to pairs of nodes in transactions that meet each other.

use xenstore::wire::{Errno, MessageType};

use super::{is_quarantine, number, pair, path, think};
use crate::rng::Rng;
use crate::sim::client::RegisterEvent;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};

/// Pairs of counters.
const COUNTERS: usize = 3;

/// What is asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    ReadA,
    ReadB,
    WriteA,
    WriteB,
    End,
}

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Counters {
    think_us: u64,
    counter: usize,
    tx_id: u32,
    step: Step,
    seen: [Option<u64>; 2],
    waits: bool,
    next_us: Option<u64>,
    /// The transaction will be given up.
    abort: bool,
}

impl Counters {
    pub(in crate::sim::client) fn new(think_us: u64) -> Self {
        Self {
            think_us,
            counter: 0,
            tx_id: 0,
            step: Step::Start,
            seen: [None; 2],
            waits: false,
            next_us: None,
            abort: false,
        }
    }

    fn node(&self, half: char) -> String {
        format!("/sim/c/{}/{half}", self.counter)
    }

    fn restart(&mut self) {
        self.step = Step::Start;
        self.tx_id = 0;
        self.waits = false;
    }
}

impl Script for Counters {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        _now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        if self.waits {
            return Turn::Think { until_us: u64::MAX };
        }
        self.waits = true;
        self.next_us = None;
        let next = self.seen[0].unwrap_or(0).wrapping_add(1).to_string();
        let (kind, payload) = match self.step {
            Step::Start => {
                self.counter = rng.below(COUNTERS);
                self.abort = rng.percent(10);
                (MessageType::TransactionStart, path(""))
            }
            Step::ReadA => (MessageType::Read, path(&self.node('a'))),
            Step::ReadB => (MessageType::Read, path(&self.node('b'))),
            Step::WriteA => (MessageType::Write, pair(&self.node('a'), next.as_bytes())),
            Step::WriteB => (MessageType::Write, pair(&self.node('b'), next.as_bytes())),
            Step::End if self.abort => (MessageType::TransactionEnd, path("F")),
            Step::End => (MessageType::TransactionEnd, path("T")),
        };
        line.ask(kind.to_u32(), self.tx_id, &payload, 0);
        if rng.below(200) == 0 {
            return Turn::HangUp;
        }
        Turn::Think { until_us: u64::MAX }
    }

    fn answer(
        &mut self,
        _tag: u64,
        answer: Result<&[u8], Errno>,
        rng: &mut Rng,
        now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Result<(), String> {
        self.waits = false;
        let mut pause_us = self.think_us / 4 + 1;
        let (step, value) = (self.step, answer.ok().and_then(number));
        match (step, answer) {
            (Step::Start | Step::End, Err(errno)) if is_quarantine(errno) => self.restart(),
            (_, Err(errno)) if is_quarantine(errno) => {
                // Half a transaction must not be committed.
                (self.step, self.abort) = (Step::End, true);
            }
            (Step::Start, Ok(_)) => {
                let id = value.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0);
                self.tx_id = id.ok_or("a transaction got no number")?;
                self.step = Step::ReadA;
            }
            (Step::ReadA, Ok(_) | Err(Errno::ENOENT)) => {
                (self.seen[0], self.step) = (value, Step::ReadB);
            }
            (Step::ReadB, Ok(_) | Err(Errno::ENOENT)) => {
                (self.seen[1], self.step) = (value, Step::WriteA);
                if self.seen[0] != self.seen[1] {
                    return Err(format!("a transaction sees a torn counter: {:?}", self.seen));
                }
            }
            (Step::WriteA, Ok(_)) => self.step = Step::WriteB,
            (Step::WriteB, Ok(_)) => self.step = Step::End,
            (Step::End, Ok(_)) => {
                self.restart();
                pause_us = think(rng, self.think_us * 6);
            }
            (Step::End, Err(Errno::EAGAIN)) => self.restart(),
            (step, Err(errno)) => return Err(format!("{step:?} was answered {errno}")),
        }
        self.next_us = Some(now_us + pause_us);
        Ok(())
    }

    fn eager(&self, _now_us: u64) -> Option<u64> {
        self.next_us
    }

    fn connected(&mut self) {
        self.restart();
    }

    fn lost(&mut self, _registers: &mut Vec<RegisterEvent>) {
        self.restart();
    }
}
