//! Who goes first on the only core: a thread that is woken, or whoever woke it.
//!
//! A client writes the head of a request, then the rest, then waits for the answer. A
//! thread that takes the core from it at the head finds nothing to do, and both are
//! switched once more, which is dear beside a short request. So the thread is polite, and
//! runs when the client waits. But to strangers who never wait it would be polite for
//! several milliseconds each time. So it looks how long it has waited for the core, and is
//! eager for a while when that is long.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::slice::{Precedence, is_ordinary, set_precedence};
use crate::domain::parse_schedstat;

/// Judged are so many runs at least: a request takes two or three, each tick one.
const RUNS: u64 = 16;
/// Longer than this, on average, a thread does not wait for clients that come to wait in
/// turn, and who needs the core for itself keeps it longer.
const PATIENCE: Duration = Duration::from_micros(500);
/// How long a thread that has waited longer is eager.
const EAGER: Duration = Duration::from_secs(1);

/// What the scheduler says about a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Runs {
    /// How often it has got a core.
    count: u64,
    /// How long it had waited for that, altogether.
    waited: Duration,
}

/// Decides on a thread's precedence.
#[derive(Debug)]
struct Judge {
    precedence: Precedence,
    /// Since when it is so: the time, and the runs by then.
    since: Instant,
    from: Runs,
}

impl Judge {
    fn new(now: Instant, runs: Runs) -> Self {
        Self { precedence: Precedence::Polite, since: now, from: runs }
    }

    /// The precedence from now on, if it is another one.
    fn look(&mut self, now: Instant, runs: impl FnOnce() -> Option<Runs>) -> Option<Precedence> {
        if self.precedence == Precedence::Eager && now.duration_since(self.since) < EAGER {
            return None;
        }
        let runs = runs()?;
        let count = runs.count.saturating_sub(self.from.count);
        let waited = runs.waited.saturating_sub(self.from.waited);
        let next = match self.precedence {
            Precedence::Eager => Precedence::Polite,
            Precedence::Polite if count < RUNS => return None,
            Precedence::Polite if waited.as_nanos() > PATIENCE.as_nanos() * u128::from(count) => {
                Precedence::Eager
            }
            Precedence::Polite => Precedence::Polite,
        };
        self.from = runs;
        let has_changed = self.precedence != next;
        self.precedence = next;
        if has_changed {
            self.since = now;
        }
        has_changed.then_some(next)
    }
}

/// The manners of the thread that made it.
#[derive(Debug)]
pub struct Manners {
    schedstat: File,
    judge: Judge,
}

impl Manners {
    /// Makes the calling thread polite. `None` where somebody has chosen how it is
    /// scheduled, or where the kernel does not tell how long it waits.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt(now: Instant) -> io::Result<Option<Self>> {
        let schedstat = match File::open("/proc/thread-self/schedstat") {
            Ok(file) if is_ordinary() => file,
            _ => return Ok(None),
        };
        let Some(runs) = read(&schedstat) else { return Ok(None) };
        set_precedence(Precedence::Polite)?;
        Ok(Some(Self { schedstat, judge: Judge::new(now, runs) }))
    }

    /// To be called now and then by that thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn look(&mut self, now: Instant) -> io::Result<()> {
        match self.judge.look(now, || read(&self.schedstat)) {
            Some(precedence) => set_precedence(precedence),
            None => Ok(()),
        }
    }
}

fn read(schedstat: &File) -> Option<Runs> {
    let mut buffer = [0; 128];
    let len = schedstat.read_at(&mut buffer, 0).ok()?;
    let [_, waited_ns, count] = parse_schedstat(&buffer[..len])?;
    // All are 0 where the kernel was told not to count.
    (count > 0).then(|| Runs { count, waited: Duration::from_nanos(waited_ns) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(count: u64, waited_us: u64) -> impl FnOnce() -> Option<Runs> {
        move || Some(Runs { count, waited: Duration::from_micros(waited_us) })
    }

    #[test]
    fn whoever_waits_long_is_eager_for_a_while() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut judge = Judge::new(begin, Runs { count: 100, waited: Duration::from_secs(7) });
        assert_eq!(judge.look(at(10), runs(115, 7_900_000)), None, "too few to tell");
        assert_eq!(judge.look(at(20), runs(116, 7_008_000)), None, "half a millisecond each");
        assert_eq!(judge.look(at(30), runs(132, 7_016_016)), Some(Precedence::Eager));
        let unread = || -> Option<Runs> { panic!("nothing to be judged") };
        assert_eq!(judge.look(at(1_029), unread), None);
        assert_eq!(judge.look(at(1_030), runs(500, 7_016_016)), Some(Precedence::Polite));
        assert_eq!(judge.look(at(1_040), runs(515, 9_000_000)), None, "judged anew from here");
        assert_eq!(judge.look(at(1_050), runs(516, 9_000_000)), Some(Precedence::Eager));
    }

    #[test]
    fn what_the_kernel_does_not_tell_changes_nothing() {
        let begin = Instant::now();
        let mut judge = Judge::new(begin, Runs::default());
        assert_eq!(judge.look(begin, || None), None);
        assert_eq!(judge.look(begin, runs(1_000, 1)), None);
    }

    #[test]
    fn only_an_ordinary_thread_has_manners() {
        let now = Instant::now();
        let mut manners = Manners::adopt(now).unwrap().expect("an ordinary thread");
        assert!(!is_ordinary());
        manners.look(now).unwrap();
        assert!(Manners::adopt(now).unwrap().is_none(), "somebody has chosen this");
        set_precedence(Precedence::Eager).unwrap();
    }
}
