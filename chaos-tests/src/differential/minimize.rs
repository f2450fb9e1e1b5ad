//! Shortens the steps that led to a failure.

use super::op::Op;
use super::report::Failure;

/// Tries at most so many shorter runs.
const MAX_TRIES: u32 = 600;

/// Leaves steps out as long as a failure of the same class remains. `run` makes
/// the steps on two fresh daemons.
pub fn minimize(failure: Failure, run: &mut dyn FnMut(&[Op]) -> Option<Failure>) -> Failure {
    let mut best = failure;
    let mut chunk = best.ops.len().div_ceil(2);
    let mut tries = 0;
    while chunk > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < best.ops.len() && tries < MAX_TRIES {
            let mut ops = best.ops.clone();
            ops.drain(at..(at + chunk).min(best.ops.len()));
            tries += 1;
            match run(&ops) {
                Some(found) if found.class == best.class => {
                    best = Failure { seed: best.seed, ..found };
                    shorter = true;
                }
                _ => at += chunk,
            }
        }
        if tries >= MAX_TRIES {
            break;
        }
        if !shorter || chunk > 1 {
            chunk /= 2;
        }
    }
    best
}
