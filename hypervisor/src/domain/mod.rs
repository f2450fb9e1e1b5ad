//! Domains: what a replica runs in. A domain can be started, watched, stopped
//! and killed; the one backend so far is a Linux process.

mod process;
mod sched;
mod spawn;

pub use process::{Exit, ProcessDomain};
pub use sched::CpuTimes;
pub use spawn::{ErrorOutput, Limits, SpawnSpec, inherited_descriptors};

use std::io;

use thiserror::Error;

/// Why a domain could not be started or controlled.
#[derive(Debug, Error)]
pub enum DomainError {
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// What was attempted.
        call: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A path, argument or variable contains a zero byte.
    #[error("`{0}` contains a zero byte")]
    ZeroByte(String),
    /// The kernel's account of the process cannot be understood.
    #[error("unreadable {0}")]
    Account(&'static str),
    /// The process was not started as a domain, or took its descriptors before.
    #[error("no descriptors were handed over")]
    NoDescriptors,
}

fn system<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> DomainError {
    move |source| DomainError::System { call, source: source.into() }
}
