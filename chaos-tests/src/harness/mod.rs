//! A running `rvmm` for integration tests: started in a directory of its own,
//! asked and broken through its own command line, and stopped in the end.

mod campaign;
mod host;
mod status;

pub use campaign::{FailoverLog, percentile};
pub use host::{Host, HostOptions, signal};
pub use rustix::process::Signal;
pub use status::{
    ComponentStatus, FailoverStatus, HolderStatus, HostStatus, LastRestart, ReplicaStatus,
    StateDigest,
};

use std::time::{Duration, Instant};

/// Why a host could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// The daemon ended, or was not ready in time.
    #[error("rvmm did not become ready: {reason}; it said:\n{said}")]
    NotReady {
        /// Why not.
        reason: String,
        /// The end of its log.
        said: String,
    },
    /// A command failed.
    #[error("rvmm {command}: {status}: {said}")]
    Command {
        /// The command.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
    /// What `rvmm status -o json` says is not a status.
    #[error("rvmm status: {0}")]
    Status(#[from] serde_json::Error),
    /// A state was waited for that did not come.
    #[error("{what} did not come within {after_ms} ms")]
    TooLate {
        /// What was waited for.
        what: String,
        /// For how long.
        after_ms: u128,
    },
}

/// A number from the environment, for campaigns longer than a test run's
/// default.
#[must_use]
pub fn knob(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Looks again and again until `found` yields something.
///
/// # Errors
/// [`HarnessError::TooLate`] when `timeout` is over, or the first error of
/// `found`.
pub fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut found: impl FnMut() -> Result<Option<T>, HarnessError>,
) -> Result<T, HarnessError> {
    let began = Instant::now();
    loop {
        if let Some(value) = found()? {
            return Ok(value);
        }
        if began.elapsed() > timeout {
            return Err(HarnessError::TooLate {
                what: what.to_owned(),
                after_ms: timeout.as_millis(),
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
