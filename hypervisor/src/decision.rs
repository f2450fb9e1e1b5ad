//! The decision maker: who is fenced, who is promoted, who is rebuilt.
//!
//! A pure state machine: events in, decisions out, no clock and no I/O. The
//! host carries the decisions out; a simulator or a model checker can drive the
//! very same code.
//!
//! ```text
//!             all started                    primary failed
//!  Forming ───────────────▶ Electing ◀──────────────────────────┐
//!                             │  ▲                               │
//!       every survivor        │  │ candidate failed              │
//!       acknowledged the      ▼  │                               │
//!       generation         Promoting ── candidate leads ──▶ Serving
//!                             │                              │   ▲
//!                             │ nobody left            drain │   │ drained, elected
//!                             ▼                              ▼   │
//!                           Lost                          Draining
//! ```
//!
//! Invariants, each relied on elsewhere:
//! - **One unfenced primary.** A promotion is decided only after the former
//!   primary was killed and isolated (nobody reads its memory any more), or has
//!   drained, and after every survivor has acknowledged the new generation.
//! - **No acknowledged input is lost.** The promoted replica has the longest log
//!   among *all* live voters. Under [`AckPolicy::AllLive`] each of them holds
//!   every acknowledged input.
//! - **A majority can always elect.** Under [`AckPolicy::Quorum`] the candidate
//!   has the longest log of *all who may have a vote*, those included that are on
//!   their way in or out: so none of them refuses its vote, and a vote that some
//!   log counts is never killed. It holds every acknowledged input, for a majority
//!   of the voters last told of lives, and any majority of the members under which
//!   an input may have been acknowledged meets it: all living voters know of the
//!   membership before it is told, and until the next is told, at most one change
//!   is asked for; dead members that are dropped meanwhile only shrink the latter.
//! - **Generations only grow**, by one with every change of the primary.
//! - **Replica ids are never used again**, so "dead" is for ever.
//! - A learner is never counted as a survivor, and never promoted unless it may
//!   have got its vote and the policy is [`AckPolicy::Quorum`].

mod membership;
mod types;

pub use types::{
    AckPolicy, Cause, Decision, Event, IntakeNo, LogPosition, Loss, Phase, Policy, SpawnMode,
    Standing,
};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use teeth::Bug;

use crate::{Generation, ReplicaId, SlotId};
use types::Member;

/// An input that killed this many primaries is quarantined.
const STRIKES_TO_QUARANTINE: u32 = 2;

/// Inputs whose strikes are remembered: the newest, for an older one is answered
/// by the time that so many have killed somebody.
const STRIKES_REMEMBERED: usize = 64;

/// The dead that are remembered. Removals are logged long before so many more
/// have died.
const DEAD_REMEMBERED: usize = 64;

/// Decides for one replica group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecisionMaker {
    policy: Policy,
    phase: Phase,
    generation: Generation,
    next_id: ReplicaId,
    members: BTreeMap<ReplicaId, Member>,
    /// Number of the newest certificate of deaths; grows with every death.
    certificate: u32,
    /// The dead that may still be members in somebody's log.
    dead: VecDeque<ReplicaId>,
    /// Voters of the newest logged membership the primary told of; dead ones may
    /// still be among them.
    logged_voters: BTreeSet<ReplicaId>,
    /// Whether the primary in force has told of the membership. Before that,
    /// nobody knows what became of the changes that its predecessor began.
    membership_known: bool,
    /// Deaths by the input that was being applied.
    strikes: BTreeMap<IntakeNo, u32>,
    /// What is to be promoted if it can be, by an operator's wish.
    wish: Option<ReplicaId>,
    /// Replicas that an operator asked for and that were not spawned yet; they
    /// come even where rebuild is switched off.
    owed: u8,
}

impl DecisionMaker {
    /// A group that has no replica yet. `next_id` is the first id to give out,
    /// `generation` the last one used: both outlive the host where state does.
    #[must_use]
    pub fn new(policy: Policy, next_id: ReplicaId, generation: Generation) -> Self {
        Self {
            policy,
            phase: Phase::Forming,
            generation,
            next_id,
            members: BTreeMap::new(),
            certificate: 0,
            dead: VecDeque::new(),
            logged_voters: BTreeSet::new(),
            membership_known: false,
            strikes: BTreeMap::new(),
            wish: None,
            owed: 0,
        }
    }

