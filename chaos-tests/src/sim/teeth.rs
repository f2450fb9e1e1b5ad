//! Proof that the simulator's checkers bite: every deliberate bug is switched on
//! in turn, and has to be caught.
//!
//! Most slips show only in a certain kind of run: one that loses what a snapshot
//! says is seen where replicas are rebuilt. So each bug has a [`Hint`]: the kind of
//! run, and the seed to begin with. A hint makes the hunt shorter and decides
//! nothing: whether the bug was caught, by which seed and by which checker, comes
//! out of the run, and the same run without the bug has to be clean.

mod hints;

use std::time::{Duration, Instant};

use ::teeth::Bug;

use super::plan::{Overrides, Plan};
use super::run::run_plan;
use super::trace::TraceMode;
use super::verdict::RunVerdict;

pub use hints::Hint;

/// A bug that was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Which.
    pub bug: Bug,
    /// The seed of the run that it did not survive.
    pub seed: u64,
    /// Who noticed.
    pub checker: &'static str,
    /// When, simulated microseconds.
    pub at_us: u64,
    /// What was wrong.
    pub what: String,
    /// Seeds tried, this one included.
    pub seeds_tried: u64,
    /// Seeds left out, for their run fails without the bug as well.
    pub spoiled: Vec<u64>,
    /// How long the hunt took.
    pub took: Duration,
}

/// Switches the bug off again, however the run ends.
struct Armed;

impl Armed {
    fn with(bug: Bug) -> Self {
        ::teeth::set(Some(bug));
        Self
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        ::teeth::set(None);
    }
}

/// The run in which a bug is looked for: of this seed, and of the kind that the
/// bug's hint says; with the bug switched on, or without.
///
/// # Panics
/// When this machine has no descriptors or memory left for it.
#[must_use]
pub fn attempt(bug: Bug, seed: u64, armed: bool, mode: TraceMode) -> RunVerdict {
    let plan = Hint::of(bug).plan(Plan::draw(seed, &Overrides::default()));
    let _armed = armed.then(|| Armed::with(bug));
    run_plan(plan, mode)
}

/// Runs up to `budget_seeds` seeds with the bug, from the one that its hint says,
/// until a checker objects to a run that is clean without it. `None` if it was not
/// caught; so it is in a build without deliberate bugs.
///
/// # Panics
/// When this machine has no descriptors or memory left for a run.
#[must_use]
pub fn hunt(bug: Bug, budget_seeds: u64) -> Option<Caught> {
    let hint = Hint::of(bug);
    let began = Instant::now();
    let mut spoiled = Vec::new();
    for seeds_tried in 1..=budget_seeds {
        let seed = hint.first_seed + seeds_tried - 1;
        let found = attempt(bug, seed, true, TraceMode::Digest);
        let Some(flaw) = found.flaws.into_iter().next() else { continue };
        if !attempt(bug, seed, false, TraceMode::Digest).is_clean() {
            spoiled.push(seed);
            continue;
        }
        return Some(Caught {
            bug,
            seed,
            checker: flaw.checker,
            at_us: flaw.at_us,
            what: flaw.what,
            seeds_tried,
            spoiled,
            took: began.elapsed(),
        });
    }
    None
}
