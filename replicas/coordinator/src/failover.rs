//! How long each failover takes, by phase.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hypervisor::decision::Cause;
use hypervisor::{Generation, ReplicaId};

use serde::{Deserialize, Serialize};

/// One failover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failover {
    /// When it was noticed, milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What was wrong with the old primary, such as `died` or `hung`.
    pub cause: String,
    /// The old primary.
    pub from: u64,
    /// The new primary.
    pub to: u64,
    /// The new primary's generation.
    pub generation: u64,
    /// From the fault, where its moment is known, to the notice, microseconds.
    pub detect_us: u64,
    /// From the notice to the certainty that the old primary is stopped,
    /// microseconds.
    pub fence_us: u64,
    /// From there to the new primary's election, microseconds.
    pub promote_us: u64,
    /// From there to the first reply, microseconds.
    pub replay_us: u64,
    /// From the fault to the first reply, microseconds.
    pub total_us: u64,
}

/// A failover under way. Should the candidate die too, it goes on, and the time
/// spent counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    from: ReplicaId,
    cause: Cause,
    last_sign: Instant,
    noticed: Instant,
    fenced: Option<Instant>,
    promoted: Option<(Instant, ReplicaId, Generation)>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Running {
    /// The primary was given up. `last_sign`: its last sign of life, or when a
    /// fault was injected into it.
    pub(crate) fn new(from: ReplicaId, cause: Cause, last_sign: Instant, noticed: Instant) -> Self {
        Self { from, cause, last_sign, noticed, fenced: None, promoted: None }
    }

    /// Whether the primary hands over by an operator's wish.
    pub(crate) fn is_planned(&self) -> bool {
        self.cause == Cause::Retired
    }

    /// A candidate was chosen: every survivor has acknowledged.
    pub(crate) fn fenced(&mut self, now: Instant) {
        self.fenced = Some(now);
        self.promoted = None;
    }

    /// The candidate leads and has finished the log.
    pub(crate) fn promoted(&mut self, now: Instant, id: ReplicaId, generation: Generation) {
        self.promoted = Some((now, id, generation));
    }

    /// The first answer has come; `None` when nobody was promoted yet.
    pub(crate) fn answered(&self, now: Instant) -> Option<Failover> {
        let (promoted, to, generation) = self.promoted?;
        let fenced = self.fenced?;
        let since_noticed = now.saturating_duration_since(self.noticed);
        let at = SystemTime::now().checked_sub(since_noticed).unwrap_or(UNIX_EPOCH);
        let at_unix_ms = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Some(Failover {
            at_unix_ms: u64::try_from(at_unix_ms).unwrap_or(u64::MAX),
            cause: cause_name(self.cause).to_owned(),
            from: self.from.0,
            to: to.0,
            generation: generation.0,
            detect_us: micros(self.noticed.saturating_duration_since(self.last_sign)),
            fence_us: micros(fenced.saturating_duration_since(self.noticed)),
            promote_us: micros(promoted.saturating_duration_since(fenced)),
            replay_us: micros(now.saturating_duration_since(promoted)),
            total_us: micros(now.saturating_duration_since(self.last_sign)),
        })
    }
}

/// A cause in the status and in the log.
#[must_use]
pub fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Killed => "killed",
        Cause::Crashed => "crashed",
        Cause::Hung => "hung",
        Cause::Corrupt => "corrupt",
        Cause::Misbehaved => "misbehaved",
        Cause::Retired => "handed-over",
    }
}
