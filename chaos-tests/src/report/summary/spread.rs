//! How durations are spread, in a form that can be added up over runs.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::super::record::Micros;

/// Durations to three digits. Two of them are added up without any further
/// loss, also when they come out of files.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(into = "Written", from = "Written")]
pub struct Spread {
    /// Made with the first duration; a histogram of 3 digits, which resizes.
    histogram: Option<Histogram<u64>>,
    max_us: Micros,
}

/// 12 days: longer ones are counted as so long, except in the maximum.
const LONGEST_US: Micros = 1 << 40;

/// How it stands in a file: figures to read, and all that is needed to add up.
#[derive(Clone, Serialize, Deserialize)]
struct Written {
    count: u64,
    p50_us: Micros,
    p90_us: Micros,
    p99_us: Micros,
    p999_us: Micros,
    max_us: Micros,
    /// Durations, and how many there were of each.
    buckets: Vec<(Micros, u64)>,
}

impl Spread {
    /// Adds a duration.
    pub fn add(&mut self, duration_us: Micros) {
        self.add_many(duration_us, 1);
    }

    /// Adds what another one has.
    pub fn merge(&mut self, other: &Self) {
        for (duration_us, count) in other.buckets() {
            self.add_many(duration_us, count);
        }
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many durations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// What the given share (0 to 1) of durations does not exceed; 0 without any.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> Micros {
        let value = self.histogram.as_ref().map_or(0, |h| h.value_at_quantile(share));
        value.min(self.max_us)
    }

    /// The longest, exactly; 0 without any.
    #[must_use]
    pub fn max_us(&self) -> Micros {
        self.max_us
    }

    fn add_many(&mut self, duration_us: Micros, count: u64) {
        if self.histogram.is_none() {
            self.histogram = Histogram::new(3).ok();
        }
        if let Some(histogram) = &mut self.histogram {
            // Only a value beyond what it grows to is an error.
            let _ = histogram.record_n(duration_us.min(LONGEST_US), count);
        }
        self.max_us = self.max_us.max(duration_us);
    }

    /// The lowest duration of each bucket, which stays in it when added again.
    fn buckets(&self) -> Vec<(Micros, u64)> {
        let Some(histogram) = &self.histogram else {
            return Vec::new();
        };
        histogram
            .iter_recorded()
            .map(|bucket| {
                let lowest = histogram.lowest_equivalent(bucket.value_iterated_to());
                (lowest, bucket.count_at_value())
            })
            .collect()
    }
}

impl From<Spread> for Written {
    fn from(spread: Spread) -> Self {
        Self {
            count: spread.count(),
            p50_us: spread.quantile_us(0.5),
            p90_us: spread.quantile_us(0.9),
            p99_us: spread.quantile_us(0.99),
            p999_us: spread.quantile_us(0.999),
            max_us: spread.max_us,
            buckets: spread.buckets(),
        }
    }
}

impl From<Written> for Spread {
    fn from(written: Written) -> Self {
        let mut spread = Self::default();
        for (duration_us, count) in written.buckets {
            spread.add_many(duration_us, count);
        }
        spread.max_us = spread.max_us.max(written.max_us);
        spread
    }
}

impl PartialEq for Spread {
    fn eq(&self, other: &Self) -> bool {
        self.max_us == other.max_us && self.buckets() == other.buckets()
    }
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, at most {} us", self.buckets(), self.max_us)
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn spread(durations: &[u32]) -> Spread {
        let mut spread = Spread::default();
        durations.iter().for_each(|duration| spread.add((*duration).into()));
        spread
    }

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let spread = spread(&(1..=100_000).collect::<Vec<u32>>());
        assert_eq!((spread.count(), spread.max_us()), (100_000, 100_000));
        for (share, value) in [(0.5, 50_000.0_f64), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let off = (spread.quantile_us(share) as f64 - value).abs() / value;
            assert!(off < 2e-3, "{share}: {off}");
        }
        assert_eq!(Spread::default().quantile_us(0.5), 0);
    }

    quickcheck! {
        fn adding_up_is_like_having_seen_all(left: Vec<u32>, right: Vec<u32>) -> bool {
            let mut sum = spread(&left);
            sum.merge(&spread(&right));
            sum == spread(&[left, right].concat())
        }

        fn a_file_loses_nothing(durations: Vec<u32>) -> bool {
            let before = spread(&durations);
            let json = serde_json::to_string(&before).expect("serializes");
            serde_json::from_str::<Spread>(&json).expect("parses") == before
        }
    }
}
