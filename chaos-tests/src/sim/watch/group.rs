//! What the decisions about the group must never come to.

use std::collections::BTreeSet;

use hypervisor::decision::{Cause, Decision, LogPosition, Phase, Standing};
use hypervisor::fabric::Role;
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::error::Fatal;
use state_machine::InputNo;

use crate::sim::checkers::Checker;
use crate::sim::disk::SimDisk;
use crate::sim::machine::{Activity, Disks};
use crate::sim::world::World;

/// A replica that is stopped or spins is given up within this time.
const HANG_LIMIT_US: u64 = 2_000_000;
/// One that is given up is killed within this time.
const KILL_LIMIT_US: u64 = 200_000;
/// An input that has killed so many is not tried again, and one that has killed
/// fewer is.
const DEATHS_WANTED: u32 = 2;

impl World {
    /// The host has taken a turn: what it decided was right at this moment.
    pub(super) fn look_at_decisions(&mut self) {
        let Some(host) = &self.host else { return };
        let decisions = host.decisions();
        let generation = decisions.generation();
        if self.watch.reign != generation {
            self.watch.reign = generation;
            self.watch.candidate = None;
            self.watch.fenced = match decisions.isolation() {
                Decision::Isolate { fenced, .. } => fenced.into_iter().collect(),
                _ => BTreeSet::new(),
            };
        }
        let Phase::Promoting { candidate } = *decisions.phase() else { return };
        if self.watch.candidate.replace(candidate) == Some(candidate) {
            return;
        }
        if let Some((checker, wrong)) = self.wrong_promotion(generation, candidate) {
            self.flaw(checker, wrong);
        }
    }

    /// Why this one may not be promoted in this generation.
    fn wrong_promotion(
        &self,
        generation: Generation,
        candidate: ReplicaId,
    ) -> Option<(&'static str, String)> {
        let host = self.host.as_ref()?;
        let voters: Vec<_> = host
            .decisions()
            .members()
            .filter(|(_, _, standing)| *standing == Standing::Voter)
            .map(|(id, slot, _)| (id, host.fabric().replica_page(slot)))
            // One that was written over since tells nothing.
            .filter(|(id, page)| page.is_intact(*id))
            .collect();
        let position = |page: &hypervisor::fabric::ReplicaPageView| LogPosition {
            term: page.last_log_term(),
            index: page.last_log_index(),
        };
        let its = host.fabric().replica_page(host.slot(candidate)?);
        let its = its.is_intact(candidate).then(|| position(its))?;
        for (id, page) in voters {
            self.watch.count(Checker::Acknowledged, 1);
            self.watch.count(Checker::LongestLog, 1);
            if page.generation() != generation {
                let shown = page.generation();
                return Some((
                    "acknowledged",
                    format!(
                        "{candidate} is to lead generation {generation}, and replica {id} still \
                         follows {shown}"
                    ),
                ));
            }
            if position(page) > its {
                return Some((
                    "longest-log",
                    format!(
                        "{candidate} is to lead with {its:?}, and replica {id} has {:?}",
                        position(page)
                    ),
                ));
            }
        }
        None
    }

    /// Whoever has acknowledged the generation reads nobody who was fenced by it.
    pub(super) fn look_at_readers(&mut self, serial: u64) {
        let Some(body) = self.bodies.get(&serial) else { return };
        let Some(runtime) = &body.runtime else { return };
        // What one does that is given up itself is of no matter.
        let id = body.id;
        let mut members = self.host.iter().flat_map(|host| host.decisions().members());
        let is_given_up = members.any(|(it, _, s)| it == id && s == Standing::Fenced);
        drop(members);
        if is_given_up {
            return;
        }
        let fabric = runtime.fabric();
        if fabric.page().generation() != self.watch.reign {
            return;
        }
        self.watch.count(Checker::ReadsFenced, 1);
        let read = SlotId::all()
            .map(|slot| fabric.peer(slot))
            .find(|peer| self.watch.fenced.contains(peer));
        if let Some(fenced) = read {
            let reign = self.watch.reign;
            self.flaw(
                "reads-fenced",
                format_args!("{id} has acknowledged {reign} and still reads {fenced}"),
            );
        }
    }

    /// A voter has the whole state.
    pub(super) fn look_at_voters(&mut self) {
        let Some(host) = &self.host else { return };
        let wrong = host.decisions().members().find(|(id, slot, standing)| {
            self.watch.count(Checker::LearnerCounted, 1);
            let page = host.fabric().replica_page(*slot);
            *standing == Standing::Voter && page.replica() == *id && page.role() == Role::Learner
        });
        if let Some((id, ..)) = wrong {
            self.flaw("learner-counted", format_args!("{id} counts as a voter and is a learner"));
        }
    }

    /// A primary serves in a generation that is newer than all before.
    pub(in crate::sim) fn promotion_seen(&mut self, id: ReplicaId, generation: Generation) {
        let before = std::mem::replace(&mut self.watch.promoted, generation);
        if generation <= before {
            self.flaw(
                "generations",
                format_args!("{id} leads generation {generation} after {before}"),
            );
        }
        self.watch.count(Checker::Generations, 1);
        let quarantined: Vec<_> =
            self.host.iter().flat_map(coordinator::Coordinator::quarantined).collect();
        self.watch.count(Checker::Quarantine, quarantined.len() as u64);
        let deaths = |no| self.watch.deaths.get(no).copied().unwrap_or(0);
        let wrong = quarantined
            .iter()
            .find(|no| deaths(no) < DEATHS_WANTED && !self.watch.untriable.contains(no));
        if let Some(no) = wrong {
            let what = format!("{no} is quarantined and has killed {}", deaths(no));
            return self.flaw("quarantine", what);
        }
        self.watch.refused.extend(quarantined);
    }

