//! Why a replica must stop.

use consensus::{CampaignError, ConfigError, FenceError, ProposeError, RecoverError, StoreError};
use state_machine::{CodecError, Corruption, RestoreError};

use crate::executor::Implausible;

/// What a replica cannot go on after. The host notices its end and builds
/// another one.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The state is not what was written.
    #[error(transparent)]
    Corruption(#[from] Corruption),
    /// The log cannot be written or read.
    #[error("log store: {0}")]
    Store(#[from] StoreError),
    /// A committed log entry is not a batch of inputs.
    #[error("log entry: {0}")]
    Entry(#[from] CodecError),
    /// A snapshot cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The host certified deaths that the acknowledgement policy cannot bridge.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// It cannot stand for election.
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    /// It leads, but its log takes no more.
    #[error("proposing to the log: {0}")]
    Propose(#[from] ProposeError),
    /// It was told to be a peer that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is on its disk is no log.
    #[error("recovering: {0}")]
    Recover(#[from] RecoverError),
    /// It took an input that is made to kill whoever applies it.
    #[error("poisoned: applied an injected poison input")]
    Poisoned,
    /// Another leads, though this one neither died nor drained.
    #[error("deposed while serving: the state is ahead of the log")]
    Deposed,
    /// A ring's content is not what its writer can have written.
    #[error("ring: {0}")]
    Ring(String),
    /// What executes its inputs has said what cannot be.
    #[error(transparent)]
    Implausible(#[from] Implausible),
    /// Its virtual machine has come to its end.
    #[error("guest: {0}")]
    Guest(String),
    /// It cannot be locked in.
    #[error("sandbox: {0}")]
    Sandbox(#[from] hypervisor::sandbox::SandboxError),
    /// The operating system refused something that cannot be done without.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}
