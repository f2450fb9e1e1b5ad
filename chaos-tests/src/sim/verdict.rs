//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;

use super::checkers::Looks;
use crate::report::record::{Component, FaultClass, Outcome as FaultOutcome};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Who noticed.
    pub checker: &'static str,
    /// When, simulated microseconds.
    pub at_us: u64,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] at {} us: {}", self.checker, self.at_us, self.what)
    }
}

/// What happened in a run, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Simulated microseconds.
    pub simulated_us: u64,
    /// Turns of the host's loop.
    pub host_turns: u64,
    /// Steps of replicas.
    pub replica_steps: u64,
    /// Times that a host began to serve.
    pub services: u64,
    /// Hosts that ended, and that others went on for.
    pub restarts: u64,
    /// Connections that these could not go on with.
    pub abandoned: u64,
    /// Primaries that began to serve.
    pub promotions: u64,
    /// Replicas that found that they must stop.
    pub stops: u64,
    /// Requests that clients sent.
    pub requests: u64,
    /// Answers that they heard.
    pub answers: u64,
    /// Events that they heard.
    pub events: u64,
    /// Answers to queries that a later primary gave anew.
    pub answers_anew: u64,
    /// Comparisons of a replica's digest with the judge's.
    pub digests: u64,
    /// Windows that the black-box checker has judged.
    pub windows: u64,
    /// Longest time from the end of all faults to full redundancy, microseconds.
    pub healed_in_us: u64,
    /// How much each checker has looked at.
    pub looks: Looks,
    /// Broken promises, by the checker that noticed.
    pub broken: BTreeMap<&'static str, u64>,
    /// Faults by class, what they hit, and how they ended.
    pub faults: BTreeMap<(FaultClass, Component, FaultOutcome), u64>,
}

impl Stats {
    /// Adds what happened in another run.
    pub fn add(&mut self, other: &Self) {
        self.simulated_us += other.simulated_us;
        self.host_turns += other.host_turns;
        self.replica_steps += other.replica_steps;
        self.services += other.services;
        self.restarts += other.restarts;
        self.abandoned += other.abandoned;
        self.promotions += other.promotions;
        self.stops += other.stops;
        self.requests += other.requests;
        self.answers += other.answers;
        self.events += other.events;
        self.answers_anew += other.answers_anew;
        self.digests += other.digests;
        self.windows += other.windows;
        self.healed_in_us = self.healed_in_us.max(other.healed_in_us);
        self.looks.add(&other.looks);
        for (checker, count) in &other.broken {
            *self.broken.entry(checker).or_default() += count;
        }
        for (key, count) in &other.faults {
            *self.faults.entry(*key).or_default() += count;
        }
    }

    /// Faults that were injected, by class.
    #[must_use]
    pub fn faults_by_class(&self) -> BTreeMap<FaultClass, u64> {
        let mut classes = BTreeMap::new();
        for ((class, _, outcome), count) in &self.faults {
            if outcome.is_trial() {
                *classes.entry(*class).or_default() += count;
            }
        }
        classes
    }

    /// Faults that were injected.
    #[must_use]
    pub fn faults_total(&self) -> u64 {
        self.faults_by_class().values().sum()
    }
}

/// A fault of the plan whose time came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueFault {
    /// Its number in the plan, from 1.
    pub number: u32,
    /// When, simulated microseconds.
    pub at_us: u64,
    /// What was to be done.
    pub class: FaultClass,
    /// What it hit; `None` if there was no fit target.
    pub hit: Option<Component>,
}

impl fmt::Display for DueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, at_us, class, hit } = self;
        match hit {
            Some(component) => write!(f, "fault {number} at {at_us} us: {class} on {component}"),
            None => write!(f, "fault {number} at {at_us} us: {class}, no fit target"),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunVerdict {
    /// The seed.
    pub seed: u64,
    /// The plan, for people.
    pub plan: String,
    /// Clients that took part.
    pub clients: usize,
    /// Broken promises; none in a good run.
    pub flaws: Vec<Flaw>,
    /// Numbers.
    pub stats: Stats,
    /// The faults of the plan that were let happen, in their order.
    pub due: Vec<DueFault>,
    /// Digest of all steps: equal for equal seeds.
    pub trace_digest: u64,
    /// Steps in it.
    pub trace_lines: u64,
    /// All steps, if they were wanted.
    pub trace: String,
}

impl RunVerdict {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.flaws.is_empty()
    }

    /// Faults that were injected.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.stats.faults_total()
    }
}
