//! Runs with a fault each.

use xenstore::wire::MessageType::{Introduce, Read, Release, TransactionStart, Watch, Write};

use super::super::toy::{Sabotage, Toy, conn_of};
use super::*;
use crate::rng::Rng;
use crate::sim::client::Population;

/// Two watched writes, delivered as `twist` has it.
fn events(twist: impl FnOnce(&mut Vec<Output>)) -> Vec<ViolationKind> {
    let mut bench = Bench::new();
    bench.done(1, Watch, b"/a\0t\0");
    let mut outputs = Vec::new();
    for node in ["/a/x\0", "/a/y\0", "/a/z\0"] {
        outputs.extend(bench.ask(2, Write, node.as_bytes()));
    }
    let (mut of_watcher, others): (Vec<_>, Vec<_>) =
        outputs.into_iter().partition(|output| matches!(output, Output::Event { .. }));
    assert_eq!(of_watcher.len(), 3);
    twist(&mut of_watcher);
    bench.deliver(of_watcher.iter().chain(&others));
    bench.kinds()
}

#[test]
fn events_that_fail_are_named() {
    assert_eq!(events(|_| {}), []);
    assert_eq!(events(|events| drop(events.pop())), [ViolationKind::LostEvent]);
    assert_eq!(events(|events| events.swap(0, 1)), [ViolationKind::Reordered]);
    let double = |events: &mut Vec<Output>| events.insert(1, events[0].clone());
    assert_eq!(events(double), [ViolationKind::DoubledEvent]);
    let double_last = |events: &mut Vec<Output>| events.push(events[2].clone());
    assert_eq!(events(double_last), [ViolationKind::DoubledEvent]);
    let change = |events: &mut Vec<Output>| {
        if let Output::Event { frame, .. } = &mut events[0] {
            frame[17] ^= 1;
        }
    };
    assert_eq!(events(change), [ViolationKind::WrongEvent]);
    assert_eq!(events(|events| drop(events.remove(0))), [ViolationKind::Reordered]);
}

#[test]
fn a_dropped_reply_is_lost() {
    let mut bench = Bench::new();
    bench.ask(1, Write, b"/a\0one");
    bench.done(2, Write, b"/b\0");
    assert_eq!(bench.kinds(), [ViolationKind::LostReply]);
    let violation = bench.judge.violations()[0].clone();
    assert_eq!((violation.input, violation.conn), (Some(InputNo(4)), Some(ConnId(1))));
    assert!(violation.to_string().starts_with("lost-reply at 5 us, input 4, connection 1"));
    // So is that to a query.
    let mut bench = Bench::new();
    bench.ask(1, Read, b"/a\0");
    assert_eq!(bench.kinds(), [ViolationKind::LostReply]);
}

#[test]
fn a_skipped_reply_shows_at_the_next() {
    let mut bench = Bench::new();
    bench.ask(1, Write, b"/a\0one");
    bench.done(1, Write, b"/a\0two");
    assert_eq!(bench.kinds(), [ViolationKind::Reordered]);
}

#[test]
fn a_doubled_reply_is_found() {
    let mut bench = Bench::new();
    let outputs = bench.ask(1, Write, b"/a\0one");
    bench.deliver(&outputs);
    bench.deliver(&outputs);
    assert_eq!(bench.kinds(), [ViolationKind::DoubledReply]);
    let mut bench = Bench::new();
    bench.deliver(&outputs);
    assert_eq!(bench.kinds(), [ViolationKind::UnaskedReply]);
}

#[test]
fn a_stale_read_is_found() {
    let mut bench = Bench::new();
    bench.done(1, Write, b"/a\0one");
    let before = bench.machine.clone();
    bench.done(1, Write, b"/a\0two");
    // A fenced primary answers.
    bench.machine = before;
    bench.done(2, Read, b"/a\0");
    assert_eq!(bench.kinds(), [ViolationKind::StaleAnswer]);
    assert!(bench.judge.violations()[0].found.ends_with(b"one"));
    assert!(bench.judge.violations()[0].expected.ends_with(b"two"));
}

