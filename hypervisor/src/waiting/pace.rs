//! How often a party looks around: often while there is work, seldom when there
//! has been none for a while.

use std::time::{Duration, Instant};

/// How long a party without work goes on to look around often.
const LINGER: Duration = Duration::from_secs(1);

/// The period of a party's ticker. Every tick wakes a core, so those of an idle
/// party should be few.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    busy: Duration,
    idle: Duration,
    last_work: Instant,
    is_idle: bool,
}

impl Pace {
    /// The period is `busy` for a while, and after each piece of work; else
    /// `idle`, which is no shorter.
    #[must_use]
    pub fn new(busy: Duration, idle: Duration, now: Instant) -> Self {
        Self { busy, idle: idle.max(busy), last_work: now, is_idle: false }
    }

    /// The period in force.
    #[must_use]
    pub fn period(&self) -> Duration {
        if self.is_idle { self.idle } else { self.busy }
    }

    /// How many busy periods the period in force takes.
    #[must_use]
    pub fn stretch(&self) -> u32 {
        let stretch = self.period().as_micros() / self.busy.as_micros().max(1);
        u32::try_from(stretch).unwrap_or(u32::MAX)
    }

    /// Whether there has been no work for a while.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Tells whether there was work just now; says whether the period has
    /// changed.
    pub fn note(&mut self, work: bool, now: Instant) -> bool {
        if work {
            self.last_work = now;
        }
        let was_idle = self.is_idle;
        self.is_idle = !work && now.duration_since(self.last_work) >= LINGER;
        self.is_idle != was_idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slows_down_after_a_while_and_speeds_up_at_once() {
        let begin = Instant::now();
        let (busy, idle) = (Duration::from_millis(20), Duration::from_millis(200));
        let mut pace = Pace::new(busy, idle, begin);
        let at = |ms| begin + Duration::from_millis(ms);
        assert!(!pace.note(false, at(999)));
        assert_eq!(pace.period(), busy);
        assert!(pace.note(false, at(1000)));
        assert_eq!((pace.period(), pace.stretch(), pace.is_idle()), (idle, 10, true));
        assert!(!pace.note(false, at(5000)));
        assert!(pace.note(true, at(5001)));
        assert_eq!((pace.period(), pace.stretch(), pace.is_idle()), (busy, 1, false));
        assert!(!pace.note(false, at(6000)));
        assert!(pace.note(false, at(6001)));
        assert_eq!(Pace::new(idle, busy, begin).idle, idle, "never faster than busy");
    }
}
