//! Xen's own store daemons on plain Linux, to compare with.
//!
//! [`Kit::fetch`] brings Debian's packages and builds a small `LD_PRELOAD` stub
//! that stands in for the hypervisor; [`Peer::start`] runs a daemon in a
//! directory of its own; [`Peer::guest`] gives it a guest domain that speaks
//! through a ring page. Nothing is installed.

mod daemon;
mod guest;
mod kit;

pub use daemon::{Peer, PeerKind};
pub use guest::RingGuest;
pub use kit::{Kit, KitPart};

/// Why a daemon to compare with cannot be had. A test that meets one is skipped
/// with [`crate::skip`].
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The packages or the stub cannot be had on this machine.
    #[error("cannot fetch {part}: {reason}")]
    Fetch {
        /// What was to be fetched.
        part: &'static str,
        /// The last lines that the script said.
        reason: String,
    },
    /// The daemon ended or did not open its socket.
    #[error("{kind} did not start: {reason}")]
    Start {
        /// Which daemon.
        kind: PeerKind,
        /// What it said.
        reason: String,
    },
    /// A file, socket or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// The daemon refused to introduce the guest.
    #[error("introducing domain {domid}: {source}")]
    Introduce {
        /// The guest.
        domid: u16,
        /// The refusal.
        source: crate::client::ClientError,
    },
}

/// Names what was tried when an I/O call fails.
fn io<T>(what: impl FnOnce() -> String, result: std::io::Result<T>) -> Result<T, PeerError> {
    result.map_err(|source| PeerError::Io { what: what(), source })
}