/// A read that sees what is not released when no failover has happened.
#[test]
fn a_read_from_the_future_is_found() {
    let mut bench = Bench::new();
    let asked = bench.frame(Read, 0, b"/a\0");
    let query = Input::Request { conn: ConnId(1), frame: &asked };
    let no = bench.admit(&query);
    let written = bench.ask(2, Write, b"/a\0one");
    let answer = bench.apply(no, &query, false);
    bench.deliver(written.iter().chain(&answer));
    assert_eq!(bench.kinds(), [ViolationKind::StaleAnswer]);
}

/// The answer is right, but stands before an event that its state includes.
#[test]
fn an_answer_that_overtakes_an_event_is_found() {
    let mut bench = Bench::new();
    bench.done(1, Watch, b"/a\0t\0");
    let written = bench.ask(2, Write, b"/a\0one");
    bench.done(1, Read, b"/a\0");
    bench.deliver(&written);
    assert_eq!(bench.kinds(), [ViolationKind::Reordered]);
}

#[test]
fn what_is_applied_twice_is_found() {
    let mut bench = Bench::new();
    bench.done(1, Watch, b"/a\0t\0");
    let asked = bench.frame(Write, 0, b"/a/n\0one");
    let request = Input::Request { conn: ConnId(2), frame: &asked };
    let no = bench.admit(&request);
    let once = bench.apply(no, &request, false);
    let mut again = Vec::new();
    bench.machine.apply(no.next(), &request, false, &mut again).expect("sound");
    let event = again.iter().filter(|output| matches!(output, Output::Event { .. }));
    bench.deliver(once.iter().chain(event));
    assert_eq!(bench.kinds(), [ViolationKind::DoubledEvent]);
    bench.judge.replica_state(no, bench.machine.digest(), 0);
    assert!(bench.kinds().contains(&ViolationKind::Diverged));
}

#[test]
fn effects_are_exact() {
    let run = |twist: fn(&mut Vec<Output>)| {
        let mut bench = Bench::new();
        let mut outputs = bench.ask(1, Introduce, b"5\x001\x005\0");
        outputs.extend(bench.ask(1, Release, b"5\0"));
        twist(&mut outputs);
        bench.deliver(&outputs);
        bench.kinds()
    };
    assert_eq!(run(|_| {}), []);
    let lose = |outputs: &mut Vec<Output>| {
        let at = outputs.iter().rposition(|o| matches!(o, Output::Effect { .. })).unwrap();
        outputs.remove(at);
    };
    assert_eq!(run(lose), [ViolationKind::LostEffect]);
    let double = |outputs: &mut Vec<Output>| {
        let at = outputs.iter().rposition(|o| matches!(o, Output::Effect { .. })).unwrap();
        outputs.insert(at, outputs[at].clone());
    };
    assert_eq!(run(double), [ViolationKind::DoubledEffect]);
    let swap = |outputs: &mut Vec<Output>| {
        let first = outputs.iter().position(|o| matches!(o, Output::Effect { .. })).unwrap();
        let last = outputs.iter().rposition(|o| matches!(o, Output::Effect { .. })).unwrap();
        outputs.swap(first, last);
    };
    assert_eq!(run(swap), [ViolationKind::Reordered]);
}

#[test]
fn a_log_that_lost_what_was_answered_is_found() {
    let mut bench = Bench::new();
    bench.done(1, Write, b"/a\0one");
    bench.judge.promoted(InputNo(3), 0);
    assert_eq!(bench.kinds(), [ViolationKind::LostAcknowledged]);
    let mut bench = Bench::new();
    bench.done(1, Write, b"/a\0one");
    bench.judge.restarted(InputNo(3), false, 0);
    assert_eq!(bench.kinds(), [ViolationKind::LostAcknowledged]);
    // A query has shown it, though its own answer is in no log.
    let mut bench = Bench::new();
    bench.ask(1, Write, b"/a\0one");
    bench.done(2, Read, b"/a\0");
    bench.judge.promoted(InputNo(3), 0);
    assert_eq!(bench.kinds(), [ViolationKind::LostAcknowledged]);
}

#[test]
fn a_log_with_what_nobody_asked_is_found() {
    let mut bench = Bench::new();
    bench.judge.promoted(InputNo(9), 0);
    assert_eq!(bench.kinds(), [ViolationKind::BadInput]);
    let mut bench = Bench::new();
    bench.judge.admitted(InputNo(9), b"", 0);
    assert_eq!(bench.kinds(), [ViolationKind::BadInput]);
}

