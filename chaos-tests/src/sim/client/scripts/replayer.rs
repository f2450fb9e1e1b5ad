//! Says again what real programs have said: each recorded connection in turn.

use xenstore::wire::{Errno, MessageType};

use super::think;
use crate::rng::Rng;
use crate::sim::client::RegisterEvent;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};
use crate::sim::mix::{Mix, TxOf};

/// A transaction that nobody has.
const NO_SUCH: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Replayer {
    mix: Mix,
    think_us: u64,
    talk: usize,
    at: usize,
    /// The transactions that were begun on this connection, by their number now.
    begun: Vec<u32>,
    due: u32,
}

/// Tag of the begin of a transaction.
const START: u64 = 1;
/// Tag of everything else.
const ANY: u64 = 2;

impl Replayer {
    pub(in crate::sim::client) fn new(mix: Mix, think_us: u64) -> Self {
        Self { mix, think_us, talk: 0, at: 0, begun: Vec::new(), due: 0 }
    }
}

impl Script for Replayer {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        let until_us = now_us + think(rng, self.think_us);
        let talks = self.mix.talks();
        let Some(said) = talks.get(self.talk % talks.len().max(1)) else {
            return Turn::Think { until_us: u64::MAX };
        };
        while let Some(next) = said.get(self.at) {
            if self.due > next.due {
                return Turn::Think { until_us };
            }
            let tx = match next.tx {
                TxOf::None => 0,
                TxOf::Start(number) => self.begun.get(number as usize).copied().unwrap_or(NO_SUCH),
                TxOf::Raw(id) => id,
            };
            let start = next.kind == MessageType::TransactionStart.to_u32();
            line.ask(next.kind, tx, &next.payload, if start { START } else { ANY });
            self.due += 1;
            self.at += 1;
            // What was sent at once is sent at once.
            if said.get(self.at).is_none_or(|then| then.due < self.due) {
                // The pace is that of the simulation; the proportions are kept.
                let pause_us = u64::from(next.pause_us).min(self.think_us);
                return Turn::Think { until_us: until_us + pause_us };
            }
        }
        if self.due > 0 {
            return Turn::Think { until_us };
        }
        self.talk += 1;
        Turn::HangUp
    }

    fn answer(
        &mut self,
        tag: u64,
        answer: Result<&[u8], Errno>,
        _rng: &mut Rng,
        _now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Result<(), String> {
        self.due = self.due.saturating_sub(1);
        if tag == START {
            let id = answer.ok().and_then(super::number).and_then(|id| u32::try_from(id).ok());
            self.begun.push(id.unwrap_or(NO_SUCH));
        }
        Ok(())
    }

    fn event(&mut self, _path: &[u8], _token: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn connected(&mut self) {
        (self.at, self.due) = (0, 0);
        self.begun.clear();
    }

    fn lost(&mut self, _registers: &mut Vec<RegisterEvent>) {
        self.due = 0;
    }
}
