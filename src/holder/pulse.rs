//! The daemon's pulse, by which the holder knows that it still goes around its loop: one
//! that is stopped, sleeps for ever or turns in vain serves nobody, and does not die.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hypervisor::domain::ProcessDomain;
use hypervisor::monitor::{HangReason, Monitor, MonitorConfig, Observation, Verdict};
use rustix::event::{EventfdFlags, eventfd};

/// The longest that a daemon which is well lets pass between two beats.
pub(crate) const BEAT: Duration = Duration::from_millis(250);
/// How often the holder feels the pulse.
pub(super) const FEEL: Duration = Duration::from_millis(500);

/// A daemon has nothing to do that takes nearly as long, and to wait for a disk may take it
/// longer. One that does not get the processor is waited for, however long that takes:
/// another one would not get it either.
const LIMITS: MonitorConfig = MonitorConfig {
    period_ms: 500,
    late_ms: 750,
    detect_ms: 2_500,
    idle_ms: 0,
    starved_ms: u32::MAX,
    blocked_ms: 30_000,
    progress_ms: u32::MAX,
};

/// A new pulse: the holder's end, and the daemon's.
pub(super) fn pulse() -> rustix::io::Result<(Pulse, OwnedFd)> {
    let beats = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let heart = beats.try_clone().map_err(|error| {
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::MFILE)
    })?;
    let monitor = Monitor::new(LIMITS);
    Ok((Pulse { beats, count: 0, monitor, start: Instant::now() }, heart))
}

/// The holder's end.
pub(super) struct Pulse {
    beats: OwnedFd,
    count: u64,
    monitor: Monitor,
    start: Instant,
}

impl Pulse {
    /// Why `daemon` must be taken for hung, if it must. To be called each [`FEEL`], once it
    /// is ready.
    pub(super) fn feel(&mut self, daemon: &ProcessDomain) -> Option<HangReason> {
        let mut beats = [0; 8];
        if rustix::io::read(&self.beats, &mut beats).is_ok() {
            self.count += u64::from_ne_bytes(beats);
        }
        // It may have ended just now, which is told otherwise.
        let times = daemon.cpu_times().ok()?;
        let at_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (idle, work_waiting) = (false, false);
        let now = Observation { at_us, beats: self.count, idle, work_waiting, progress: 0, times };
        // Who stands under a debugger has somebody who looks after it.
        let state = || daemon.state().ok().filter(|state| *state != 't');
        match self.monitor.observe(now, state) {
            Verdict::Hung(reason) => Some(reason),
            Verdict::Alive | Verdict::Suspect | Verdict::Starved => None,
        }
    }
}

/// The daemon's end.
#[derive(Debug)]
pub(crate) struct Heart {
    beats: OwnedFd,
    last: Instant,
}

impl Heart {
    pub(super) fn new(beats: OwnedFd) -> Self {
        Self { beats, last: Instant::now() }
    }

    /// To be called at least each [`BEAT`].
    pub(crate) fn beat(&mut self, now: Instant) {
        if now.duration_since(self.last) >= BEAT / 2 {
            self.last = now;
            // It is full if nobody has felt it for ages.
            let _ = rustix::io::write(&self.beats, &1_u64.to_ne_bytes());
        }
    }
}
