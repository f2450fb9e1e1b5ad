//! A whole run: faults for a while, then everything is healed, and the host must
//! be whole and serving again.

use hypervisor::decision::Standing;

use super::checkers::Checker;
use super::machine::Activity;
use super::people::Person;
use super::plan::{Overrides, Plan};
use super::trace::TraceMode;
use super::verdict::RunVerdict;
use super::world::World;

/// After the last fault, everything must be well again within this time: longer
/// than a starved replica is waited for, and than a new one is given to start.
const HEAL_LIMIT_US: u64 = 40_000_000;

/// Runs the simulation of a seed.
///
/// # Panics
/// When this machine has no descriptors or memory left for it.
#[must_use]
pub fn run(seed: u64, overrides: &Overrides, mode: TraceMode) -> RunVerdict {
    run_plan(Plan::draw(seed, overrides), mode)
}

/// Runs the simulation of a plan.
pub(super) fn run_plan(plan: Plan, mode: TraceMode) -> RunVerdict {
    let description = plan.describe();
    let span_us = plan.span_us;
    let mut world = match World::new(plan, mode) {
        Ok(world) => world,
        Err(error) => panic!("no room for a simulated host: {error}"),
    };
    world.run_until(span_us, |world| world.lost);
    if world.flaws.is_empty() && !world.lost {
        world.heal();
        let healing_since = world.now_us();
        world.run_until(healing_since + HEAL_LIMIT_US, World::is_whole);
        world.stats.healed_in_us = world.now_us() - healing_since;
        world.finish();
    }
    world.verdict(description)
}

impl World {
    /// No more faults; those that last are taken back.
    fn heal(&mut self) {
        self.healing = true;
        let now_us = self.now_us();
        self.trace.say(now_us, &"no more faults");
        let serials: Vec<_> = self.bodies.keys().copied().collect();
        for serial in serials {
            let Some(body) = self.bodies.get_mut(&serial) else { continue };
            body.slower = 1;
            if body.alive.fuse().is_lit() {
                // It was to die half-way through a step: now or never.
                self.dies(serial);
            } else if !matches!(body.process.activity(), Activity::Well | Activity::Ended) {
                body.process.set_activity(Activity::Well);
                self.call_replica(serial, now_us);
            }
        }
        for disk in self.hall.borrow().disks.values() {
            disk.heal();
        }
        for index in 0..self.people.len() {
            self.people[index].resume_reading();
            self.people[index].client.heal(now_us);
            self.call_person(index, now_us + 1);
        }
    }

    /// Whether the host is fully redundant, serves, and everybody has heard what
    /// he was to hear.
    fn is_whole(&self) -> bool {
        let Some(host) = &self.host else { return false };
        let decisions = host.decisions();
        let voters = decisions.members().filter(|(_, _, s)| *s == Standing::Voter).count();
        let redundant =
            if self.plan.rebuild { voters == usize::from(self.faults.factor) } else { voters > 0 };
        redundant
            && decisions.primary().is_some()
            && decisions.members().all(|(_, _, standing)| standing == Standing::Voter)
            && host.pending() == 0
            && self.people.iter().all(|person| self.is_served(person))
            && self.bodies.len() == voters
            && self.same_states()
    }

    /// Whether a client has heard all it was to hear. A domain that was released
    /// has nobody to ask.
    fn is_served(&self, person: &Person) -> bool {
        let is_out = || !person.is_connected() && !self.socket_path(person.client.domid()).exists();
        person.client.is_done() || is_out()
    }

    /// Whether all replicas have applied the same inputs.
    fn same_states(&self) -> bool {
        let mut inputs = self
            .bodies
            .values()
            .map(|body| body.runtime.as_ref().map(|runtime| runtime.replica().state()));
        let first = inputs.next().flatten();
        first.is_some() && inputs.all(|state| state.map(|(no, _)| no) == first.map(|(no, _)| no))
    }

