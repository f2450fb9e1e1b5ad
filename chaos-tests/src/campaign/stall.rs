//! Times in which the campaign itself was given no time to run: whoever waited
//! then did not wait for the host alone.

use std::time::{Duration, Instant};

use crate::soak::Wait;

/// From when to when nothing of ours ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) from: Instant,
    pub(super) until: Instant,
}

/// A sleep that takes so many times as long as it was meant to is a stall.
const TIMES: u32 = 5;

impl Stall {
    /// What a sleep of `meant` that began at `from` and was over at `until` shows.
    pub(super) fn in_sleep(meant: Duration, from: Instant, until: Instant) -> Option<Self> {
        let slept = until.saturating_duration_since(from);
        (slept > meant * TIMES).then_some(Self { from, until })
    }

    pub(super) fn duration(&self) -> Duration {
        self.until.saturating_duration_since(self.from)
    }

    /// How much of a wait was within it.
    fn part_of(&self, wait: &Wait) -> Duration {
        let began = wait.until.checked_sub(wait.took).unwrap_or(wait.until);
        self.until.min(wait.until).saturating_duration_since(self.from.max(began))
    }
}

/// What clients waited, once stalls are taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Excused {
    /// The longest wait.
    pub(super) longest: Duration,
    /// Waits that are not above the limit any more.
    pub(super) count: u64,
}

/// Takes the stalls off the waits above a limit. `longest` is the longest wait of
/// all; `waits` are those above the limit, unless there were too many at once:
/// then the longest stands as it is.
pub(super) fn excuse(
    longest: Duration,
    limit: Duration,
    waits: &[Wait],
    stalls: &[Stall],
) -> Excused {
    let whole = Excused { longest, count: 0 };
    if longest <= limit || waits.iter().all(|wait| wait.took < longest) {
        return whole;
    }
    let left = waits.iter().map(|wait| {
        let stalled: Duration = stalls.iter().map(|stall| stall.part_of(wait)).sum();
        wait.took.saturating_sub(stalled)
    });
    left.fold(Excused::default(), |sum, left| Excused {
        longest: sum.longest.max(left),
        count: sum.count + u64::from(left <= limit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_the_time_in_which_we_ran_counts() {
        let start = Instant::now();
        let at = |seconds| start + seconds * SECOND;
        let wait = |until, took| Wait { until: at(until), took: took * SECOND, client: 1 };
        let stall = Stall { from: at(10), until: at(14) };
        let judge = |waits: &[Wait], stalls: &[Stall]| {
            let longest = waits.iter().map(|wait| wait.took).max().unwrap_or_default();
            let excused = excuse(longest, 3 * SECOND, waits, stalls);
            (excused.longest.as_secs(), excused.count)
        };
        // Within, across one end, and elsewhere.
        assert_eq!(judge(&[wait(14, 4)], &[stall]), (0, 1));
        assert_eq!(judge(&[wait(15, 5), wait(18, 5)], &[stall]), (4, 1));
        assert_eq!(judge(&[wait(30, 5)], &[stall]), (5, 0));
        assert_eq!(judge(&[wait(14, 4)], &[]), (4, 0));
        // One of which nobody knows when it was stands as it is.
        let longest = excuse(9 * SECOND, 3 * SECOND, &[wait(14, 4)], &[stall]);
        assert_eq!(longest, Excused { longest: 9 * SECOND, count: 0 });
    }

    #[test]
    fn a_sleep_that_is_much_too_long_is_a_stall() {
        let (from, meant) = (Instant::now(), Duration::from_millis(50));
        assert_eq!(Stall::in_sleep(meant, from, from + meant * 5), None);
        let stall = Stall::in_sleep(meant, from, from + meant * 6).expect("is one");
        assert_eq!(stall.duration(), meant * 6);
    }
}