    /// Where the group stands.
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The id that the next spawned replica gets.
    #[must_use]
    pub fn next_id(&self) -> ReplicaId {
        self.next_id
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The primary, once it serves.
    #[must_use]
    pub fn primary(&self) -> Option<ReplicaId> {
        match self.phase {
            Phase::Serving { primary } | Phase::Draining { primary } => Some(primary),
            _ => None,
        }
    }

    /// Every replica that is not confirmed gone, with its slot and standing.
    pub fn members(&self) -> impl Iterator<Item = (ReplicaId, SlotId, Standing)> + '_ {
        self.members.iter().map(|(&id, member)| (id, member.slot, member.standing))
    }

    /// Takes one event and says what is to be done, in order.
    pub fn step(&mut self, event: Event) -> Vec<Decision> {
        let mut todo = Vec::new();
        match event {
            Event::Form => self.form(&mut todo),
            Event::Recover { id, certificate, others } => {
                self.recover(id, certificate, others, &mut todo);
            }
            Event::HostChanged => self.host_changed(&mut todo),
            Event::Ready { id } => self.ready(id, &mut todo),
            Event::Failed { id, cause, applying } => self.failed(id, cause, applying, &mut todo),
            Event::Gone { id } => self.gone(id, &mut todo),
            Event::Acknowledged { id, generation, log } => {
                self.acknowledged(id, generation, log, &mut todo);
            }
            Event::Promoted { id, generation } => self.promoted(id, generation),
            Event::Drained { id } => self.drained(id, &mut todo),
            Event::CaughtUp { id } => self.caught_up(id, &mut todo),
            Event::Membership { voters, learners, logged } => {
                self.logged_voters = logged;
                if !matches!(self.phase, Phase::Promoting { .. }) {
                    self.membership(&voters, &learners, &mut todo);
                } else if self.is_majority_dead() {
                    self.lose(Loss::Majority, &mut todo);
                }
            }
            Event::OperatorPromote { id } => self.operator_promote(id, &mut todo),
            Event::Retire { id } => self.retire(id, &mut todo),
            Event::OperatorScale { replication_factor } => {
                let here = self.members.values().filter(|m| m.standing.counts()).count();
                let here = u8::try_from(here).unwrap_or(u8::MAX);
                self.owed = replication_factor.saturating_sub(here);
                self.policy.replication_factor = replication_factor;
                self.reconcile(&mut todo);
            }
        }
        todo
    }

