//! Certified deaths: how the survivors go on without a majority.
//!
//! The host knows for certain who is dead. It numbers its certificates
//! ([`FenceEpoch`]) and gives each survivor the same growing list. Under
//! [`AckPolicy::AllLive`] a survivor takes the dead out of its effective members
//! at once, so that the survivors can elect and commit even if they are a
//! minority of the logged voters. What keeps that safe:
//!
//! 1. *Committed means everybody effective has it.* So each survivor of any
//!    deaths has every committed entry, whoever of them is elected.
//! 2. *One leader a term.* Majorities before and after a certificate need not
//!    intersect, so they must never elect in the same term: the upper half of a
//!    term is the epoch of its election. A peer that knows certificate E stands
//!    only in terms of E, votes in no term of an earlier epoch, gives up a
//!    candidacy begun before E, and ignores messages of later epochs than its
//!    own. Within an epoch all voters have the same list, and plain raft holds.
//! 3. *A living leader stays.* It goes on in its term of the earlier epoch, with
//!    the smaller effective membership: by 2 nobody else is elected in its term,
//!    and by 1 whoever is elected later has all it commits.
//! 4. *The dead stay dead.* Their messages are dropped, and their ids are never
//!    given out again. The list is stored before any message built on it leaves.
//!
//! Moments of death and what happens then:
//!
//! - *Survivors have logs of different lengths*: what only some have was not
//!   committed; votes go to the longest log, and its leader brings the others up.
//! - *The leader dies with a change of members in flight*: if a survivor with
//!   the entry is elected, the change is carried out, else it never happened. A
//!   learner whose promotion is in flight has no say yet, but may be elected (a
//!   voter votes for it only if it has all that the voter has).
//! - *All voters die while a learner's promotion is in flight*: the learner
//!   cannot know what it lacks. It refuses to stand for election
//!   ([`crate::CampaignError::NoVoterLeft`]) unless it knows that its promotion
//!   was committed ([`crate::PeerStatus::is_settled`] is the leader's view of
//!   that).
//! - *The subject of a change dies before the change is applied*: the change is
//!   applied, the effective members stay without the subject, and the leader logs
//!   its removal.
//! - *A snapshot names a dead member*: snapshots bear the logged members; the
//!   list is applied on top, and the leader logs the removal.
//! - *All die and recover from disk*: list and epoch come back with the log; the
//!   certified dead are not started again.

use raft::StateRole;
use raft::eraftpb::ConfChangeV2;
use teeth::Bug;

use super::Peer;
use crate::members::Step;
use crate::{AckPolicy, FenceEpoch, PeerId};

/// Why a certificate is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// The list names this peer.
    #[error("a peer cannot be told of its own death")]
    Itself,
    /// The certificate is older than one that this peer knows, or has the number
    /// of one that said less.
    #[error("certificate {given} does not follow certificate {known}")]
    OldEpoch {
        /// Its number.
        given: FenceEpoch,
        /// The latest number known here.
        known: FenceEpoch,
    },
    /// Under [`AckPolicy::Quorum`] a majority of the logged voters must live; as
    /// far as this peer knows, that is not so any more, and nothing will be
    /// decided. The certificate is taken in all the same.
    #[error("only {alive} of {voters} voters are left, and the policy wants a majority")]
    QuorumLost {
        /// Voters that are not certified dead.
        alive: usize,
        /// Voters as the log says.
        voters: usize,
    },
}

impl Peer {
    /// Takes in the host's certificate `epoch`: `dead` are all ids ever
    /// certified dead that may still be members anywhere, those of earlier
    /// certificates included. It holds at once; it is on disk after the next
    /// [`Self::poll`], which is when the host may be told so.
    ///
    /// # Errors
    /// Any [`FenceError`]; nothing has changed then, except as said there.
    pub fn fence(&mut self, epoch: FenceEpoch, dead: &[PeerId]) -> Result<(), FenceError> {
        if dead.contains(&self.config.id) {
            return Err(FenceError::Itself);
        }
        let known = self.membership.epoch();
        // Those that the log has removed since are forgotten, and no news.
        let is_news = dead.iter().any(|&id| {
            !self.membership.fenced().contains(&id) && self.membership.logged().contains(id)
        });
        if epoch < known || (epoch == known && is_news) {
            return Err(FenceError::OldEpoch { given: epoch, known });
        }

        self.membership.fence(epoch, dead);
        self.members_unsaved = true;
        let raft = &self.raw.raft;
        let is_candidate = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
        if is_candidate || self.membership.fenced().contains(&PeerId(raft.leader_id)) {
            let term = raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        self.follow_membership();

        if self.misses_quorum() {
            let voters = self.membership.logged().voters.len();
            return Err(FenceError::QuorumLost { alive: self.membership.live_voters(), voters });
        }
        Ok(())
    }

    /// Makes raft's members the effective ones.
    pub(super) fn follow_membership(&mut self) {
        let mut target = self.membership.effective();
        for (_, id) in &self.early_voters {
            if let Some(place) = target.learners.iter().position(|learner| learner == id) {
                target.voters.push(target.learners.remove(place));
            }
        }
        if target.voters.is_empty() {
            return;
        }
        let me = self.config.id;
        if self.is_leader() && !target.contains(me) {
            // Raft's leader must be a member.
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        let conf = self.raw.raft.prs().conf();
        let is_voter = |id: PeerId| conf.voters().contains(id.0);
        let is_learner = |id: PeerId| conf.learners().contains(&id.0);
        let mut steps = Vec::new();
        // Additions come first, so that no step leaves the group without voters.
        steps.extend(target.voters.iter().filter(|&&id| !is_voter(id)).map(|&id| Step::Voter(id)));
        steps.extend(
            target.learners.iter().filter(|&&id| !is_learner(id)).map(|&id| Step::Learner(id)),
        );
        let present = self.raw.raft.prs().iter().map(|(id, _)| PeerId(*id));
        steps.extend(present.filter(|&id| !target.contains(id)).map(Step::Remove));
        for step in steps {
            let applied = self.raw.apply_conf_change(&step.to_raft());
            debug_assert!(applied.is_ok(), "raft refuses {step:?}: {applied:?}");
        }
    }

    /// As leader, logs the removal of the dead. Returns whether it did.
    pub(super) fn propose_removals(&mut self) -> bool {
        if !self.is_leader()
            || self.raw.raft.has_pending_conf()
            || self.membership.live_voters() == 0
            || teeth::bites(Bug::DeadNeverRemoved)
        {
            return false;
        }
        let dead = self.membership.dead().map(|id| Step::Remove(id).to_raft());
        let change = match self.config.ack {
            // The effective members stay the same, so all can go in one step.
            AckPolicy::AllLive => {
                let changes = dead.flat_map(|change| change.changes).collect();
                ConfChangeV2 { changes, ..ConfChangeV2::default() }
            }
            // Here each removal changes the majority.
            AckPolicy::Quorum => dead.into_iter().next().unwrap_or_default(),
        };
        !change.changes.is_empty() && self.raw.propose_conf_change(Vec::new(), change).is_ok()
    }
}
