//! That the service goes on.

use coordinator::Service;
use hypervisor::decision::Phase;

use crate::sim::plan::Doorbells;
use crate::sim::world::World;

/// Where nothing goes wrong, an input is answered within this time. A
/// wake-up that is lost costs a beat, which is longer.
const QUIET_LIMIT_US: u64 = 8_000;
/// However much goes wrong, nobody waits for longer for any answer while a primary
/// serves: one that gets nothing done is replaced.
const STANDSTILL_LIMIT_US: u64 = 12_000_000;

/// Since when somebody waits, and nobody was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    delivered: u64,
    since_us: u64,
}

impl World {
    /// Whether no step of this run is late and no wake-up is lost.
    fn is_quiet(&self) -> bool {
        self.plan.fault_gap_us.is_none()
            && self.plan.held_up == 0
            && self.plan.doorbells == Doorbells::default()
    }

    /// The host has taken a turn: did the oldest input wait for too long?
    pub(super) fn look_at_progress(&mut self) {
        let Some(host) = &self.host else {
            self.watch.waiting = None;
            return;
        };
        let serving = host.service() == Service::Serving
            && matches!(host.decisions().phase(), Phase::Serving { .. });
        let delivered = host.deliveries().delivered;
        let somebody_waits = host.is_waiting();
        let now_us = self.now_us();
        let limit = if self.is_quiet() { QUIET_LIMIT_US } else { STANDSTILL_LIMIT_US };
        if let Some(waiting) = self.watch.waiting
            && serving
            && now_us - waiting.since_us > limit
        {
            let waited = now_us - waiting.since_us;
            self.watch.waiting = None;
            return self.flaw("standstill", format_args!("nobody was answered for {waited} us"));
        }
        if !serving || !somebody_waits {
            self.watch.waiting = None;
        } else if self.watch.waiting.is_none_or(|waiting| waiting.delivered != delivered) {
            self.watch.waiting = Some(Waiting { delivered, since_us: now_us });
        }
    }
}
