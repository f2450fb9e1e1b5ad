//! Who belongs to the group: as the log says, and as the host certifies.

use std::collections::{BTreeMap, BTreeSet};

use prost_raft::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use teeth::Bug;

use crate::{AckPolicy, FenceEpoch, PeerId};

/// The members of a group as its log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those whose acknowledgement counts, ascending.
    pub voters: Vec<PeerId>,
    /// Those that receive the log without counting, ascending.
    pub learners: Vec<PeerId>,
}

impl Members {
    /// Whether `id` is a voter or a learner.
    #[must_use]
    pub fn contains(&self, id: PeerId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether the members are known at all; a joining peer does not know them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty() && self.learners.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Whether a raft tracker can be built from this.
    pub(crate) fn is_sound(&self) -> bool {
        let distinct: BTreeSet<_> = self.iter().collect();
        !self.voters.is_empty()
            && distinct.len() == self.voters.len() + self.learners.len()
            && !distinct.contains(&PeerId(0))
    }

    pub(crate) fn to_conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.iter().map(|id| id.0).collect(),
            learners: self.learners.iter().map(|id| id.0).collect(),
            ..ConfState::default()
        }
    }

    /// `None` when `state` is in the middle of a joint change, which this crate
    /// never makes, or makes no sense.
    pub(crate) fn from_conf_state(state: &ConfState) -> Option<Self> {
        let plain =
            state.voters_outgoing.is_empty() && state.learners_next.is_empty() && !state.auto_leave;
        let sorted = |ids: &[u64]| {
            let mut ids: Vec<_> = ids.iter().copied().map(PeerId).collect();
            ids.sort_unstable();
            ids
        };
        let members = Self { voters: sorted(&state.voters), learners: sorted(&state.learners) };
        (plain && members.is_sound()).then_some(members)
    }

    fn take(&mut self, id: PeerId) {
        self.voters.retain(|&other| other != id);
        self.learners.retain(|&other| other != id);
    }

    fn put(ids: &mut Vec<PeerId>, id: PeerId) {
        if let Err(place) = ids.binary_search(&id) {
            ids.insert(place, id);
        }
    }
}

/// One step of a logged change of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Voter(PeerId),
    Learner(PeerId),
    Remove(PeerId),
}

impl Step {
    /// Whom it is about.
    pub(crate) fn peer(self) -> PeerId {
        match self {
            Self::Voter(id) | Self::Learner(id) | Self::Remove(id) => id,
        }
    }

    pub(crate) fn to_raft(self) -> ConfChangeV2 {
        let (id, kind) = match self {
            Self::Voter(id) => (id, ConfChangeType::AddNode),
            Self::Learner(id) => (id, ConfChangeType::AddLearnerNode),
            Self::Remove(id) => (id, ConfChangeType::RemoveNode),
        };
        let single = ConfChangeSingle { node_id: id.0, change_type: kind as i32 };
        ConfChangeV2 { changes: vec![single], ..ConfChangeV2::default() }
    }
}

/// The steps a log entry holds; bytes that are none count as no step, on every
/// peer alike.
pub(crate) fn steps_of(data: &[u8]) -> Vec<Step> {
    let change = ConfChangeV2::decode(data).unwrap_or_default();
    let step = |single: &ConfChangeSingle| {
        let id = PeerId(single.node_id);
        match ConfChangeType::from_i32(single.change_type)? {
            _ if id.0 == 0 => None,
            ConfChangeType::AddNode => Some(Step::Voter(id)),
            ConfChangeType::AddLearnerNode => Some(Step::Learner(id)),
            ConfChangeType::RemoveNode => Some(Step::Remove(id)),
        }
    };
    change.changes.iter().filter_map(step).collect()
}

/// The entry that founds a group.
pub(crate) fn founding_entry_data(voters: &[PeerId]) -> Vec<u8> {
    let changes = voters.iter().map(|&id| Step::Voter(id).to_raft().changes[0].clone()).collect();
    ConfChangeV2 { changes, ..ConfChangeV2::default() }.encode_to_vec()
}

