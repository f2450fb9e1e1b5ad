//! A doorbell: wakes a party that sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::waiting::Nap;

/// An `eventfd` on which its owner sleeps and that others ring. It never blocks
/// those who ring; that it does not is a property shared by all who hold it, so
/// that they must not be able to change it (see [`crate::sandbox`]).
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
}

impl Doorbell {
    /// A new doorbell.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn new() -> io::Result<Self> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// A doorbell that another process made.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A duplicate of the descriptor, to be handed over.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn duplicate_fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Rings.
    pub fn ring(&self) {
        // The only failure is a counter at its limit: then the bell rings anyway.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Takes the signal away. Says whether it had rung.
    pub fn drain(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.fd, &mut count).is_ok()
    }

    /// Sleeps until the bell rings or the limit is reached, and takes the signal
    /// away. Says whether it rang. A Unix signal ends the sleep early.
    pub fn wait<'a>(&self, limit: impl Into<SleepLimit<'a>>) -> bool {
        let timeout = match limit.into() {
            SleepLimit::After(timeout) => Timespec::try_from(timeout).ok(),
            SleepLimit::Tick(nap) => return nap.sleep(),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => false,
            Ok(_) => self.drain(),
            // Nothing to sleep on: the caller must not spin for that.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(1));
                false
            }
        }
    }
}

/// When a sleep ends if nobody rings.
#[derive(Clone, Copy, Debug)]
pub enum SleepLimit<'a> {
    /// After this time.
    After(Duration),
    /// With the next tick, which is cheaper by far for frequent sleeps. The nap
    /// must be one on the same doorbell.
    Tick(&'a Nap),
}

impl From<Duration> for SleepLimit<'_> {
    fn from(timeout: Duration) -> Self {
        Self::After(timeout)
    }
}

impl<'a> From<&'a Nap> for SleepLimit<'a> {
    fn from(nap: &'a Nap) -> Self {
        Self::Tick(nap)
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
