//! Whatever happens, in whatever order: the invariants at the top of the decision
//! maker hold, and when the trouble is over the group serves with as many
//! replicas as are wanted.
//!
//! The world below is what the decision maker cannot see: who is really up, who
//! has which log, what the log says about the members.

use quickcheck::{Gen, QuickCheck};

use super::*;
use crate::SLOTS;

/// A replica that is not confirmed gone.
#[derive(Clone, Debug)]
struct Real {
    slot: SlotId,
    up: bool,
    killed: bool,
    log: LogPosition,
    /// It may know that it has a vote.
    aware: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Learner(ReplicaId),
    Voter(ReplicaId),
    Remove(ReplicaId),
}

struct World {
    maker: DecisionMaker,
    real: BTreeMap<ReplicaId, Real>,
    used: BTreeSet<ReplicaId>,
    /// What the log says, the dead included.
    voters: BTreeSet<ReplicaId>,
    learners: BTreeSet<ReplicaId>,
    /// The log positions of voters that are gone.
    dead_logs: BTreeMap<ReplicaId, LogPosition>,
    /// The end of what was ever acknowledged.
    committed: LogPosition,
    /// Who was promoted, and has neither been killed nor drained.
    acting: Option<ReplicaId>,
    leads: bool,
    acknowledged: BTreeSet<ReplicaId>,
    /// What the primary was asked for and has not done.
    changes: VecDeque<Change>,
    /// What all were told last.
    generation: Generation,
    last_promotion: Generation,
    certificate: u32,
    term: u64,
    lost: bool,
    /// Another host says all again.
    again: bool,
    /// The voters that the decision maker was told of last.
    told: BTreeSet<ReplicaId>,
    next_input: u64,
}

impl World {
    fn new(policy: Policy) -> Self {
        let founders = (1..=u64::from(policy.replication_factor)).map(ReplicaId).collect();
        let mut world = Self {
            maker: DecisionMaker::new(policy, ReplicaId(1), Generation(0)),
            real: BTreeMap::new(),
            used: BTreeSet::new(),
            told: BTreeSet::clone(&founders),
            voters: founders,
            learners: BTreeSet::new(),
            dead_logs: BTreeMap::new(),
            committed: LogPosition::default(),
            acting: None,
            leads: false,
            acknowledged: BTreeSet::new(),
            changes: VecDeque::new(),
            generation: Generation(0),
            last_promotion: Generation(0),
            certificate: 0,
            term: 1,
            lost: false,
            again: false,
            next_input: 1,
        };
        world.step(Event::Form);
        world
    }

    fn all_live(&self) -> bool {
        self.maker.policy().ack == AckPolicy::AllLive
    }

    fn lives(&self, id: ReplicaId) -> bool {
        self.real.get(&id).is_some_and(|real| !real.killed)
    }

    fn log_of(&self, id: ReplicaId) -> LogPosition {
        let real = self.real.get(&id).map(|real| real.log);
        real.or_else(|| self.dead_logs.get(&id).copied()).unwrap_or_default()
    }

    /// Those whose acknowledgement the log's primary waits for.
    fn effective(&self) -> Vec<ReplicaId> {
        let counts = |id: &ReplicaId| !self.all_live() || self.lives(*id);
        self.voters.iter().copied().filter(counts).collect()
    }

    /// A majority, or all that live, have this much.
    fn commit(&mut self) {
        let mut logs: Vec<_> = self.effective().into_iter().map(|id| self.log_of(id)).collect();
        logs.sort_unstable();
        let at = if self.all_live() { 0 } else { (logs.len() - 1) / 2 };
        if self.leads
            && let Some(log) = logs.get(at)
        {
            self.committed = self.committed.max(*log);
        }
    }

    fn can_commit(&self) -> bool {
        self.leads && (self.all_live() || self.has_majority(&self.voters))
    }

