//! What a run, or several of them, showed: `summary.json`.

mod build;
mod ends;
mod matrix;
mod rate;
mod show;
mod spread;
#[cfg(test)]
mod tests;

pub use build::Builder;
pub use ends::{End, Ends};
pub use matrix::{Matrix, MatrixRow};
pub use rate::{FailureRate, Method};
pub use show::duration;
pub use spread::Spread;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::{
    CheckerVerdict, Counts, FaultClass, FaultJudged, Micros, Pause, RunOutcome, SteadyPhase,
};

/// Of things that are wrong, so many are kept in words; all are counted.
pub const MAX_LISTED: usize = 100;

/// What a run showed, or several that were added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many runs these are.
    pub runs: u64,
    /// How they ended, the worst of them: what they said themselves, or worse
    /// where something in their records did not hold.
    pub outcome: RunOutcome,
    /// Why it is not `passed`, the first [`MAX_LISTED`] reasons.
    pub reasons: Vec<String>,
    /// Lines to copy into a shell, the first of them first.
    pub reproduce: Vec<String>,
    /// The profiles.
    pub profiles: BTreeSet<String>,
    /// The versions of R-VMM.
    pub versions: BTreeSet<String>,
    /// What was tested.
    pub targets: BTreeSet<String>,
    /// The seed of the first run.
    pub first_seed: Option<u64>,
    /// When the first began, microseconds since the Unix epoch.
    pub started_unix_us: Option<u64>,
    /// How long they took, added up.
    pub duration_us: Micros,
    /// Seeds that were run.
    pub seeds: u64,
    /// Simulated time, added up; 0 where everything was real.
    pub simulated_us: Micros,
    /// Requests that were answered.
    pub operations: u64,
    /// Faults that were injected.
    pub faults: BTreeMap<FaultClass, u64>,
    /// Faults of which nobody said how they ended; in no row of the matrix.
    pub unjudged: u64,
    /// Damaged replicas that nobody had noticed and that the runs themselves ended.
    #[serde(default)]
    pub retired: u64,
    /// What was asked for and cannot be done here, and why.
    #[serde(default)]
    pub skipped: BTreeMap<String, String>,
    /// Times in which the runs themselves stood still.
    #[serde(default)]
    pub stalls: Spread,
    /// How they ended, and what follows.
    pub matrix: Matrix,
    /// Of faults that damage a replica: in which way, how they ended, and what the
    /// host first said of the replica.
    #[serde(default)]
    pub ends: Ends,
    /// Faults that broke a promise, the first [`MAX_LISTED`].
    pub failed_faults: Vec<FaultJudged>,
    /// The failovers.
    pub failovers: FailoverPhases,
    /// The pauses that clients saw.
    pub pauses: Pauses,
    /// How long answers took.
    pub latency: LatencySum,
    /// What clients saw and lost.
    pub counts: Counts,
    /// The checkers, by name.
    pub checkers: BTreeMap<String, CheckerSum>,
    /// The steady-state conditions, by phase and name.
    pub steady: Vec<SteadySum>,
    /// The bounds that the profiles set, by name.
    pub bounds: Vec<BoundSum>,
    /// Records that are not in the files because those were full, by kind.
    pub left_out: BTreeMap<String, u64>,
}

/// The durations of failovers and of their phases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FailoverPhases {
    /// From the fault to the notice.
    pub detect: Spread,
    /// From the notice to the certainty that the old primary is stopped.
    pub fence: Spread,
    /// From there to the new primary's election.
    pub promote: Spread,
    /// From there to its first reply.
    pub replay: Spread,
    /// From the fault to the first reply.
    pub total: Spread,
}

impl FailoverPhases {
    /// All of them with their names, the total last.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &Spread); 5] {
        [
            ("detect", &self.detect),
            ("fence", &self.fence),
            ("promote", &self.promote),
            ("replay", &self.replay),
            ("total", &self.total),
        ]
    }
}

/// The pauses above the run's threshold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pauses {
    /// How long they were.
    pub spread: Spread,
    /// The longest.
    pub longest: Option<Pause>,
}

/// How long answers took. Percentiles cannot be added up over intervals, so
/// that only the worst of them are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySum {
    /// Answers that were measured.
    pub answers: u64,
    /// The median of the interval with the highest one.
    pub worst_p50_us: Micros,
    /// The same for what 99 of 100 do not exceed.
    pub worst_p99_us: Micros,
    /// The longest of all.
    pub max_us: Micros,
}

/// What a checker said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerSum {
    /// Verdicts without and with a finding.
    pub passed: u64,
    /// Verdicts with a finding.
    pub failed: u64,
    /// Those of them in which nothing could be judged.
    #[serde(default)]
    pub not_judged: u64,
    /// How much it looked at.
    pub checked: u64,
    /// The first [`MAX_LISTED`] verdicts with a finding.
    pub findings: Vec<CheckerVerdict>,
}

/// How often a steady-state condition held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteadySum {
    /// When it was looked at.
    pub phase: SteadyPhase,
    /// The condition.
    pub condition: String,
    /// How often it held.
    pub held: u64,
    /// How often not.
    pub broken: u64,
    /// What was seen last when it held, or first when it did not.
    pub observed: String,
}

impl CheckerSum {
    /// What it comes to, in a word or two.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (self.failed, self.not_judged) {
            (0, _) => "holds",
            (failed, not_judged) if failed == not_judged => "NOT JUDGED",
            _ => "FAILED",
        }
    }
}

