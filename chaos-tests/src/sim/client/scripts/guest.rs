//! A guest: reads and writes below its own home, tries what it may not, and,
//! when it is greedy, takes all that its quotas give and asks for more.

use xenstore::wire::{Errno, MessageType};

use super::{pair, path, strings, think};
use crate::rng::Rng;
use crate::sim::client::RegisterEvent;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};

/// Nodes of a guest that keeps within its quotas.
const MODEST: usize = 40;
/// Nodes that a greedy one tries to make; the quota is 1000 at first.
const GREEDY: usize = 1200;

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Guest {
    think_us: u64,
    greedy: bool,
    next: usize,
    open: Vec<u32>,
    due: usize,
}

/// Tag of the begin of a transaction.
const START: u64 = 1;
/// Tag of what a guest has the right to.
const OWN: u64 = 2;
/// Tag of what may be refused.
const ANY: u64 = 3;

impl Guest {
    pub(in crate::sim::client) fn new(think_us: u64, greedy: bool) -> Self {
        Self { think_us, greedy, next: 0, open: Vec::new(), due: 0 }
    }

    fn ask(&mut self, line: &mut Line, kind: MessageType, tx: u32, payload: &[u8], tag: u64) {
        line.ask(kind.to_u32(), tx, payload, tag);
        self.due += 1;
    }

    fn take_all(&mut self, line: &mut Line, rng: &mut Rng) {
        // A quota of requests under way is the front door's to enforce.
        for _ in 0..1 + rng.below(30) {
            self.next = (self.next + 1) % GREEDY;
            let node = format!("data/g/{}", self.next);
            let token = self.next.to_string();
            match rng.below(12) {
                0 => self.ask(line, MessageType::TransactionStart, 0, b"\0", START),
                1 | 2 => {
                    self.ask(line, MessageType::Watch, 0, &strings(&[&node, &token]), ANY);
                }
                3 => {
                    let value = vec![b'g'; 500 + rng.below(2000)];
                    self.ask(line, MessageType::Write, 0, &pair(&node, &value), ANY);
                }
                4 => {
                    let long = format!("data/{}", "n".repeat(2000 + rng.below(100)));
                    self.ask(line, MessageType::Write, 0, &pair(&long, b""), ANY);
                }
                5 => {
                    let perms = ["n1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"];
                    let mut payload = path("data/g");
                    payload.extend(strings(&perms[..1 + rng.below(perms.len())]));
                    self.ask(line, MessageType::SetPerms, 0, &payload, ANY);
                }
                _ => self.ask(line, MessageType::Write, 0, &pair(&node, b"x"), ANY),
            }
        }
    }

    fn be_modest(&mut self, line: &mut Line, rng: &mut Rng) {
        let node = format!("data/{}", rng.below(MODEST));
        let tx = if rng.percent(50) { self.open.last().copied().unwrap_or(0) } else { 0 };
        let draw = if self.open.is_empty() { rng.below(90) } else { rng.below(100) };
        match draw {
            0..30 => {
                let value = rng.below(100_000).to_string();
                self.ask(line, MessageType::Write, tx, &pair(&node, value.as_bytes()), ANY);
            }
            30..55 => self.ask(line, MessageType::Read, tx, &path(&node), ANY),
            55..62 => self.ask(line, MessageType::Directory, tx, &path("data"), ANY),
            62..68 => self.ask(line, MessageType::Rm, tx, &path(&node), ANY),
            68..74 => self.ask(line, MessageType::Read, 0, &path("/sim/r/0"), ANY),
            74..78 => self.ask(line, MessageType::Write, 0, &pair("/sim/r/0", b"1"), ANY),
            78..80 => self.ask(line, MessageType::Release, 0, b"1\0", ANY),
            80..83 => self.ask(line, MessageType::GetDomainPath, 0, b"1\0", OWN),
            83..86 => self.ask(line, MessageType::Watch, 0, &strings(&["data", "d"]), ANY),
            86..90 => self.ask(line, MessageType::TransactionStart, 0, b"\0", START),
            _ => {
                let tx = self.open.pop().unwrap_or(0);
                let end = if rng.percent(80) { "T" } else { "F" };
                self.ask(line, MessageType::TransactionEnd, tx, &path(end), ANY);
            }
        }
    }
}

impl Script for Guest {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        let until_us = now_us + think(rng, self.think_us);
        if self.due > 0 {
            return Turn::Think { until_us };
        }
        if self.greedy && rng.percent(40) {
            self.take_all(line, rng);
        } else {
            self.be_modest(line, rng);
        }
        Turn::Think { until_us }
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
        match (tag, answer) {
            (START, Ok(id)) => {
                let id = super::number(id).and_then(|id| u32::try_from(id).ok());
                self.open.push(id.filter(|id| *id != 0).ok_or("a transaction got no number")?);
            }
            // Its domain may have been released a moment ago.
            (OWN, Err(errno)) if !super::is_quarantine(errno) && errno != Errno::ENOTCONN => {
                return Err(format!("what everybody may ask was answered {errno}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, _path: &[u8], _token: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn connected(&mut self) {
        self.open.clear();
        self.due = 0;
    }

    fn lost(&mut self, _registers: &mut Vec<RegisterEvent>) {
        self.due = 0;
    }
}