    fn has_majority(&self, voters: &BTreeSet<ReplicaId>) -> bool {
        let alive = voters.iter().filter(|id| self.lives(**id)).count();
        alive > voters.len() / 2
    }

    fn step(&mut self, event: Event) {
        for decision in self.maker.step(event) {
            self.carry_out(decision);
        }
        let slots: BTreeSet<_> = self.maker.members().map(|(_, slot, _)| slot).collect();
        assert_eq!(slots.len(), self.maker.members().count(), "a slot is shared");
    }

    fn carry_out(&mut self, decision: Decision) {
        match decision {
            Decision::Spawn { id, slot, mode } => {
                assert_ne!(mode, SpawnMode::Recover);
                assert!(self.used.insert(id), "id {id} is used again");
                assert!(self.real.len() < SLOTS, "spawned without a slot");
                assert!(self.real.values().all(|real| real.slot != slot), "slot is taken");
                let founder = matches!(mode, SpawnMode::Bootstrap { .. });
                let log = LogPosition { term: 1, index: u64::from(founder) };
                let real = Real { slot, up: false, killed: false, log, aware: founder };
                self.real.insert(id, real);
            }
            Decision::Kill { id, .. } => {
                let real = self.real.get_mut(&id).expect("kills what there is");
                let killed = std::mem::replace(&mut real.killed, true);
                assert!(!killed || self.again, "{id} is killed twice");
                if self.acting == Some(id) {
                    self.acting = None;
                    self.leads = false;
                    self.changes.clear();
                }
            }
            Decision::Isolate { generation, certificate, fenced } => {
                assert!(certificate >= self.certificate);
                self.certificate = certificate;
                assert!(generation == self.generation || generation == self.generation.next());
                if generation != self.generation {
                    self.acknowledged.clear();
                    self.generation = generation;
                }
                let dead = self.voters.iter().filter(|id| !self.lives(**id));
                for id in dead {
                    assert!(fenced.contains(id), "{id} is dead, and nobody is told");
                }
                assert!(fenced.iter().all(|id| !self.lives(*id)), "{fenced:?} is not dead");
            }
            Decision::Promote { id, generation, .. } => self.promote(id, generation),
            Decision::Drain { id } => assert_eq!(self.acting, Some(id)),
            Decision::AddLearner { primary, id } => {
                self.asked(primary);
                assert!(!self.voters.contains(&id), "{id} would lose its vote");
                self.changes.push_back(Change::Learner(id));
            }
            Decision::AddVoter { primary, id } => {
                self.asked(primary);
                self.changes.push_back(Change::Voter(id));
            }
            Decision::Remove { primary, id } => {
                self.asked(primary);
                assert_ne!(primary, id);
                self.changes.push_back(Change::Remove(id));
            }
            Decision::DeclareLost { why } => {
                let reliable = self.survivors().count();
                match why {
                    Loss::AllReplicas => assert_eq!(reliable, 0),
                    Loss::Majority => assert!(
                        !self.all_live()
                            && (!self.has_majority(&self.told) || !self.has_majority(&self.voters)),
                        "a majority lives"
                    ),
                }
                self.lost = true;
            }
        }
    }

    /// Those that the decision maker counts on.
    fn survivors(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        let voters = self.maker.members().filter(|(_, _, s)| *s == Standing::Voter);
        voters.map(|(id, _, _)| id).filter(|id| self.lives(*id))
    }

    fn asked(&self, primary: ReplicaId) {
        assert_eq!(self.acting, Some(primary));
        assert!(self.leads, "asked before it has told that it leads");
    }

