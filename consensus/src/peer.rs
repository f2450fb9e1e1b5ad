//! The peer: raft, made safe to drive from outside.

mod describe;
mod fence;
mod lead;
mod poll;
mod recover;
mod snapshot;
mod status;

use std::collections::BTreeMap;

use raft::eraftpb::{Entry, MessageType};
use raft::{RawNode, StateRole};
use teeth::Bug;

pub use fence::FenceError;
pub use lead::{Change, ChangeError, ProposeError};
pub use poll::{Actions, Committed, Install, Outbox};
pub use recover::RecoverError;
pub use snapshot::SnapshotError;
pub use status::{PeerStatus, Role, Status};

use crate::log::Log;
use crate::members::Membership;
use crate::store::MembersRecord;
use crate::wire::{self, Receiver, StepError};
use crate::{AckPolicy, LogIndex, PeerConfig, PeerId, Term};

/// Why a peer cannot stand for election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// It is not a member of the group, as far as it knows.
    #[error("not a member")]
    NotMember,
    /// Every voter that it knows of is certified dead: what it has may be less
    /// than what was committed.
    #[error("every known voter was certified dead")]
    NoVoterLeft,
    /// The terms of this fence epoch are used up; the next certificate helps.
    #[error("no term is left in this fence epoch")]
    TermsExhausted,
}

