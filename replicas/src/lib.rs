//! A replica: one state machine, one consensus peer, and the rings between them
//! and the host.
//!
//! [`core`] is the replica without I/O, [`runtime`] the same on its rings; a
//! simulator drives both as the process does. [`start`] is the process.
#![forbid(unsafe_code)]

pub mod background;
pub mod batch;
pub mod core;
pub mod error;
pub mod executor;
pub mod outbox;
mod process;
pub mod protocol;
pub mod runtime;
mod scrubber;
pub mod snapshot;
pub mod spec;

pub use process::start;
pub use spec::ReplicaSpec;
