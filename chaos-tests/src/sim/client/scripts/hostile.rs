//! Sends what no client should: garbage, absurd and oversized lengths, frames cut
//! in the middle; reads nothing; goes without a word.

use xenstore::wire::{Errno, Header, MAX_PAYLOAD, MAX_SKIPPED_PAYLOAD, MessageType};

use super::{path, strings, think};
use crate::differential::{Act, CONNECTIONS, Generator};
use crate::rng::Rng;
use crate::sim::client::RegisterEvent;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};

/// What it is up to on its present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Well-formed frames of nonsense.
    Nonsense,
    /// Announces more than a frame may have, and sends it.
    Oversized,
    /// Random bytes.
    Garbage,
    /// A length that makes no sense.
    Absurd,
    /// Half a frame, and gone.
    CutShort,
    /// Requests, and gone before they are answered.
    Vanish,
    /// Watches everything and asks much, and reads nothing of it.
    Deaf,
}

const PLANS: [Plan; 7] = [
    Plan::Nonsense,
    Plan::Oversized,
    Plan::Garbage,
    Plan::Absurd,
    Plan::CutShort,
    Plan::Vanish,
    Plan::Deaf,
];

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Hostile {
    think_us: u64,
    generator: Generator,
    plan: Option<Plan>,
    provoked: bool,
    turns: u32,
}

impl Hostile {
    pub(in crate::sim::client) fn new(seed: u64, think_us: u64) -> Self {
        Self { think_us, generator: Generator::new(seed), plan: None, provoked: false, turns: 0 }
    }

    fn oversized(line: &mut Line, rng: &mut Rng) {
        let len = MAX_PAYLOAD + 1 + rng.below(3000);
        line.ask(MessageType::Write.to_u32(), 0, &vec![b'x'; len], 0);
    }

    fn absurd(line: &mut Line, rng: &mut Rng) {
        let least = u32::try_from(MAX_SKIPPED_PAYLOAD).unwrap_or(0) + 1;
        let len = least.saturating_add(u32::try_from(rng.next_u64() >> 33).unwrap_or(0));
        let header = Header { kind: 2, req_id: 77, tx_id: 0, len };
        line.babble(&header.encode());
    }

    fn garbage(line: &mut Line, rng: &mut Rng) {
        let bytes: Vec<u8> = (0..rng.below(300)).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
        line.babble(&bytes);
    }
}

impl Script for Hostile {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        let plan = *self.plan.get_or_insert_with(|| *rng.pick(&PLANS));
        self.turns += 1;
        let until_us = now_us + think(rng, self.think_us);
        match plan {
            Plan::Nonsense | Plan::Vanish if line.due() < 8 => {
                let nothing_open = [const { Vec::new() }; CONNECTIONS.len()];
                if let Act::Request { kind, payload, .. } = self.generator.step(&nothing_open).act {
                    line.ask(kind, 0, &payload, 0);
                }
            }
            Plan::Oversized if line.due() < 4 => Self::oversized(line, rng),
            Plan::CutShort => {
                line.ask(MessageType::Read.to_u32(), 0, &path("/sim/r/0"), 0);
                line.cut_short(rng.below(24));
                return Turn::HangUp;
            }
            Plan::Garbage | Plan::Absurd | Plan::Deaf if !self.provoked => {
                self.provoked = true;
                return Turn::Provoke;
            }
            Plan::Garbage => Self::garbage(line, rng),
            Plan::Absurd if self.turns > 3 => Self::absurd(line, rng),
            Plan::Deaf if self.turns == 2 => {
                line.ask(MessageType::Watch.to_u32(), 0, &strings(&["/", "all"]), 0);
            }
            Plan::Deaf if self.turns == 3 => {
                return Turn::StopReading { until_us: now_us + 30_000_000 };
            }
            Plan::Deaf if self.turns < 20 => {
                for _ in 0..20 {
                    line.ask(MessageType::Directory.to_u32(), 0, &path("/"), 0);
                }
            }
            _ => {}
        }
        if self.turns > 20 && rng.percent(10) || (plan == Plan::Vanish && rng.percent(30)) {
            return Turn::HangUp;
        }
        Turn::Think { until_us }
    }

    fn answer(
        &mut self,
        _tag: u64,
        _answer: Result<&[u8], Errno>,
        _rng: &mut Rng,
        _now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Result<(), String> {
        Ok(())
    }

    fn event(&mut self, _path: &[u8], _token: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn connected(&mut self) {
        (self.plan, self.provoked, self.turns) = (None, false, 0);
    }

    fn lost(&mut self, _registers: &mut Vec<RegisterEvent>) {}
}
