//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;

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
    /// Faults by class, what they hit, and how they ended.
    pub faults: BTreeMap<(FaultClass, Component, FaultOutcome), u64>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunVerdict {
    /// The seed.
    pub seed: u64,
    /// The plan, for people.
    pub plan: String,
    /// Broken promises; none in a good run.
    pub flaws: Vec<Flaw>,
    /// Numbers.
    pub stats: Stats,
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
        self.stats.faults.values().sum()
    }
}