    fn promote(&mut self, id: ReplicaId, generation: Generation) {
        if self.again && (self.acting, self.last_promotion) == (Some(id), generation) {
            return;
        }
        assert_eq!(self.acting, None, "two primaries");
        assert!(self.lives(id));
        if self.all_live() {
            assert!(self.voters.contains(&id));
            assert!(self.real[&id].aware, "a learner is promoted");
        }
        for survivor in self.survivors() {
            assert!(self.acknowledged.contains(&survivor), "{survivor} has not acknowledged");
            assert!(self.log_of(survivor) <= self.log_of(id), "{survivor} has a longer log");
        }
        assert!(generation > self.last_promotion);
        assert_eq!(generation, self.maker.generation());
        assert!(self.log_of(id) >= self.committed, "acknowledged inputs are lost");
        self.last_promotion = generation;
        self.acting = Some(id);
        assert!(self.is_elected(id) || !self.has_majority(&self.voters) || self.is_out(id));
    }

    /// Nobody votes for a shorter log than its own.
    fn is_elected(&self, id: ReplicaId) -> bool {
        let log = self.log_of(id);
        let effective = self.effective();
        let votes = effective.iter().filter(|v| self.lives(**v) && self.log_of(**v) <= log);
        votes.count() > effective.len() / 2
    }

    fn is_out(&self, id: ReplicaId) -> bool {
        !self.voters.contains(&id) && !self.learners.contains(&id)
    }

    fn pick<T>(items: impl Iterator<Item = T>, by: u8) -> Option<T> {
        let mut items: Vec<T> = items.collect();
        let place = usize::from(by).checked_rem(items.len())?;
        Some(items.swap_remove(place))
    }

    fn start(&mut self, by: u8) {
        let waiting = self.real.iter().filter(|(_, r)| !r.up && !r.killed).map(|(&id, _)| id);
        if let Some(id) = Self::pick(waiting, by) {
            self.real.get_mut(&id).expect("picked").up = true;
            self.step(Event::Ready { id });
        }
    }

    fn fail(&mut self, by: u8) {
        let living = self.real.iter().filter(|(_, r)| !r.killed).map(|(&id, _)| id);
        if let Some(id) = Self::pick(living, by) {
            let cause = [Cause::Killed, Cause::Crashed, Cause::Hung][usize::from(by % 3)];
            let leads = self.acting == Some(id) && self.leads;
            let applying = leads.then_some(IntakeNo(self.next_input));
            self.step(Event::Failed { id, cause, applying });
        }
    }

    fn end(&mut self, by: u8) {
        let killed = self.real.iter().filter(|(_, r)| r.killed).map(|(&id, _)| id);
        if let Some(id) = Self::pick(killed, by) {
            let real = self.real.remove(&id).expect("picked");
            self.dead_logs.insert(id, real.log);
            self.step(Event::Gone { id });
        }
    }

    fn acknowledge(&mut self, by: u8) {
        let Phase::Electing { waiting, .. } = self.maker.phase() else { return };
        let waiting: Vec<_> = waiting.iter().copied().filter(|id| self.lives(*id)).collect();
        if let Some(id) = Self::pick(waiting.into_iter(), by) {
            self.acknowledged.insert(id);
            let (generation, log) = (self.maker.generation(), self.log_of(id));
            self.step(Event::Acknowledged { id, generation, log });
        }
    }

    /// Something of the past comes late.
    fn late(&mut self, by: u8) {
        let generation = Generation(self.maker.generation().0.saturating_sub(1));
        let Some(id) = Self::pick(self.real.keys().copied(), by) else { return };
        let log = LogPosition { term: 99, index: 99 };
        self.step(Event::Acknowledged { id, generation, log });
        self.step(Event::Promoted { id, generation });
        self.step(Event::CaughtUp { id: ReplicaId(999) });
    }

