//! What a replica is told when it is spawned.

use std::path::PathBuf;
use std::time::Duration;

use consensus::{AckPolicy, LogStore, Peer, PeerConfig, PeerId};
use hypervisor::{ReplicaId, SlotId};
use serde::{Deserialize, Serialize};

use crate::error::Fatal;

/// The largest message of consensus but for snapshots. A batch of inputs must
/// fit in.
const MESSAGE_BYTES: usize = 256 * 1024;
/// More than the replica ever has in flight, see `core`.
const UNCOMMITTED_BYTES: usize = 64 * 1024 * 1024;
/// Ticks between a leader's heartbeats: they only carry the commit index, the
/// host watches for deaths.
const HEARTBEAT_TICKS: usize = 5;

/// How a new replica gets its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Empty, as one of these founders.
    Bootstrap {
        /// All founders, itself included.
        voters: Vec<u64>,
    },
    /// Empty, to be taught by the primary.
    Join,
    /// From its own disk.
    Recover,
}

/// When a client is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// Once every replica that is not fenced has the input.
    AllLive,
    /// Once a majority has it.
    Quorum,
}

impl From<Ack> for AckPolicy {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::AllLive => Self::AllLive,
            Ack::Quorum => Self::Quorum,
        }
    }
}

/// Where a replica's log is, besides its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// Nowhere.
    Volatile,
    /// On disk: survives the death of all replicas.
    Process {
        /// The replica's own directory.
        directory: PathBuf,
    },
    /// On disk and synced before the answer: survives a power failure.
    Power {
        /// The replica's own directory.
        directory: PathBuf,
    },
}

/// Where a replica's state machine is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// In the replica's own process.
    Process,
    /// In a virtual machine of its own, on KVM.
    Kvm {
        /// The machine's memory, in bytes.
        memory_bytes: u64,
    },
}

impl Backend {
    /// Its name in the configuration and in what is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kvm { .. } => "kvm",
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaSpec {
    /// Its id, never used before.
    pub id: u64,
    /// Its slot of the fabric.
    pub slot: u8,
    /// How it gets its state.
    pub start: Start,
    /// When a client is answered.
    pub ack: Ack,
    /// Where its log is.
    pub storage: Storage,
    /// Where its state machine is executed.
    pub backend: Backend,
    /// Whether each input is executed twice, and what comes of it compared.
    pub lockstep: bool,
    /// How long it yields before it blocks, microseconds.
    pub spin_us: u32,
    /// How long it yields while a batch waits for other replicas, microseconds.
    pub spin_unreleased_us: u32,
    /// The longest time without a beat, milliseconds.
    pub beat_ms: u64,
    /// The same when it has had nothing to do for a while.
    pub idle_beat_ms: u64,
    /// Silence after which raft elects by itself, milliseconds. The host decides
    /// long before.
    pub election_ms: u64,
    /// How long its log gets.
    pub log: LogLimits,
    /// The other replicas, as (id, slot).
    pub peers: Vec<(u64, u8)>,
}

/// When a log is shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A log of more entries is shortened, as far as nobody needs it.
    pub entries_max: u64,
    /// So many entries a shortened log keeps, so that a peer that is a little
    /// behind needs no snapshot.
    pub entries_kept: u64,
    /// A log that takes more memory is shortened all the same: who still needs it
    /// gets a snapshot instead.
    pub bytes_max: usize,
    /// On disk, a snapshot is made after so much log, in bytes.
    pub snapshot_after_bytes: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        let PeerConfig { max_log_bytes, snapshot_after_bytes, .. } = PeerConfig::new(PeerId(1));
        Self {
            entries_max: 16_384,
            entries_kept: 4_096,
            bytes_max: max_log_bytes,
            snapshot_after_bytes,
        }
    }
}

impl LogLimits {
    /// These limits, or tighter ones where a log may take only `bytes` of memory.
    #[must_use]
    pub fn within(self, bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(MESSAGE_BYTES);
        Self {
            bytes_max: self.bytes_max.min(bytes),
            // It grows while the snapshot is made.
            snapshot_after_bytes: self.snapshot_after_bytes.min(bytes / 4),
            ..self
        }
    }
}

impl ReplicaSpec {
    /// Its id.
    #[must_use]
    pub fn replica_id(&self) -> ReplicaId {
        ReplicaId(self.id)
    }

    /// Its slot, if there is such a one.
    #[must_use]
    pub fn slot_id(&self) -> Option<SlotId> {
        SlotId::new(self.slot)
    }

    /// The longest time without a beat.
    #[must_use]
    pub fn beat(&self) -> Duration {
        Duration::from_millis(self.beat_ms)
    }

    /// The longest time without a beat when there is nothing to do.
    #[must_use]
    pub fn idle_beat(&self) -> Duration {
        Duration::from_millis(self.idle_beat_ms)
    }

    /// Its member of the consensus group, which goes on from its log.
    ///
    /// # Errors
    /// [`Fatal`] when what is asked for cannot be, or the log cannot be read.
    pub(crate) fn peer(&self, store: &mut dyn LogStore) -> Result<Peer, Fatal> {
        let ticks = usize::try_from(self.election_ms / self.beat_ms.max(1)).unwrap_or(usize::MAX);
        let config = PeerConfig {
            ack: self.ack.into(),
            election_ticks: ticks.max(HEARTBEAT_TICKS + 1),
            heartbeat_ticks: HEARTBEAT_TICKS,
            max_message_bytes: MESSAGE_BYTES,
            max_uncommitted_bytes: UNCOMMITTED_BYTES,
            max_log_bytes: self.log.bytes_max,
            snapshot_after_bytes: self.log.snapshot_after_bytes,
            ..PeerConfig::new(PeerId(self.id))
        };
        Ok(match &self.start {
            Start::Bootstrap { voters } => {
                let voters: Vec<_> = voters.iter().map(|id| PeerId(*id)).collect();
                Peer::bootstrap(config, &voters)?
            }
            Start::Join => Peer::join(config)?,
            Start::Recover => match store.load()? {
                Some(state) => Peer::recover(config, state)?,
                None => return Err(Fatal::Ring("nothing on disk to recover from".into())),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_follows_the_memory_that_there_is() {
        let all = LogLimits::default();
        assert_eq!(all.within(1 << 40), all);
        let small = all.within(2 << 20);
        assert_eq!((small.bytes_max, small.snapshot_after_bytes), (2 << 20, 512 << 10));
        // A batch fits in any case.
        assert_eq!(all.within(1).bytes_max, MESSAGE_BYTES);
    }
}
