//! Shortens the steps that led to a failure.

use std::time::{Duration, Instant};

use super::op::Op;
use super::report::Failure;

/// Searches at most so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Leaves steps out as long as a failure of the same class remains. `run` makes
/// the steps on two fresh daemons.
pub fn minimize(failure: Failure, run: &mut dyn FnMut(&[Op]) -> Option<Failure>) -> Failure {
    let mut best = failure;
    let mut chunk = best.ops.len().div_ceil(2);
    let end = Instant::now() + PATIENCE;
    while chunk > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < best.ops.len() && Instant::now() < end {
            let mut ops = best.ops.clone();
            ops.drain(at..(at + chunk).min(best.ops.len()));
            match run(&ops) {
                Some(found) if found.class == best.class => {
                    best = Failure { seed: best.seed, ..found };
                    shorter = true;
                }
                _ => at += chunk,
            }
        }
        if Instant::now() >= end {
            break;
        }
        if !shorter || chunk > 1 {
            chunk /= 2;
        }
    }
    best
}
