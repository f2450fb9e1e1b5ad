//! A domain that is a Linux process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::sched::{CpuTimes, SchedFiles};
use super::spawn::{SpawnSpec, Started, reap_later, spawn};
use super::{DomainError, system};

/// How a domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended itself with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// Its parent knows, and that is not this process.
    Unknown,
}

/// A replica's process. It dies with whom its [`Bond`](super::Bond) names; when this
/// value is dropped, it is killed.
#[derive(Debug)]
pub struct ProcessDomain {
    pid: Pid,
    pidfd: OwnedFd,
    sched: SchedFiles,
    /// Started here, so that its end is told to this process alone.
    is_child: bool,
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
            Ok(sched) => {
                let Started { pid, pidfd } = started;
                Ok(Self { pid, pidfd, sched, is_child: true, exit: None })
            }
            Err(error) => {
                let _ = rustix::process::pidfd_send_signal(&started.pidfd, Signal::KILL);
                reap_later(started.pidfd);
                Err(error)
            }
        }
    }

    /// Takes charge of a process that another one has started. Its end is noticed;
    /// how it ended is not known here ([`Exit::Unknown`]), and others reap it.
    ///
    /// # Errors
    /// [`DomainError::Gone`] when there is no such process any more, another one when
    /// the descriptor is no pidfd or `/proc` cannot be read. The process is let be.
    pub fn adopt(pidfd: OwnedFd) -> Result<Self, DomainError> {
        let pid = pid_of(&pidfd)?;
        // The number means this process as long as the pidfd says so.
        let sched = SchedFiles::open(pid);
        if pid_of(&pidfd)? != pid {
            return Err(DomainError::Gone);
        }
        Ok(Self { pid, pidfd, sched: sched?, is_child: false, exit: None })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether its program is the very file that this process runs, by whatever name.
    ///
    /// # Errors
    /// When it has ended, or the kernel keeps its program to itself.
    pub fn runs_this_program(&self) -> Result<bool, DomainError> {
        let of = |path: &str| {
            let file = std::fs::metadata(path).map_err(system("stat(/proc/PID/exe)"))?;
            Ok::<_, DomainError>((file.dev(), file.ino()))
        };
        Ok(of(&format!("/proc/{}/exe", self.pid))? == of("/proc/self/exe")?)
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
        if self.exit.is_none() && !self.is_child {
            self.exit = self.poll(Duration::ZERO)?.then_some(Exit::Unknown);
        } else if self.exit.is_none() {
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
            self.poll(left)?;
        }
    }

    /// Waits at most so long for its end; whether it has come.
    fn poll(&self, timeout: Duration) -> Result<bool, DomainError> {
        let timeout = Timespec::try_from(timeout).ok();
        let mut ends = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut ends, timeout.as_ref()) {
            Ok(ended) => Ok(ended > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(system("poll")(errno)),
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

/// Whom a pidfd means.
///
/// # Errors
/// [`DomainError::Gone`] when that has ended and was waited for, or what `/proc` says
/// cannot be understood.
pub fn pid_of(pidfd: &OwnedFd) -> Result<Pid, DomainError> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).map_err(system("read(/proc/self/fdinfo)"))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.and_then(|pid| pid.trim().parse::<i32>().ok());
    // -1 when it was reaped, 0 when it is in no name space of ours.
    match pid.ok_or(DomainError::Account("fdinfo of a pidfd"))? {
        pid if pid > 0 => Pid::from_raw(pid).ok_or(DomainError::Gone),
        _ => Err(DomainError::Gone),
    }
}

impl Drop for ProcessDomain {
    fn drop(&mut self) {
        if self.exit.is_some() {
            return;
        }
        // Failing leaves a process that dies with the one that its bond names.
        let _ = self.kill();
        if self.is_child
            && let Ok(pidfd) = self.pidfd.try_clone()
        {
            reap_later(pidfd);
        }
    }
}
