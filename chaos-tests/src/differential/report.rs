//! What a run showed.

use std::collections::BTreeMap;
use std::fmt;

use super::op::Op;
use super::rules::{RULES, special};

/// How many of the last steps a failure shows.
const SHOWN: usize = 30;

/// A run without failure.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The steps that were made.
    pub steps: u64,
    /// Of them, those that both daemons granted.
    pub granted: u64,
    /// Watch events compared.
    pub events: u64,
    /// Transactions that both daemons committed.
    pub commits: u64,
    /// Times that the whole stores were compared.
    pub stores_compared: u64,
    /// How often each rule was needed.
    pub rules: BTreeMap<&'static str, u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} steps, {} of them granted; {} watch events, {} commits, {} whole stores compared",
            self.steps, self.granted, self.events, self.commits, self.stores_compared
        )?;
        let reason = |name: &str| {
            let mut all = RULES.iter().chain(special::ALL.iter().copied());
            all.find(|rule| rule.name == name).map_or("", |r| r.reason)
        };
        for (name, count) in &self.rules {
            writeln!(f, "  {count:>6} x {name}: {}", reason(name))?;
        }
        Ok(())
    }
}

/// A difference that no rule knows.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What differs, without particulars: alike in a shortened run.
    pub class: String,
    /// What differs.
    pub what: String,
    /// Every step up to there.
    pub ops: Vec<Op>,
    /// The seed, if the steps were drawn from one.
    pub seed: Option<u64>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seed) = self.seed {
            write!(f, "seed {seed}, ")?;
        }
        writeln!(f, "step {}: {}", self.ops.len(), self.what)?;
        let from = self.ops.len().saturating_sub(SHOWN);
        if from > 0 {
            writeln!(f, "    ... {from} steps before")?;
        }
        for op in &self.ops[from..] {
            writeln!(f, "    {op}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
