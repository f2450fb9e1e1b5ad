//! What a leader is asked for: proposals, and changes of members.
//!
//! Proposals wait in the peer until the next poll, so that those made in between
//! share one append message.
//!
//! Raft's members change when the entry that says so is applied. Under
//! [`AckPolicy::AllLive`] that is too late for a promotion: what follows its
//! entry could be committed by the old voters alone, and be lost if only the new
//! one survives. So a leader waits for the new voter's acknowledgement from the
//! moment it has the promotion in its log, be it its own or inherited.

use raft::eraftpb::{Entry, Message, MessageType};

use super::Peer;
use crate::members::{Step, steps_of};
use crate::{AckPolicy, LogIndex, PeerId};

/// Entries that may be uncommitted.
const MAX_UNCOMMITTED_ENTRIES: u64 = 1 << 16;

/// Entries that a learner may lack when it is promoted: they are sent while
/// proposals wait.
const MAX_PROMOTION_LAG: u64 = 1 << 10;

/// Why a proposal is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another peer leads.
    #[error("not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<PeerId>,
    },
    /// Too much is uncommitted; try again when some of it is committed.
    #[error("too much is uncommitted")]
    Full,
    /// It does not fit into a message.
    #[error("{len} bytes proposed, but a message takes only {limit}")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The bound in bytes.
        limit: usize,
    },
}

/// A change of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Begin to send the log to a new member, or demote a voter.
    AddLearner(PeerId),
    /// Have a learner count.
    PromoteToVoter(PeerId),
    /// Stop to send the log to a member.
    Remove(PeerId),
}

/// Why a change of members is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another peer leads.
    #[error("not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<PeerId>,
    },
    /// Another change is not applied yet; try again when it is.
    #[error("another change of members is in flight")]
    InFlight,
    /// The member was certified dead.
    #[error("{0} was certified dead")]
    Fenced(PeerId),
    /// Only a learner can be promoted, and only members removed.
    #[error("{0} is not in the role that the change begins with")]
    WrongRole(PeerId),
    /// The learner lacks too much; try again when it has caught up.
    #[error("the learner has {matched} of {last} entries")]
    Behind {
        /// What it has.
        matched: LogIndex,
        /// What the leader has.
        last: LogIndex,
    },
    /// A leader removes or demotes everyone but itself.
    #[error("a leader cannot take itself out")]
    Itself,
}

