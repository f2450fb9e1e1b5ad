//! The verdicts of all rounds, added up.

use crate::checker::Verdict;
use crate::report::record::Counts;

/// See the module.
#[derive(Debug)]
pub(super) struct Sum {
    pub(super) counts: Counts,
    pub(super) rounds: u64,
    pub(super) linearizable: bool,
    pub(super) first_violation: Option<String>,
    pub(super) longest_us: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            rounds: 0,
            linearizable: true,
            first_violation: None,
            longest_us: 0,
        }
    }
}

impl Sum {
    /// Takes in what a round showed.
    pub(super) fn add(&mut self, verdict: &Verdict) {
        self.rounds += 1;
        let counts = &mut self.counts;
        counts.answered += verdict.answered;
        counts.events += verdict.events;
        counts.lost += verdict.lost;
        counts.doubled += verdict.doubled;
        counts.events_missing += verdict.event_faults.missing;
        counts.events_doubled += verdict.event_faults.doubled;
        counts.events_reordered += verdict.event_faults.reordered;
        counts.errors += verdict.errors;
        counts.disconnects += verdict.disconnects;
        counts.retries += verdict.retries;
        self.linearizable &= verdict.linearizable;
        if self.first_violation.is_none() {
            self.first_violation.clone_from(&verdict.first_violation);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^52")]
        let longest_us = verdict.latency.max_us as u64;
        self.longest_us = self.longest_us.max(longest_us);
    }

    /// Events that came too seldom, too often or in the wrong order.
    pub(super) fn event_faults(&self) -> u64 {
        let Counts { events_missing, events_doubled, events_reordered, .. } = self.counts;
        events_missing + events_doubled + events_reordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_round_spoils_all() {
        let mut sum = Sum::default();
        let good = Verdict { answered: 5, linearizable: true, ..Verdict::default() };
        let bad = Verdict { lost: 2, first_violation: Some("lost".into()), ..Verdict::default() };
        for verdict in [&good, &bad, &good] {
            sum.add(verdict);
        }
        assert_eq!((sum.rounds, sum.counts.answered, sum.counts.lost), (3, 10, 2));
        assert!(!sum.linearizable);
        assert_eq!(sum.first_violation.as_deref(), Some("lost"));
    }
}
