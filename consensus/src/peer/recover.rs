//! How a peer comes into being.

use std::collections::{BTreeMap, BTreeSet};

use raft::RawNode;
use raft::eraftpb::{Entry, EntryType, HardState};
use teeth::Bug;

use super::{Install, Peer, Role};
use crate::config::ConfigError;
use crate::log::Log;
use crate::members::{Members, Membership, founding_entry_data};
use crate::store::{EntryKind, LogState};
use crate::{AckPolicy, FenceEpoch, LogIndex, PeerConfig, PeerId};

/// The entry, and the term, that found a group.
const FOUNDING: u64 = 1;

/// A stored state that no peer can have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log does not continue the snapshot.
    #[error("the log begins at {first}, but the snapshot ends at {snapshot}")]
    Gap {
        /// First index of the log.
        first: LogIndex,
        /// Last index of the snapshot, 0 if there is none.
        snapshot: LogIndex,
    },
    /// The commit index is not in the log.
    #[error("committed up to {commit}, but the log ends at {last}")]
    Commit {
        /// Stored commit index.
        commit: LogIndex,
        /// Last index of the log.
        last: LogIndex,
    },
    /// The stored members contradict each other.
    #[error("the stored members make no group")]
    Members,
    /// The terms in the log decrease, or exceed the stored term.
    #[error("the terms around entry {0} are out of order")]
    Terms(LogIndex),
}

impl Peer {
    /// A founding member of a new group; all of them must be given the same
    /// `voters`.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration is unusable, or `voters` are not
    /// distinct or do not contain the peer.
    pub fn bootstrap(config: PeerConfig, voters: &[PeerId]) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut members = Members { voters: voters.to_vec(), learners: Vec::new() };
        members.voters.sort_unstable();
        if !members.is_sound() || !members.contains(config.id) {
            return Err(ConfigError::Voters);
        }
        let mut log = Log::default();
        log.append(vec![Entry {
            entry_type: EntryType::EntryConfChangeV2 as i32,
            term: FOUNDING,
            index: FOUNDING,
            data: founding_entry_data(&members.voters),
            ..Entry::default()
        }]);
        log.hard_state = HardState { term: FOUNDING, vote: 0, commit: FOUNDING };
        let membership =
            Membership::new(config.ack, members, FOUNDING, BTreeSet::new(), FenceEpoch::default());
        let mut peer = Self::start(config, log, membership);
        peer.log_unsaved = true;
        peer.members_unsaved = true;
        Ok(peer)
    }

    /// A new member of a group that exists. It knows nothing, and waits for the
    /// leader to send it the log or a snapshot. It should be told the host's
    /// latest certificate ([`Self::fence`]) at once.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration is unusable.
    pub fn join(config: PeerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let membership = Membership::new(
            config.ack,
            Members::default(),
            0,
            BTreeSet::new(),
            FenceEpoch::default(),
        );
        Ok(Self::start(config, Log::default(), membership))
    }

    /// A member that was here before, from what it has stored. The first
    /// [`Self::poll`] hands out the stored snapshot, if there is one, and the
    /// committed entries behind it.
    ///
    /// # Errors
    /// Any [`RecoverError`].
    pub fn recover(config: PeerConfig, state: LogState) -> Result<Self, RecoverError> {
        config.validate()?;
        let LogState { hard_state, members: record, snapshot, first_index, entries } = state;
        let (base, base_term) =
            snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.index.0, snapshot.term.0));
        if !entries.is_empty() && (first_index.0 > base + 1 || first_index.0 == 0) {
            return Err(RecoverError::Gap { first: first_index, snapshot: LogIndex(base) });
        }
        if !record.members.is_empty() && !record.members.is_sound() {
            return Err(RecoverError::Members);
        }

        let mut log = Log::default();
        log.restart(base, base_term);
        let mut previous = base_term;
        let mut kept = Vec::with_capacity(entries.len());
        for (index, entry) in (first_index.0..).zip(entries).filter(|(index, _)| *index > base) {
            if entry.term.0 < previous || entry.term > hard_state.term {
                return Err(RecoverError::Terms(LogIndex(index)));
            }
            previous = entry.term.0;
            let entry_type = match entry.kind {
                EntryKind::Normal => EntryType::EntryNormal,
                EntryKind::Change => EntryType::EntryConfChangeV2,
            };
            kept.push(Entry {
                entry_type: entry_type as i32,
                term: entry.term.0,
                index,
                data: entry.data,
                ..Entry::default()
            });
        }
        log.append(kept);
        // The snapshot, and the change of members that was applied last, were
        // committed, even if the commit index was not stored since.
        let commit = hard_state.commit.0.max(base).max(record.changed_at.0);
        if commit > log.last() {
            let last = LogIndex(log.last());
            return Err(RecoverError::Commit { commit: LogIndex(commit), last });
        }
        log.hard_state = HardState {
            term: hard_state.term.0,
            vote: hard_state.vote.map_or(0, |id| id.0),
            commit,
        };

        // The record is never older than the snapshot: both are written at once.
        let fenced = record.fenced.into_iter().collect();
        let membership =
            Membership::new(config.ack, record.members, record.changed_at.0, fenced, record.epoch);
        let mut peer = Self::start(config, log, membership);
        peer.stored_snapshot = base;
        peer.install =
            snapshot.map(|snapshot| Install { index: snapshot.index, data: snapshot.data });
        Ok(peer)
    }

    fn start(config: PeerConfig, mut log: Log, membership: Membership) -> Self {
        let base = log.base_index();
        log.initial_members = membership.effective();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raw = RawNode::new(&config.raft(base), log, &logger)
            .expect("the configuration and the log were checked");
        // With groups enabled and none assigned, raft commits what *every* voter
        // has: all-live, once the dead are taken out of its voters.
        let of_all = config.ack == AckPolicy::AllLive && !teeth::bites(Bug::AllLiveAtMajority);
        raw.raft.enable_group_commit(of_all);
        let mut peer = Self {
            config,
            raw,
            membership,
            members_unsaved: false,
            log_unsaved: false,
            pending: Vec::new(),
            pending_bytes: 0,
            led_term: 0,
            early_voters: Vec::new(),
            wants_campaign: false,
            handed_out: base,
            applied: 0,
            compact_goal: 0,
            stored_snapshot: 0,
            offer_unsaved: false,
            install: None,
            snapshot_ticks: BTreeMap::new(),
            role: Role::Outsider,
            undelivered: Vec::new(),
            frame: Vec::new(),
            is_poisoned: false,
        };
        peer.role = peer.current_role();
        peer
    }
}
