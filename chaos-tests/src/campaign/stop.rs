//! Being told to stop, in the middle of anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Nobody waits longer for an answer to "stop".
const SLICE: Duration = Duration::from_millis(20);

/// Set once by whoever wants the campaign to end; everything that waits looks at
/// it, takes back what it did, and returns.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Tells everybody to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps, unless told to stop.
    pub fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Looks every now and then until `found` has something; none when the time
    /// is over or everybody is told to stop.
    pub fn wait_for<T>(
        &self,
        time: Duration,
        every: Duration,
        mut found: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + time;
        loop {
            if let Some(value) = found() {
                return Some(value);
            }
            if self.is_set() || Instant::now() >= until {
                return None;
            }
            std::thread::sleep(every);
        }
    }
}
