//! That the service goes on.

use coordinator::Service;
use hypervisor::decision::{AckPolicy, Phase};
use state_machine::InputNo;

use crate::sim::checkers::Checker;
use crate::sim::host::{micros, monitor};
use crate::sim::plan::{Doorbells, Plan};
use crate::sim::world::World;

/// Where nothing goes wrong, an input is answered within this time. A
/// wake-up that is lost costs a beat, which is longer.
const QUIET_LIMIT_US: u64 = 8_000;

/// However much goes wrong, the oldest input waits no longer than this for its
/// answer while a primary serves, and the host no longer for a primary while
/// nothing more goes wrong: a replica that gets nothing done is given up, and
/// twice, for the one that takes over may be in the same state and is found out
/// only then. The longest that a replica is waited for is the time in which it
/// gets no core, and then the time in which it has to get on.
fn limit_us(plan: &Plan) -> u64 {
    let monitor = monitor(plan);
    2 * (u64::from(monitor.starved_ms) * 1_000 + micros(monitor.progress_limit()))
}

/// The oldest input that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    no: InputNo,
    /// For how long somebody served meanwhile.
    served_us: u64,
    /// When the host was looked at last, and whether it served then.
    seen_us: u64,
    serving: bool,
}

/// What lasts, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Undisturbed {
    /// This is the oldest input that waits, whoever serves.
    waits: Option<(InputNo, u64)>,
    /// Nobody serves.
    dark_since_us: Option<u64>,
}

impl World {
    /// Whether no step of this run is late and no wake-up is lost.
    fn is_quiet(&self) -> bool {
        self.plan.fault_gap_us.is_none()
            && self.plan.held_up == 0
            && self.plan.doorbells == Doorbells::default()
    }

    fn serves(&self) -> bool {
        self.host.as_ref().is_some_and(|host| {
            host.service() == Service::Serving
                && matches!(host.decisions().phase(), Phase::Serving { .. })
        })
    }

    /// The host has taken a turn: did the oldest input wait for too long, however
    /// many others were answered? Time counts in which somebody served.
    pub(super) fn look_at_progress(&mut self) {
        let (now_us, serving) = (self.now_us(), self.serves());
        // Also who was answered in this very turn has waited for it.
        if let Some(waiting) = &mut self.watch.waiting {
            if serving && waiting.serving {
                waiting.served_us += now_us - waiting.seen_us;
            }
            (waiting.seen_us, waiting.serving) = (now_us, serving);
        }
        let limit_us = if self.is_quiet() { QUIET_LIMIT_US } else { limit_us(&self.plan) };
        if let Some(Waiting { no, served_us, .. }) = self.watch.waiting
            && served_us > limit_us
        {
            self.watch.waiting = None;
            let what = format!("input {no} was not answered for {served_us} us");
            return self.flaw("standstill", what);
        }
        let Some(no) = self.host.as_ref().and_then(|host| host.oldest_unanswered()) else {
            self.watch.waiting = None;
            return;
        };
        self.watch.count(Checker::Standstill, 1);
        if self.watch.waiting.is_none_or(|waiting| waiting.no != no) {
            self.watch.waiting = Some(Waiting { no, served_us: 0, seen_us: now_us, serving });
        }
    }

    /// Whether enough replicas are well to serve.
    fn is_able(&self) -> bool {
        let Some(host) = &self.host else { return false };
        let healthy = self.healthy_voters().len();
        match self.plan.ack {
            AckPolicy::AllLive => healthy > 0,
            AckPolicy::Quorum => {
                let members = host.decisions().members().count();
                healthy > members.max(usize::from(self.faults.factor)) / 2
            }
        }
    }

    /// Somebody who can serves, and answers, soon after the last fault: one
    /// primary after the other that serves for a moment is no service.
    pub(super) fn look_at_service(&mut self) {
        let oldest = self.host.as_ref().and_then(|host| host.oldest_unanswered());
        let dark = !self.serves();
        if !dark && oldest.is_none() || !self.is_able() {
            self.watch.undisturbed = Undisturbed::default();
            return;
        }
        let now_us = self.now_us();
        let last_us = self.faults.last_us;
        let limit_us = limit_us(&self.plan);
        let mut now = Undisturbed::default();
        let mut wrong = None;
        if let Some(no) = oldest {
            let before = self.watch.undisturbed.waits.filter(|(before, _)| *before == no);
            let since_us = before.map_or(now_us, |(_, since_us)| since_us.max(last_us));
            now.waits = Some((no, since_us));
            self.watch.count(Checker::Standstill, 1);
            if now_us > since_us + limit_us {
                let waited_us = now_us - since_us;
                let what = format!("input {no} was not answered for {waited_us} us by anybody");
                wrong = Some(("standstill", what));
            }
        }
        if dark {
            let before = self.watch.undisturbed.dark_since_us;
            let since_us = before.map_or(now_us, |since_us| since_us.max(last_us));
            now.dark_since_us = Some(since_us);
            self.watch.count(Checker::Outage, 1);
            if now_us > since_us + limit_us {
                let dark_us = now_us - since_us;
                wrong = Some(("outage", format!("nobody has served for {dark_us} us")));
            }
        }
        self.watch.undisturbed = now;
        if let Some((checker, wrong)) = wrong {
            self.flaw(checker, wrong);
        }
    }
}
