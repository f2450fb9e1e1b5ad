//! Campaigns: a running host is broken by real faults while real clients work,
//! and what they saw is judged.
//!
//! A campaign acts from outside, through `/proc`, signals, limits and the
//! control socket; whatever lasts is taken back before it ends, also when it is
//! told to stop. It touches no process but the replicas of the host that it was
//! given, that host's limits, and threads of its own.

mod attack;
mod book;
mod choose;
mod daemon;
mod digests;
mod fault;
mod judge;
mod profile;
mod run;
mod stall;
mod stop;
mod subject;
mod verdict;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

pub use daemon::{Daemon, DaemonError};
pub use fault::{Aim, CLASSES, Choice, ClassInfo, Needs, Parameter};
pub use profile::{
    Ack, BUILT_IN, Backend, Bounds, Durability, FaultMix, Numbers, Problem, Profile, ProfileError,
    ProfileFile, Schedule, Span, Steady, Target, Time, Times, Whole, Workload,
};
pub use run::{Finished, run};
pub use stop::Stop;
pub use watch::Live;

use crate::client::ClientError;
use crate::harness::HarnessError;
use crate::report::ReportError;
use crate::report::record::RecordError;
use crate::soak::SoakError;

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// How to break it, and what must hold.
    pub profile: Profile,
    /// The run directory of a host that is there, in place of the profile's.
    pub run_dir: Option<PathBuf>,
    /// How long faults are injected, in place of the profile's.
    pub budget: Option<Duration>,
    /// What all choices derive from.
    pub seed: u64,
    /// The `rvmm` to start where there is no host.
    pub binary: PathBuf,
    /// Where the history and what is made of it is written.
    pub out: PathBuf,
    /// A line to copy that runs the same again.
    pub reproduce: String,
    /// Whoever wants it to end sets this.
    pub stop: Stop,
}

/// Why a campaign could not be carried out. That a bound did not hold is none of
/// these.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// The host to break could not be started.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// The host does not answer.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// It would do more harm than it says.
    #[error("refused: {0}")]
    Unsafe(String),
    /// There is a run in the directory that it should write to.
    #[error("{} holds a run already: name another directory, or remove it", .0.display())]
    Taken(PathBuf),
    /// The load could not be put on.
    #[error(transparent)]
    Soak(#[from] SoakError),
    /// A client of our own got no answer.
    #[error("{what}: {source}")]
    Client {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: ClientError,
    },
    /// The history could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No report could be made of it.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A thread or directory could not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: std::io::Error,
    },
}

impl CampaignError {
    fn client(what: &'static str) -> impl FnOnce(ClientError) -> Self {
        move |source| Self::Client { what, source }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
