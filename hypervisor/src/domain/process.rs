//! A domain that is a Linux process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::sched::{CpuTimes, SchedFiles};
use super::spawn::{SpawnSpec, reap_later, spawn};
use super::{DomainError, system};

/// How a domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended itself with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// A replica's process. It dies with the host; when this value is dropped, it is
/// killed.
#[derive(Debug)]
pub struct ProcessDomain {
    pid: Pid,
    pidfd: OwnedFd,
    sched: SchedFiles,
    exit: Option<Exit>,
}

impl ProcessDomain {
    /// Starts a process. Returns when its program has been loaded.
    ///
    /// # Errors
    /// When the program cannot be executed, or any preparation fails; nothing is
    /// left running then.
    pub fn spawn(spec: SpawnSpec) -> Result<Self, DomainError> {
        let started = spawn(spec)?;
        match SchedFiles::open(started.pid) {
            Ok(sched) => Ok(Self { pid: started.pid, pidfd: started.pidfd, sched, exit: None }),
            Err(error) => {
                let _ = rustix::process::pidfd_send_signal(&started.pidfd, Signal::KILL);
                reap_later(started.pidfd);
                Err(error)
            }
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when the process has ended and its memory is gone.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it, stopped or not. It runs no more code of its own afterwards, but
    /// its mappings live until [`ProcessDomain::try_wait`] tells of its end. Killing
    /// a process that has ended is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<(), DomainError> {
        self.signal(Signal::KILL)
    }

    /// Stops it, as a fault to inject.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stop(&self) -> Result<(), DomainError> {
        self.signal(Signal::STOP)
    }

    /// Lets a stopped one go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cont(&self) -> Result<(), DomainError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), DomainError> {
        match rustix::process::pidfd_send_signal(self.pidfd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(system("pidfd_send_signal")(errno)),
        }
    }

    /// How it ended; `None` while it has not.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn try_wait(&mut self) -> Result<Option<Exit>, DomainError> {
        if self.exit.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd()), options)
                .map_err(system("waitid"))?;
            self.exit = status.and_then(|status| {
                let code = status.exit_status().map(Exit::Code);
                code.or_else(|| status.terminating_signal().map(Exit::Signal))
            });
        }
        Ok(self.exit)
    }

    /// Waits for its end for some time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Exit>, DomainError> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(Some(exit));
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = Timespec::try_from(left).ok();
            match rustix::event::poll(
                &mut [PollFd::new(&self.pidfd(), PollFlags::IN)],
                left.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(system("poll")(errno)),
            }
        }
    }

    /// The state letter of its main thread, as in proc_pid_stat(5): `R` runnable,
    /// `S` sleeping, `D` uninterruptible, `T` stopped, `Z` ended, ...
    ///
    /// # Errors
    /// When it has ended and was waited for, or `/proc` cannot be read.
    pub fn state(&self) -> Result<char, DomainError> {
        self.sched.state()
    }

    /// How long its main thread has run, and waited to run.
    ///
    /// # Errors
    /// When it has ended and was waited for, or `/proc` cannot be read.
    pub fn cpu_times(&self) -> Result<CpuTimes, DomainError> {
        self.sched.times()
    }
}

impl Drop for ProcessDomain {
    fn drop(&mut self) {
        if self.exit.is_some() {
            return;
        }
        // Failing leaves a process that dies with the host.
        let _ = self.kill();
        if let Ok(pidfd) = self.pidfd.try_clone() {
            reap_later(pidfd);
        }
    }
}
