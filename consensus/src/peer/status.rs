//! What a peer tells about itself.

use raft::StateRole;
use teeth::Bug;

use super::Peer;
use crate::{AckPolicy, FenceEpoch, LogIndex, Members, PeerId, Term};

/// What a peer is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Stands for election.
    Candidate,
    /// A voter that follows.
    Follower,
    /// Follows without counting.
    Learner,
    /// Not a member: has not heard of the group yet, or was removed.
    Outsider,
}

/// What a leader knows about another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The member.
    pub id: PeerId,
    /// Whether its acknowledgement counts.
    pub is_voter: bool,
    /// It has the log up to here.
    pub matched: LogIndex,
    /// It knows the log to be committed up to here.
    pub committed: LogIndex,
    /// It is a voter, knows that it is, and has every committed entry. Only such
    /// a member can carry on when all others die, so only such members count as
    /// replicas that may be lost or relied upon.
    pub is_settled: bool,
    /// A snapshot is on its way to it.
    pub awaits_snapshot: bool,
}

/// A peer's view of itself and its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This peer.
    pub id: PeerId,
    /// What it is.
    pub role: Role,
    /// The current term.
    pub term: Term,
    /// Who leads this term, if known.
    pub leader: Option<PeerId>,
    /// First entry in the log.
    pub first_index: LogIndex,
    /// Last entry in the log.
    pub last_index: LogIndex,
    /// Term of the last entry.
    pub last_term: Term,
    /// Known to be committed up to here.
    pub commit: LogIndex,
    /// Applied by the caller up to here.
    pub applied: LogIndex,
    /// Bytes of memory that the log takes.
    pub log_bytes: usize,
    /// The members as the log says, up to the last applied change.
    pub members: Members,
    /// The members this peer waits for: `members` without the certified dead
    /// under [`crate::AckPolicy::AllLive`].
    pub effective: Members,
    /// Certified dead and not yet removed by the log.
    pub fenced: Vec<PeerId>,
    /// The latest certificate of deaths.
    pub epoch: FenceEpoch,
    /// What the leader knows about the other members; empty elsewhere.
    pub peers: Vec<PeerStatus>,
}

impl Peer {
    /// This peer's view of itself and its group.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        Status {
            id: self.config.id,
            role: self.current_role(),
            term: Term(raft.term),
            leader: (raft.leader_id != raft::INVALID_ID).then_some(PeerId(raft.leader_id)),
            first_index: LogIndex(log.first_index()),
            last_index: LogIndex(log.last_index()),
            last_term: Term(log.last_term()),
            commit: LogIndex(log.committed),
            applied: LogIndex(self.applied),
            log_bytes: self.log().bytes(),
            members: self.membership.logged().clone(),
            effective: self.membership.effective(),
            fenced: self.membership.fenced().iter().copied().collect(),
            epoch: self.membership.epoch(),
            peers: self.peer_statuses(),
        }
    }

    /// The last entry in the log, and its term. The longest log of several is
    /// that of the latest term, and among those the one with the highest index.
    #[must_use]
    pub fn log_end(&self) -> (LogIndex, Term) {
        let log = &self.raw.raft.raft_log;
        (LogIndex(log.last_index()), Term(log.last_term()))
    }

    /// Entries in the log.
    #[must_use]
    pub fn log_len(&self) -> u64 {
        let log = &self.raw.raft.raft_log;
        log.last_index() + 1 - log.first_index()
    }

    /// What this peer is at the moment.
    #[must_use]
    pub fn role(&self) -> Role {
        self.current_role()
    }

    /// What the leader knows about `id`; `None` on other peers, and for those
    /// that are no members.
    #[must_use]
    pub fn progress(&self, id: PeerId) -> Option<PeerStatus> {
        let progress = self.is_leader().then(|| self.raw.raft.prs().get(id.0)).flatten()?;
        let commit = self.raw.raft.raft_log.committed;
        let effective = self.membership.effective();
        let is_voter = effective.voters.contains(&id);
        let knows = |since| progress.committed_index >= since;
        Some(PeerStatus {
            id,
            is_voter,
            matched: LogIndex(progress.matched),
            committed: LogIndex(progress.committed_index),
            is_settled: is_voter
                && progress.matched >= commit
                && self.membership.voter_since(id).is_some_and(knows),
            awaits_snapshot: progress.state == raft::ProgressState::Snapshot,
        })
    }

    /// As leader, whether the members are known as they are wherever it matters.
    ///
    /// Under [`AckPolicy::Quorum`] that is at all voters that are not certified
    /// dead: each stands for election, and takes over, under the members that it
    /// knows, and majorities of others may be dead. Under
    /// [`AckPolicy::AllLive`] it matters nowhere, for the certificates alone say
    /// whose vote counts.
    #[must_use]
    pub fn members_are_known(&self) -> bool {
        let since = self.membership.changed_at();
        let knows = |id: PeerId| {
            let progress = self.raw.raft.prs().get(id.0);
            progress.is_some_and(|progress| progress.committed_index >= since)
        };
        let voters = &self.membership.logged().voters;
        let mut others = voters
            .iter()
            .copied()
            .filter(|&id| id != self.config.id && !self.membership.fenced().contains(&id));
        self.config.ack == AckPolicy::AllLive
            || teeth::bites(Bug::MembershipToldEarly)
            || (self.is_leader() && others.all(knows))
    }

    /// Whether the policy wants a majority of the voters, and so many of those
    /// that this peer knows are certified dead that none is left.
    #[must_use]
    pub fn misses_quorum(&self) -> bool {
        let voters = self.membership.logged().voters.len();
        self.config.ack == AckPolicy::Quorum
            && voters > 0
            && self.membership.live_voters() < raft::majority(voters)
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let others = self.membership.logged().iter().filter(|&id| id != self.config.id);
        others.filter_map(|id| self.progress(id)).collect()
    }

    pub(super) fn current_role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => {
                let members = self.membership.logged();
                if members.voters.contains(&self.config.id) {
                    Role::Follower
                } else if members.learners.contains(&self.config.id) {
                    Role::Learner
                } else {
                    Role::Outsider
                }
            }
        }
    }
}
