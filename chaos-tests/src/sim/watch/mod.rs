//! What must always hold, looked at while a run goes on: from inside, where a
//! broken promise shows long before a client could notice.
//!
//! What is cheap is looked at whenever it may have changed, after each turn
//! of the host's loop and after each step of a replica; the rest from time to time.

mod bounds;
mod group;
mod replicas;
mod service;

use std::collections::{BTreeMap, BTreeSet};

use hypervisor::decision::{Phase, Standing};
use hypervisor::fabric::Role;
use hypervisor::{Generation, ReplicaId};
use state_machine::InputNo;

use super::checkers::{Checker, Tally};
use super::world::World;

/// How often everything is looked at.
pub(super) const LOOK_PERIOD_US: u64 = 50_000;
/// What the checkers remember.
#[derive(Default)]
pub(super) struct Watch {
    /// The generation that was in force when the host was looked at last.
    reign: Generation,
    /// Who was fenced when it began.
    fenced: BTreeSet<ReplicaId>,
    /// Who was to lead it when the host was looked at last.
    candidate: Option<ReplicaId>,
    /// The generation of the last primary that served.
    promoted: Generation,
    /// The generation that each body has last shown.
    followed: BTreeMap<u64, u64>,
    /// What each body has said to be committed.
    commits: BTreeMap<u64, u64>,
    /// Bodies that the host has given up, and when.
    given_up: BTreeMap<u64, u64>,
    /// A bit of somebody's state was flipped in this run.
    pub(super) damage_was_done: bool,
    /// Rings that were spoiled.
    pub(super) rings_spoiled: u32,
    /// Bodies with a flipped bit, and when it was flipped.
    pub(super) flips: BTreeMap<u64, u64>,
    /// Bodies that show a wrong digest: of which log index, and since when.
    pub(super) lies: BTreeMap<u64, (u64, u64)>,
    /// Inputs that are made to kill.
    pub(super) poisons: BTreeSet<InputNo>,
    /// How many have died of each input since the host began.
    deaths: BTreeMap<InputNo, u32>,
    /// Inputs whose death left nobody to try them on a second time.
    untriable: BTreeSet<InputNo>,
    /// Hosts that have begun.
    pub(super) hosts_begun: u64,
    /// Since when this one looks, which has begun or goes on.
    looks_since_us: u64,
    /// What a replica was applying when it died.
    died_of: BTreeMap<ReplicaId, InputNo>,
    /// Inputs that a primary refused to execute.
    pub(super) refused: BTreeSet<InputNo>,
    waiting: Option<service::Waiting>,
    undisturbed: service::Undisturbed,
    past: bounds::Past,
    /// How much each checker has looked at.
    pub(super) looks: Tally,
}

impl Watch {
    /// A checker has looked at so much more.
    pub(super) fn count(&self, checker: Checker, more: u64) {
        self.looks.count(checker, more);
    }
}

impl World {
    /// The host's process begins, for the first time or again.
    pub(super) fn watch_host_begin(&mut self) {
        self.watch.hosts_begun += 1;
        self.watch.looks_since_us = self.now_us();
        self.watch.deaths.clear();
        self.watch.given_up.clear();
        self.watch.untriable.clear();
        self.watch.died_of.clear();
        self.watch.waiting = None;
        self.watch.undisturbed = service::Undisturbed::default();
        self.watch.past.forget();
    }

    /// Another host goes on with what the last one has left. Nobody waited for that one
    /// any more.
    pub(super) fn watch_host_goes_on(&mut self) {
        self.watch.looks_since_us = self.now_us();
        self.watch.waiting = None;
        self.watch.undisturbed = service::Undisturbed::default();
        self.watch.past.forget();
    }

    /// The host has taken a turn.
    pub(super) fn watch_host_turn(&mut self) {
        self.look_at_decisions();
        self.look_at_voters();
        self.look_at_progress();
    }