    /// The host has given a replica up.
    pub(in crate::sim) fn fence_seen(&mut self, id: ReplicaId, cause: Cause) {
        self.watch.count(Checker::FalseAlarm, 1);
        if let Some(no) = self.watch.died_of.remove(&id)
            && cause.blames_input()
            && self.voters() <= 1
        {
            // What it did itself, and would do again, must not cost the last one.
            self.watch.untriable.insert(no);
        }
        let Some(serial) = self.serial_of(id) else { return };
        self.watch.given_up.insert(serial, self.now_us());
        let blamed = matches!(cause, Cause::Hung | Cause::Corrupt | Cause::Misbehaved);
        // Who cannot read a second one is not believed, true as it may be.
        let body = &self.bodies[&serial];
        let page = body.runtime.as_ref().map(|runtime| runtime.fabric().page());
        let accuses = page.is_some_and(|page| page.unreadable() != ReplicaId::NONE);
        let disbelieved = cause == Cause::Misbehaved && accuses && self.watch.rings_spoiled > 1;
        if blamed && !disbelieved && !body.touched {
            self.flaw("false-alarm", format_args!("{id} was given up ({cause:?}) and is well"));
        }
    }

    /// Replicas that have a vote and were not given up.
    fn voters(&self) -> usize {
        let members = self.host.iter().flat_map(|host| host.decisions().members());
        members.filter(|(_, _, standing)| *standing == Standing::Voter).count()
    }

    /// A replica has found that it must stop.
    pub(in crate::sim) fn stop_seen(&mut self, serial: u64, why: &Fatal) {
        let Some(body) = self.bodies.get(&serial) else { return };
        self.watch.count(Checker::FalseAlarm, 1);
        let spoiled = |disk: &SimDisk| disk.faults_hit() > 0;
        let excused = body.touched
            || body.process.killed.get()
            || matches!(why, Fatal::Poisoned)
            // It was taught by somebody whose damage nobody had found yet.
            || (matches!(why, Fatal::Restore(_)) && self.watch.damage_was_done)
            || self.hall.borrow().disks.get(&body.id).is_some_and(spoiled);
        if !excused {
            let id = body.id;
            self.flaw("false-alarm", format_args!("{id} stops, and is well: {why}"));
        }
    }

    /// A replica has died while it applied an input.
    pub(in crate::sim) fn died_applying(&mut self, id: ReplicaId, no: InputNo) {
        self.watch.died_of.insert(id, no);
        self.watch.count(Checker::Quarantine, 1);
        let deaths = self.watch.deaths.entry(no).or_default();
        *deaths += 1;
        if *deaths > DEATHS_WANTED && self.watch.poisons.contains(&no) {
            let deaths = *deaths;
            self.flaw("quarantine", format_args!("{no} has killed {deaths} replicas"));
        }
    }

    /// An order was given for a slot.
    pub(in crate::sim) fn order_seen(&mut self, id: ReplicaId, slot: Option<SlotId>) {
        self.watch.count(Checker::Slot, 1);
        let holder = self.bodies.values().find(|body| body.spec.slot_id() == slot);
        if let Some(holder) = holder {
            let holder = holder.id;
            self.flaw("slot", format_args!("{id} gets the slot of {holder}, which is not gone"));
        }
    }

    /// Who hangs is given up, and who is given up is killed.
    pub(super) fn look_for_survivors(&mut self) {
        let now_us = self.now_us();
        let Some(host) = &self.host else { return };
        let voters: Vec<_> = host
            .decisions()
            .members()
            .filter(|(_, _, standing)| *standing == Standing::Voter)
            .map(|(id, ..)| id)
            .collect();
        let mut wrong = None;
        for (serial, body) in &self.bodies {
            let killed = body.process.killed.get() || body.dying || !body.alive.get();
            // Nobody can tell the next host for how long it has hung already.
            let looks_us = now_us - self.watch.looks_since_us;
            let idle_us = body.process.lasts_us().min(looks_us);
            let hangs = matches!(body.process.activity(), Activity::Stopped | Activity::Spins);
            self.watch.count(Checker::Hang, hangs.into());
            // The only one that has the state is waited for.
            let only = voters.len() == 1 && self.plan.disks == Disks::None;
            let counts = voters.contains(&body.id) && !only;
            if hangs && !killed && idle_us > HANG_LIMIT_US && counts {
                wrong = Some(("hang", format!("{} hangs for {idle_us} us", body.id)));
            }
            let launched = body.launched_us < now_us;
            let given_up = self.watch.given_up.get(serial).copied().unwrap_or(u64::MAX);
            self.watch.count(Checker::Kill, u64::from(given_up != u64::MAX));
            if launched && !killed && now_us.saturating_sub(given_up) > KILL_LIMIT_US {
                wrong = Some(("kill", format!("{} was given up and not killed", body.id)));
            }
        }
        let bodies = &self.bodies;
        self.watch.given_up.retain(|serial, _| bodies.contains_key(serial));
        if let Some((checker, wrong)) = wrong {
            self.flaw(checker, wrong);
        }
    }
}
