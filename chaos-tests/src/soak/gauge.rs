//! How long answers take, counted by all clients at once without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Four buckets for each power of two: a reading is at most a quarter too high.
const PARTS_LOG2: u32 = 2;
const BUCKETS: usize = 64 << PARTS_LOG2;

fn bucket(ns: u64) -> usize {
    let parts = 1 << PARTS_LOG2;
    if ns < parts {
        return usize::try_from(ns).unwrap_or(0);
    }
    let power = ns.ilog2();
    let part = (ns >> (power - PARTS_LOG2)) & (parts - 1);
    ((power as usize) << PARTS_LOG2) + usize::try_from(part).unwrap_or(0)
}

/// The most that falls into a bucket.
fn most(bucket: usize) -> u64 {
    let parts = 1_u64 << PARTS_LOG2;
    if bucket < parts as usize {
        return bucket as u64;
    }
    let power = u32::try_from(bucket >> PARTS_LOG2).unwrap_or(u32::MAX);
    let part = bucket as u64 & (parts - 1);
    let width = 1_u64 << (power - PARTS_LOG2);
    (parts + part).saturating_mul(width).saturating_add(width - 1)
}

/// Counts answers by the time that they took.
#[derive(Debug)]
pub(super) struct Gauge(Box<[AtomicU64]>);

impl Default for Gauge {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Gauge {
    pub(super) fn record(&self, ns: u64) {
        self.0[bucket(ns)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last time.
    pub(super) fn take(&self) -> AnswerTimes {
        AnswerTimes(self.0.iter().map(|bucket| bucket.swap(0, Ordering::Relaxed)).collect())
    }
}

/// How many answers took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerTimes(Vec<u64>);

impl AnswerTimes {
    /// Answers that took so long each.
    #[cfg(test)]
    pub(crate) fn of_ns(times: &[u64]) -> Self {
        let gauge = Gauge::default();
        times.iter().for_each(|ns| gauge.record(*ns));
        gauge.take()
    }

    /// Takes in another interval.
    pub fn add(&mut self, other: &Self) {
        self.0.resize(BUCKETS, 0);
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }

    /// How many answers there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What that many of 100 answers did not exceed, to a quarter, microseconds;
    /// 0 without answers.
    #[must_use]
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let wanted = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return most(bucket) / 1000;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_bucket_that_reaches_it() {
        for ns in (0..2000).chain([1 << 20, (1 << 20) - 1, 3 << 40, u64::MAX / 2]) {
            let most = most(bucket(ns));
            assert!(most >= ns && most - ns <= ns / 4, "{ns}: {most}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_are_of_what_came_since_the_last_time() {
        let gauge = Gauge::default();
        (1..=100).for_each(|ms| gauge.record(ms * 1_000_000));
        let mut times = gauge.take();
        assert_eq!(times.count(), 100);
        assert!((50_000..=62_500).contains(&times.percentile_us(50)));
        assert!((99_000..=124_000).contains(&times.percentile_us(99)));
        assert_eq!(gauge.take().count(), 0);
        times.add(&times.clone());
        assert_eq!(times.count(), 200);
        assert_eq!(AnswerTimes::default().percentile_us(99), 0);
    }
}