/// The membership a peer acts on.
///
/// *Logged* members are those of the latest applied change. *Effective* members
/// are, under [`AckPolicy::AllLive`], the logged ones without those that the
/// host certified dead; under [`AckPolicy::Quorum`] the logged ones.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    policy: AckPolicy,
    logged: Members,
    /// Index of the entry, or of the snapshot, that `logged` stems from.
    changed_at: u64,
    /// Where each voter became one, as far as this peer knows.
    voter_since: BTreeMap<PeerId, u64>,
    /// Earlier logged members by the index from which they held.
    history: Vec<(u64, Members)>,
    fenced: BTreeSet<PeerId>,
    epoch: FenceEpoch,
}

impl Membership {
    pub(crate) fn new(
        policy: AckPolicy,
        logged: Members,
        changed_at: u64,
        fenced: BTreeSet<PeerId>,
        epoch: FenceEpoch,
    ) -> Self {
        let mut membership = Self {
            policy,
            logged: Members::default(),
            changed_at: 0,
            voter_since: BTreeMap::new(),
            history: Vec::new(),
            fenced,
            epoch,
        };
        membership.replace(logged, changed_at);
        membership
    }

    pub(crate) fn logged(&self) -> &Members {
        &self.logged
    }

    pub(crate) fn changed_at(&self) -> u64 {
        self.changed_at
    }

    pub(crate) fn epoch(&self) -> FenceEpoch {
        self.epoch
    }

    pub(crate) fn fenced(&self) -> &BTreeSet<PeerId> {
        &self.fenced
    }

    pub(crate) fn voter_since(&self, id: PeerId) -> Option<u64> {
        self.voter_since.get(&id).copied()
    }

    /// The members whose votes and acknowledgements are waited for. Should all
    /// voters be dead, the logged ones: then nothing can be decided any more,
    /// which is as it must be.
    pub(crate) fn effective(&self) -> Members {
        let alive = |ids: &[PeerId]| -> Vec<PeerId> {
            let awaited =
                |id: &PeerId| !self.fenced.contains(id) || teeth::bites(Bug::DeadVoterAwaited);
            ids.iter().copied().filter(awaited).collect()
        };
        let voters = alive(&self.logged.voters);
        if self.policy == AckPolicy::Quorum || voters.is_empty() {
            return self.logged.clone();
        }
        Members { voters, learners: alive(&self.logged.learners) }
    }

    /// How many voters are not certified dead.
    pub(crate) fn live_voters(&self) -> usize {
        self.logged.voters.iter().filter(|id| !self.fenced.contains(id)).count()
    }

    /// Members that are dead but not yet removed by the log.
    pub(crate) fn dead(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.logged.iter().filter(|id| self.fenced.contains(id))
    }

    /// The logged members as of `index`, if still known.
    pub(crate) fn at(&self, index: u64) -> Option<&Members> {
        if index >= self.changed_at {
            return Some(&self.logged);
        }
        self.history.iter().rev().find(|(since, _)| *since <= index).map(|(_, members)| members)
    }

    /// Forgets what held only before `index`.
    pub(crate) fn forget_before(&mut self, index: u64) {
        let keep = self.history.iter().rposition(|(since, _)| *since <= index).unwrap_or(0);
        self.history.drain(..keep);
    }

    /// Takes over the members of a snapshot.
    pub(crate) fn replace(&mut self, logged: Members, index: u64) {
        self.voter_since = logged.voters.iter().map(|&id| (id, index)).collect();
        self.history.clear();
        self.logged = logged;
        self.changed_at = index;
    }