/// Whether a bound held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundSum {
    /// What is bounded.
    pub bound: String,
    /// The unit of the figures; empty for a plain count.
    pub unit: String,
    /// The most that was allowed.
    pub limit: u64,
    /// The most that was observed; the least where it is a bound from below.
    pub observed: u64,
    /// Whether it held every time.
    pub held: bool,
}

impl BoundSum {
    /// Whether it bounds from below, which its name tells.
    #[must_use]
    pub fn is_from_below(&self) -> bool {
        self.bound.starts_with("least_")
    }
}

impl Summary {
    /// Whether everything held.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome == RunOutcome::Passed
    }

    /// Faults that were injected, of all classes.
    #[must_use]
    pub fn faults_total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Adds what another run, or several, showed. Runs may be added up in any
    /// grouping.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.outcome = self.outcome.max(other.outcome);
        append(&mut self.reasons, &other.reasons);
        append(&mut self.reproduce, &other.reproduce);
        self.profiles.extend(other.profiles.iter().cloned());
        self.versions.extend(other.versions.iter().cloned());
        self.targets.extend(other.targets.iter().cloned());
        self.first_seed = self.first_seed.or(other.first_seed);
        self.started_unix_us = self.started_unix_us.into_iter().chain(other.started_unix_us).min();
        self.duration_us = self.duration_us.saturating_add(other.duration_us);
        self.seeds = self.seeds.saturating_add(other.seeds);
        self.simulated_us = self.simulated_us.saturating_add(other.simulated_us);
        self.operations = self.operations.saturating_add(other.operations);
        add_up(&mut self.faults, &other.faults);
        self.unjudged = self.unjudged.saturating_add(other.unjudged);
        self.retired = self.retired.saturating_add(other.retired);
        for (what, why) in &other.skipped {
            self.add_skip(what, why);
        }
        self.stalls.merge(&other.stalls);
        self.matrix.merge(&other.matrix);
        self.ends.merge(&other.ends);
        append(&mut self.failed_faults, &other.failed_faults);
        self.failovers.merge(&other.failovers);
        self.pauses.merge(&other.pauses);
        self.latency.merge(&other.latency);
        self.counts.add(&other.counts);
        for (name, checker) in &other.checkers {
            self.checkers.entry(name.clone()).or_default().merge(checker);
        }
        other.steady.iter().for_each(|steady| self.add_steady(steady));
        other.bounds.iter().for_each(|bound| self.add_bound(bound));
        add_up(&mut self.left_out, &other.left_out);
    }

    /// The first reason stays.
    fn add_skip(&mut self, what: &str, why: &str) {
        if self.skipped.len() < MAX_LISTED {
            self.skipped.entry(what.to_owned()).or_insert_with(|| why.to_owned());
        }
    }

    fn add_steady(&mut self, new: &SteadySum) {
        let key = |steady: &SteadySum| (steady.phase, steady.condition.clone());
        match self.steady.binary_search_by_key(&key(new), key) {
            Err(at) => self.steady.insert(at, new.clone()),
            Ok(at) => {
                let old = &mut self.steady[at];
                if old.broken == 0 {
                    old.observed.clone_from(&new.observed);
                }
                old.held += new.held;
                old.broken += new.broken;
            }
        }
    }

    fn add_bound(&mut self, new: &BoundSum) {
        let key = |bound: &BoundSum| (bound.bound.clone(), bound.unit.clone(), bound.limit);
        match self.bounds.binary_search_by_key(&key(new), key) {
            Err(at) => self.bounds.insert(at, new.clone()),
            Ok(at) => {
                let old = &mut self.bounds[at];
                old.observed = if old.is_from_below() {
                    old.observed.min(new.observed)
                } else {
                    old.observed.max(new.observed)
                };
                old.held &= new.held;
            }
        }
    }
}

impl FailoverPhases {
    fn merge(&mut self, other: &Self) {
        self.detect.merge(&other.detect);
        self.fence.merge(&other.fence);
        self.promote.merge(&other.promote);
        self.replay.merge(&other.replay);
        self.total.merge(&other.total);
    }
}

impl Pauses {
    fn add(&mut self, pause: Pause) {
        self.spread.add(pause.duration_us);
        self.longest = longer(self.longest, Some(pause));
    }

    fn merge(&mut self, other: &Self) {
        self.spread.merge(&other.spread);
        self.longest = longer(self.longest, other.longest);
    }
}

/// The longer of two pauses, the first one when they are equally long.
fn longer(first: Option<Pause>, second: Option<Pause>) -> Option<Pause> {
    let duration = |pause: Option<Pause>| pause.map(|pause| pause.duration_us);
    if duration(second) > duration(first) { second } else { first }
}

impl LatencySum {
    fn merge(&mut self, other: &Self) {
        self.answers = self.answers.saturating_add(other.answers);
        self.worst_p50_us = self.worst_p50_us.max(other.worst_p50_us);
        self.worst_p99_us = self.worst_p99_us.max(other.worst_p99_us);
        self.max_us = self.max_us.max(other.max_us);
    }
}

impl CheckerSum {
    fn merge(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.not_judged += other.not_judged;
        self.checked = self.checked.saturating_add(other.checked);
        append(&mut self.findings, &other.findings);
    }
}

/// Adds to a list that is cut at [`MAX_LISTED`].
fn append<T: Clone>(list: &mut Vec<T>, more: &[T]) {
    let room = MAX_LISTED.saturating_sub(list.len());
    list.extend(more.iter().take(room).cloned());
}

fn add_up<K: Ord + Clone>(sums: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        let sum = sums.entry(key.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
}
