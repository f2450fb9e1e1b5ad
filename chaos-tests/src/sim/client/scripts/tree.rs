//! Builds a tree of its own, lists it, changes its permissions and tears it down
//! again; knows what has to be there.

use std::collections::BTreeSet;

use xenstore::wire::{Errno, MessageType};

use super::{is_quarantine, pair, path, strings, think};
use crate::rng::Rng;
use crate::sim::client::RegisterEvent;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};

/// Names of nodes.
const NAMES: usize = 24;

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Make(usize),
    Remove(usize),
    RemoveAll,
    List,
    Other,
}

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Tree {
    root: String,
    think_us: u64,
    there: BTreeSet<usize>,
    asked: Option<Asked>,
    /// What is there is not known: a connection was lost, or a request
    /// quarantined.
    unsure: bool,
}

impl Tree {
    /// Below `root`, which nobody else touches.
    pub(in crate::sim::client) fn new(root: String, think_us: u64) -> Self {
        Self { root, think_us, there: BTreeSet::new(), asked: None, unsure: true }
    }

    fn node(&self, name: usize) -> String {
        format!("{}/{name}", self.root)
    }

    fn compare(&mut self, names: &[u8]) -> Result<(), String> {
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let there: Option<BTreeSet<usize>> =
            names.map(|name| std::str::from_utf8(name).ok()?.parse().ok()).collect();
        let there = there.ok_or("a directory has names that nobody made")?;
        if self.unsure {
            self.there = there;
            self.unsure = false;
        } else if self.there != there {
            return Err(format!("{} has {there:?} instead of {:?}", self.root, self.there));
        }
        Ok(())
    }
}

impl Script for Tree {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        let until_us = now_us + think(rng, self.think_us);
        if self.asked.is_some() {
            return Turn::Think { until_us };
        }
        let name = rng.below(NAMES);
        let draw = if self.unsure { 100 } else { rng.below(100) };
        let (asked, kind, payload) = match draw {
            0..30 => (Asked::Make(name), MessageType::Mkdir, path(&self.node(name))),
            30..45 => {
                let value = format!("v{}", rng.below(1000));
                let payload = pair(&self.node(name), value.as_bytes());
                (Asked::Make(name), MessageType::Write, payload)
            }
            // Deeper nodes go with the one above them.
            45..52 if self.there.contains(&name) => {
                let deep = format!("{}/x/y", self.node(name));
                (Asked::Other, MessageType::Write, pair(&deep, b"deep"))
            }
            52..72 => (Asked::Remove(name), MessageType::Rm, path(&self.node(name))),
            72..74 => (Asked::RemoveAll, MessageType::Rm, path(&self.root)),
            74..80 if self.there.contains(&name) => {
                let perms = *rng.pick(&["n0", "r0", "b0"]);
                let payload = strings(&[&self.node(name), perms, "r1", "b2"]);
                (Asked::Other, MessageType::SetPerms, payload)
            }
            80..84 if self.there.contains(&name) => {
                (Asked::Other, MessageType::GetPerms, path(&self.node(name)))
            }
            84..90 => {
                let offset = (rng.below(3) * 2).to_string();
                let payload = strings(&[&self.root, &offset]);
                (Asked::Other, MessageType::DirectoryPart, payload)
            }
            _ => (Asked::List, MessageType::Directory, path(&self.root)),
        };
        line.ask(kind.to_u32(), 0, &payload, 0);
        self.asked = Some(asked);
        Turn::Think { until_us }
    }

    fn answer(
        &mut self,
        _tag: u64,
        answer: Result<&[u8], Errno>,
        _rng: &mut Rng,
        _now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Result<(), String> {
        let asked = self.asked.take().ok_or("an answer to no request")?;
        if answer.is_err_and(is_quarantine) {
            self.unsure = true;
            return Ok(());
        }
        match (asked, answer) {
            (Asked::Make(name), Ok(_)) => drop(self.there.insert(name)),
            // Without a parent there is none of them either.
            (Asked::Remove(name), Ok(_) | Err(Errno::ENOENT)) => drop(self.there.remove(&name)),
            (Asked::RemoveAll, Ok(_) | Err(Errno::ENOENT)) => self.there.clear(),
            (Asked::List, Ok(names)) => return self.compare(names),
            (Asked::List, Err(Errno::ENOENT)) => return self.compare(b""),
            (Asked::Other, Ok(_) | Err(Errno::ENOENT)) => {}
            (asked, Err(errno)) => return Err(format!("{asked:?} was answered {errno}")),
        }
        Ok(())
    }

    fn connected(&mut self) {
        self.asked = None;
    }

    fn lost(&mut self, _registers: &mut Vec<RegisterEvent>) {
        self.asked = None;
        self.unsure = true;
    }
}