impl Peer {
    /// Has `data` replicated. It is sent at the next [`Self::poll`], together
    /// with what else was proposed until then, and is lost (its index then goes
    /// to another entry) if this peer ceases to lead before it is committed.
    ///
    /// # Errors
    /// Any [`ProposeError`]; nothing has changed then.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<LogIndex, ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        let limit = self.config.max_proposal_bytes();
        if data.len() > limit {
            return Err(ProposeError::TooLarge { len: data.len(), limit });
        }
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index() + self.pending.len() as u64;
        let bytes = raft.uncommitted_size() + self.pending_bytes + data.len();
        if bytes > self.config.max_uncommitted_bytes
            || last - raft.raft_log.committed >= MAX_UNCOMMITTED_ENTRIES
        {
            return Err(ProposeError::Full);
        }
        self.pending_bytes += data.len();
        self.pending.push(Entry { data, ..Entry::default() });
        Ok(LogIndex(last + 1))
    }

    /// Changes the members. The change holds once its entry is committed, which
    /// [`crate::Actions::committed`] shows. From the moment that a voter's removal
    /// or demotion is asked for, it no longer counts as a survivor: others may
    /// commit without it.
    ///
    /// # Errors
    /// Any [`ChangeError`]; nothing has changed then.
    pub fn change(&mut self, change: Change) -> Result<LogIndex, ChangeError> {
        if !self.is_leader() {
            return Err(ChangeError::NotLeader { leader: self.leader() });
        }
        let step = self.step_for(change)?;
        if self.raw.raft.has_pending_conf() {
            return Err(ChangeError::InFlight);
        }
        self.flush_proposals();
        self.raw
            .propose_conf_change(Vec::new(), step.to_raft())
            .map_err(|_| ChangeError::InFlight)?;
        let index = self.raw.raft.raft_log.last_index();
        if let (Step::Voter(id), AckPolicy::AllLive) = (step, self.config.ack) {
            self.early_voters.push((index, id));
            self.follow_membership();
        }
        Ok(LogIndex(index))
    }

    fn step_for(&self, change: Change) -> Result<Step, ChangeError> {
        let (Change::AddLearner(id) | Change::PromoteToVoter(id) | Change::Remove(id)) = change;
        let members = self.membership.logged();
        if self.membership.fenced().contains(&id) {
            return Err(ChangeError::Fenced(id));
        }
        match change {
            Change::AddLearner(_) | Change::Remove(_) if id == self.config.id => {
                Err(ChangeError::Itself)
            }
            Change::AddLearner(_) if id.0 != 0 && !members.learners.contains(&id) => {
                Ok(Step::Learner(id))
            }
            Change::Remove(_) if members.contains(id) => Ok(Step::Remove(id)),
            Change::PromoteToVoter(_) if members.learners.contains(&id) => {
                let last = self.raw.raft.raft_log.last_index();
                let progress = self.raw.raft.prs().get(id.0);
                let matched = progress.map_or(0, |progress| progress.matched);
                let is_in_step = progress.is_some_and(|progress| {
                    progress.state == raft::ProgressState::Replicate
                        && matched + MAX_PROMOTION_LAG >= last
                });
                if !is_in_step {
                    return Err(ChangeError::Behind {
                        matched: LogIndex(matched),
                        last: LogIndex(last),
                    });
                }
                Ok(Step::Voter(id))
            }
            _ => Err(ChangeError::WrongRole(id)),
        }
    }

    fn leader(&self) -> Option<PeerId> {
        let id = self.raw.raft.leader_id;
        (id != raft::INVALID_ID).then_some(PeerId(id))
    }

    /// To be called after whatever may begin or end this peer's lead.
    pub(super) fn notice_lead(&mut self) {
        let led_term = if self.is_leader() { self.raw.raft.term } else { 0 };
        if self.led_term == led_term {
            return;
        }
        self.led_term = led_term;
        self.pending.clear();
        self.pending_bytes = 0;
        self.early_voters.clear();
        if self.is_leader() && self.config.ack == AckPolicy::AllLive {
            let changes = self.log().after(self.handed_out).filter(|entry| entry.entry_type != 0);
            let promoted = changes.flat_map(|entry| {
                steps_of(&entry.data).into_iter().filter_map(|step| match step {
                    Step::Voter(id) => Some((entry.index, id)),
                    Step::Learner(_) | Step::Remove(_) => None,
                })
            });
            self.early_voters = promoted.collect();
        }
        self.follow_membership();
    }

    /// Hands the waiting proposals to raft. Returns whether it did.
    pub(super) fn flush_proposals(&mut self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let bytes = std::mem::take(&mut self.pending_bytes);
        let message = Message {
            msg_type: MessageType::MsgPropose as i32,
            from: self.config.id.0,
            entries: std::mem::take(&mut self.pending),
            ..Message::default()
        };
        let is_large = bytes > self.config.max_message_bytes / 2;
        // Nobody transfers leadership, and the limits were checked: raft takes it.
        let taken = self.raw.raft.step(message).is_ok();
        debug_assert!(taken, "raft drops a proposal");
        if is_large {
            self.send_rest();
        }
        true
    }

    /// Raft answers a proposal with one message to each follower; what does not
    /// fit into that need not wait for its acknowledgement.
    fn send_rest(&mut self) {
        let last = self.raw.raft.raft_log.last_index();
        let others: Vec<u64> = self.raw.raft.prs().iter().map(|(id, _)| *id).collect();
        for id in others.into_iter().filter(|&id| id != self.config.id.0) {
            let next = |peer: &Self| {
                let progress = peer.raw.raft.prs().get(id)?;
                let has_room = progress.state == raft::ProgressState::Replicate
                    && !progress.is_paused()
                    && progress.next_idx <= last;
                has_room.then_some(progress.next_idx)
            };
            // It does not advance where the log is compacted away.
            let mut sent = None;
            while let Some(next) = next(self).filter(|next| sent < Some(*next)) {
                sent = Some(next);
                self.raw.raft.send_append(id);
            }
        }
    }
}
