//! Children of a process that nobody has a hand on: a host that dies leaves its
//! replicas to whoever adopts orphans.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::sched::{Stat, read_stat};
use super::{DomainError, system};

/// How long one is waited for before it is looked anew.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Kills all children of `parent` but this process and those that are spared, and
/// waits until they have ended; they remain to be reaped. Tells whom it has killed.
///
/// # Errors
/// [`DomainError::StillThere`] when one has not ended in time, or what the kernel
/// refuses.
pub fn end_children(
    parent: Pid,
    spared: &[Pid],
    patience: Duration,
) -> Result<Vec<Pid>, DomainError> {
    let deadline = Instant::now() + patience;
    let mut killed = Vec::new();
    loop {
        let wanted = |child: &Stat| !child.has_ended() && !spared.contains(&child.pid);
        let Some(child) = children_of(parent)?.into_iter().find(wanted) else {
            return Ok(killed);
        };
        if Instant::now() > deadline {
            return Err(DomainError::StillThere(child.pid));
        }
        let pidfd = match rustix::process::pidfd_open(child.pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => continue,
            Err(errno) => return Err(system("pidfd_open")(errno)),
        };
        // The number may have come to mean somebody else: now it no longer can.
        if read_stat(child.pid)?.is_none_or(|now| now.parent != Some(parent)) {
            continue;
        }
        match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(system("pidfd_send_signal")(errno)),
        }
        if !killed.contains(&child.pid) {
            killed.push(child.pid);
        }
        // Whether it has ended in that time is looked at above.
        let _ = rustix::event::poll(&mut [PollFd::new(&pidfd.as_fd(), PollFlags::IN)], Some(&LOOK));
    }
}

/// Reaps the children of this process that have ended, but those that are spared:
/// of these, their owner wants to know how. Returns how many.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn reap_children(spared: &[Pid]) -> Result<usize, DomainError> {
    let mut reaped = 0;
    for child in children_of(rustix::process::getpid())? {
        if child.has_ended() && !spared.contains(&child.pid) {
            // Who was reaped meanwhile is no loss.
            let outcome = rustix::process::waitpid(Some(child.pid), WaitOptions::NOHANG);
            reaped += usize::from(matches!(outcome, Ok(Some(_))));
        }
    }
    Ok(reaped)
}

/// Without this process, which may well be one of them.
fn children_of(parent: Pid) -> Result<Vec<Stat>, DomainError> {
    let own = rustix::process::getpid();
    let mut children = Vec::new();
    // Not all kernels have the lists of children; all have this.
    for entry in std::fs::read_dir("/proc").map_err(system("opendir(/proc)"))? {
        let entry = entry.map_err(system("readdir(/proc)"))?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        if let Some(stat) = read_stat(pid)?
            && stat.parent == Some(parent)
            && stat.pid != own
        {
            children.push(stat);
        }
    }
    Ok(children)
}
