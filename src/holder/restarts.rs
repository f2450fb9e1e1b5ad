//! Whether another daemon is started when one has ended.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many ends of daemons that were never ready, one after the other, are too many.
const IN_VAIN: usize = 5;
/// So many within [`WINDOW`] of daemons that were: each time somebody served.
const OFTEN: usize = 100;
/// See [`OFTEN`].
const WINDOW: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// The last ends.
    ends: VecDeque<Instant>,
    /// Ends since a daemon was ready.
    in_vain: usize,
    was_ready: bool,
}

/// Why nobody is started any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hopeless {
    /// Not even the first one was ever ready.
    NeverReady,
    /// See [`OFTEN`] and [`IN_VAIN`].
    TooOften,
}

impl Restarts {
    /// A daemon serves.
    pub(super) fn ready(&mut self) {
        self.in_vain = 0;
        self.was_ready = true;
    }

    /// A daemon has ended that was not to.
    pub(super) fn ended(&mut self, now: Instant) -> Result<(), Hopeless> {
        if !self.was_ready {
            return Err(Hopeless::NeverReady);
        }
        self.in_vain += 1;
        self.ends.push_back(now);
        self.ends.retain(|&end| now.duration_since(end) < WINDOW);
        if self.ends.len() >= OFTEN || self.in_vain >= IN_VAIN {
            return Err(Hopeless::TooOften);
        }
        Ok(())
    }
}

impl std::fmt::Display for Hopeless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NeverReady => f.write_str("before any was ready"),
            Self::TooOften => {
                let window = WINDOW.as_secs();
                write!(f, "{IN_VAIN} times without being ready, or {OFTEN} times within {window} s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_has_one_chance() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.ended(Instant::now()), Err(Hopeless::NeverReady));
    }

    #[test]
    fn many_ends_at_once_are_hopeless() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        restarts.ready();
        for nth in 0..99 {
            assert_eq!(restarts.ended(now + Duration::from_millis(80 * nth)), Ok(()));
            restarts.ready();
        }
        assert_eq!(restarts.ended(now + Duration::from_secs(9)), Err(Hopeless::TooOften));
    }

    #[test]
    fn ends_far_apart_are_borne_for_ever_but_not_without_being_ready() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        restarts.ready();
        for nth in 0..100 {
            assert_eq!(restarts.ended(now + Duration::from_secs(3 * nth)), Ok(()));
            restarts.ready();
        }
        let later = now + Duration::from_secs(1000);
        for nth in 0..4 {
            assert_eq!(restarts.ended(later + Duration::from_secs(20 * nth)), Ok(()));
        }
        let end = later + Duration::from_secs(100);
        assert_eq!(restarts.ended(end), Err(Hopeless::TooOften));
    }
}