/// One member of a replica group, without clock, threads or I/O: inputs are
/// [`Self::propose`], [`Self::step`], [`Self::tick`] and the host's commands;
/// outputs come from [`Self::poll`], which the caller calls after any input (or
/// after a batch of inputs: what is proposed in between travels together).
///
/// The same inputs lead to the same outputs, except that raft draws its
/// election timeouts from the thread's random generator; their range has one
/// value.
pub struct Peer {
    config: PeerConfig,
    raw: RawNode<Log>,
    membership: Membership,
    /// Whether the stored members record is older than `membership`.
    members_unsaved: bool,
    /// Whether nothing of the log's beginning is stored yet.
    log_unsaved: bool,
    /// Proposals that raft has not seen yet, and their bytes.
    pending: Vec<Entry>,
    pending_bytes: usize,
    /// The term that this peer leads; 0 if it does not.
    led_term: u64,
    /// Voters to be whose promotion, at that index, is in the log but not
    /// applied: see [`lead`].
    early_voters: Vec<(u64, PeerId)>,
    wants_campaign: bool,
    /// The last entry handed out as committed, or covered by a snapshot that was
    /// handed out.
    handed_out: u64,
    /// The last entry the caller has applied.
    applied: u64,
    /// Entries up to here may go, as far as the caller is concerned.
    compact_goal: u64,
    /// The last entry in the stored snapshot.
    stored_snapshot: u64,
    /// Whether the offered snapshot is not stored yet.
    offer_unsaved: bool,
    /// A snapshot to hand out first.
    install: Option<Install>,
    /// Ticks that a sent snapshot has gone unanswered, by follower.
    snapshot_ticks: BTreeMap<u64, usize>,
    role: Role,
    /// Messages the outbox did not take: to whom, and whether a snapshot.
    undelivered: Vec<(u64, bool)>,
    frame: Vec<u8>,
    is_poisoned: bool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Peer {
    /// Takes in a message that `from` sent; the transport vouches for the
    /// sender, not for the content.
    ///
    /// # Errors
    /// Any [`StepError`]; nothing has changed then. A message may be refused
    /// without fault of the sender, when it and this peer learn of a death at
    /// different moments.
    pub fn step(&mut self, from: PeerId, frame: &[u8]) -> Result<(), StepError> {
        if self.membership.fenced().contains(&from) && !teeth::bites(Bug::ReadsTheFenced) {
            return Err(StepError::Fenced(from));
        }
        let message = wire::decode(frame)?;
        let receiver = Receiver {
            id: self.config.id,
            epoch: self.membership.epoch(),
            term: self.raw.raft.term,
            last_index: self.raw.raft.raft_log.last_index(),
        };
        wire::check(&message, from, receiver)?;
        let asks_again = message.msg_type == MessageType::MsgRequestVote as i32
            && message.term == self.raw.raft.term;
        if asks_again && teeth::bites(Bug::VoteTwice) {
            self.raw.raft.vote = raft::INVALID_ID;
        }
        let stepped = self.raw.step(message).map_err(|_| StepError::NotMember(from));
        self.notice_lead();
        stepped
    }

    /// Lets a tick of the caller's clock pass.
    pub fn tick(&mut self) {
        if self.raw.raft.state == StateRole::Leader {
            self.raw.tick();
            self.retry_snapshots();
            self.notice_lead();
            return;
        }
        // Raft counts on a candidate's log being stored; an election can wait
        // for the next tick.
        if self.has_unsaved_log() {
            return;
        }
        let raft = &mut self.raw.raft;
        let timeout = raft.randomized_election_timeout();
        if raft.promotable() && raft.election_elapsed + 1 >= timeout {
            if !self.enter_epoch() {
                return;
            }
            self.raw.raft.election_elapsed = timeout;
        }
        self.raw.tick();
        self.notice_lead();
    }

    /// Stands for election at the next [`Self::poll`], without asking whether a
    /// leader is still there: for the host, which knows.
    ///
    /// A learner may stand, too: voters vote for it only if it has all that they
    /// have.
    ///
    /// # Errors
    /// Any [`CampaignError`]; nothing has changed then.
    pub fn campaign(&mut self) -> Result<(), CampaignError> {
        self.may_campaign()?;
        self.wants_campaign = true;
        Ok(())
    }

    /// Gives up the lead, if this peer has it: what it has logged stays, and it
    /// logs no more, not even the removal of the dead, unless it is elected again.
    pub fn resign(&mut self) {
        if self.is_leader() {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
            self.notice_lead();
        }
    }

    fn may_campaign(&self) -> Result<(), CampaignError> {
        if !self.membership.logged().contains(self.config.id) {
            return Err(CampaignError::NotMember);
        }
        if self.membership.live_voters() == 0 {
            return Err(CampaignError::NoVoterLeft);
        }
        if self.next_term().is_none() {
            return Err(CampaignError::TermsExhausted);
        }
        Ok(())
    }

    fn start_campaign(&mut self) {
        let is_leader = self.raw.raft.state == StateRole::Leader;
        if is_leader || self.may_campaign().is_err() || !self.enter_epoch() {
            return;
        }
        self.raw.raft.campaign(raft::CAMPAIGN_TRANSFER);
        self.notice_lead();
    }

    /// The term of the next election here, if the epoch has one left.
    fn next_term(&self) -> Option<u64> {
        let epoch = self.membership.epoch();
        let next = self.raw.raft.term.max(epoch.first_term()) + 1;
        (crate::FenceEpoch::of_term(next) == epoch).then_some(next)
    }

    /// Brings the term into the current fence epoch: elections of different
    /// epochs never share a term. Returns whether an election may follow.
    fn enter_epoch(&mut self) -> bool {
        if self.next_term().is_none() {
            return false;
        }
        let floor = self.membership.epoch().first_term();
        if self.raw.raft.term < floor {
            self.raw.raft.become_follower(floor, raft::INVALID_ID);
        }
        true
    }

    fn has_unsaved_log(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        !log.unstable_entries().is_empty() || log.unstable_snapshot().is_some()
    }

    /// Tells the followers the commit index, for when no append will do so soon.
    pub fn announce_commit(&mut self) {
        self.raw.ping();
    }

    /// Tells that messages to `id` were lost after the outbox had taken them.
    pub fn report_unreachable(&mut self, id: PeerId) {
        self.raw.report_unreachable(id.0);
    }

    /// The caller has applied everything up to `index`.
    pub fn applied(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index.0.min(self.handed_out));
    }

    /// The highest index that satisfies the acknowledgement policy, as far as
    /// this peer knows. Never decreases.
    #[must_use]
    pub fn released(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Whether this peer leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// When an entry counts as committed here.
    #[must_use]
    pub fn ack_policy(&self) -> AckPolicy {
        self.config.ack
    }

    fn log(&self) -> &Log {
        self.raw.store()
    }

    fn members_record(&self) -> MembersRecord {
        MembersRecord {
            members: self.membership.logged().clone(),
            changed_at: LogIndex(self.membership.changed_at()),
            fenced: self.membership.fenced().iter().copied().collect(),
            epoch: self.membership.epoch(),
        }
    }
}
