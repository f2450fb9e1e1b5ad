//! Makes a failing run smaller: a shorter one, of fewer faults and fewer clients,
//! in which the same checker finds something.
//!
//! Nothing is known about why a run fails, so it is tried: each change that keeps
//! the flaw is kept. Whatever is left out, the rest of a run takes another course,
//! so that a smaller run may well fail where a larger one did not; the result is
//! small, not the smallest there is.

use std::collections::BTreeSet;

use super::case::Case;
use super::plan::{CLIENTS_MIN, SPAN_US};
use super::verdict::{Flaw, RunVerdict};
use crate::report::record::FaultClass;

/// A run is made no shorter than by so much at once.
const SPAN_STEP_US: u64 = 50_000;

/// A try: a case, and whether it fails as the first one did.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// How many there were, this one included.
    pub runs: u32,
    /// What was run.
    pub case: &'a Case,
    /// Whether the same checker found something, so that it is gone on with.
    pub kept: bool,
}

/// A failing run that was made smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The smallest case that still fails.
    pub case: Case,
    /// What came of it.
    pub verdict: RunVerdict,
    /// Runs that it took.
    pub runs: u32,
    /// Whether nothing more can be left out, as far as this program tries.
    pub settled: bool,
}

/// The run does not fail, so there is nothing to make smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every promise is kept in this run")]
pub struct NotFailing;

