//! A replica: one state machine, one consensus peer, and the rings between them
//! and the host.
//!
//! [`core`] is the replica without I/O: a simulator drives it as the process
//! does. [`start`] is the process.
#![forbid(unsafe_code)]

pub mod batch;
pub mod core;
mod encoder;
pub mod error;
pub mod frozen;
pub mod outbox;
mod process;
pub mod protocol;
mod runtime;
pub mod spec;

pub use process::start;
pub use spec::ReplicaSpec;
