//! What must hold while nothing is broken, and over the whole campaign.

use std::time::{Duration, Instant};

use super::run::{Campaign, LOOK_EVERY, micros};
use super::stop::Stop;
use super::verdict::Judged;
use crate::harness::{ComponentStatus, FailoverLog};
use crate::report::record::{Bound, CheckerVerdict, Record, SteadyPhase, SteadyState};

const LEAST_FAULTS: &str = "least_faults";

/// Faults that must have been injected: a campaign without any says nothing, and
/// one that was given another time to take need not come to the profile's number.
fn least_faults(wanted: u64, other_time: bool) -> u64 {
    if other_time { 1 } else { wanted.max(1) }
}

impl Campaign<'_> {
    /// Waits for everything to be whole, and looks at it for a while.
    pub(super) fn steady(&mut self, phase: SteadyPhase) -> bool {
        let steady = &self.file().steady;
        let within = steady.within.0;
        let name = if phase == SteadyPhase::Before { "before" } else { "after" };
        let began = Instant::now();
        // Also after a stop: nobody is left with a host that is half healed.
        let whole = Stop::default().wait_for(within, LOOK_EVERY, || {
            self.subject.daemon.xenstore().ok().filter(ComponentStatus::is_complete)
        });
        let mut held = true;
        let mut hold = |campaign: &mut Self, condition: String, this: bool, observed: String| {
            campaign.book.put(&Record::Steady(SteadyState {
                at_us: campaign.book.now(),
                phase,
                condition: condition.clone(),
                held: this,
                observed: observed.clone(),
            }));
            if !this {
                campaign.fail(format!("{name} the faults: {condition}: {observed}"));
            }
            held &= this;
        };
        let observed = match whole {
            Some(_) => format!("after {} ms", began.elapsed().as_millis()),
            None => self.describe(),
        };
        let condition = format!("all replicas are there within {} s", within.as_secs());
        hold(self, condition, whole.is_some(), observed);
        if whole.is_none() {
            return false;
        }
        let errors = self.watch.window().errors;
        std::thread::sleep(steady.hold.0);
        let window = self.watch.window();
        let p99_us = window.times.percentile_us(99);
        let limit_us = micros(steady.p99.0);
        let answered = window.times.count();
        let condition = format!("99 of 100 answers take at most {limit_us} us");
        hold(
            self,
            condition,
            p99_us <= limit_us && answered > 0,
            format!("{p99_us} us of {answered}"),
        );
        let new = window.errors - errors;
        hold(self, "no client sees an error".to_owned(), new == 0, format!("{new} errors"));
        held
    }

    pub(super) fn judge(&mut self) {
        let failovers = self.watch.seen().failovers.clone();
        let excused = self.watch.excused();
        self.sum.counts.pauses_excused = excused.count;
        self.book.put(&Record::Counts(self.sum.counts));
        for Judged { checker, checked, found, not_judged } in self.sum.judged() {
            let not_judged = not_judged.map(|why| format!("not judged: {why}"));
            let judged = found.is_some() || not_judged.is_none();
            let detail = found.or(not_judged);
            if let Some(detail) = &detail {
                self.fail(format!("{checker}: {detail}"));
            }
            let passed = detail.is_none();
            self.book.put(&Record::Checker(CheckerVerdict {
                at_us: self.book.now(),
                checker: checker.to_owned(),
                passed,
                judged,
                checked,
                detail,
                seed: None,
                reproduce: (!passed).then(|| self.options.reproduce.clone()),
            }));
        }
        for bound in self.bounds(&failovers, excused.longest) {
            if !bound.held {
                let Bound { bound, unit, limit, observed, .. } = &bound;
                self.fail(match bound.as_str() {
                    LEAST_FAULTS if *observed == 0 => "no fault was injected".to_owned(),
                    LEAST_FAULTS => format!("{observed} faults injected, needed: {limit}"),
                    _ => format!("bound {bound}: {observed} {unit}, allowed: {limit}"),
                });
            }
            self.book.put(&Record::Bound(bound));
        }
    }

    fn bounds(&self, failovers: &FailoverLog, longest: Duration) -> Vec<Bound> {
        let bounds = &self.file().bounds;
        let counts = &self.sum.counts;
        let at_us = self.book.now();
        let most = |bound: &str, unit: &str, limit, observed| Bound {
            at_us,
            bound: bound.to_owned(),
            unit: unit.to_owned(),
            limit,
            observed,
            held: observed <= limit,
        };
        let injected: u64 = self.injected.values().sum();
        let mut all = vec![
            most("longest_pause", "us", micros(bounds.longest_pause.0), micros(longest)),
            most("failover_median", "us", micros(bounds.failover_median.0), failovers.total_us(50)),
            most("failover_p99", "us", micros(bounds.failover_p99.0), failovers.total_us(99)),
            most("lost", "", bounds.lost, counts.lost),
            most("doubled", "", bounds.doubled, counts.doubled),
            most("errors", "", bounds.errors, counts.errors + counts.disconnects),
            most("unnoticed", "", bounds.unnoticed, self.unnoticed),
        ];
        if let Some(worse) = bounds.worse_than_promised {
            all.push(most("worse_than_promised", "", worse, self.worse));
        }
        // One that was stopped on request is not to blame.
        if !self.options.stop.is_set() {
            let limit = least_faults(bounds.least_faults, self.options.budget.is_some());
            let least = most(LEAST_FAULTS, "", limit, injected);
            all.push(Bound { held: injected >= limit, ..least });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::least_faults;

    #[test]
    fn a_campaign_without_a_fault_never_suffices() {
        for (wanted, other_time, least) in
            [(50, false, 50), (0, false, 1), (50, true, 1), (0, true, 1)]
        {
            assert_eq!(least_faults(wanted, other_time), least);
        }
    }
}