    /// Applies the logged change at `index`; repeating one is harmless. A change
    /// that would leave no voter is void.
    pub(crate) fn apply(&mut self, index: u64, steps: &[Step]) {
        if index <= self.changed_at {
            return;
        }
        let mut next = self.logged.clone();
        for &step in steps {
            match step {
                Step::Voter(id) => {
                    next.take(id);
                    Members::put(&mut next.voters, id);
                }
                Step::Learner(id) => {
                    next.take(id);
                    Members::put(&mut next.learners, id);
                }
                Step::Remove(id) => next.take(id),
            }
        }
        if next.voters.is_empty() || next == self.logged {
            return;
        }
        let before = std::mem::replace(&mut self.logged, next);
        self.history.push((self.changed_at, before));
        self.changed_at = index;
        let voters = &self.logged.voters;
        self.voter_since.retain(|id, _| voters.contains(id));
        for &id in voters {
            self.voter_since.entry(id).or_insert(index);
        }
        // A removed id is never added again, so its death need not be remembered.
        let logged = &self.logged;
        let removed = |id: &PeerId| steps.contains(&Step::Remove(*id)) && !logged.contains(*id);
        self.fenced.retain(|id| !removed(id));
    }

    /// Takes over a certificate of deaths.
    pub(crate) fn fence(&mut self, epoch: FenceEpoch, dead: &[PeerId]) {
        if !teeth::bites(Bug::CertificateNotInTerm) {
            self.epoch = epoch;
        }
        self.fenced.extend(dead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);
    const C: PeerId = PeerId(3);

    fn group(policy: AckPolicy) -> Membership {
        let members = Members { voters: vec![A, B], learners: vec![] };
        Membership::new(policy, members, 1, BTreeSet::new(), FenceEpoch(0))
    }

    #[test]
    fn members_are_known_as_of_earlier_entries() {
        let mut membership = group(AckPolicy::AllLive);
        membership.apply(5, &[Step::Learner(C)]);
        membership.apply(8, &[Step::Voter(C)]);
        membership.apply(8, &[Step::Remove(A)]);
        let learners = |index| membership.at(index).map(|members| members.learners.len());
        assert_eq!((learners(0), learners(1), learners(4)), (None, Some(0), Some(0)));
        assert_eq!((learners(5), learners(7), learners(8)), (Some(1), Some(1), Some(0)));
        assert_eq!(membership.logged().voters, [A, B, C], "an entry is applied once");
        assert_eq!(membership.voter_since(C), Some(8));
        assert_eq!(membership.voter_since(A), Some(1));
        let mut later = membership.clone();
        later.forget_before(6);
        assert_eq!(later.at(4), None);
        assert_eq!(later.at(6), membership.at(6));
    }

    #[test]
    fn a_change_that_leaves_no_voter_is_void() {
        let mut membership = group(AckPolicy::AllLive);
        membership.apply(5, &[Step::Remove(A), Step::Learner(B)]);
        assert_eq!(membership.logged().voters, [A, B]);
    }

    #[test]
    fn the_dead_do_not_count_until_they_are_removed_and_forgotten() {
        let mut membership = group(AckPolicy::AllLive);
        membership.fence(FenceEpoch(1), &[B, C]);
        assert_eq!(membership.effective().voters, [A]);
        assert!(membership.dead().eq([B]));
        membership.apply(5, &[Step::Learner(C)]);
        assert!(membership.effective().learners.is_empty(), "certified before it was added");
        membership.apply(6, &[Step::Remove(B), Step::Remove(C)]);
        assert!(membership.fenced().is_empty());
        assert_eq!(membership.live_voters(), 1);
    }

    #[test]
    fn a_quorum_counts_the_dead() {
        let mut membership = group(AckPolicy::Quorum);
        membership.fence(FenceEpoch(1), &[B]);
        assert_eq!(membership.effective().voters, [A, B]);
    }

    #[test]
    fn bytes_that_are_no_change_change_nothing() {
        assert!(steps_of(b"\xff\xff\xff").is_empty());
        assert!(steps_of(b"").is_empty());
        assert_eq!(steps_of(&founding_entry_data(&[A, C])), [Step::Voter(A), Step::Voter(C)]);
    }
}
