//! A client that works without pause and notes all it did and saw.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::layout;
use super::tally::Tally;
use super::{Shared, SoakError};
use crate::client::{Client, ClientError, Result, Tx};
use crate::history::{Action, EventOp, RegisterOp, Span};
use crate::rng::Rng;

/// Nodes that a client keeps in its own directory.
const LIVE_NODES: usize = 48;
const LONGEST_NS: u64 = 600_000_000_000;
const RECONNECT_PAUSE: Duration = Duration::from_millis(5);

/// What one client did and saw.
pub(super) struct Record {
    pub(super) registers: Vec<RegisterOp>,
    pub(super) events: Vec<EventOp>,
    /// Its part of each counter.
    pub(super) tallies: Vec<Tally>,
    /// Nodes of its own directory that must be there in the end.
    pub(super) live: VecDeque<u32>,
    /// Nodes of which nobody knows whether they are there.
    pub(super) unknown: BTreeSet<u32>,
    /// Nodes of its own directory from this one on were never created.
    pub(super) next_node: u32,
    pub(super) retries: u64,
    pub(super) violations: Vec<String>,
    pub(super) latency: Histogram<u64>,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    number: u16,
    client: Client,
    rng: Rng,
    next_value: u64,
    next_token: u64,
    record: Record,
}

