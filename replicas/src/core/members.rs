//! Who the members are: changes proposed, and what the host is told of them.

use consensus::{Change, ChangeError, LogIndex, PeerId};
use teeth::Bug;

use super::{Link, Replica, Role};
use crate::executor::Execute;
use crate::protocol::{FromReplica, peer_id, replica_id};

/// A learner this close to the end of the log counts as caught up.
const CAUGHT_UP_ENTRIES: u64 = 32;

impl<X: Execute> Replica<X> {
    /// Tells the host about membership and learners, as primary.
    pub(super) fn tell_host(&mut self, link: &mut dyn Link) {
        if !self.leads() {
            return;
        }
        if self.membership_changed {
            // The host counts on what it is told to hold at whoever survives.
            if self.peer.members_are_known() {
                self.tell_membership(link);
            } else {
                // Several changes may come to what was told before: that is news.
                self.membership_told = None;
            }
        }
        if self.learners_behind.is_empty() {
            return;
        }
        let (LogIndex(end), _) = self.peer.log_end();
        let close: Vec<_> = self
            .learners_behind
            .iter()
            .copied()
            .filter(|id| {
                self.peer.progress(peer_id(*id)).is_some_and(|status| {
                    status.matched.0 > 0 && status.matched.0 + CAUGHT_UP_ENTRIES >= end
                })
            })
            .collect();
        for id in close {
            self.learners_behind.remove(&id);
            self.say(&FromReplica::CaughtUp(id), link);
        }
    }

    /// Tells who the members are, until all that have a vote are settled: only
    /// such a replica can carry on when all others die.
    fn tell_membership(&mut self, link: &mut dyn Link) {
        let status = self.peer.status();
        let is_settled = |id: PeerId| {
            id == status.id
                || teeth::bites(Bug::VoterToldUnsettled)
                || status.peers.iter().any(|peer| peer.id == id && peer.is_settled)
        };
        let (voters, behind): (Vec<PeerId>, Vec<PeerId>) =
            status.effective.voters.iter().partition(|id| is_settled(**id));
        self.membership_changed = !(behind.is_empty() || teeth::bites(Bug::RebuildUntold));
        let learners = status.effective.learners.iter().chain(&behind).copied();
        let message = FromReplica::Membership {
            voters: voters.into_iter().map(replica_id).collect(),
            learners: learners.map(replica_id).collect(),
            logged: status.members.voters.iter().copied().map(replica_id).collect(),
        };
        self.say_membership(message, link);
    }

    pub(super) fn say_membership(&mut self, message: FromReplica, link: &mut dyn Link) {
        if self.membership_told.as_ref() != Some(&message) {
            self.say(&message, link);
            self.membership_told = Some(message);
        }
    }

    /// Proposes the next membership change; one at a time, in order. What is
    /// refused because another is under way is asked again in a later turn.
    pub(super) fn request_change(&mut self) {
        if self.role != Role::Primary || self.change_under_way.is_some() {
            return;
        }
        let Some(&change) = self.changes.front() else { return };
        let changed = match change {
            // Consensus would take its vote.
            Change::AddLearner(id) if self.peer.progress(id).is_some_and(|peer| peer.is_voter) => {
                Err(ChangeError::WrongRole(id))
            }
            change => self.peer.change(change),
        };
        match changed {
            Ok(index) => {
                self.changes.pop_front();
                self.change_under_way = Some(index);
            }
            Err(ChangeError::Behind { matched, last }) if matched == last => {
                // It comes from a snapshot, and raft goes on probing until there
                // is something to send.
                let _ = self.peer.propose(Vec::new());
            }
            Err(ChangeError::InFlight | ChangeError::Behind { .. }) => {}
            // It was done before; the host only needs to be told.
            Err(ChangeError::WrongRole(_)) => {
                self.changes.pop_front();
                self.membership_told = None;
                self.membership_changed = true;
            }
            Err(error) => {
                tracing::warn!(%error, "a membership change was refused");
                self.changes.pop_front();
                self.membership_changed = true;
            }
        }
    }
}
