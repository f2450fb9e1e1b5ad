//! All that looks for broken promises, by name, and how much each has looked at.

use std::cell::Cell;

macro_rules! checkers {
    ($($variant:ident, $name:literal, $about:literal;)*) => {
        /// One that looks for broken promises.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Checker {
            $(#[doc = $about] $variant,)*
        }

        impl Checker {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, as flaws and reports have it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

checkers! {
    // The judge.
    LostReply, "lost-reply", "Looks at answers.";
    LostEvent, "lost-event", "Looks at watch events.";
    LostEffect, "lost-effect", "Looks at effects.";
    DoubledReply, "doubled-reply", "Looks at answers.";
    DoubledEvent, "doubled-event", "Looks at watch events.";
    DoubledEffect, "doubled-effect", "Looks at effects.";
    Reordered, "reordered", "Looks at answers, watch events and effects.";
    WrongReply, "wrong-reply", "Looks at answers to logged requests.";
    StaleAnswer, "stale-answer", "Looks at answers to queries.";
    WrongEvent, "wrong-event", "Looks at watch events.";
    WrongEffect, "wrong-effect", "Looks at effects.";
    UnaskedReply, "unasked-reply", "Looks at answers.";
    LostAcknowledged, "lost-acknowledged", "Looks at what new primaries and hosts begin with.";
    AnsweredThenQuarantined, "answered-then-quarantined", "Looks at quarantined inputs.";
    BrokenConnection, "broken-connection", "Looks at connections that the host closed.";
    BrokenFrame, "broken-frame", "Looks at frames to clients.";
    Diverged, "diverged", "Looks at digests of replicas.";
    BadInput, "bad-input", "Looks at inputs.";
    Unjudgeable, "unjudgeable", "Looks at what new hosts begin with.";
    // What clients see.
    Linearizability, "linearizability", "Looks at windows of the history.";
    Client, "client", "Looks at what clients hear.";
    Front, "front", "Looks at connections, and at what comes on them.";
    Intake, "intake", "Looks at inputs.";
    // The decisions about the group.
    OnePrimary, "one-primary", "Looks at replicas that lead.";
    Acknowledged, "acknowledged", "Looks at voters at each election.";
    LongestLog, "longest-log", "Looks at voters at each election.";
    ReadsFenced, "reads-fenced", "Looks at replicas that acknowledge a generation.";
    LearnerCounted, "learner-counted", "Looks at members.";
    Generations, "generations", "Looks at promotions.";
    Quarantine, "quarantine", "Looks at quarantined inputs, and at deaths of the same input.";
    FalseAlarm, "false-alarm", "Looks at replicas that were given up or stopped themselves.";
    Slot, "slot", "Looks at replicas that were ordered.";
    Hang, "hang", "Looks at replicas that hang.";
    Kill, "kill", "Looks at replicas that were given up.";
    // Replicas.
    ApplyingMark, "applying-mark", "Looks at replicas' steps.";
    CommitMonotonic, "commit-monotonic", "Looks at commits.";
    CommitLed, "commit-led", "Looks at commits of standbys.";
    AllLive, "all-live", "Looks at voters at each commit of a primary.";
    LogMatching, "log-matching", "Looks at log entries.";
    Divergence, "divergence", "Looks at replicas that show a wrong digest.";
    Damage, "damage", "Looks at states with a flipped bit.";
    Replica, "replica", "Looks at replicas' steps.";
    // The service.
    Standstill, "standstill", "Looks at the oldest input that waits.";
    Outage, "outage", "Looks at times without service.";
    Bounds, "bounds", "Looks at whatever must not grow for ever.";
    StateLost, "state-lost", "Looks at states that were given up.";
    Host, "host", "Looks at turns of the host.";
    Liveness, "liveness", "Looks at runs after all faults.";
    // The runs.
    Endless, "endless", "Looks at runs.";
    Panic, "panic", "Looks at runs.";
}

/// How much each checker has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looks([u64; Checker::ALL.len()]);

impl Default for Looks {
    fn default() -> Self {
        Self([0; Checker::ALL.len()])
    }
}

impl Looks {
    /// What `checker` has looked at.
    #[must_use]
    pub fn of(&self, checker: Checker) -> u64 {
        self.0[checker as usize]
    }

    /// It has looked at so much more.
    pub fn count(&mut self, checker: Checker, more: u64) {
        self.0[checker as usize] += more;
    }

    /// Adds the looks of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// The same while a run goes on: whoever looks at the world can count.
#[derive(Debug)]
pub(super) struct Tally([Cell<u64>; Checker::ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}

impl Tally {
    /// It has looked at so much more.
    pub(super) fn count(&self, checker: Checker, more: u64) {
        let sum = &self.0[checker as usize];
        sum.set(sum.get() + more);
    }

    /// What was counted.
    pub(super) fn looks(&self) -> Looks {
        Looks(std::array::from_fn(|nth| self.0[nth].get()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_looks_are_kept_apart() {
        let names: BTreeSet<_> = Checker::ALL.iter().map(|checker| checker.name()).collect();
        assert_eq!(names.len(), Checker::ALL.len());
        let mut looks = Looks::default();
        for (nth, &checker) in (1..).zip(Checker::ALL) {
            looks.count(checker, nth);
        }
        let once = looks.clone();
        looks.add(&once);
        for (nth, &checker) in (1..).zip(Checker::ALL) {
            assert_eq!(looks.of(checker), 2 * nth);
        }
    }
}
