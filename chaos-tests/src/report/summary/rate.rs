//! How often something fails at most, judged by how often it did.

use serde::{Deserialize, Serialize};

/// How an upper bound was computed. All are one-sided, at 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// 3/n: none of n failed.
    RuleOfThree,
    /// The exact bound of Clopper and Pearson: some failed.
    ClopperPearson,
    /// Wilson's bound: so many failed that it is as good as the exact one.
    Wilson,
}

/// The most that a failure's probability may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureRate {
    /// The upper bound, 0 to 1.
    pub upper: f64,
    /// Where it comes from.
    pub method: Method,
}

/// What would be seen less often than this is held to be impossible.
const DOUBT: f64 = 0.05;

/// The exact bound takes a step for each failure.
const MOST_EXACT: u64 = 10_000;

impl FailureRate {
    /// The bound after so many trials and failures; `None` without a trial,
    /// which says nothing.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "trials are far below 2^52")]
    pub fn of(trials: u64, failures: u64) -> Option<Self> {
        if trials == 0 {
            return None;
        }
        if failures == 0 {
            let upper = (3.0 / trials as f64).min(1.0);
            return Some(Self { upper, method: Method::RuleOfThree });
        }
        let failures = failures.min(trials);
        Some(if failures <= MOST_EXACT {
            Self { upper: clopper_pearson(trials, failures), method: Method::ClopperPearson }
        } else {
            Self { upper: wilson(trials, failures), method: Method::Wilson }
        })
    }
}

/// The rate at which `failures` or fewer would be seen with probability
/// [`DOUBT`]. That probability falls as the rate rises.
#[allow(clippy::cast_precision_loss, reason = "trials are far below 2^52")]
fn clopper_pearson(trials: u64, failures: u64) -> f64 {
    if failures == trials {
        return 1.0;
    }
    let mut low = failures as f64 / trials as f64;
    let mut high = 1.0;
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if at_most(trials, failures, middle) > DOUBT {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// For large numbers: the score interval with the normal distribution's 95 %.
#[allow(clippy::cast_precision_loss, reason = "trials are far below 2^52")]
fn wilson(trials: u64, failures: u64) -> f64 {
    const Z: f64 = 1.644_853_626_951_472_2;
    let trials = trials as f64;
    let seen = failures as f64 / trials;
    let spread = (seen * (1.0 - seen) / trials + (Z / (2.0 * trials)).powi(2)).sqrt();
    ((seen + Z * Z / (2.0 * trials) + Z * spread) / (1.0 + Z * Z / trials)).min(1.0)
}

/// The probability of at most `failures` in `trials` at this rate, which is
/// neither 0 nor 1. Sums logarithms, for the terms of many trials are tiny.
#[allow(clippy::cast_precision_loss, reason = "trials are far below 2^52")]
fn at_most(trials: u64, failures: u64, rate: f64) -> f64 {
    let trials = trials as f64;
    let (ln_fail, ln_pass) = (rate.ln(), (-rate).ln_1p());
    let mut term = trials * ln_pass;
    let mut sum = term;
    for k in 1..=failures {
        let k = k as f64;
        term += (trials - k + 1.0).ln() - k.ln() + ln_fail - ln_pass;
        let (larger, smaller) = (sum.max(term), sum.min(term));
        sum = larger + (smaller - larger).exp().ln_1p();
    }
    sum.exp()
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn upper(trials: u64, failures: u64) -> f64 {
        FailureRate::of(trials, failures).expect("there were trials").upper
    }

    #[test]
    fn known_bounds() {
        assert_eq!(FailureRate::of(0, 0), None);
        assert!((upper(300, 0) - 0.01).abs() < 1e-12);
        assert!((upper(1, 0) - 1.0).abs() < 1e-12);
        // One-sided 95 % bounds as tables of the binomial distribution have them.
        for (trials, failures, bound) in
            [(10, 1, 0.3942), (20, 5, 0.4556), (100, 1, 0.0466), (100, 10, 0.1637), (5, 5, 1.0)]
        {
            let found = upper(trials, failures);
            assert!((found - bound).abs() < 1e-3, "{failures}/{trials}: {found}");
        }
    }

    #[test]
    fn the_rule_of_three_is_about_the_exact_bound() {
        // The exact one for no failure is 1 - 0.05^(1/n).
        for trials in [30_u32, 300, 30_000] {
            let exact = 1.0 - 0.05_f64.powf(1.0 / f64::from(trials));
            let ratio = upper(trials.into(), 0) / exact;
            assert!((1.0..1.06).contains(&ratio), "{trials}: {ratio}");
        }
    }

    #[test]
    fn wilson_carries_on_where_the_exact_bound_stops() {
        let (exact, wilson) = (upper(1_000_000, MOST_EXACT), upper(1_000_000, MOST_EXACT + 1));
        assert!(((wilson - exact) / exact).abs() < 1e-3, "{exact} {wilson}");
        assert!(upper(u64::MAX, u64::MAX) <= 1.0);
    }

    quickcheck! {
        fn more_failures_bound_higher_and_more_trials_lower(trials: u16, failures: u16) -> bool {
            let trials = u64::from(trials % 2000) + 1;
            let failures = u64::from(failures) % (trials + 1);
            let bound = upper(trials, failures);
            let observed = failures as f64 / trials as f64;
            (observed..=1.0).contains(&bound)
                && (failures == 0 || bound > upper(trials, failures - 1) - 1e-9 || failures == 1)
                && upper(trials + 1, failures) <= bound + 1e-9
        }
    }
}
