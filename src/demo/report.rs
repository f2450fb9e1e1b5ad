//! What the demonstration showed.

use std::fmt;

use chaos::checker::Verdict;
use serde::Serialize;

use super::Injected;
use crate::status::Failover;

/// What the demonstration showed.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    /// How long it ran.
    pub seconds: f64,
    /// Whether the group was whole again in the end.
    pub healed: bool,
    /// What was done to the primaries.
    pub injected: Vec<Injected>,
    /// What followed from it.
    pub failovers: Vec<Failover>,
    /// What the clients saw.
    pub verdict: Verdict,
}

/// A duration of a failover's phase.
type Phase = (&'static str, fn(&Failover) -> u64);

const PHASES: [Phase; 5] = [
    ("detect", |failover| failover.detect_us),
    ("fence", |failover| failover.fence_us),
    ("promote", |failover| failover.promote_us),
    ("replay", |failover| failover.replay_us),
    ("total", |failover| failover.total_us),
];

impl DemoReport {
    /// Whether primaries were lost, and no client could tell.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.healed && !self.failovers.is_empty()
    }
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.verdict)?;
        writeln!(f, "failovers, microseconds          p50       p99       max")?;
        let mut causes: Vec<_> = self.failovers.iter().map(|it| it.cause.as_str()).collect();
        causes.sort_unstable();
        causes.dedup();
        for cause in causes {
            let of_cause: Vec<_> = self.failovers.iter().filter(|it| it.cause == cause).collect();
            writeln!(f, "{cause} ({})", of_cause.len())?;
            for (name, time) in PHASES {
                let mut times: Vec<_> = of_cause.iter().map(|failover| time(failover)).collect();
                times.sort_unstable();
                let at = |percent| rank(&times, percent);
                writeln!(f, "  {name:<24} {:>9} {:>9} {:>9}", at(50), at(99), at(100))?;
            }
        }
        let faults = self.injected.len();
        let seconds = self.seconds;
        if self.is_clean() {
            write!(
                f,
                "\nVERDICT: nothing was lost. Primaries broken in {seconds:.0} s: {faults}; requests \
                 answered: {}; lost: 0; doubled: 0; out of order: 0.",
                self.verdict.answered
            )
        } else {
            write!(f, "\nVERDICT: FAILED after {faults} faults in {seconds:.0} s")?;
            if !self.healed {
                write!(f, "; the group did not become whole again")?;
            }
            if self.failovers.is_empty() {
                write!(f, "; there was no failover")?;
            }
            let verdict = &self.verdict;
            write!(
                f,
                "; {} lost, {} doubled, {} out of order, {} errors, {} disconnects.",
                verdict.lost,
                verdict.doubled,
                verdict.out_of_order(),
                verdict.errors,
                verdict.disconnects
            )
        }
    }
}

/// The value that `percent` of the sorted `values` do not exceed.
fn rank(values: &[u64], percent: usize) -> u64 {
    let at = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover(cause: &str, total_us: u64) -> Failover {
        Failover {
            at_unix_ms: 0,
            cause: cause.into(),
            from: 1,
            to: 2,
            generation: total_us,
            detect_us: 1,
            fence_us: 2,
            promote_us: 3,
            replay_us: 4,
            total_us,
        }
    }

    fn report() -> DemoReport {
        DemoReport {
            seconds: 15.2,
            healed: true,
            injected: Vec::new(),
            failovers: (1..=100).map(|us| failover("died", us)).collect(),
            verdict: Verdict { answered: 9, linearizable: true, ..Verdict::default() },
        }
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!([50, 99, 100].map(|percent| rank(&values, percent)), [50, 99, 100]);
        assert_eq!([50, 99, 100].map(|percent| rank(&[7], percent)), [7, 7, 7]);
        assert_eq!(rank(&[], 50), 0);
        let text = report().to_string();
        assert!(
            text.contains("  total                           50        99       100\n"),
            "{text}"
        );
    }

    #[test]
    fn only_a_clean_run_with_failovers_passes() {
        assert!(report().is_clean());
        let lost = Verdict { lost: 1, ..report().verdict };
        assert!(!DemoReport { verdict: lost, ..report() }.is_clean());
        assert!(!DemoReport { failovers: Vec::new(), ..report() }.is_clean());
        assert!(!DemoReport { healed: false, ..report() }.is_clean());
    }
}