fn connect(shared: &Shared) -> Result<Client> {
    let mut client = Client::connect(&shared.socket)?;
    client.set_timeout(shared.timeout());
    Ok(client)
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Worker {
    pub(super) fn connect(
        shared: &Arc<Shared>,
        number: u16,
    ) -> std::result::Result<Self, SoakError> {
        let client =
            connect(shared).map_err(|source| SoakError::Client { what: "connecting", source })?;
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        Ok(Self {
            shared: Arc::clone(shared),
            number,
            client,
            rng: Rng::new(shared.config.seed ^ (u64::from(number) + 1) << 32),
            next_value: u64::from(number) << 40 | 1,
            next_token: 1,
            record: Record {
                registers: Vec::new(),
                events: Vec::new(),
                tallies: vec![Tally::default(); layout::COUNTERS as usize],
                live: VecDeque::new(),
                unknown: BTreeSet::new(),
                next_node: 0,
                retries: 0,
                violations: Vec::new(),
                latency: latency.expect("the bounds are constants in order"),
            },
        })
    }

    pub(super) fn run(mut self) -> Record {
        let think = Duration::from_micros(self.shared.config.think_us);
        while !self.shared.stopped() {
            let done = match self.rng.below(100) {
                0..30 => self.write_register(),
                30..60 => self.read_register(),
                60..85 => self.touch_own_dir(),
                85..93 => self.increment(),
                _ => self.list_own_dir(),
            };
            if let Err(error) = done {
                self.shared.failure(self.number, &error);
                self.violation(format!("client {}: {error}", self.number));
                if !matches!(error, ClientError::Daemon(_)) {
                    self.reconnect();
                }
            }
            if !think.is_zero() {
                std::thread::sleep(think);
            }
        }
        self.record
    }

    fn reconnect(&mut self) {
        while !self.shared.stopped() {
            match connect(&self.shared) {
                Ok(client) => {
                    self.client = client;
                    return;
                }
                Err(_) => std::thread::sleep(RECONNECT_PAUSE),
            }
        }
    }

    fn violation(&mut self, words: String) {
        // A broken daemon yields millions; the first few tell.
        if self.record.violations.len() < 16 {
            self.record.violations.push(words);
        }
    }

    /// Makes one request and measures it.
    fn timed<R>(&mut self, request: impl FnOnce(&mut Client) -> Result<R>) -> (Span, Result<R>) {
        let invoked = self.shared.clock.now();
        let result = request(&mut self.client);
        let returned = self.shared.clock.now();
        let answered = matches!(result, Ok(_) | Err(ClientError::Daemon(_)));
        if answered {
            self.shared.counters.answer(self.number, returned - invoked);
            self.record.latency.saturating_record(returned - invoked);
        }
        let returned = result.is_ok().then_some(returned);
        (Span { invoked, returned }, result)
    }

    fn pick_register(&mut self) -> (u32, String) {
        let keys = self.shared.config.keys.max(1);
        let key = u32::try_from(self.rng.below(keys as usize)).unwrap_or(0);
        (key, layout::register(&self.shared.config, key))
    }

    fn write_register(&mut self) -> Result<()> {
        let (key, path) = self.pick_register();
        let value = self.next_value;
        self.next_value += 1;
        let text = value.to_string();
        let (span, result) = self.timed(|client| client.write(Tx::NONE, &path, text.as_bytes()));
        let action = Action::Write(value);
        self.record.registers.push(RegisterOp { key, action, span });
        result
    }

    fn read_register(&mut self) -> Result<()> {
        let (key, path) = self.pick_register();
        let (span, result) = self.timed(|client| client.read_if_there(&path));
        let Some(text) = result? else {
            let action = Action::Read(None);
            self.record.registers.push(RegisterOp { key, action, span });
            return Ok(());
        };
        if let Some(value) = parse(&text) {
            let action = Action::Read(Some(value));
            self.record.registers.push(RegisterOp { key, action, span });
        } else {
            self.violation(format!("{path} held {:?}", text.escape_ascii().to_string()));
        }
        Ok(())
    }

    /// Creates a node in the own directory, or removes the oldest one.
    fn touch_own_dir(&mut self) -> Result<()> {
        let dir = layout::own_dir(&self.shared.config, self.number);
        let removed =
            (self.record.live.len() >= LIVE_NODES).then(|| self.record.live.pop_front()).flatten();
        let node = removed.unwrap_or(self.record.next_node);
        let path = format!("{dir}/{node}");
        let (span, result) = if removed.is_some() {
            self.timed(|client| client.rm(Tx::NONE, &path))
        } else {
            self.record.next_node += 1;
            self.timed(|client| client.write(Tx::NONE, &path, b"x"))
        };
        self.record.events.push(EventOp { path: layout::path_id(self.number, node), span });
        if result.is_err() {
            self.record.unknown.insert(node);
        } else if removed.is_none() {
            self.record.live.push_back(node);
        }
        result
    }

    fn list_own_dir(&mut self) -> Result<()> {
        let dir = layout::own_dir(&self.shared.config, self.number);
        let (_, result) = self.timed(|client| client.directory(Tx::NONE, &dir));
        let names = result?;
        let faults = self.record.compare_dir(names.iter().map(Vec::as_slice));
        if let Some(fault) = faults.first {
            self.violation(format!("{dir}: {fault}"));
        }
        Ok(())
    }

    /// Adds one to a counter and to the own part of it in a transaction, trying
    /// again while it conflicts.
    fn increment(&mut self) -> Result<()> {
        let number = self.rng.below(layout::COUNTERS as usize);
        let name = u32::try_from(number).unwrap_or(0);
        let paths = ['a', 'b'].map(|half| layout::counter(&self.shared.config, name, half));
        let own = layout::counter_part(&self.shared.config, name, self.number);
        loop {
            let tx = self.timed(Client::start).1?;
            let a = self.timed(|client| client.read(tx, &paths[0])).1?;
            let b = self.timed(|client| client.read(tx, &paths[1])).1?;
            let part = self.timed(|client| client.read(tx, &own)).1?;
            if let Some(fault) = self.record.tallies[number].see(&part) {
                self.violation(format!("{own} {fault}"));
            }
            let mark = self.record.tallies[number].next(self.next_token);
            self.next_token += 1;
            let sum = parse::<u64>(&a).map(|n| (n + 1).to_string());
            let sum = sum.unwrap_or_default();
            for path in &paths {
                self.timed(|client| client.write(tx, path, sum.as_bytes())).1?;
            }
            let part = mark.to_string();
            self.timed(|client| client.write(tx, &own, part.as_bytes())).1?;
            match self.timed(|client| client.commit(tx)).1 {
                Ok(true) => {
                    // A transaction that saw a torn state must not commit.
                    if a != b || sum.is_empty() {
                        self.violation(format!(
                            "a transaction committed that saw {} and {} in counter {number}",
                            a.escape_ascii(),
                            b.escape_ascii()
                        ));
                    }
                    self.record.tallies[number].committed(mark);
                    return Ok(());
                }
                Ok(false) => self.record.retries += 1,
                Err(error) => {
                    self.record.tallies[number].doubt(mark);
                    return Err(error);
                }
            }
        }
    }
}

/// What is wrong with a listing of an own directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DirFaults {
    /// Nodes that must be there and are not.
    pub(super) missing: u64,
    /// Nodes that are there again after their removal was acknowledged.
    pub(super) again: u64,
    /// The first fault, in words.
    pub(super) first: Option<String>,
}

impl Record {
    /// What is wrong with a listing of the own directory, if anything is.
    pub(super) fn compare_dir<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> DirFaults {
        let mut faults = DirFaults::default();
        let mut there = BTreeSet::new();
        let (mut again, mut stray) = (None, None);
        for name in names {
            match parse::<u32>(name).filter(|node| *node < self.next_node) {
                Some(node) => _ = there.insert(node),
                None => stray = Some(format!("node {} was never created", name.escape_ascii())),
            }
        }
        let wanted: BTreeSet<u32> = self.live.iter().copied().collect();
        for node in there.difference(&wanted).filter(|node| !self.unknown.contains(node)) {
            faults.again += 1;
            again = again.or_else(|| Some(format!("node {node} is there again after its removal")));
        }
        for node in wanted.difference(&there) {
            faults.missing += 1;
            faults.first = faults.first.or_else(|| Some(format!("node {node} is missing")));
        }
        faults.first = faults.first.or(again).or(stray);
        faults
    }
}
