//! The shared memory of one component: how the host and up to [`SLOTS`]
//! replicas reach each other.
//!
//! ```text
//! host region   (host writes, replicas read)
//!     host page | ring lines | intake | control ring of slot 0 | ... of slot 7
//! region of slot s  (its occupant and the host write, other replicas read)
//!     replica page | ring lines | output ring | ring to slot 0 | ... to slot 7
//! ```
//!
//! Beside the regions there is one doorbell (`eventfd`) for the host and one for
//! each slot, rung only when its owner says that it sleeps.
//!
//! A replica can map only the host region and the other slots' regions
//! read-only, so it can damage nobody's memory but its own. It could steal
//! another replica's doorbell signal; every sleep has a timeout therefore.

mod doorbell;
mod host;
mod layout;
mod pages;
mod replica;

pub use doorbell::{Doorbell, SleepLimit};
pub use host::HostFabric;
pub use layout::{DESCRIPTORS, FabricConfig};
pub use pages::{
    CRASH_REASON_MAX, DigestRecord, HostPage, HostPageView, ReplicaPage, ReplicaPageView, Role,
};
pub use replica::{ReplicaFabric, Wake};

use std::io;

use thiserror::Error;

use crate::id::{ReplicaId, SLOTS, SlotId};
use crate::memory::MemoryError;
use crate::ring::IntakeError;

/// Why a fabric could not be made or attached.
#[derive(Debug, Error)]
pub enum FabricError {
    /// Shared memory failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// What was attempted.
        call: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A size is no power of two, or out of range.
    #[error("{what} = {found} is no power of two from 4096 to 1 GiB")]
    Size {
        /// The setting.
        what: &'static str,
        /// Its value.
        found: usize,
    },
    /// The descriptors handed over do not make a fabric.
    #[error("these descriptors are no fabric: {0}")]
    Descriptors(&'static str),
    /// The intake of another host cannot be gone on with.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// A replica must have an id.
    #[error("replica {0} cannot occupy a slot")]
    Replica(ReplicaId),
}

#[cfg(test)]
mod tests;
