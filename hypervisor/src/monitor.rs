//! Judges whether a replica hangs. Pure: samples in, verdicts out.
//!
//! A replica beats at least every 20 ms, when idle every 100 ms. A beat that stands still
//! has four explanations, and only one of them is the replica's fault:
//!
//! * the monitor itself did not run: a sample that comes late counts as one
//!   period only;
//! * the replica got no core: its state is runnable and it has not run;
//! * it is being stopped from outside, or sleeps although its timeouts passed;
//! * it runs and runs without ever coming back to its main loop.
//!
//! Beside the beat there is progress: a replica that beats but does not get on
//! with work that is waiting hangs as well.

use std::time::Duration;

use teeth::Bug;
use thiserror::Error;

use crate::domain::CpuTimes;

/// When a replica counts as hung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// How often samples are taken, in milliseconds.
    pub period_ms: u32,
    /// A sample this long after the one before is late: the monitor was starved.
    pub late_ms: u32,
    /// How long a beat may stand still without an excuse. At least a few beats and
    /// clock ticks of the kernel.
    pub detect_ms: u32,
    /// How much longer it may stand still while the replica says that it is idle,
    /// and nothing waits for it.
    pub idle_ms: u32,
    /// How long it may stand still while the replica gets no core.
    pub starved_ms: u32,
    /// How long it may stand still while the replica is in an uninterruptible
    /// system call, such as a slow disk's.
    pub blocked_ms: u32,
    /// How long work may wait without any progress. It counts as at least twice
    /// [`Self::silent_limit`]: whoever gets nothing done may be waiting for one
    /// that is silent, which has to show first.
    pub progress_ms: u32,
}

impl MonitorConfig {
    /// The longest that a replica is silent that works or idles as it should.
    #[must_use]
    pub fn silent_limit(&self) -> Duration {
        Duration::from_millis(u64::from(self.detect_ms) + u64::from(self.idle_ms))
    }

    /// The longest that work waits for a replica that does not get on.
    #[must_use]
    pub fn progress_limit(&self) -> Duration {
        Duration::from_millis(self.progress_ms.into()).max(2 * self.silent_limit())
    }
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            period_ms: 10,
            late_ms: 25,
            detect_ms: 50,
            idle_ms: 100,
            starved_ms: 5_000,
            blocked_ms: 500,
            progress_ms: 1_000,
        }
    }
}

/// What is known about a replica at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When, in microseconds of a clock that never goes back.
    pub at_us: u64,
    /// The replica's beat counter.
    pub beats: u64,
    /// Whether it says that it is idle.
    pub idle: bool,
    /// Whether work is waiting for it.
    pub work_waiting: bool,
    /// Any number that changes when the replica gets on with work.
    pub progress: u64,
    /// How long it has run, and waited to run.
    pub times: CpuTimes,
}

/// Why a replica counts as hung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HangReason {
    /// A signal or debugger stopped it.
    #[error("stopped from outside")]
    Stopped,
    /// It has ended and was not noticed otherwise.
    #[error("ended")]
    Ended,
    /// It uses its core and never comes back.
    #[error("busy loop")]
    BusyLoop,
    /// It sleeps although its timeouts have passed.
    #[error("asleep past its timeout")]
    Asleep,
    /// It is stuck in the kernel.
    #[error("blocked in the kernel")]
    Blocked,
    /// It has not got a core for so long that a replacement is the better choice.
    #[error("starved of its core")]
    Starved,
    /// It beats, but does not get on.
    #[error("work waits without progress")]
    NoProgress,
}

/// What to think of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is well.
    Alive,
    /// It has not beaten for half the time allowed.
    Suspect,
    /// It would like to beat but gets no core. Not its fault.
    Starved,
    /// It is of no use any more.
    Hung(HangReason),
}

/// Watches one replica.
#[derive(Clone, Debug)]
pub struct Monitor {
    config: MonitorConfig,
    last: Option<Observation>,
    beat: Standstill,
    work: Standstill,
}

/// Since something stood still.
#[derive(Clone, Copy, Debug, Default)]
struct Standstill {
    /// Time that counts.
    for_us: u64,
    /// Of it, time in which the replica was idle and nothing waited for it.
    idle_us: u64,
    /// Of it, time on a core.
    on_cpu_us: u64,
    /// Of it, time waiting for a core, as far as the kernel has told yet.
    runnable_us: u64,
}

