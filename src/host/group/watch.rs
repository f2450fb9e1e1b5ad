//! Watches one replica: for its death, its last sign of life, and hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hypervisor::death::DeathWatch;
use hypervisor::domain::ProcessDomain;
use hypervisor::fabric::ReplicaPageView;
use hypervisor::monitor::{Monitor, MonitorConfig, Observation, Verdict};

use crate::host::waker::Waker;

/// How long a replica that is being taught may be silent.
const LEARNER_LIMIT: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Watch {
    dead: Arc<AtomicBool>,
    _death: DeathWatch,
    monitor: Monitor,
    start: Instant,
    beats: u64,
    last_sign: Instant,
}

impl Watch {
    pub(super) fn start(
        config: MonitorConfig,
        page: &ReplicaPageView,
        waker: Waker,
    ) -> std::io::Result<Self> {
        let dead = Arc::new(AtomicBool::new(false));
        let death = DeathWatch::start(page, {
            let dead = Arc::clone(&dead);
            move || {
                dead.store(true, Ordering::SeqCst);
                waker.wake();
            }
        })?;
        let now = Instant::now();
        Ok(Self {
            dead,
            _death: death,
            monitor: Monitor::new(config),
            start: now,
            beats: page.beats(),
            last_sign: now,
        })
    }

    /// Whether the kernel has said that it died.
    pub(super) fn says_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// When a beat was last seen.
    pub(super) fn last_sign(&self) -> Instant {
        self.last_sign
    }

    /// Notes a beat, if there was one.
    pub(super) fn look(&mut self, now: Instant, page: &ReplicaPageView) {
        let beats = page.beats();
        if beats != self.beats {
            self.beats = beats;
            self.last_sign = now;
        }
    }

    /// Why a replica that is being taught must be taken for hung, if it must. It
    /// restores a whole store in one step, and nobody waits for it.
    pub(super) fn judge_learner(&mut self, now: Instant, page: &ReplicaPageView) -> Option<String> {
        self.look(now, page);
        let silent = now.saturating_duration_since(self.last_sign);
        (silent > LEARNER_LIMIT).then(|| format!("no beat for {} ms", silent.as_millis()))
    }

    /// Why it must be taken for hung, if it must. `work_waiting`: inputs wait for
    /// this replica, whose progress is `progress`.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        page: &ReplicaPageView,
        domain: &ProcessDomain,
        work_waiting: bool,
        progress: u64,
    ) -> Option<String> {
        self.look(now, page);
        let Ok(times) = domain.cpu_times() else {
            // It ends just now; its pidfd will say so.
            return None;
        };
        let at_us = u64::try_from(now.duration_since(self.start).as_micros()).unwrap_or(u64::MAX);
        let idle = page.is_idle();
        let now = Observation { at_us, beats: self.beats, idle, work_waiting, progress, times };
        let verdict = self.monitor.observe(now, || domain.state().ok());
        match verdict {
            Verdict::Hung(reason) => Some(reason.to_string()),
            Verdict::Alive | Verdict::Suspect | Verdict::Starved => None,
        }
    }
}