/// Makes a failing run smaller; `go_on` hears of every try, and ends it with
/// `false`.
///
/// # Errors
/// [`NotFailing`].
pub fn shrink(
    case: &Case,
    run: impl FnMut(&Case) -> RunVerdict,
    go_on: impl FnMut(Attempt<'_>) -> bool,
) -> Result<Shrunk, NotFailing> {
    let mut run = run;
    let verdict = run(case);
    let checker = verdict.flaws.first().ok_or(NotFailing)?.checker;
    let best = Shrunk { case: case.clone(), verdict, runs: 1, settled: false };
    let mut search =
        Search { run, go_on, checker, best, unnumbered: BTreeSet::new(), ended: false };
    loop {
        let before = search.best.case.clone();
        search.shorten();
        search.leave_out_classes();
        search.leave_out_clients();
        search.leave_out_faults();
        if search.ended || search.best.case == before {
            break;
        }
    }
    search.tidy();
    search.best.settled = !search.ended;
    Ok(search.best)
}

struct Search<R, G> {
    run: R,
    go_on: G,
    checker: &'static str,
    best: Shrunk,
    /// Classes that are no faults of the plan, but go wrong all the time.
    unnumbered: BTreeSet<FaultClass>,
    ended: bool,
}

impl<R, G> Search<R, G>
where
    R: FnMut(&Case) -> RunVerdict,
    G: FnMut(Attempt<'_>) -> bool,
{
    /// Runs the best case with a change; it is the best from now on if it fails.
    fn attempt(&mut self, change: impl FnOnce(&mut Case)) -> bool {
        let mut case = self.best.case.clone();
        change(&mut case);
        if self.ended || case == self.best.case {
            return false;
        }
        let verdict = (self.run)(&case);
        let kept = verdict.flaws.first().is_some_and(|flaw| flaw.checker == self.checker);
        self.best.runs += 1;
        self.ended = !(self.go_on)(Attempt { runs: self.best.runs, case: &case, kept });
        if kept {
            (self.best.case, self.best.verdict) = (case, verdict);
        }
        kept
    }

    fn span_us(&self) -> u64 {
        self.best.case.overrides.span_us.unwrap_or(SPAN_US)
    }

    fn flaw_us(&self) -> u64 {
        self.best.verdict.flaws.first().map_or(0, |flaw: &Flaw| flaw.at_us)
    }

    /// Ends the faults soon after the flaw is seen; where it is only seen when
    /// they have ended, as early as possible.
    fn shorten(&mut self) {
        let mut too_short = 0;
        loop {
            let span_us = self.span_us();
            let to_flaw = (self.flaw_us() / 1000 + 1) * 1000;
            if to_flaw < span_us {
                self.attempt(|case| case.overrides.span_us = Some(to_flaw));
                return;
            }
            let step = (span_us - too_short) / 2;
            if step < SPAN_STEP_US.max(span_us / 40) {
                return;
            }
            let middle = (too_short + step) / 1000 * 1000;
            if !self.attempt(|case| case.overrides.span_us = Some(middle)) {
                too_short = middle;
            }
        }
    }

    /// Leaves out what goes wrong all the time, and, before single faults are
    /// looked at, whole classes of them.
    fn leave_out_classes(&mut self) {
        let verdict = &self.best.verdict;
        let of_plan: BTreeSet<_> = verdict.due.iter().map(|due| due.class).collect();
        let classes: BTreeSet<_> = verdict.stats.faults.keys().map(|(class, ..)| *class).collect();
        let all_the_time = &classes - &of_plan;
        self.unnumbered.extend(&all_the_time);
        if !self.attempt(|case| case.overrides.without.extend(&all_the_time)) {
            for class in all_the_time {
                self.attempt(|case| _ = case.overrides.without.insert(class));
            }
        }
        if self.best.case.overrides.only.is_none() {
            for class in of_plan {
                self.attempt(|case| _ = case.overrides.without.insert(class));
            }
        }
    }

    fn leave_out_clients(&mut self) {
        let clients = |case: &mut Case, number| case.overrides.clients = Some(number);
        loop {
            let now = self.best.case.overrides.clients.unwrap_or(self.best.verdict.clients);
            let mut fewer = vec![CLIENTS_MIN, now / 2, now.saturating_sub(1)];
            fewer.retain(|number| (CLIENTS_MIN..now).contains(number));
            fewer.dedup();
            if !fewer.into_iter().any(|number| self.attempt(|case| clients(case, number))) {
                return;
            }
        }
    }

    /// Zeller's ddmin: leaves out one of n parts, with more and smaller parts as
    /// long as none can be left out.
    fn leave_out_faults(&mut self) {
        let only = |case: &mut Case, numbers: &[u32]| {
            case.overrides.only = Some(numbers.iter().copied().collect());
        };
        if self.best.case.overrides.only.is_none() {
            // Also those that found no target: trying may have left its traces.
            let due: Vec<_> = self.best.verdict.due.iter().map(|due| due.number).collect();
            if !self.attempt(|case| only(case, &due)) {
                return;
            }
        }
        let mut numbers = self.numbers();
        let mut parts = 1;
        while !numbers.is_empty() && !self.ended {
            let size = numbers.len().div_ceil(parts);
            let smaller = (0..numbers.len()).step_by(size).find(|&from| {
                let mut rest = numbers.clone();
                rest.drain(from..numbers.len().min(from + size));
                self.attempt(|case| only(case, &rest))
            });
            if smaller.is_some() {
                numbers = self.numbers();
                parts = parts.saturating_sub(1).max(1);
            } else if size == 1 {
                return;
            } else {
                parts = (2 * parts).min(numbers.len());
            }
        }
    }

    fn numbers(&self) -> Vec<u32> {
        self.best.case.overrides.only.iter().flatten().copied().collect()
    }

    /// Leaves out what the line to copy need not say.
    fn tidy(&mut self) {
        let due: BTreeSet<_> = self.best.verdict.due.iter().map(|due| due.number).collect();
        let classes = &self.best.case.overrides.without - &self.unnumbered;
        self.attempt(|case| {
            if let Some(only) = &mut case.overrides.only {
                only.retain(|number| due.contains(number));
            }
        });
        for class in classes {
            self.attempt(|case| _ = case.overrides.without.remove(&class));
        }
    }
}

#[cfg(test)]
mod tests;