    /// Looks at everything that must always hold.
    pub(super) fn look(&mut self) {
        self.take_objections();
        self.look_at_primaries();
        self.look_at_bounds();
        self.look_at_service();
        self.look_for_survivors();
        self.look_for_damage();
        self.look_for_lies();
        // Logs are long, and differ for good once they differ.
        if (self.now_us() / LOOK_PERIOD_US).is_multiple_of(100) {
            self.look_at_logs();
        }
        let quiet = self.host.as_ref().is_some_and(|host| {
            let decisions = host.decisions();
            matches!(decisions.phase(), Phase::Serving { .. })
                && decisions.members().all(|(_, _, standing)| standing == Standing::Voter)
        });
        if quiet {
            self.close_faults();
            self.look_at_states();
        }
    }

    pub(super) fn take_objections(&mut self) {
        let objections: Vec<_> = self.judge.violations().to_vec();
        for objection in objections {
            self.flaw(objection.kind.name(), objection);
        }
    }

    /// At most one that leads is not fenced, and it is the one that the host
    /// wants, or is just about to hear of.
    pub(super) fn look_at_primaries(&mut self) {
        let wrong = self.bodies.keys().find_map(|&serial| self.wrong_primary(serial));
        if let Some(wrong) = wrong {
            self.flaw("one-primary", wrong);
        }
    }

    /// Why this one may not lead, if it does.
    fn wrong_primary(&self, serial: u64) -> Option<String> {
        let decisions = self.host.as_ref()?.decisions();
        let body = self.bodies.get(&serial)?;
        let page = body.runtime.as_ref()?.fabric().page();
        if page.role() != Role::Primary || body.process.killed.get() {
            return None;
        }
        self.watch.count(Checker::OnePrimary, 1);
        let wanted = match *decisions.phase() {
            Phase::Serving { primary } | Phase::Draining { primary } => Some(primary),
            Phase::Promoting { candidate } => Some(candidate),
            Phase::Forming | Phase::Electing { .. } | Phase::Lost { .. } => None,
        };
        (wanted != Some(body.id)).then(|| {
            format!(
                "replica {} leads generation {} and is not fenced; the host is at generation {}: {:?}",
                body.id,
                page.generation(),
                decisions.generation(),
                decisions.phase(),
            )
        })
    }

    /// Logs match: entries of one index and term are the same, and so are those of
    /// one index that are committed, whatever their term.
    fn look_at_logs(&mut self) {
        let mut seen = BTreeMap::new();
        let mut committed = BTreeMap::new();
        let mut wrong = None;
        for body in self.bodies.values().filter(|body| body.lives()) {
            let Some(runtime) = &body.runtime else { continue };
            let replica = runtime.replica();
            let commit = if body.is_doomed() { 0 } else { replica.progress().commit.0 };
            for (index, term, _, data) in replica.log_entries() {
                self.watch.count(Checker::LogMatching, 1);
                let (other, theirs) = seen.entry((index, term)).or_insert((body.id, data));
                if *theirs != data {
                    wrong = Some(format!(
                        "entry {index:?} of term {term:?} differs in replicas {other} and {}",
                        body.id
                    ));
                }
                if index.0 > commit {
                    continue;
                }
                let (other, theirs) = committed.entry(index).or_insert((body.id, (term, data)));
                if *theirs != (term, data) {
                    wrong = Some(format!(
                        "entry {index:?} is committed with term {:?} in replica {other} and with \
                         {term:?} in {}",
                        theirs.0, body.id
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.flaw("log-matching", wrong);
        }
    }

    /// The states of standbys are the reference's.
    fn look_at_states(&mut self) {
        let now_us = self.now_us();
        let mut states = Vec::new();
        for body in self.bodies.values().filter(|body| body.lives() && !body.is_doomed()) {
            let Some(runtime) = &body.runtime else { continue };
            if runtime.fabric().page().role() == Role::Standby {
                states.push(runtime.replica().state());
            }
        }
        for (no, digest) in states {
            self.judge.replica_state(no, digest, now_us);
        }
    }
}
