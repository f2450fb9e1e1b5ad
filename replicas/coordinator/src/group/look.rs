//! What happens to the replicas is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hypervisor::ReplicaId;
use hypervisor::decision::{Cause, Event, IntakeNo, LogPosition, Phase, Standing};
use hypervisor::fabric::HostFabric;
use teeth::Bug;

use super::watch::Watch;
use super::{Group, Notice};
use crate::events::Tag;
use crate::failover::{Running, cause_name};
use crate::holder::Held;
use crate::platform::{Domain as _, Platform, PlatformError};

/// How long the word of one replica stands against that of another while a third
/// could decide: idle ones show the digest of the same place before long.
const TIE_PATIENCE: Duration = Duration::from_secs(1);

/// How long the only replica that has the state is waited for when it seems to hang. To
/// give it up is to lose the state, and it may be starved in a way that nobody sees.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// Messages of one that does not lead, taken at one look.
const LEFT_OVER_PER_LOOK: usize = 64;

impl<P: Platform> Group<P> {
    /// Looks at everything that is not a message: replicas that have started,
    /// acknowledged, died or hung. `thorough` once a monitor's period, else only
    /// what a failover waits for.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        thorough: bool,
        inputs_wait: bool,
        fabric: &mut HostFabric,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        while let Some((id, domain)) = self.platform.started() {
            self.started(id, domain, fabric);
        }
        if thorough {
            self.look_for_garbage(fabric, &mut notices);
            self.look_for_unreadable(fabric, &mut notices);
        }
        self.look_at_primary(now, fabric);
        self.look_for_deaths(fabric, &mut notices);
        if self.members.values().any(|member| !member.ready && !member.fenced) {
            self.look_for_ready(fabric, &mut notices);
        }
        if let Phase::Electing { waiting, .. } = self.decisions.phase() {
            let waiting: Vec<_> = waiting.iter().copied().collect();
            self.look_for_acknowledgements(&waiting, fabric, &mut notices);
        }
        if thorough {
            self.look_for_hangs(inputs_wait, fabric, &mut notices);
            self.look_for_divergence(fabric, &mut notices);
            self.look_for_accusations(fabric, &mut notices);
            self.look_for_gone(fabric);
            self.spawn_postponed(fabric);
            self.pin_voters();
        }
        notices
    }

    fn started(
        &mut self,
        id: ReplicaId,
        domain: Result<P::Domain, PlatformError>,
        fabric: &mut HostFabric,
    ) {
        let domain = match domain {
            Ok(domain) => domain,
            Err(error) => return self.start_failed(id, &error.to_string(), fabric),
        };
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.fenced
            && let Err(error) = domain.kill()
        {
            // Unwanted by now. Its slot is free once it is gone, not before.
            self.events.warn(&[Tag::Fence], format!("replica {id}: {error}"));
        }
        self.holder.hold(Held::Replica(id), &domain.descriptors());
        member.domain = Some(domain);
    }

    fn look_for_ready(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let candidates: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| !member.ready && !member.fenced && member.domain.is_some())
            .map(|(&id, member)| (id, member.slot))
            .collect();
        for (id, slot) in candidates {
            let page = fabric.replica_page(slot);
            if page.replica() != id || page.beats() == 0 {
                continue;
            }
            let now = self.platform.now();
            let death = self.platform.watch(page);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.ready = true;
            let death = death.map_err(|error| {
                // Its domain tells of its end as well, if later.
                self.events.warn(&[Tag::Monitor], format!("replica {id}: {error}"));
            });
            member.watch = Some(Watch::start(self.settings.monitor, page, death.ok(), now));
            let took = now.duration_since(member.ordered);
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("replica {id} is up after {} us", took.as_micros()),
            );
            notices.extend(self.step(Event::Ready { id }, fabric));
        }
    }

    fn look_for_acknowledgements(
        &mut self,
        waiting: &[ReplicaId],
        fabric: &mut HostFabric,
        notices: &mut Vec<Notice>,
    ) {
        let wanted = self.decisions.generation();
        for &id in waiting {
            let Some(slot) = self.slot(id) else { continue };
            let page = fabric.replica_page(slot);
            if page.generation() == wanted || teeth::bites(Bug::GenerationCheckDropped) {
                let log = LogPosition { term: page.last_log_term(), index: page.last_log_index() };
                let event = Event::Acknowledged { id, generation: wanted, log };
                notices.extend(self.step(event, fabric));
            }
        }
    }

    /// Notes the primary's beat, so that its last sign of life is known well.
    fn look_at_primary(&mut self, now: Instant, fabric: &HostFabric) {
        if let Some(primary) = self.decisions.primary()
            && let Some(member) = self.members.get_mut(&primary)
            && let Some(watch) = &mut member.watch
        {
            watch.look(now, fabric.replica_page(member.slot));
        }
    }

    fn look_for_deaths(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let dead: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| !m.fenced && m.watch.as_ref().is_some_and(Watch::says_dead))
            .map(|(&id, _)| id)
            .collect();
        for id in dead {
            self.died(id, fabric, notices);
        }
    }

    /// A replica's domain has ended, says the machine.
    pub(crate) fn ended(&mut self, id: ReplicaId, fabric: &mut HostFabric) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.members.get(&id).is_some_and(|member| !member.fenced) {
            self.died(id, fabric, &mut notices);
        }
        self.look_for_gone(fabric);
        notices
    }

    /// Who has written over its own page may have written anywhere, and can tell
    /// nothing about itself any more.
    fn look_for_garbage(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let overwritten: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.ready && !member.fenced)
            .filter(|(id, member)| !fabric.replica_page(member.slot).is_intact(**id))
            .map(|(&id, _)| id)
            .collect();
        for id in overwritten {
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("the page of replica {id} was overwritten"),
            );
            self.failed(id, Cause::Misbehaved, fabric, notices);
        }
    }

    /// Nobody listens to those who do not lead. One whose ring cannot be read is
    /// found out before it does.
    fn look_for_unreadable(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let ready: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.ready && !member.fenced)
            .map(|(&id, member)| (id, member.slot))
            .collect();
        let mut left_over = Vec::new();
        for (id, slot) in ready {
            // Who leads may change with each that is given up: from then on it is heard.
            if self.leader() == Some(id) {
                continue;
            }
            let Some(outputs) = fabric.outputs(slot) else { continue };
            // What it said when it led is void.
            let mut received = Ok(true);
            for _ in 0..LEFT_OVER_PER_LOOK {
                received = outputs.receive(&mut left_over);
                if !matches!(received, Ok(true)) {
                    break;
                }
            }
            if outputs.release() {
                fabric.ring_doorbell(slot);
            }
            if let Err(error) = received {
                let text = format!("replica {id}: {error}");
                self.log(&[Tag::Monitor, Tag::Xenstore], text);
                self.failed(id, Cause::Misbehaved, fabric, notices);
            }
        }
    }

    fn died(&mut self, id: ReplicaId, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let Some(slot) = self.slot(id) else { return };
        let page = fabric.replica_page(slot);
        let reason = page.crash_reason().filter(|_| page.is_intact(id));
        let cause = match &reason {
            None => Cause::Killed,
            Some(reason) if reason.starts_with("corrupt") => Cause::Corrupt,
            Some(_) => Cause::Crashed,
        };
        if let Some(reason) = reason {
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("last words of replica {id}: {reason}"),
            );
        }
        self.failed(id, cause, fabric, notices);
    }

    /// Gives a replica up.
    pub(crate) fn failed(
        &mut self,
        id: ReplicaId,
        cause: Cause,
        fabric: &mut HostFabric,
        notices: &mut Vec<Notice>,
    ) {
        let now = self.platform.now();
        let Some(member) = self.members.get(&id) else { return };
        let page = fabric.replica_page(member.slot);
        let applying = if page.is_intact(id) { page.applying_input() } else { 0 };
        let applying = (applying > 0).then_some(IntakeNo(applying));
        let leads = self.leader() == Some(id);
        let last_sign = self
            .injected
            .get(&id)
            .and_then(|&(at, expected)| (expected == cause).then_some(at))
            .or_else(|| member.watch.as_ref().map(Watch::last_sign))
            .unwrap_or(now);
        self.log(
            &[Tag::Monitor, Tag::Xenstore],
            format!("replica {id}{} {}", if leads { " (primary)" } else { "" }, cause_name(cause)),
        );
        if leads && self.running.is_none_or(|running| running.is_planned()) {
            self.running = Some(Running::new(id, cause, last_sign, now));
        }
        let applying = if leads { applying } else { None };
        notices.extend(self.step(Event::Failed { id, cause, applying }, fabric));
    }

    /// The primary, or who is to become it.
    pub(super) fn leader(&self) -> Option<ReplicaId> {
        match *self.decisions.phase() {
            Phase::Serving { primary } | Phase::Draining { primary } => Some(primary),
            Phase::Promoting { candidate } => Some(candidate),
            _ => None,
        }
    }

    fn look_for_hangs(
        &mut self,
        inputs_wait: bool,
        fabric: &mut HostFabric,
        notices: &mut Vec<Notice>,
    ) {
        let now = self.platform.now();
        let leader = self.leader();
        let primary = self.decisions.primary();
        let end = leader.and_then(|id| self.slot(id));
        let end = end.map_or(0, |slot| fabric.replica_page(slot).last_log_index());
        let voters: BTreeSet<_> = self
            .decisions
            .members()
            .filter(|(_, _, standing)| *standing == Standing::Voter)
            .map(|(id, ..)| id)
            .collect();
        // Whoever leads waits for these: it is not to blame then.
        let is_behind = |id, slot| {
            Some(id) != leader
                && voters.contains(&id)
                && fabric.replica_page(slot).last_log_index() < end
        };
        // Nor is a candidate that waits for a vote.
        let is_silent = |id, watch: &Option<Watch<P::DeathWatch>>| {
            Some(id) != leader
                && voters.contains(&id)
                && watch.as_ref().is_some_and(|watch| watch.is_silent(now))
        };
        let waits_for_others = self.members.iter().any(|(&id, m)| {
            is_behind(id, m.slot) || (primary.is_none() && is_silent(id, &m.watch))
        });
        // Who is behind has nothing to do until the leader sends it what it lacks.
        let leader_sends = leader
            .and_then(|id| self.members.get(&id)?.watch.as_ref())
            .is_some_and(|watch| !watch.is_silent(now));
        // All of these have to acknowledge the new generation before anybody leads.
        let electors: BTreeSet<_> = match self.decisions.phase() {
            Phase::Electing { waiting, .. } => waiting.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        let mut hung = Vec::new();
        let mut due = Vec::new();
        let mut leader_is_stuck = false;
        let mut silent_learners = Vec::new();
        for (&id, member) in &mut self.members {
            if member.fenced {
                continue;
            }
            let (Some(watch), Some(domain)) = (&mut member.watch, &member.domain) else {
                if now.duration_since(member.ordered) > self.settings.start_limit {
                    hung.push((id, format!("did not come up in {:?}", self.settings.start_limit)));
                }
                continue;
            };
            let page = fabric.replica_page(member.slot);
            let behind = is_behind(id, member.slot);
            let (waits, progress) = if Some(id) == leader {
                // A candidate that is not elected has work, whether inputs wait or not.
                let work = inputs_wait || primary.is_none();
                let done = page.released_index() + fabric.page().freed_input();
                (work && !waits_for_others, done + page.last_log_index())
            } else if electors.contains(&id) {
                (true, page.generation().0)
            } else {
                (behind && leader_sends, page.last_log_index())
            };
            if waits || behind {
                due.push(member.slot);
            }
            // Under quorum, one that is on its way to a vote may have to lead.
            let counts = voters.contains(&id) || electors.contains(&id);
            let why = if counts || Some(id) == leader {
                let why = watch.judge(now, page, domain, waits, progress);
                leader_is_stuck |= Some(id) == leader && watch.is_stuck();
                why
            } else {
                let why = watch.judge_learner(now, page);
                if why.is_none() && page.last_log_index() < end && watch.is_silent(now) {
                    silent_learners.push(id);
                }
                why
            };
            hung.extend(why.map(|why| (id, why)));
        }
        if leader_is_stuck {
            // It may have given one its vote already, and wait for it.
            let why = |id| (id, "no beat while the primary cannot go on".to_owned());
            hung.extend(silent_learners.into_iter().map(why));
        }
        // Whoever has work and sleeps has missed being woken: nobody is blamed for
        // that, and nobody waits for its next tick.
        for slot in due {
            fabric.ring_doorbell(slot);
        }
        let only = voters.first().copied().filter(|_| voters.len() == 1);
        let still = |id: ReplicaId| only == Some(id) && hung.iter().any(|(other, _)| *other == id);
        self.last_hangs_since = self.last_hangs_since.filter(|(id, _)| still(*id));
        for (id, why) in hung {
            if only == Some(id) && !self.settings.is_durable() && !self.is_hopeless(id, &why, now) {
                continue;
            }
            self.log(&[Tag::Monitor, Tag::Xenstore], format!("replica {id} hangs: {why}"));
            self.failed(id, Cause::Hung, fabric, notices);
        }
    }

    /// Whether the only replica that has the state has seemed to hang for so long that
    /// nothing is to be hoped for.
    fn is_hopeless(&mut self, id: ReplicaId, why: &str, now: Instant) -> bool {
        if let Some((_, since)) = self.last_hangs_since {
            return now.duration_since(since) > LAST_PATIENCE;
        }
        self.last_hangs_since = Some((id, now));
        self.events.warn(
            &[Tag::Monitor, Tag::Xenstore],
            format!(
                "replica {id} seems to hang: {why}; nobody else has the state, so it is waited \
                 for, {} s at most",
                LAST_PATIENCE.as_secs()
            ),
        );
        false
    }

    /// Compares digests at equal places of the log.
    fn look_for_divergence(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let mut shown: BTreeMap<u64, Vec<(ReplicaId, u64)>> = BTreeMap::new();
        let mut voters = 0;
        for (id, slot, _) in self.decisions.members().filter(|(_, _, s)| *s == Standing::Voter) {
            voters += 1;
            for record in fabric.replica_page(slot).digests() {
                let at = shown.entry(record.log_index).or_default();
                if !at.contains(&(id, record.digest)) {
                    at.push((id, record.digest));
                }
            }
        }
        let primary = self.decisions.primary();
        let now = self.platform.now();
        let since = *self.tied_since.get_or_insert(now);
        // The word of one against that of another: a third may be about to show
        // its own, and is waited for.
        let patient = voters > 2 && now.duration_since(since) < TIE_PATIENCE;
        let mut tied = false;
        let mut wrong = BTreeSet::new();
        for at in shown.values() {
            let outvoted = outvoted(at, primary);
            let tie = at.len() == 2 && !outvoted.is_empty();
            tied |= tie;
            let waits = tie && patient || teeth::bites(Bug::DivergenceIgnored);
            if !waits {
                wrong.extend(outvoted);
            }
        }
        if !tied {
            self.tied_since = None;
        }
        for id in wrong {
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("replica {id} has another digest than the others at the same index"),
            );
            self.failed(id, Cause::Corrupt, fabric, notices);
        }
    }

    /// Whose ring is unreadable for a peer has spoiled it, for it alone writes
    /// there. Since anybody can say so of anybody, each is believed once; who says
    /// it of a second one is the more likely cause.
    fn look_for_accusations(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let mut spoiled = BTreeSet::new();
        for (&id, member) in self.members.iter().filter(|(_, member)| !member.fenced) {
            let accused = fabric.replica_page(member.slot).unreadable();
            let lives = self.members.get(&accused).is_some_and(|member| !member.fenced);
            if lives && accused != id {
                let first = member.accused.is_none_or(|before| before == accused);
                spoiled.insert((id, accused, first));
            }
        }
        for (accuser, accused, first) in spoiled {
            let Some(member) = self.members.get_mut(&accuser).filter(|m| !m.fenced) else {
                continue;
            };
            member.accused = Some(accused);
            let wrong = if first { accused } else { accuser };
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("replica {accuser} cannot read what replica {accused} writes"),
            );
            self.failed(wrong, Cause::Misbehaved, fabric, notices);
        }
    }

    fn look_for_gone(&mut self, fabric: &mut HostFabric) {
        let mut gone = Vec::new();
        for (&id, member) in &mut self.members {
            let Some(domain) = &mut member.domain else { continue };
            if !member.fenced {
                continue;
            }
            match domain.is_gone() {
                Ok(false) => {}
                Ok(true) => gone.push(id),
                Err(error) => {
                    self.events.warn(&[Tag::Fence], format!("replica {id}: {error}"));
                }
            }
        }
        for id in gone {
            self.forget(id, fabric);
        }
    }
}