    fn live_voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.iter().filter(|(_, m)| m.standing == Standing::Voter).map(|(&id, _)| id)
    }

    fn form(&mut self, todo: &mut Vec<Decision>) {
        debug_assert!(self.members.is_empty(), "a group forms once");
        let first = self.next_id.0;
        let voters: Vec<_> = (0..u64::from(self.policy.replication_factor))
            .map(|offset| ReplicaId(first + offset))
            .collect();
        self.logged_voters = voters.iter().copied().collect();
        for _ in &voters {
            self.spawn(SpawnMode::Bootstrap { voters: voters.clone() }, todo);
        }
    }

    /// After the death of all replicas: the one with the longest log on disk
    /// comes back under its own id and alone; the others are built anew.
    fn recover(
        &mut self,
        id: ReplicaId,
        certificate: u32,
        others: Vec<ReplicaId>,
        todo: &mut Vec<Decision>,
    ) {
        if !matches!(self.phase, Phase::Forming | Phase::Lost { .. }) {
            return;
        }
        let Some(slot) = self.free_slot() else { return };
        self.phase = Phase::Forming;
        self.certificate = self.certificate.max(certificate) + 1;
        self.dead.retain(|dead| *dead != id);
        self.next_id = self.next_id.max(ReplicaId(id.0 + 1));
        for other in others {
            // The host may have ended before it wrote down that this id was used.
            self.next_id = self.next_id.max(ReplicaId(other.0 + 1));
            self.bury(other);
        }
        self.logged_voters = BTreeSet::from([id]);
        self.members.insert(id, Member::new(slot, Standing::Starting));
        todo.push(Decision::Spawn { id, slot, mode: SpawnMode::Recover });
    }

    /// Says all again that may not have been heard. Who leads hands over, to itself if
    /// it can: then it is known for certain what was answered, and each host's reign
    /// has a generation of its own.
    fn host_changed(&mut self, todo: &mut Vec<Decision>) {
        let fenced = self.members.iter().filter(|(_, m)| m.standing == Standing::Fenced);
        todo.extend(fenced.map(|(&id, _)| Decision::Kill { id, cause: Cause::Retired }));
        match self.phase {
            Phase::Serving { primary } | Phase::Draining { primary } => {
                self.wish.get_or_insert(primary);
                self.phase = Phase::Draining { primary };
                todo.push(self.isolation());
                todo.push(Decision::Drain { id: primary });
            }
            Phase::Electing { .. } => self.elect(todo),
            Phase::Promoting { candidate } => {
                todo.push(self.isolation());
                todo.push(self.promotion(candidate));
            }
            Phase::Forming | Phase::Lost { .. } => {}
        }
    }

    /// Remembers a death.
    fn bury(&mut self, id: ReplicaId) {
        // Whoever is named again is remembered longer.
        self.dead.retain(|dead| *dead != id);
        if self.dead.len() == DEAD_REMEMBERED {
            self.dead.pop_front();
        }
        self.dead.push_back(id);
    }

    /// What everybody must know about deaths and generations; also for those
    /// that have just come.
    #[must_use]
    pub fn isolation(&self) -> Decision {
        Decision::Isolate {
            generation: self.generation,
            certificate: self.certificate,
            fenced: self.dead.iter().copied().collect(),
        }
    }

    /// Number of the newest certificate of deaths.
    #[must_use]
    pub fn certificate(&self) -> u32 {
        self.certificate
    }

    fn ready(&mut self, id: ReplicaId, todo: &mut Vec<Decision>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.standing != Standing::Starting {
            return;
        }
        if self.logged_voters.contains(&id) && self.phase == Phase::Forming {
            member.standing = Standing::Voter;
            let all_here =
                self.members.values().all(|member| member.standing != Standing::Starting);
            if all_here {
                self.elect(todo);
            }
        } else {
            member.standing = Standing::Learner;
            self.reconcile(todo);
        }
    }

    fn failed(
        &mut self,
        id: ReplicaId,
        cause: Cause,
        applying: Option<IntakeNo>,
        todo: &mut Vec<Decision>,
    ) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.standing == Standing::Fenced {
            return;
        }
        let was_starting = member.standing == Standing::Starting;
        self.fence(id, cause, todo);
        if let Some(no) = applying {
            self.strike(no, cause);
        }
        let concerned = match &self.phase {
            Phase::Serving { primary } | Phase::Draining { primary } => *primary == id,
            Phase::Promoting { candidate } => *candidate == id,
            // The others have no say, so nothing that was acknowledged is void.
            Phase::Electing { waiting, logs } => waiting.contains(&id) || logs.contains_key(&id),
            Phase::Forming if was_starting => {
                if self.policy.ack == AckPolicy::AllLive {
                    // The group never formed: it goes on with those that came up.
                    self.logged_voters.remove(&id);
                }
                true
            }
            Phase::Forming | Phase::Lost { .. } => false,
        };
        if concerned && self.phase == Phase::Forming {
            let starting = self.members.values().any(|m| m.standing == Standing::Starting);
            if starting {
                return;
            }
        }
        if concerned {
            self.elect(todo);
        } else if self.is_majority_dead() {
            self.lose(Loss::Majority, todo);
        } else {
            todo.push(self.isolation());
            self.reconcile(todo);
        }
    }

    /// Gives a replica up for ever. Who lives has to be told: see
    /// [`Self::isolation`].
    fn fence(&mut self, id: ReplicaId, cause: Cause, todo: &mut Vec<Decision>) {
        if let Some(member) = self.members.get_mut(&id) {
            member.standing = Standing::Fenced;
        }
        self.certificate += 1;
        self.bury(id);
        todo.push(Decision::Kill { id, cause });
    }

    /// Whether so many voters have died that the primary can never again get
    /// anything acknowledged.
    fn is_majority_dead(&self) -> bool {
        let serves = !matches!(self.phase, Phase::Forming | Phase::Lost { .. });
        serves && self.misses_majority()
    }

    /// Whether the policy wants a majority of the voters in the log, and less are
    /// alive. Who is being removed has its vote until all know that it has not.
    fn misses_majority(&self) -> bool {
        let voters = self.logged_voters.len();
        self.policy.ack == AckPolicy::Quorum && voters - self.dead_logged_voters() <= voters / 2
    }

    /// Voters in the log that are dead: with a quorum, they count.
    fn dead_logged_voters(&self) -> usize {
        let lives = |id| self.members.get(id).is_some_and(|m| m.standing != Standing::Fenced);
        self.logged_voters.iter().filter(|id| !lives(id)).count()
    }

    /// Counts a death against the input that was being applied. A plain kill
    /// from outside says little about the input, so it takes two of them; what
    /// the request itself did (a crash, a hang) says more.
    fn strike(&mut self, no: IntakeNo, cause: Cause) {
        // Only these have the state on which the input can be tried again.
        let survivors = self.live_voters().count();
        let strikes = self.strikes.entry(no).or_insert(0);
        *strikes += 1;
        if cause.blames_input() && survivors <= 1 {
            // There is no second standby to try it on.
            *strikes = (*strikes).max(STRIKES_TO_QUARANTINE);
        }
        if self.strikes.len() > STRIKES_REMEMBERED {
            self.strikes.pop_first();
        }
    }

    /// Raises the generation and asks every survivor to acknowledge it.
    fn elect(&mut self, todo: &mut Vec<Decision>) {
        if let Some(why) = self.cannot_serve() {
            self.lose(why, todo);
            return;
        }
        let waiting =
            self.members.iter().filter(|(_, m)| m.may_vote()).map(|(&id, _)| id).collect();
        if !teeth::bites(Bug::GenerationNotRaised) {
            self.generation = Generation(self.generation.0 + 1);
        }
        self.phase = Phase::Electing { waiting, logs: BTreeMap::new() };
        todo.push(self.isolation());
    }

    fn cannot_serve(&self) -> Option<Loss> {
        if self.candidates().next().is_none() {
            return Some(Loss::AllReplicas);
        }
        self.misses_majority().then_some(Loss::Majority)
    }

    /// Those that may be promoted. Under [`AckPolicy::AllLive`] only a voter
    /// that counts holds what was acknowledged for certain. Under
    /// [`AckPolicy::Quorum`] it is the longest log that does, and one that has it
    /// votes for no other: so whoever may have a vote may have to lead, were it
    /// only until the others have what it has.
    fn candidates(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let may_lead = |member: &Member| match self.policy.ack {
            AckPolicy::AllLive => member.standing == Standing::Voter,
            AckPolicy::Quorum => member.may_vote() && !member.is_out,
        };
        self.members.iter().filter(move |(_, member)| may_lead(member)).map(|(&id, _)| id)
    }

    fn lose(&mut self, why: Loss, todo: &mut Vec<Decision>) {
        self.phase = Phase::Lost { why };
        todo.push(Decision::DeclareLost { why });
        // What cannot serve must not linger: learners have no state of their own.
        let rest: Vec<_> = self
            .members
            .iter_mut()
            .filter(|(_, m)| m.standing != Standing::Fenced)
            .map(|(&id, m)| {
                m.standing = Standing::Fenced;
                id
            })
            .collect();
        todo.extend(rest.into_iter().map(|id| Decision::Kill { id, cause: Cause::Retired }));
    }

    fn acknowledged(
        &mut self,
        id: ReplicaId,
        generation: Generation,
        log: LogPosition,
        todo: &mut Vec<Decision>,
    ) {
        let Phase::Electing { waiting, logs } = &mut self.phase else { return };
        if generation != self.generation || !waiting.remove(&id) {
            return;
        }
        logs.insert(id, log);
        if !waiting.is_empty() && !teeth::bites(Bug::PromotedBeforeAcknowledged) {
            return;
        }
        let logs = std::mem::take(logs);
        let candidates: BTreeSet<_> = self.candidates().collect();
        let logs_of_candidates = logs.iter().filter(|(id, _)| candidates.contains(id));
        let ends = logs_of_candidates.map(|(_, log)| *log);
        let shortest = teeth::bites(Bug::ShortestLogPromoted);
        let longest = if shortest { ends.min() } else { ends.max() }.unwrap_or_default();
        let has_longest = |id: &ReplicaId| logs.get(id) == Some(&longest);
        let wish = self.wish.take();
        let wished =
            wish.filter(|id| self.live_voters().any(|voter| voter == *id) && has_longest(id));
        // Those that come or go only if nobody else can.
        let first = self
            .live_voters()
            .find(has_longest)
            .or_else(|| candidates.iter().copied().find(has_longest));
        let Some(candidate) = wished.or(first) else { return };
        self.phase = Phase::Promoting { candidate };
        self.fence_objectors(&logs, longest, todo);
        todo.push(self.promotion(candidate));
    }

    fn promotion(&self, candidate: ReplicaId) -> Decision {
        let too_early = teeth::bites(Bug::QuarantinedTooEarly);
        let enough = if too_early { 1 } else { STRIKES_TO_QUARANTINE };
        let quarantine = self
            .strikes
            .iter()
            .filter(|(_, strikes)| **strikes >= enough)
            .map(|(&no, _)| no)
            .collect();
        Decision::Promote { id: candidate, generation: self.generation, quarantine }
    }

    /// Those that may have a vote without being survivors, and whose log is longer
    /// than the candidate's. Nobody was answered for what they have more, but
    /// they would never vote for the candidate. Under [`AckPolicy::Quorum`] they
    /// are candidates themselves, but for those that are out: whoever asks one of
    /// these for its vote learns that it is out, and needs it no more.
    fn fence_objectors(
        &mut self,
        logs: &BTreeMap<ReplicaId, LogPosition>,
        longest: LogPosition,
        todo: &mut Vec<Decision>,
    ) {
        if self.policy.ack == AckPolicy::Quorum {
            return;
        }
        let objectors = logs.iter().filter(|(_, log)| **log > longest);
        for (&id, _) in objectors {
            self.fence(id, Cause::Retired, todo);
            todo.push(self.isolation());
        }
    }

    fn promoted(&mut self, id: ReplicaId, generation: Generation) {
        if generation != self.generation || self.phase != (Phase::Promoting { candidate: id }) {
            return;
        }
        self.phase = Phase::Serving { primary: id };
        if let Some(member) = self.members.get_mut(&id) {
            // It is of more use than what could come in its place.
            member.retires = false;
        }
        if teeth::bites(Bug::StrikesForgotten) {
            self.strikes.clear();
        }
        // What the predecessor was asked for may be in the log or not: nothing
        // is asked for before this primary has told.
        self.membership_known = false;
    }

    fn operator_promote(&mut self, id: ReplicaId, todo: &mut Vec<Decision>) {
        let Phase::Serving { primary } = self.phase else { return };
        let is_voter = self.members.get(&id).is_some_and(|m| m.standing == Standing::Voter);
        if primary == id || !is_voter {
            return;
        }
        self.wish = Some(id);
        self.phase = Phase::Draining { primary };
        todo.push(Decision::Drain { id: primary });
    }

    fn drained(&mut self, id: ReplicaId, todo: &mut Vec<Decision>) {
        match self.phase {
            Phase::Draining { primary } if primary == id => self.elect(todo),
            // What took it out is committed, and holds from now on. It stays, for
            // others may not know that and need its vote.
            Phase::Promoting { candidate }
                if candidate == id && self.policy.ack == AckPolicy::Quorum =>
            {
                if let Some(member) = self.members.get_mut(&id) {
                    member.is_out = true;
                }
                self.logged_voters.remove(&id);
                self.elect(todo);
            }
            _ => {}
        }
    }

    /// Spawns the next replica, if a slot is free; whether one was.
    fn spawn(&mut self, mode: SpawnMode, todo: &mut Vec<Decision>) -> bool {
        let Some(slot) = self.free_slot() else { return false };
        let id = self.next_id;
        self.next_id = ReplicaId(id.0 + 1);
        self.members.insert(id, Member::new(slot, Standing::Starting));
        todo.push(Decision::Spawn { id, slot, mode });
        true
    }

    fn free_slot(&self) -> Option<SlotId> {
        let gone =
            |m: &Member| m.standing == Standing::Fenced && teeth::bites(Bug::SlotReusedTooEarly);
        SlotId::all().find(|slot| self.members.values().all(|m| m.slot != *slot || gone(m)))
    }
}

#[cfg(test)]
mod tests;
