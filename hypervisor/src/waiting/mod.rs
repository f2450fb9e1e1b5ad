//! How a party waits: it gives its core away for some microseconds in the hope
//! that the others get on with the work, then it blocks.
//!
//! Measured on two cores: handing over with `sched_yield` takes about 4 us, waking
//! a sleeper on an idle core 20 to 45 us, and spinning with `pause` steals the
//! core from the very party one waits for.

mod cores;

pub use cores::{
    Affinity, Core, CoreChooser, ParseAffinityError, allowed_cores, pin_current_thread, pin_process,
};

use std::time::{Duration, Instant};

/// What to do after a round that found no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The core was handed over; look for work again.
    Again,
    /// Long enough: block.
    Block,
}

/// Yields the core while work is expected soon.
#[derive(Debug, Default)]
pub struct Spinner {
    idle_since: Option<Instant>,
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
    }

    /// To be called when there was none. Hands the core over for one turn, until
    /// there has been no work for `budget_us` microseconds. Good budgets are 5 to
    /// 20 for the host, 50 while unacknowledged writes are on their way, 30 for
    /// standbys, and 0 to block at once. After [`Turn::Block`] the time begins
    /// anew.
    pub fn turn(&mut self, budget_us: u32) -> Turn {
        if budget_us == 0 {
            self.idle_since = None;
            return Turn::Block;
        }
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        if now.duration_since(since) >= Duration::from_micros(u64::from(budget_us)) {
            self.idle_since = None;
            return Turn::Block;
        }
        rustix::thread::sched_yield();
        Turn::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_after_the_budget_and_not_before() {
        let mut spinner = Spinner::new();
        let begin = Instant::now();
        while spinner.turn(300) == Turn::Again {}
        assert!(begin.elapsed() >= Duration::from_micros(300));
        assert_eq!(spinner.turn(300), Turn::Again, "the time begins anew");
        assert_eq!(spinner.turn(0), Turn::Block);
    }

    #[test]
    fn work_begins_the_time_anew() {
        let mut spinner = Spinner::new();
        assert_eq!(spinner.turn(2_000), Turn::Again);
        std::thread::sleep(Duration::from_millis(3));
        spinner.reset();
        assert_eq!(spinner.turn(2_000_000), Turn::Again);
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(spinner.turn(2_000), Turn::Block);
    }
}
