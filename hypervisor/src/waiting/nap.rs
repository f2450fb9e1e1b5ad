//! Frequent short sleeps, made cheap.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A `timerfd` that becomes readable once a period; the next period is armed when
/// the tick is taken.
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
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let ticker = Self { fd };
        ticker.set_period(period)?;
        Ok(ticker)
    }

    /// Ticks with another period from now on.
    ///
    /// # Errors
    /// When the period is 0.
    pub fn set_period(&self, period: Duration) -> io::Result<()> {
        if period.is_zero() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let period = Timespec::try_from(period).map_err(|_| io::ErrorKind::InvalidInput)?;
        let times = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &times)?;
        Ok(())
    }

    /// Takes the tick; whether there was one.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.fd, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sleeps until a doorbell rings or a ticker ticks. The bell is watched
/// edge-triggered, so that it need not be read: a sleep is one system call.
#[derive(Debug)]
pub struct Nap {
    epoll: OwnedFd,
    ticker: Ticker,
}

const BELL: u64 = 0;
const TICK: u64 = 1;

impl Nap {
    /// Naps that end when `bell`, an eventfd, is written to, and once a period.
    ///
    /// # Errors
    /// When descriptors have run out, or the period is 0.
    pub fn new(bell: BorrowedFd<'_>, period: Duration) -> io::Result<Self> {
        let ticker = Ticker::new(period)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, bell, EventData::new_u64(BELL), edge)?;
        epoll::add(&epoll, &ticker, EventData::new_u64(TICK), edge)?;
        Ok(Self { epoll, ticker })
    }

    /// Has the sleep end once in another period from now on.
    ///
    /// # Errors
    /// When the period is 0.
    pub fn set_period(&self, period: Duration) -> io::Result<()> {
        self.ticker.set_period(period)
    }

    /// Sleeps; says whether the bell rang. A Unix signal ends the sleep early.
    pub fn sleep(&self) -> bool {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(TICK) }; 2];
        match epoll::wait(&self.epoll, &mut events, None) {
            Ok(count) => {
                let told = |what| events[..count].iter().any(|event| event.data.u64() == what);
                if told(TICK) {
                    self.ticker.take();
                }
                told(BELL)
            }
            Err(Errno::INTR) => false,
            // Nothing to sleep on: the caller must not spin for that.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(1));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn ends_with_the_bell_or_the_tick() {
        let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let nap = Nap::new(bell.as_fd(), Duration::from_millis(5)).unwrap();
        for _ in 0..3 {
            rustix::io::write(&bell, &1_u64.to_ne_bytes()).unwrap();
            assert!(nap.sleep(), "a ring, though the last one was never read");
            assert!(!nap.sleep(), "a tick");
        }
        assert!(Nap::new(bell.as_fd(), Duration::ZERO).is_err());
        assert!(nap.set_period(Duration::ZERO).is_err());
        nap.set_period(Duration::from_millis(300)).unwrap();
        let begin = std::time::Instant::now();
        assert!(!nap.sleep(), "a tick of the new period");
        assert!(begin.elapsed() > Duration::from_millis(200));
    }
}
