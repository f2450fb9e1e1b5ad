//! A replica's process, held by a descriptor: its number cannot come to mean
//! another process while we aim.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::FaultError;
use crate::harness::ReplicaStatus;
use crate::report::record::Component;

/// See the module.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) id: u64,
    pub(super) pid: Pid,
    role: String,
    pidfd: OwnedFd,
}

/// The parent in `/proc/PID/stat`; a process's name may contain anything.
fn parent(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

impl Victim {
    /// The process of a replica, if it is still the host's child.
    pub(super) fn of(host_pid: u32, replica: &ReplicaStatus) -> Result<Self, FaultError> {
        let gone = || FaultError::Missed(format!("replica {} is gone already", replica.id));
        let pid = i32::try_from(replica.pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| FaultError::system("pidfd_open", error))?;
        // Read after the descriptor is there: it is this process or none.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", replica.pid));
        if stat.ok().and_then(|stat| parent(&stat)) != Some(host_pid) {
            return Err(gone());
        }
        Ok(Self { id: replica.id, pid, role: replica.role.clone(), pidfd })
    }

    /// What it was for.
    pub(super) fn component(&self) -> Component {
        match self.role.as_str() {
            "primary" => Component::Primary,
            "learner" => Component::Learner,
            _ => Component::Standby,
        }
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), FaultError> {
        pidfd_send_signal(&self.pidfd, signal)
            .map_err(|error| FaultError::system(&format!("signalling replica {}", self.id), error))
    }

    /// Whether it is still there.
    pub(super) fn lives(&self) -> bool {
        !crate::client::wait_readable(&self.pidfd, std::time::Duration::ZERO).unwrap_or(true)
    }

    /// One of its files in `/proc`.
    pub(super) fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid.as_raw_nonzero()))
    }

    /// The text of one of its files in `/proc`.
    pub(super) fn read_proc(&self, file: &str) -> Result<String, FaultError> {
        let path = self.proc(file);
        std::fs::read_to_string(&path)
            .map_err(|error| FaultError::system(&path.display().to_string(), error))
    }

    /// A number in its `/proc/PID/status`.
    pub(super) fn status_number(&self, key: &str) -> Result<u64, FaultError> {
        status_number(&self.read_proc("status")?, key)
            .ok_or_else(|| FaultError::Unavailable(format!("/proc/PID/status has no {key}")))
    }
}

/// The first number behind `key:`.
pub(super) fn status_number(status: &str, key: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read_whatever_the_name() {
        assert_eq!(parent("42 (a) R 1 (x) S 17 42 42 0 -1"), Some(17));
        assert_eq!(parent("42 (a"), None);
        let status = "Name:\tVmData: 7\nVmPeak:\t 900 kB\nVmData:\t 123 kB\n";
        assert_eq!(status_number(status, "VmData"), Some(123));
        assert_eq!(status_number(status, "VmSwap"), None);
    }

    #[test]
    fn a_process_that_is_no_child_of_the_host_is_not_touched() {
        let me = ReplicaStatus {
            id: 1,
            pid: std::process::id(),
            backend: "process".into(),
            role: "standby".into(),
            state: "running".into(),
            last_input: 0,
            commit_index: 0,
            digest: None,
        };
        assert!(
            matches!(Victim::of(1, &me), Err(FaultError::Missed(_))) || std::process::id() == 1
        );
    }
}
