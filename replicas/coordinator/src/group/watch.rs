//! Watches one replica: for its death, its last sign of life, and hangs.

use std::time::{Duration, Instant};

use hypervisor::fabric::ReplicaPageView;
use hypervisor::monitor::{Monitor, MonitorConfig, Observation, Verdict};

use crate::platform::{DeathWatch, Domain};

/// How long a replica that is being taught may be silent.
const LEARNER_LIMIT: Duration = Duration::from_secs(5);

/// Of the time since the last look, no more than this counts against a replica that is
/// being taught: if it was longer, the host itself stood still, and others with it.
const LOOK_COUNTS: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Watch<D> {
    death: Option<D>,
    monitor: Monitor,
    /// [`MonitorConfig::silent_limit`].
    silent_limit: Duration,
    start: Instant,
    beats: u64,
    last_sign: Instant,
    looked: Instant,
    /// How long it has been silent, without time in which nobody looked.
    silent: Duration,
}

impl<D: DeathWatch> Watch<D> {
    /// `death`: tells of its end at once, where that could be had.
    pub(super) fn start(
        config: MonitorConfig,
        page: &ReplicaPageView,
        death: Option<D>,
        now: Instant,
    ) -> Self {
        Self {
            death,
            monitor: Monitor::new(config),
            silent_limit: config.silent_limit(),
            start: now,
            beats: page.beats(),
            last_sign: now,
            looked: now,
            silent: Duration::ZERO,
        }
    }

    /// Whether the machine has said that it died.
    pub(super) fn says_dead(&self) -> bool {
        self.death.as_ref().is_some_and(DeathWatch::says_dead)
    }

    /// When a beat was last seen.
    pub(super) fn last_sign(&self) -> Instant {
        self.last_sign
    }

    /// Notes a beat, if there was one.
    pub(super) fn look(&mut self, now: Instant, page: &ReplicaPageView) {
        let beats = page.beats();
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        if beats == self.beats {
            self.silent += elapsed.min(LOOK_COUNTS);
        } else {
            self.beats = beats;
            self.last_sign = now;
            self.silent = Duration::ZERO;
        }
    }

    /// Whether it has been silent for longer than one is that works.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_sign) > self.silent_limit
    }

    /// Whether work has waited for it in vain for longer than others may be silent.
    pub(super) fn is_stuck(&self) -> bool {
        self.monitor.in_vain() > self.silent_limit
    }

    /// Why a replica that is being taught must be taken for hung, if it must. It
    /// restores a whole store in one step, and nobody waits for it.
    pub(super) fn judge_learner(&mut self, now: Instant, page: &ReplicaPageView) -> Option<String> {
        self.look(now, page);
        let silent = self.silent;
        (silent > LEARNER_LIMIT).then(|| format!("no beat for {} ms", silent.as_millis()))
    }

    /// Why it must be taken for hung, if it must. `work_waiting`: inputs wait for
    /// this replica, whose progress is `progress`.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        page: &ReplicaPageView,
        domain: &impl Domain,
        work_waiting: bool,
        progress: u64,
    ) -> Option<String> {
        self.look(now, page);
        let Some(times) = domain.cpu_times() else {
            // It ends just now, as the machine will say.
            return None;
        };
        let at_us = u64::try_from(now.duration_since(self.start).as_micros()).unwrap_or(u64::MAX);
        let idle = page.is_idle();
        let now = Observation { at_us, beats: self.beats, idle, work_waiting, progress, times };
        let verdict = self.monitor.observe(now, || domain.state());
        match verdict {
            Verdict::Hung(reason) => Some(reason.to_string()),
            Verdict::Alive | Verdict::Suspect | Verdict::Starved => None,
        }
    }
}