impl Standstill {
    fn add(&mut self, span: Self) {
        self.for_us += span.for_us;
        self.idle_us += span.idle_us;
        self.on_cpu_us += span.on_cpu_us;
        // The kernel tells of a wait when it ends, in one lump.
        self.runnable_us = (self.runnable_us + span.runnable_us).min(self.for_us);
    }
}

fn us(ms: u32) -> u64 {
    Duration::from_millis(ms.into()).as_micros() as u64
}

impl Monitor {
    /// A monitor that has seen nothing yet.
    #[must_use]
    pub fn new(config: MonitorConfig) -> Self {
        Self { config, last: None, beat: Standstill::default(), work: Standstill::default() }
    }

    /// Judges the replica by a new sample and those before. `state` tells the
    /// scheduler's letter for it, or `None` when it ends just now; it is asked for
    /// only where it matters.
    pub fn observe(&mut self, now: Observation, state: impl FnOnce() -> Option<char>) -> Verdict {
        let Some(last) = self.last.replace(now) else {
            return Verdict::Alive;
        };
        let span = self.span(&last, &now);
        if now.beats == last.beats && !teeth::bites(Bug::HangNeverSuspected) {
            self.beat.add(span);
        } else {
            self.beat = Standstill::default();
        }
        if now.work_waiting && last.work_waiting && now.progress == last.progress {
            self.work.add(span);
        } else {
            self.work = Standstill::default();
        }
        match self.judge_beat(state) {
            Verdict::Alive => self.judge_work(),
            verdict => verdict,
        }
    }

    /// The time between two samples, as far as it counts.
    fn span(&self, last: &Observation, now: &Observation) -> Standstill {
        let elapsed = now.at_us.saturating_sub(last.at_us);
        let late = elapsed > us(self.config.late_ms) && !teeth::bites(Bug::LateSampleCounted);
        let counted = if late { us(self.config.period_ms).min(elapsed) } else { elapsed };
        let grown = |now: u64, last: u64| now.saturating_sub(last) / 1000;
        let idle = [last, now].into_iter().all(|sample| sample.idle && !sample.work_waiting);
        Standstill {
            for_us: counted,
            idle_us: if idle { counted } else { 0 },
            on_cpu_us: grown(now.times.on_cpu_ns, last.times.on_cpu_ns).min(counted),
            runnable_us: grown(now.times.runnable_wait_ns, last.times.runnable_wait_ns),
        }
    }

    fn judge_beat(&self, state: impl FnOnce() -> Option<char>) -> Verdict {
        let detect = us(self.config.detect_ms);
        let still = &self.beat;
        // What an idle replica may take between two beats does not count.
        let for_us = still.for_us - still.idle_us.min(us(self.config.idle_ms));
        if for_us < detect {
            return if for_us * 2 < detect { Verdict::Alive } else { Verdict::Suspect };
        }
        // The notice of its end is on its way.
        let Some(state) = state() else { return Verdict::Suspect };
        match state {
            'T' | 't' => Verdict::Hung(HangReason::Stopped),
            'Z' | 'X' | 'x' => Verdict::Hung(HangReason::Ended),
            'R' if still.on_cpu_us >= detect => Verdict::Hung(HangReason::BusyLoop),
            'R' if still.for_us >= us(self.config.starved_ms) => Verdict::Hung(HangReason::Starved),
            'R' => Verdict::Starved,
            'D' if still.for_us >= us(self.config.blocked_ms) => Verdict::Hung(HangReason::Blocked),
            'D' => Verdict::Suspect,
            // It has just got the core it had been waiting for, and sleeps for an
            // instant on its way back to the main loop.
            _ if for_us.saturating_sub(still.runnable_us) < detect => Verdict::Suspect,
            _ => Verdict::Hung(HangReason::Asleep),
        }
    }

    /// For how long work has waited for this replica in vain, as far as it had a
    /// core.
    #[must_use]
    pub fn in_vain(&self) -> Duration {
        Duration::from_micros(self.work.for_us.saturating_sub(self.work.runnable_us))
    }

    fn judge_work(&self) -> Verdict {
        let in_vain = self.in_vain() >= self.config.progress_limit();
        if in_vain { Verdict::Hung(HangReason::NoProgress) } else { Verdict::Alive }
    }
}

#[cfg(test)]
mod tests;