/// Who is wrong, of those that show a digest of the same place of the log: who
/// contradicts himself, and of the others the minority; without one, whoever
/// differs from the primary.
fn outvoted(shown: &[(ReplicaId, u64)], primary: Option<ReplicaId>) -> Vec<ReplicaId> {
    let contradicts_himself = |id| shown.iter().filter(|(other, _)| *other == id).count() > 1;
    let (liars, honest): (Vec<_>, Vec<_>) =
        shown.iter().copied().partition(|(id, _)| contradicts_himself(*id));
    if honest.is_empty() {
        // Nobody knows better.
        return Vec::new();
    }
    let mut wrong: Vec<_> = liars.into_iter().map(|(id, _)| id).collect();
    wrong.dedup();
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, digest) in &honest {
        *votes.entry(*digest).or_default() += 1;
    }
    let most = votes.values().copied().max().unwrap_or(0);
    let mut winners = votes.iter().filter(|(_, count)| **count == most);
    let right = match (winners.next(), winners.next()) {
        (Some((digest, _)), None) => Some(*digest),
        _ => honest.iter().find(|(id, _)| Some(*id) == primary).map(|(_, digest)| *digest),
    };
    if let Some(right) = right {
        wrong.extend(honest.iter().filter(|(_, digest)| *digest != right).map(|(id, _)| *id));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(1);
    const B: ReplicaId = ReplicaId(2);
    const C: ReplicaId = ReplicaId(3);

    #[test]
    fn the_minority_is_wrong_even_if_it_leads() {
        assert_eq!(outvoted(&[(A, 7), (B, 8), (C, 8)], Some(A)), vec![A]);
        assert_eq!(outvoted(&[(A, 7), (B, 8), (C, 7)], Some(A)), vec![B]);
        assert_eq!(outvoted(&[(A, 7), (B, 7)], Some(A)), vec![]);
    }

    #[test]
    fn nobody_votes_twice() {
        assert_eq!(outvoted(&[(A, 7), (B, 8), (B, 9)], Some(A)), vec![B]);
        assert_eq!(outvoted(&[(A, 7), (A, 6), (B, 8), (C, 8)], Some(A)), vec![A]);
        assert_eq!(outvoted(&[(A, 7), (A, 6)], Some(A)), vec![], "nobody knows better");
    }

    #[test]
    fn without_a_majority_the_primary_is_believed() {
        assert_eq!(outvoted(&[(A, 7), (B, 8)], Some(B)), vec![A]);
        assert_eq!(outvoted(&[(A, 7), (B, 8)], None), vec![]);
    }
}
