//! What must hold while nothing is broken, and over the whole campaign.

use std::time::Instant;

use super::run::{Campaign, LOOK_EVERY, micros};
use super::stop::Stop;
use crate::harness::{ComponentStatus, FailoverLog};
use crate::report::record::{Bound, CheckerVerdict, Record, SteadyPhase, SteadyState};

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
        self.book.put(&Record::Counts(self.sum.counts));
        let counts = self.sum.counts;
        let found = self.sum.first_violation.clone();
        let checkers = [
            ("linearizability", self.sum.linearizable, counts.answered),
            ("exactly-once", counts.lost + counts.doubled == 0, counts.answered),
            ("watch-events", self.sum.event_faults() == 0, counts.events),
            ("no-violation", found.is_none(), counts.answered),
        ];
        for (checker, passed, checked) in checkers {
            let detail = found.clone().filter(|_| !passed);
            if !passed {
                self.fail(format!("{checker}: {}", detail.as_deref().unwrap_or("violated")));
            }
            self.book.put(&Record::Checker(CheckerVerdict {
                at_us: self.book.now(),
                checker: checker.to_owned(),
                passed,
                checked,
                detail,
                seed: None,
                reproduce: (!passed).then(|| self.options.reproduce.clone()),
            }));
        }
        for bound in self.bounds(&failovers) {
            if !bound.held {
                let Bound { bound, unit, limit, observed, .. } = &bound;
                self.fail(format!("bound {bound}: {observed} {unit}, allowed: {limit}"));
            }
            self.book.put(&Record::Bound(bound));
        }
    }

    fn bounds(&self, failovers: &FailoverLog) -> Vec<Bound> {
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
            most("longest_pause", "us", micros(bounds.longest_pause.0), self.sum.longest_us),
            most("failover_median", "us", micros(bounds.failover_median.0), failovers.total_us(50)),
            most("failover_p99", "us", micros(bounds.failover_p99.0), failovers.total_us(99)),
            most("lost", "", bounds.lost, counts.lost),
            most("doubled", "", bounds.doubled, counts.doubled),
            most("errors", "", bounds.errors, counts.errors + counts.disconnects),
        ];
        if let Some(worse) = bounds.worse_than_promised {
            all.push(most("worse_than_promised", "", worse, self.worse));
        }
        // One that was stopped on request, or given little time, is not to blame.
        if !self.options.stop.is_set() && self.options.budget.is_none() {
            let least = most("least_faults", "", bounds.least_faults, injected);
            all.push(Bound { held: injected >= bounds.least_faults, ..least });
        }
        all
    }
}
