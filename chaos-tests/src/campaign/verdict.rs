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
    /// Why the end of a round could not be judged, the first time.
    pub(super) not_judged: Option<String>,
    /// What the store held before the load.
    pub(super) prefilled: Look,
    /// The replicas' digests.
    pub(super) digests: Look,
}

/// What was looked at beside the load.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// How much.
    pub(super) checked: u64,
    /// The first thing that is wrong, in words.
    pub(super) found: Option<String>,
    /// Why it could not be looked at, the first time.
    pub(super) not_judged: Option<String>,
}

/// What a checker says.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) checker: &'static str,
    /// How much it looked at.
    pub(super) checked: u64,
    /// What it found, in words.
    pub(super) found: Option<String>,
    /// Why it could not look at all that it should have, if so.
    pub(super) not_judged: Option<String>,
}

impl Look {
    /// Takes in a look: how much was seen, and what was wrong with it.
    pub(super) fn add(&mut self, checked: u64, found: Option<String>) {
        self.checked += checked;
        self.found = self.found.take().or(found);
    }

    /// One look could not be taken.
    pub(super) fn miss(&mut self, why: impl Into<String>) {
        self.not_judged.get_or_insert_with(|| why.into());
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            rounds: 0,
            linearizable: true,
            first_violation: None,
            not_judged: None,
            prefilled: Look::default(),
            digests: Look::default(),
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
        if let Some(why) = &verdict.not_judged {
            self.not_judged.get_or_insert_with(|| why.clone());
        }
    }

    /// What each checker says of it all.
    pub(super) fn judged(&self) -> Vec<Judged> {
        let counts = &self.counts;
        let said = |broken: bool| {
            let words = || self.first_violation.clone().unwrap_or_else(|| "violated".to_owned());
            broken.then(words)
        };
        let unread = self.not_judged.as_ref();
        let unread = unread.map(|why| format!("the store cannot be read: {why}"));
        let silent = || (counts.answered == 0).then(|| "no client was answered".to_owned());
        let judged =
            |checker, checked, found, not_judged| Judged { checker, checked, found, not_judged };
        let look = |checker, look: &Look| {
            judged(checker, look.checked, look.found.clone(), look.not_judged.clone())
        };
        let mut all = vec![
            judged("linearizability", counts.answered, said(!self.linearizable), silent()),
            judged(
                "exactly-once",
                counts.answered,
                said(counts.lost + counts.doubled > 0),
                unread.clone().or_else(silent),
            ),
            judged("watch-events", counts.events, said(self.event_faults() > 0), unread),
            judged("no-violation", counts.answered, said(self.first_violation.is_some()), silent()),
        ];
        let looks =
            [look("prefilled-nodes", &self.prefilled), look("equal-digests", &self.digests)];
        // A single replica has nobody to be compared with, and a store that is there
        // holds what it likes.
        let told = |j: &Judged| j.checked > 0 || j.found.is_some() || j.not_judged.is_some();
        all.extend(looks.into_iter().filter(told));
        all
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

    /// The checkers that do not hold, with whether they were judged.
    fn broken(sum: &Sum) -> Vec<(&'static str, bool)> {
        let broken =
            sum.judged().into_iter().filter(|j| j.found.is_some() || j.not_judged.is_some());
        broken.map(|judged| (judged.checker, judged.found.is_some())).collect()
    }

    #[test]
    fn what_could_not_be_judged_does_not_hold() {
        let mut sum = Sum::default();
        assert_eq!(
            broken(&sum),
            [("linearizability", false), ("exactly-once", false), ("no-violation", false)]
        );
        sum.add(&Verdict { answered: 5, errors: 2, linearizable: true, ..Verdict::default() });
        assert_eq!(broken(&sum), []);
        sum.add(&Verdict {
            answered: 5,
            errors: 1,
            linearizable: true,
            not_judged: Some("reading the store in the end: timed out".into()),
            ..Verdict::default()
        });
        assert_eq!(broken(&sum), [("exactly-once", false), ("watch-events", false)]);
        // What clients saw is kept all the same.
        assert_eq!((sum.counts.answered, sum.counts.errors), (10, 3));
        sum.prefilled.add(1000, Some("/bench/0/7 cannot be read: ENOENT".into()));
        sum.digests.miss("nobody shows any");
        assert_eq!(broken(&sum)[2..], [("prefilled-nodes", true), ("equal-digests", false)]);
    }
}
