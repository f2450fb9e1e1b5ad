//! Watches what others do, the comings and goings of domains too, and changes
//! its mind now and then.

use std::collections::BTreeSet;

use xenstore::wire::{Errno, MessageType};

use super::{is_quarantine, strings, think};
use crate::rng::Rng;
use crate::sim::client::RegisterEvent;
use crate::sim::client::line::Line;
use crate::sim::client::script::{Script, Turn};

/// What may be watched.
const PATHS: [&str; 8] = [
    "/sim",
    "/sim/r",
    "/sim/r/1",
    "/sim/c",
    "/sim/t",
    "/local/domain",
    "@introduceDomain",
    "@releaseDomain",
];

/// See the module.
#[derive(Debug)]
pub(in crate::sim::client) struct Watcher {
    think_us: u64,
    lazy: bool,
    stopped: bool,
    /// Watches by their place in [`PATHS`], which is also their token.
    on: BTreeSet<usize>,
    asked: Option<(usize, bool)>,
    /// Tokens that were ever used on this connection: events of a watch may
    /// still be on their way when it is gone.
    known: BTreeSet<usize>,
}

impl Watcher {
    /// A `lazy` one does not read for a while now and then.
    pub(in crate::sim::client) fn new(think_us: u64, lazy: bool) -> Self {
        Self {
            think_us,
            lazy,
            stopped: false,
            on: BTreeSet::new(),
            asked: None,
            known: BTreeSet::new(),
        }
    }
}

impl Script for Watcher {
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        _registers: &mut Vec<RegisterEvent>,
    ) -> Turn {
        if self.lazy && !self.stopped && rng.percent(10) {
            self.stopped = true;
            let pause_us = 500_000 + rng.below(8_000_000) as u64;
            return Turn::StopReading { until_us: now_us + pause_us };
        }
        self.stopped = false;
        let pause_us = if self.on.len() < 2 { self.think_us } else { self.think_us * 20 };
        let until_us = now_us + think(rng, pause_us);
        if self.asked.is_some() {
            return Turn::Think { until_us };
        }
        let at = rng.below(PATHS.len());
        let remove = self.on.contains(&at);
        let token = at.to_string();
        let kind = if remove { MessageType::Unwatch } else { MessageType::Watch };
        if rng.below(100) == 0 {
            line.ask(MessageType::ResetWatches.to_u32(), 0, b"\0", 1);
            self.on.clear();
            self.asked = Some((PATHS.len(), true));
            return Turn::Think { until_us };
        }
        line.ask(kind.to_u32(), 0, &strings(&[PATHS[at], &token]), 0);
        self.asked = Some((at, remove));
        self.known.insert(at);
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
        let (at, removed) = self.asked.take().ok_or("an answer to no request")?;
        match answer {
            Ok(_) if removed => drop(self.on.remove(&at)),
            Ok(_) => drop(self.on.insert(at)),
            Err(errno) if is_quarantine(errno) => {}
            // What a quarantined request has left behind.
            Err(Errno::EEXIST) if !removed => drop(self.on.insert(at)),
            Err(Errno::ENOENT) if removed => drop(self.on.remove(&at)),
            Err(errno) => return Err(format!("a watch was answered {errno}")),
        }
        Ok(())
    }

    fn event(&mut self, path: &[u8], token: &[u8]) -> Result<(), String> {
        let shown = || format!("{}|{}", path.escape_ascii(), token.escape_ascii());
        let at = super::number(token).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|at| self.known.contains(at));
        let at = at.ok_or_else(|| format!("an event of no watch: {}", shown()))?;
        if !path.starts_with(PATHS[at].as_bytes()) {
            return Err(format!("an event of another path: {}", shown()));
        }
        Ok(())
    }

    fn connected(&mut self) {
        self.on.clear();
        self.known.clear();
        self.asked = None;
    }

    fn lost(&mut self, _registers: &mut Vec<RegisterEvent>) {
        self.asked = None;
    }
}