    fn lead(&mut self) {
        let Some(id) = self.acting.filter(|_| !self.leads) else { return };
        if self.is_out(id) {
            assert!(!self.all_live());
            self.acting = None;
            self.step(Event::Drained { id });
            return;
        }
        if !self.is_elected(id) {
            assert!(!self.all_live() && !self.has_majority(&self.voters));
            let (voters, learners) = (BTreeSet::new(), BTreeSet::new());
            self.step(Event::Membership { voters, learners, logged: self.voters.clone() });
            assert!(self.lost, "nobody can be elected, and nobody says so");
            return;
        }
        self.leads = true;
        self.term += 1;
        self.write();
        let log = self.log_of(id);
        for other in self.effective() {
            // All that have a vote have what it leads with.
            if let Some(real) = self.real.get_mut(&other).filter(|real| !real.killed) {
                real.log = log;
            }
        }
        self.commit();
        self.step(Event::Promoted { id, generation: self.last_promotion });
        self.tell();
    }

    fn write(&mut self) {
        let Some(id) = self.acting.filter(|_| self.leads) else { return };
        let log = &mut self.real.get_mut(&id).expect("acts").log;
        *log = LogPosition { term: self.term, index: log.index + 1 };
        self.next_input += 1;
        self.commit();
    }

    fn replicate(&mut self, by: u8) {
        let Some(primary) = self.acting.filter(|_| self.leads) else { return };
        let log = self.log_of(primary);
        let members = self.voters.union(&self.learners).copied();
        let behind = members.filter(|id| self.lives(*id) && self.log_of(*id) != log);
        if let Some(id) = Self::pick(behind.collect::<Vec<_>>().into_iter(), by) {
            self.real.get_mut(&id).expect("lives").log = log;
            self.commit();
        }
    }

    /// The primary carries out what it was asked for, but for telling of it.
    fn change(&mut self) {
        if !self.can_commit() {
            return;
        }
        let Some(change) = self.changes.pop_front() else { return };
        match change {
            Change::Learner(id) if self.lives(id) && !self.voters.contains(&id) => {
                self.learners.insert(id);
            }
            Change::Voter(id) if self.lives(id) && self.learners.contains(&id) => {
                let primary = self.acting.expect("leads");
                let log = self.log_of(primary);
                self.real.get_mut(&id).expect("lives").log = log;
                self.learners.remove(&id);
                self.voters.insert(id);
            }
            Change::Remove(id) => {
                self.voters.remove(&id);
                self.learners.remove(&id);
            }
            _ => {}
        }
        self.commit();
    }

    /// The log drops a dead member, and some member hears of its vote.
    fn tidy(&mut self, by: u8) {
        if !self.can_commit() {
            return;
        }
        let members = self.voters.union(&self.learners).copied();
        if let Some(id) = members.filter(|id| !self.lives(*id)).nth(usize::from(by % 2)) {
            self.voters.remove(&id);
            self.learners.remove(&id);
            self.commit();
        }
        let log = self.log_of(self.acting.expect("leads"));
        for id in self.voters.clone() {
            if let Some(real) = self.real.get_mut(&id) {
                real.aware |= real.log == log;
            }
        }
    }

    fn tell(&mut self) {
        if !self.leads {
            return;
        }
        let primary = self.acting.expect("leads");
        let settled = |id: &ReplicaId| {
            *id == primary || (self.real[id].aware && self.log_of(*id) >= self.committed)
        };
        let living = |ids: &BTreeSet<ReplicaId>| -> BTreeSet<ReplicaId> {
            ids.iter().copied().filter(|id| self.lives(*id)).collect()
        };
        let (voters, behind): (BTreeSet<_>, BTreeSet<_>) =
            living(&self.voters).into_iter().partition(settled);
        let learners = living(&self.learners).union(&behind).copied().collect();
        self.told = self.voters.clone();
        self.step(Event::Membership { voters, learners, logged: self.voters.clone() });
    }

    fn catch_up(&mut self, by: u8) {
        if !self.leads {
            return;
        }
        let learners = self.learners.iter().copied().filter(|id| self.lives(*id));
        if let Some(id) = Self::pick(learners.collect::<Vec<_>>().into_iter(), by) {
            self.step(Event::CaughtUp { id });
        }
    }

