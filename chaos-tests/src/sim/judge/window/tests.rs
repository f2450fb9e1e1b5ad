//! Windows of sound histories are sound, whatever they leave out.

use quickcheck::QuickCheck;

use super::*;
use crate::checker::{EXHAUSTIVE_MAX_OPS, check_exhaustively};

/// What is under way: client, number, key, call, and what it has seen once it took
/// effect.
type Open = (u32, u64, usize, RegisterCall, Option<Option<u64>>);

/// Clients on a register that is what it should be; or, with `stale`, reads that
/// come from a copy which lags behind now and then.
fn play(seed: u64, stale: bool, sampler: &mut Sampler) -> Result<(), WindowFault> {
    let mut rng = Rng::new(seed);
    let (mut now, mut before) = ([None; 2], [None; 2]);
    let mut open: Vec<Open> = Vec::new();
    for op in 1..400u64 {
        if open.len() < 5 && rng.percent(60) {
            let (client, key) = (rng.below(5) as u32, rng.below(2));
            if open.iter().all(|(other, ..)| *other != client) {
                let call =
                    if rng.percent(40) { RegisterCall::Write(op) } else { RegisterCall::Read };
                let event = RegisterEvent::Invoked { op, key: key as u32, call };
                sampler.note(client, &event)?;
                open.push((client, op, key, call, None));
            }
        }
        if open.is_empty() {
            continue;
        }
        let at = rng.below(open.len());
        let lags = stale && rng.percent(10);
        let (client, op, key, call, seen) = &mut open[at];
        if seen.is_none() {
            match *call {
                RegisterCall::Write(value) => {
                    before[*key] = now[*key];
                    now[*key] = Some(value);
                    *seen = Some(None);
                }
                RegisterCall::Read if lags => *seen = Some(before[*key]),
                RegisterCall::Read => *seen = Some(now[*key]),
            }
        } else {
            let event = match rng.percent(3) && matches!(call, RegisterCall::Write(_)) {
                true => RegisterEvent::Unknown { op: *op },
                false => RegisterEvent::Returned { op: *op, seen: seen.flatten() },
            };
            let client = *client;
            open.swap_remove(at);
            sampler.note(client, &event)?;
        }
    }
    sampler.end()
}

#[test]
fn windows_of_sound_runs_are_sound() {
    fn property(seed: u64) {
        let mut sampler = Sampler::new(seed, 2, 12, 7);
        play(seed, false, &mut sampler).expect("linearizable");
        assert!(sampler.judged() > 3);
    }
    QuickCheck::new().tests(400).quickcheck(property as fn(u64));
}

#[test]
fn stale_reads_are_found() {
    let found =
        (0..100).filter(|seed| play(*seed, true, &mut Sampler::new(*seed, 2, 20, 2)).is_err());
    let found = found.count();
    assert!(found > 80, "{found} of 100");
}

/// Against the search through all orders, with every first value that there can
/// be.
#[test]
fn a_window_is_judged_as_by_trying_everything() {
    fn property(seed: u64) -> bool {
        let mut rng = Rng::new(seed);
        let ops: Vec<RegisterOp> = (1..=1 + rng.below(EXHAUSTIVE_MAX_OPS - 2) as u64)
            .map(|at| {
                let invoked = 1 + rng.below(24) as u64;
                let action = match rng.percent(40) {
                    true => Action::Write(at),
                    // Also of values that are not written here.
                    false => Action::Read(Some(1 + rng.below(12) as u64).filter(|v| *v != 12)),
                };
                let returned = (!rng.percent(8)).then(|| invoked + rng.below(10) as u64);
                RegisterOp { key: 0, action, span: Span { invoked, returned } }
            })
            .collect();
        let firsts = (0..=12).map(|value| Some(value).filter(|value| *value != 0));
        let by_search = firsts.into_iter().any(|first| match first {
            None => check_exhaustively(&ops),
            Some(value) if ops.iter().any(|op| op.action == Action::Write(value)) => false,
            Some(value) => {
                let span = Span { invoked: 0, returned: Some(0) };
                let mut with = vec![RegisterOp { key: 0, action: Action::Write(value), span }];
                with.extend(&ops);
                check_exhaustively(&with)
            }
        });
        check_window(&ops, 0).is_ok() == by_search
    }
    QuickCheck::new().tests(10_000).max_tests(10_000).quickcheck(property as fn(u64) -> bool);
}
