//! What must hold after each step of a replica.

use hypervisor::decision::{AckPolicy, Phase, Standing};
use hypervisor::fabric::Role;
use state_machine::{Numbered, Reader};
use xenstore::Xenstore;

use crate::sim::checkers::Checker;
use crate::sim::world::World;

/// One that shows another digest than the others is given up within this time.
const LIE_LIMIT_US: u64 = 5_000_000;
/// A flipped bit in the state is found within this time, or does no harm.
const DAMAGE_LIMIT_US: u64 = 15_000_000;

impl World {
    /// A replica has taken a step and lives.
    pub(in crate::sim) fn stepped(&mut self, serial: u64) {
        let Some(body) = self.bodies.get(&serial) else { return };
        let Some(runtime) = &body.runtime else { return };
        let id = body.id;
        let page = runtime.fabric().page();
        self.watch.count(Checker::ApplyingMark, 1);
        let applying = page.applying_input();
        if applying != 0 && page.is_intact(id) {
            let what = format!("{id} says after its step that it applies {applying}");
            return self.flaw("applying-mark", what);
        }
        if page.role() == Role::Primary
            && let Some(wrong) = self.wrong_primary(serial)
        {
            return self.flaw("one-primary", wrong);
        }
        let reign = page.generation().0;
        if self.watch.followed.insert(serial, reign) != Some(reign) {
            self.look_at_readers(serial);
        }
        let Some(body) = self.bodies.get(&serial) else { return };
        let Some(runtime) = &body.runtime else { return };
        let commit = runtime.replica().progress().commit.0;
        let last = self.watch.commits.insert(serial, commit).unwrap_or(0);
        if commit == last {
            return;
        }
        self.watch.count(Checker::CommitMonotonic, 1);
        if commit < last {
            let what = format!("replica {id}: commit {last} became {commit}");
            return self.flaw("commit-monotonic", what);
        }
        if let Some((checker, wrong)) = self.wrong_commit(serial, commit) {
            self.flaw(checker, wrong);
        }
    }

    /// Why a replica cannot know that so much of its log is committed.
    fn wrong_commit(&self, serial: u64, commit: u64) -> Option<(&'static str, String)> {
        let body = self.bodies.get(&serial)?;
        let page = body.runtime.as_ref()?.fabric().page();
        let host = self.host.as_ref()?;
        let Phase::Serving { primary } = *host.decisions().phase() else { return None };
        let generation = host.decisions().generation();
        if page.generation() != generation || body.is_doomed() {
            return None;
        }
        if body.id != primary {
            let leader = self.bodies.get(&self.serial_of(primary)?)?;
            self.watch.count(Checker::CommitLed, 1);
            let theirs = leader.runtime.as_ref()?.replica().progress().commit.0;
            return (leader.lives() && commit > theirs).then(|| {
                let what = format!(
                    "{} takes {commit} for committed, and primary {primary} {theirs}",
                    body.id
                );
                ("commit-led", what)
            });
        }
        if self.plan.ack != AckPolicy::AllLive || page.role() != Role::Primary {
            return None;
        }
        let voters = host.decisions().members().filter(|(_, _, s)| *s == Standing::Voter);
        for (id, ..) in voters {
            let Some(voter) = self.serial_of(id).and_then(|serial| self.bodies.get(&serial)) else {
                continue;
            };
            let Some(runtime) = &voter.runtime else { continue };
            self.watch.count(Checker::AllLive, 1);
            let end = runtime.replica().progress().last_index.0;
            if voter.lives() && !voter.is_doomed() && end < commit {
                let what =
                    format!("primary {primary} has released {commit}, and {id} has only {end}");
                return Some(("all-live", what));
            }
        }
        None
    }

    /// Who shows another digest than the others is given up.
    pub(super) fn look_for_lies(&mut self) {
        let now_us = self.now_us();
        let bodies = &self.bodies;
        self.watch.lies.retain(|serial, _| bodies.get(serial).is_some_and(|b| b.lives()));
        let lies: Vec<_> = self.watch.lies.iter().map(|(serial, lie)| (*serial, *lie)).collect();
        for (serial, (log_index, at_us)) in lies {
            self.watch.count(Checker::Divergence, 1);
            let Some(runtime) = &self.bodies[&serial].runtime else { continue };
            let shown = runtime.fabric().page().digests();
            let contradicted = shown.iter().filter(|r| r.log_index == log_index).count() > 1
                && self.shows_digest_beside(serial, log_index);
            if !contradicted {
                // Newer ones have taken its place, here or there; they are wrong too.
                let shown = self.show_wrong_digest(serial);
                // Where nobody shows the same place, nobody can tell.
                let lie = shown.map_or((log_index, now_us), |index| (index, at_us));
                self.watch.lies.insert(serial, lie);
            } else if at_us + LIE_LIMIT_US < now_us {
                let what = format!(
                    "{} shows a wrong digest, and is not given up",
                    self.bodies[&serial].id
                );
                return self.flaw("divergence", what);
            }
        }
    }

    /// Damage that was done long ago was found, or is none any more.
    pub(super) fn look_for_damage(&mut self) {
        let now_us = self.now_us();
        let bodies = &self.bodies;
        self.watch.flips.retain(|serial, _| bodies.get(serial).is_some_and(|b| b.lives()));
        let due = self.watch.flips.iter().find(|(_, at_us)| **at_us + DAMAGE_LIMIT_US < now_us);
        let Some((&serial, _)) = due else { return };
        self.watch.flips.remove(&serial);
        let Some(runtime) = self.bodies.get(&serial).and_then(|body| body.runtime.as_ref()) else {
            return;
        };
        self.watch.count(Checker::Damage, 1);
        let state = runtime.replica().executor().numbered();
        let restored = ::teeth::spared(|| {
            let mut bytes = Vec::new();
            Numbered::<Xenstore>::encode(&state.freeze(), &mut bytes);
            Numbered::<Xenstore>::restore(&mut Reader::new(&bytes))
                .map(|state| (state.last_input(), state.digest()))
        });
        match restored {
            Ok((no, digest)) => {
                let before = self.judge.violations().len();
                self.judge.replica_state(no, digest, now_us);
                if self.judge.violations().len() > before {
                    let id = self.bodies[&serial].id;
                    self.flaw("damage", format_args!("a flipped bit in {id} is not found"));
                }
            }
            Err(error) => self.flaw("damage", format_args!("a flipped bit is not found: {error}")),
        }
    }
}
