//! How a party waits: it keeps looking for some microseconds, giving way to
//! whoever can run, then it blocks.
//!
//! Measured on two cores: handing over with `sched_yield` takes about 4 us, waking
//! a sleeper on an idle core 20 to 45 us, and spinning with `pause` steals the
//! core from the very party one waits for.

mod cores;
mod manners;
mod nap;
mod pace;
mod slice;

pub use cores::{
    Affinity, Core, CoreChooser, ParseAffinityError, allowed_cores, pin_current_thread, pin_process,
};

pub use manners::Manners;
pub use nap::{Nap, Ticker};
pub use pace::Pace;
pub use slice::set_time_slice;

use std::time::{Duration, Instant};

/// What to do after a round that found no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The core was handed over; look for work again.
    Again,
    /// Long enough: block.
    Block,
}

/// A turn that gave the core away for longer than this gave it to strangers, who
/// keep it for a whole time slice (some 3 ms). The component's own replicas, when
/// they all tick and check their state, take a few hundred microseconds.
const LOST_CORE: Duration = Duration::from_millis(1);
/// How long nobody spins on a core that strangers want.
const CONTENDED: Duration = Duration::from_millis(100);

/// Looks for work that is expected soon, from outside the component's core.
///
/// Only for that. Among parties that share a core `sched_yield` is no way to
/// hand over: the scheduler may well give the core back to who yielded, as long
/// as that one has had less of it (seen for 35 to 55 us a turn on Linux 6.18).
/// Who waits for a party on its own core must block at once.
#[derive(Debug, Default)]
pub struct Spinner {
    idle_since: Option<Instant>,
    /// The time is over, until there is work again.
    gave_up: bool,
    contended_until: Option<Instant>,
}

impl Spinner {
    /// A spinner that has just seen work.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// To be called when there was work: the time begins anew.
    pub fn reset(&mut self) {
        self.idle_since = None;
        self.gave_up = false;
    }

    /// To be called when there was none. Says to look again until there has been
    /// no work for `budget_us` microseconds, and then to block until there is; 0
    /// is to block at once. On a core that others want, as the turns themselves
    /// show, it is always to block: who blocks gets the core back when it is
    /// woken, who spins waits in line.
    pub fn turn(&mut self, budget_us: u32) -> Turn {
        self.turn_at(budget_us, Instant::now, || {
            rustix::thread::sched_yield();
            Instant::now()
        })
    }

    /// [`Self::turn`]. `now` tells the time: who is to block at once needs none;
    /// `give_way` tells when the core was ours again.
    fn turn_at(
        &mut self,
        budget_us: u32,
        now: impl FnOnce() -> Instant,
        give_way: impl FnOnce() -> Instant,
    ) -> Turn {
        if budget_us == 0 || self.gave_up {
            return Turn::Block;
        }
        let now = now();
        if self.contended_until.is_some_and(|until| now < until) {
            return Turn::Block;
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.duration_since(since) >= Duration::from_micros(u64::from(budget_us)) {
            self.gave_up = true;
            return Turn::Block;
        }
        let back = give_way();
        self.contended_until = (back.duration_since(now) > LOST_CORE).then(|| back + CONTENDED);
        Turn::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn on a core that nobody else wants.
    fn alone(spinner: &mut Spinner, budget_us: u32, now: Instant) -> Turn {
        spinner.turn_at(budget_us, || now, || now + Duration::from_micros(1))
    }

    #[test]
    fn blocks_after_the_budget_and_not_before() {
        let mut spinner = Spinner::new();
        let begin = Instant::now();
        let at = |us| begin + Duration::from_micros(us);
        assert_eq!(alone(&mut spinner, 300, at(0)), Turn::Again);
        assert_eq!(alone(&mut spinner, 300, at(299)), Turn::Again);
        assert_eq!(alone(&mut spinner, 300, at(300)), Turn::Block);
        assert_eq!(alone(&mut spinner, 300, at(301)), Turn::Block, "nothing has happened since");
        spinner.reset();
        assert_eq!(alone(&mut spinner, 0, at(302)), Turn::Block);
        assert_eq!(alone(&mut spinner, 300, at(303)), Turn::Again);
    }

    #[test]
    fn work_begins_the_time_anew() {
        let mut spinner = Spinner::new();
        let begin = Instant::now();
        assert_eq!(alone(&mut spinner, 50, begin), Turn::Again);
        spinner.reset();
        let later = begin + Duration::from_millis(1);
        assert_eq!(alone(&mut spinner, 50, later), Turn::Again);
        assert_eq!(alone(&mut spinner, 50, later + Duration::from_micros(50)), Turn::Block);
    }

    #[test]
    fn nobody_spins_on_a_core_that_strangers_want() {
        let mut spinner = Spinner::new();
        let begin = Instant::now();
        let back = begin + LOST_CORE * 2;
        assert_eq!(spinner.turn_at(1_000_000, || begin, || back), Turn::Again);
        assert_eq!(alone(&mut spinner, 1_000_000, back), Turn::Block);
        assert_eq!(alone(&mut spinner, 1_000_000, back + CONTENDED), Turn::Again);
    }
}
