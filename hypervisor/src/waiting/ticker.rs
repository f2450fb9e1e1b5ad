//! A periodic wake-up that costs nothing while others wake the sleeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A `timerfd` that becomes readable once a period.
///
/// A sleep with a timeout sets the core's timer and takes it back, each time; in
/// a virtual machine that is a trap into the hypervisor, which can cost more than
/// all the rest of a request. A periodic timer is set once a period.
#[derive(Debug)]
pub struct Ticker {
    fd: OwnedFd,
}

impl Ticker {
    /// Begins to tick.
    ///
    /// # Errors
    /// When descriptors have run out, or the period is 0.
    pub fn new(period: Duration) -> io::Result<Self> {
        if period.is_zero() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let period = Timespec::try_from(period).map_err(|_| io::ErrorKind::InvalidInput)?;
        let times = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &times)?;
        Ok(Self { fd })
    }

    /// Takes the ticks away; whether there were any.
    pub fn drain(&self) -> bool {
        rustix::io::read(&self.fd, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn ticks_once_a_period() {
        let ticker = Ticker::new(Duration::from_millis(5)).unwrap();
        assert!(!ticker.drain());
        for _ in 0..3 {
            assert_eq!(poll(&mut [PollFd::new(&ticker, PollFlags::IN)], None), Ok(1));
            assert!(ticker.drain());
        }
        assert!(Ticker::new(Duration::ZERO).is_err());
    }
}
