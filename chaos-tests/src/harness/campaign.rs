//! A series of faults: the failovers that it caused, and their times.

use std::collections::BTreeMap;
use std::fmt;

use super::{ComponentStatus, FailoverStatus};

/// Collects failovers from status to status: a status lists only the last ones.
#[derive(Clone, Debug, Default)]
pub struct FailoverLog {
    by_generation: BTreeMap<u64, FailoverStatus>,
}

/// Takes one time out of a failover.
type Phase = fn(&FailoverStatus) -> u64;

const PHASES: [(&str, Phase); 5] = [
    ("detect", |failover| failover.detect_us),
    ("fence", |failover| failover.fence_us),
    ("promote", |failover| failover.promote_us),
    ("replay", |failover| failover.replay_us),
    ("total", |failover| failover.total_us),
];

impl FailoverLog {
    /// Takes in what a status lists.
    pub fn add(&mut self, status: &ComponentStatus) {
        self.extend(status.failovers.iter().cloned());
    }

    /// Takes in failovers; those that are known already change nothing.
    pub fn extend(&mut self, failovers: impl IntoIterator<Item = FailoverStatus>) {
        for failover in failovers {
            self.by_generation.insert(failover.generation, failover);
        }
    }

    /// All of them, by generation.
    #[must_use]
    pub fn into_failovers(self) -> Vec<FailoverStatus> {
        self.by_generation.into_values().collect()
    }

    /// How many there were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_generation.len()
    }

    /// Whether there was none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_generation.is_empty()
    }

    /// From the fault to the first reply of the new primary, microseconds, of
    /// that many of 100 failovers at most; 0 without failovers.
    #[must_use]
    pub fn total_us(&self, percent: usize) -> u64 {
        percentile(self.times(|failover| failover.total_us), percent)
    }

    fn times(&self, phase: Phase) -> Vec<u64> {
        self.by_generation.values().map(phase).collect()
    }
}

impl fmt::Display for FailoverLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} failovers, microseconds: median, 99 %, longest", self.len())?;
        for (name, phase) in PHASES {
            let at = |percent| percentile(self.times(phase), percent);
            writeln!(f, "  {name:<8} {:>8} {:>8} {:>8}", at(50), at(99), at(100))?;
        }
        Ok(())
    }
}

/// The value that `percent` of 100 do not exceed; 0 when there is none.
#[must_use]
pub fn percentile(mut values: Vec<u64>, percent: usize) -> u64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at.min(last)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=200).rev().collect();
        for (percent, value) in [(0, 1), (50, 100), (99, 198), (100, 200)] {
            assert_eq!(percentile(values.clone(), percent), value);
        }
        assert_eq!(percentile(vec![7], 99), 7);
        assert_eq!(percentile(Vec::new(), 50), 0);
    }
}