#[test]
fn an_answer_before_the_quarantine_is_found() {
    let mut bench = Bench::new();
    let outputs = bench.ask(1, TransactionStart, b"\0");
    bench.deliver(&outputs);
    bench.judge.quarantined(InputNo(4), 0);
    bench.judge.promoted(InputNo(3), 0);
    assert_eq!(bench.kinds(), [ViolationKind::AnsweredThenQuarantined]);
}

#[test]
fn connections_end_for_a_reason() {
    let close = |closer| {
        let mut bench = Bench::new();
        bench.ask(1, Write, b"/a\0");
        bench.judge.closed(ConnId(1), closer, 0);
        bench.kinds()
    };
    assert_eq!(close(Closer::Client), []);
    assert_eq!(close(Closer::Host { provoked: true }), []);
    let broken = [ViolationKind::BrokenConnection];
    assert_eq!(close(Closer::Host { provoked: false }), broken);
    // The domain of a guest was released.
    let mut bench = Bench::new();
    bench.done(1, Introduce, b"5\x001\x005\0");
    bench.input(&Input::Open { conn: ConnId(5), domid: DomId(5) });
    bench.done(1, Release, b"5\0");
    bench.judge.closed(ConnId(5), Closer::Host { provoked: false }, 0);
    assert_eq!(bench.kinds(), []);
}

#[test]
fn what_is_no_frame_is_found() {
    let mut bench = Bench::new();
    bench.judge.delivered(ConnId(1), &[0xff; 32], 0);
    assert_eq!(bench.kinds(), [ViolationKind::BrokenFrame]);
}

#[test]
fn a_wrong_answer_is_found() {
    let mut bench = Bench::new();
    let mut outputs = bench.ask(1, Write, b"/a\0one");
    if let Output::Reply { frame, .. } = &mut outputs[0] {
        frame[16] = b'X';
    }
    bench.deliver(&outputs);
    assert_eq!(bench.kinds(), [ViolationKind::WrongReply]);
}

/// One slip of the host somewhere in a long run with failovers.
#[test]
fn slips_in_long_runs_are_found() {
    let drop_one: Sabotage = |outputs: &mut Vec<Output>, rng: &mut Rng| {
        outputs.remove(rng.below(outputs.len()));
        true
    };
    let double_one: Sabotage = |outputs: &mut Vec<Output>, rng: &mut Rng| {
        let at = rng.below(outputs.len());
        outputs.insert(at, outputs[at].clone());
        true
    };
    let change_one: Sabotage = |outputs: &mut Vec<Output>, rng: &mut Rng| {
        let at = rng.below(outputs.len());
        match &mut outputs[at] {
            Output::Reply { frame, .. } | Output::Event { frame, .. } => {
                let last = frame.len() - 1;
                frame[last] ^= 1;
            }
            Output::Effect { bytes, .. } => bytes[0] ^= 1,
        }
        true
    };
    let swap: Sabotage = |outputs: &mut Vec<Output>, _: &mut Rng| {
        let mut pairs = outputs.windows(2);
        let at =
            pairs.position(|pair| conn_of(&pair[0]) == conn_of(&pair[1]) && pair[0] != pair[1]);
        at.is_some_and(|at| {
            outputs.swap(at, at + 1);
            true
        })
    };
    for (name, sabotage) in
        [("drop", drop_one), ("double", double_one), ("change", change_one), ("swap", swap)]
    {
        let (mut slips, mut found) = (0, 0);
        for seed in 0..30 {
            let population = Population { think_us: 1000, ..Population::draw(seed) };
            let mut toy = Toy::new(seed, population.clients(&[]), population.keys);
            toy.sabotage = Some((sabotage, 40_000));
            let outcome = toy.run(100_000);
            slips += u32::from(toy.sabotage.is_none());
            found += u32::from(toy.sabotage.is_none() && outcome.is_err());
            assert!(toy.sabotage.is_none() || outcome.is_ok(), "{outcome:?}");
        }
        // The client that it concerned may have gone before it could tell.
        println!("{name}: {found} of {slips}");
        assert!(slips > 20 && found * 10 >= slips * 8, "{name}: {found} of {slips}");
    }
}
