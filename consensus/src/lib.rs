//! A replica group: one log, agreed upon by several peers, on the `raft` crate.
//!
//! [`Peer`] is sans-IO and deterministic. The host that drives it knows more
//! than a raft peer can: it certifies deaths, which lets the survivors go on
//! without a majority ([`Peer::fence`]), and says who campaigns
//! ([`Peer::campaign`]); raft's own timeouts are the fallback for when it is
//! silent. Raft's types do not leave this crate.
#![forbid(unsafe_code)]

mod config;
mod id;
mod log;
mod members;
mod peer;
mod store;
mod wire;

pub use config::{AckPolicy, ConfigError, PeerConfig};
pub use id::{FenceEpoch, LogIndex, PeerId, Term};
pub use members::Members;
pub use peer::{
    Actions, CampaignError, Change, ChangeError, Committed, FenceError, Install, Outbox, Peer,
    PeerStatus, ProposeError, RecoverError, Role, SnapshotError, Status,
};
#[cfg(feature = "rocksdb")]
pub use store::RocksStore;
pub use store::{
    Batch, Entries, EntryKind, HAS_DURABLE_STORE, HardState, LogEntry, LogState, LogStore,
    MembersRecord, MemoryStore, SnapshotRef, StoreError, StoredEntry, StoredSnapshot, open_durable,
};
pub use wire::StepError;
