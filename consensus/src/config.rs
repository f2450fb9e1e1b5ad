//! What the host decides about a peer.

use crate::PeerId;

/// When an entry counts as committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AckPolicy {
    /// Once every voter that is not certified dead has it: each survivor then
    /// holds every committed entry, and f+1 voters survive f deaths.
    #[default]
    AllLive,
    /// Once a majority of the voters has it: a hung voter does not delay the
    /// others, but a majority must live.
    Quorum,
}

/// Settings of one peer. All peers of a group should agree on all but `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// This peer.
    pub id: PeerId,
    /// When an entry counts as committed.
    pub ack: AckPolicy,
    /// Ticks of a leader's silence after which a follower stands for election
    /// by itself. Only the fallback for a silent host, so rather long. Each peer
    /// adds a little of its own, derived from its id, to avoid split votes.
    ///
    /// Ten times this is also how long a snapshot may go unanswered before it is
    /// sent again.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Upper bound of an encoded message in bytes, snapshots excepted.
    pub max_message_bytes: usize,
    /// Appends to one follower that may be unanswered.
    pub max_inflight: usize,
    /// Bytes of proposals that may be uncommitted; further ones are refused.
    pub max_uncommitted_bytes: usize,
    /// Bytes of log kept in memory before it is compacted at the expense of
    /// followers that still need its beginning (they get a snapshot).
    pub max_log_bytes: usize,
    /// With a durable store: bytes of log since the last snapshot after which
    /// [`crate::Actions::snapshot_wanted`] asks for the next.
    pub snapshot_after_bytes: usize,
}

/// A configuration that no peer can run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The id 0 is reserved.
    #[error("peer id 0 is reserved")]
    ZeroId,
    /// An election must take longer than a heartbeat.
    #[error(
        "election_ticks ({election_ticks}) must exceed heartbeat_ticks ({heartbeat_ticks}), which must exceed 0"
    )]
    Ticks {
        /// As configured.
        election_ticks: usize,
        /// As configured.
        heartbeat_ticks: usize,
    },
    /// A bound is too small to work with.
    #[error("{name} ({value}) must be at least {least}")]
    TooSmall {
        /// The field.
        name: &'static str,
        /// As configured.
        value: usize,
        /// The least that works.
        least: usize,
    },
    /// A group needs at least one voter, and each only once.
    #[error("voters must be distinct, not 0, at least one, and include the peer itself")]
    Voters,
}

/// Room in a message for everything but its entries.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 256;

impl PeerConfig {
    /// The defaults for `id`: all-live, 64 KiB messages, 128 of them in flight,
    /// 16 MiB uncommitted, 64 MiB of log.
    #[must_use]
    pub fn new(id: PeerId) -> Self {
        Self {
            id,
            ack: AckPolicy::AllLive,
            election_ticks: 20,
            heartbeat_ticks: 2,
            max_message_bytes: 64 << 10,
            max_inflight: 128,
            max_uncommitted_bytes: 16 << 20,
            max_log_bytes: 64 << 20,
            snapshot_after_bytes: 16 << 20,
        }
    }

    /// The largest proposal that fits into a message, in bytes.
    #[must_use]
    pub fn max_proposal_bytes(&self) -> usize {
        self.max_message_bytes.saturating_sub(MESSAGE_OVERHEAD_BYTES)
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.id.0 == 0 {
            return Err(ConfigError::ZeroId);
        }
        if self.heartbeat_ticks == 0 || self.election_ticks <= self.heartbeat_ticks {
            return Err(ConfigError::Ticks {
                election_ticks: self.election_ticks,
                heartbeat_ticks: self.heartbeat_ticks,
            });
        }
        let least = [
            ("max_message_bytes", self.max_message_bytes, 2 * MESSAGE_OVERHEAD_BYTES),
            ("max_inflight", self.max_inflight, 1),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes, self.max_message_bytes),
            ("max_log_bytes", self.max_log_bytes, self.max_message_bytes),
            ("snapshot_after_bytes", self.snapshot_after_bytes, 1),
        ];
        for (name, value, least) in least {
            if value < least {
                return Err(ConfigError::TooSmall { name, value, least });
            }
        }
        Ok(())
    }

    pub(crate) fn raft(&self, applied: u64) -> raft::Config {
        // Raft draws the timeout from [min, max): with one value in the range it
        // is deterministic, and spreading it by id takes the place of chance.
        let spread = (self.id.0 % 8) as usize * (self.election_ticks / 8).max(1);
        raft::Config {
            id: self.id.0,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            min_election_tick: self.election_ticks + spread,
            max_election_tick: self.election_ticks + spread + 1,
            applied,
            // Raft counts the entries' own bytes; framing adds at most half of
            // that, for the smallest of entries.
            max_size_per_msg: (self.max_proposal_bytes() * 2 / 3) as u64,
            max_inflight_msgs: self.max_inflight,
            // Raft counts uncommitted bytes only under a limit, and the limit
            // is enforced where proposals come in.
            max_uncommitted_size: raft::NO_LIMIT - 1,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: true,
            ..raft::Config::default()
        }
    }
}
