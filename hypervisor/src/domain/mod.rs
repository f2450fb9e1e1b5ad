//! Domains: what a replica runs in. A domain can be started, watched, stopped
//! and killed; the one backend so far is a Linux process.

mod children;
mod lifeline;
mod process;
mod sched;
mod spawn;

pub use children::{end_children, reap_children};
pub use lifeline::{Lifeline, Tether};
pub use process::{Exit, ProcessDomain, pid_of};
pub use sched::CpuTimes;
pub(crate) use sched::parse_schedstat;
pub use spawn::{Bond, ErrorOutput, Limits, Program, SpawnSpec, inherited_descriptors};

use std::io;

use rustix::process::Pid;
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
    /// The process to be adopted has ended, and was reaped.
    #[error("the process has ended")]
    Gone,
    /// A process that was killed has not ended.
    #[error("process {0} was killed and has not ended")]
    StillThere(Pid),
}

fn system<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> DomainError {
    move |source| DomainError::System { call, source: source.into() }
}