    fn finish(&mut self) {
        if !self.flaws.is_empty() {
            return;
        }
        self.watch.count(Checker::Liveness, 1);
        if !self.is_whole() {
            let why = self.what_is_missing();
            return self.flaw("liveness", why);
        }
        let now_us = self.now_us();
        let states: Vec<_> = self
            .bodies
            .values()
            .filter_map(|body| body.runtime.as_ref().map(|runtime| runtime.replica().state()))
            .collect();
        for (no, digest) in states {
            self.judge.replica_state(no, digest, now_us);
        }
        self.judge.finish(now_us);
        if let Err(fault) = self.sampler.end() {
            self.flaw("linearizability", format_args!("{fault:?}"));
        }
        self.close_faults();
        self.take_objections();
    }

    /// All that the replicas know, for whoever reads the trace.
    pub(super) fn describe_replicas(&mut self) {
        if !self.trace.is_text() {
            return;
        }
        for body in self.bodies.values() {
            let mut text = String::new();
            if let Some(runtime) = &body.runtime
                && runtime.replica().describe(&mut text).is_ok()
            {
                self.trace.say(self.clock.now_us(), &text);
            }
        }
    }

    fn what_is_missing(&self) -> String {
        let Some(host) = &self.host else { return "the host is down".to_owned() };
        let decisions = host.decisions();
        let members: Vec<_> =
            decisions.members().map(|(id, _, standing)| format!("{id} {standing:?}")).collect();
        let waiting: Vec<_> = self
            .people
            .iter()
            .filter(|person| !self.is_served(person))
            .map(|person| format!("{:?}", person.client))
            .collect();
        format!(
            "not whole {} ms after the last fault: {:?}, members {members:?} of {}, {} inputs \
             pending, {} processes, states equal: {}, clients waiting: {waiting:?}",
            HEAL_LIMIT_US / 1000,
            decisions.phase(),
            self.faults.factor,
            host.pending(),
            self.bodies.len(),
            self.same_states(),
        )
    }

    fn verdict(mut self, plan: String) -> RunVerdict {
        if self.lost {
            self.faults.lose();
        }
        if !self.flaws.is_empty() {
            self.faults.fail();
        }
        let mut stats = std::mem::take(&mut self.stats);
        let judged = self.judge.stats();
        stats.simulated_us = self.now_us();
        stats.requests = self.people.iter().map(|person| person.client.sent()).sum();
        stats.answers = self.people.iter().map(|person| person.client.answered()).sum();
        stats.events = self.people.iter().map(|person| person.client.events()).sum();
        stats.answers_anew = judged.answers_anew;
        stats.digests = judged.digests;
        stats.windows = self.sampler.judged();
        stats.looks = self.watch.looks.looks();
        let logged = judged.replies - judged.answers;
        let frames = judged.replies + judged.events;
        for (checker, looked_at) in [
            (Checker::LostReply, judged.replies),
            (Checker::LostEvent, judged.events),
            (Checker::LostEffect, judged.effects),
            (Checker::DoubledReply, judged.replies),
            (Checker::DoubledEvent, judged.events),
            (Checker::DoubledEffect, judged.effects),
            (Checker::Reordered, frames + judged.effects),
            (Checker::WrongReply, logged),
            (Checker::StaleAnswer, judged.answers),
            (Checker::WrongEvent, judged.events),
            (Checker::WrongEffect, judged.effects),
            (Checker::UnaskedReply, judged.replies),
            (Checker::AnsweredThenQuarantined, judged.quarantined),
            (Checker::BrokenFrame, frames),
            (Checker::Diverged, judged.digests),
            (Checker::BadInput, judged.inputs),
            (Checker::Linearizability, stats.windows),
            (Checker::Endless, 1),
            (Checker::Panic, 1),
        ] {
            stats.looks.count(checker, looked_at);
        }
        stats.faults = std::mem::take(&mut self.faults.ended);
        RunVerdict {
            seed: self.plan.seed,
            plan,
            clients: self.people.len(),
            flaws: std::mem::take(&mut self.flaws),
            stats,
            due: std::mem::take(&mut self.faults.due),
            trace_digest: self.trace.digest(),
            trace_lines: self.trace.lines(),
            trace: self.trace.into_text(),
        }
    }
}