    fn drain(&mut self) {
        if let Phase::Draining { primary } = *self.maker.phase() {
            let log = self.log_of(primary);
            for id in self.effective() {
                if self.all_live() {
                    self.real.get_mut(&id).expect("lives").log = log;
                }
            }
            self.commit();
            self.acting = None;
            self.leads = false;
            self.changes.clear();
            self.step(Event::Drained { id: primary });
        }
    }

    fn change_host(&mut self) {
        self.again = true;
        self.step(Event::HostChanged);
        self.again = false;
    }

    fn wish(&mut self, by: u8) {
        if let Some(id) = Self::pick(self.real.keys().copied(), by) {
            self.step(Event::OperatorPromote { id });
        }
    }

    fn retire(&mut self, by: u8) {
        if let Some(id) = Self::pick(self.real.keys().copied(), by) {
            self.step(Event::Retire { id });
        }
    }

    fn happen(&mut self, what: u8, by: u8) {
        match what % 33 {
            0..4 => self.start(by),
            4 | 5 => self.fail(by),
            6..8 => self.end(by),
            8..14 => self.acknowledge(by),
            14..17 => self.lead(),
            17..19 => self.write(),
            19..21 => self.replicate(by),
            21..23 => self.change(),
            23 => self.tidy(by),
            24..26 => self.tell(),
            26 => self.catch_up(by),
            27 => self.drain(),
            28 => self.wish(by),
            29 => self.step(Event::OperatorScale { replication_factor: by % 7 + 1 }),
            30 => self.change_host(),
            31 => self.retire(by),
            _ => self.late(by),
        }
    }

    /// No more trouble: what can go on goes on.
    fn settle(&mut self) {
        for round in 0..400_u16 {
            let by = round.to_le_bytes()[0];
            self.start(by);
            self.end(by);
            self.acknowledge(by);
            self.lead();
            self.change();
            self.replicate(by);
            self.tidy(by);
            self.tell();
            self.catch_up(by);
            self.drain();
        }
    }
}

fn holds(events: &[(u8, u8)], policy: Policy) -> bool {
    let rebuild = policy.rebuild;
    let mut world = World::new(policy);
    for &(what, by) in events {
        world.happen(what, by);
    }
    world.settle();
    if world.lost {
        assert!(matches!(world.maker.phase(), Phase::Lost { .. }));
        assert!(world.real.is_empty(), "{:?} outlive the loss", world.real);
        return true;
    }
    assert_eq!(world.maker.primary(), world.acting, "{:?}", world.maker);
    assert!(world.acting.is_some(), "nobody serves: {:?}", world.maker);
    let wanted = usize::from(world.maker.policy().replication_factor);
    let voters = world.survivors().count();
    assert!(voters == wanted || (!rebuild && voters < wanted), "{:?}", world.maker);
    assert_eq!(world.real.len(), voters, "some are neither here nor there: {:?}", world.real);
    true
}

fn check(property: fn(Vec<(u8, u8)>, u8) -> bool) {
    for size in [60, 400] {
        QuickCheck::new()
            .rng(Gen::new(size))
            .tests(1500)
            .quickcheck(property as fn(Vec<(u8, u8)>, u8) -> bool);
    }
}

#[test]
fn all_live_holds_and_recovers() {
    check(|events, form| {
        let policy =
            Policy { ack: AckPolicy::AllLive, rebuild: true, replication_factor: form % 5 + 1 };
        holds(&events, policy)
    });
}

#[test]
fn quorum_holds_and_recovers() {
    check(|events, form| {
        let policy =
            Policy { ack: AckPolicy::Quorum, rebuild: true, replication_factor: form % 5 + 1 };
        holds(&events, policy)
    });
}

#[test]
fn without_rebuild_it_holds_too() {
    check(|events, form| {
        let policy =
            Policy { ack: AckPolicy::AllLive, rebuild: false, replication_factor: form % 7 + 1 };
        holds(&events, policy)
    });
}
