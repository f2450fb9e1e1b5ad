//! Runs without a fault.

use xenstore::wire::MessageType::{Directory, Introduce, Read, TransactionStart, Watch, Write};

use super::super::toy::Toy;
use super::*;
use crate::sim::client::Population;
use crate::sim::mix::Mix;

#[test]
fn a_plain_run_passes() {
    let mut bench = Bench::new();
    bench.done(1, Watch, b"/a\0t\0");
    bench.done(2, Write, b"/a\0one");
    bench.done(1, Read, b"/a\0");
    bench.done(2, Introduce, b"5\x001\x005\0");
    bench.done(2, Directory, b"/\0");
    assert_eq!(bench.kinds(), []);
    let stats = bench.judge.stats();
    assert_eq!((stats.inputs, stats.replies, stats.answers), (8, 5, 2));
    assert_eq!((stats.events, stats.effects), (2, 1));
}

#[test]
fn frames_may_come_in_any_pieces() {
    let mut bench = Bench::new();
    let outputs = bench.ask(1, Write, b"/a\0one");
    let Output::Reply { conn, frame, .. } = &outputs[0] else { panic!("a reply") };
    for byte in frame.iter() {
        bench.judge.delivered(*conn, &[*byte], 0);
    }
    assert_eq!(bench.kinds(), []);
    assert_eq!(bench.judge.stats().replies, 1);
}

/// A query that a later primary answers from the log it took over.
#[test]
fn queries_are_answered_anew_after_failovers() {
    for failovers in 0..3 {
        let mut bench = Bench::new();
        bench.done(1, Watch, b"/b\0t\0");
        let asked = bench.frame(Read, 0, b"/a\0");
        let query = Input::Request { conn: ConnId(1), frame: &asked };
        let no = bench.admit(&query);
        let mut answer = bench.apply(no, &query, false);
        for value in ["one", "two"].iter().take(failovers) {
            let written = bench.ask(2, Write, format!("/a\0{value}").as_bytes());
            // An event to the asker, too.
            let event = bench.ask(2, Write, b"/b\0");
            bench.judge.promoted(InputNo(bench.last), 0);
            bench.deliver(written.iter().chain(&event));
            answer = bench.apply(no, &query, false);
        }
        bench.deliver(&answer);
        assert_eq!(bench.kinds(), [], "{failovers}");
        assert_eq!(bench.judge.stats().answers_anew, u64::from(failovers > 0));
    }
}

#[test]
fn a_quarantined_request_is_answered_with_an_error() {
    let mut bench = Bench::new();
    let asked = bench.frame(Write, 0, b"/a\0one");
    let request = Input::Request { conn: ConnId(1), frame: &asked };
    let no = bench.admit(&request);
    let behind = bench.frame(Read, 0, b"/a\0");
    let query = Input::Request { conn: ConnId(2), frame: &behind };
    let query_no = bench.admit(&query);
    bench.judge.quarantined(no, 0);
    bench.judge.promoted(InputNo(3), 0);
    let outputs = bench.apply(no, &request, true);
    let answer = bench.apply(query_no, &query, false);
    bench.deliver(outputs.iter().chain(&answer));
    bench.judge.replica_state(no, bench.machine.digest(), 0);
    assert_eq!(bench.kinds(), []);
    assert_eq!((bench.judge.stats().quarantined, bench.judge.stats().digests), (1, 1));
}

/// The judge has gone past an input that is then quarantined.
#[test]
fn the_judge_goes_back_for_a_late_quarantine() {
    let mut bench = Bench::new();
    bench.done(1, Write, b"/a\0zero");
    let start = bench.frame(TransactionStart, 0, b"\0");
    let start = Input::Request { conn: ConnId(1), frame: &start };
    let start_no = bench.admit(&start);
    // Another's opening is answered early; the first one kills its primary.
    let other = bench.ask(2, TransactionStart, b"\0");
    bench.deliver(&other);
    bench.judge.quarantined(start_no, 0);
    bench.judge.promoted(InputNo(start_no.0 - 1), 0);
    let outputs = bench.apply(start_no, &start, true);
    assert!(outputs.is_empty(), "the bench has applied a later one: {outputs:?}");
    let mut sound = Numbered::<Xenstore>::default();
    let mut answer = Vec::new();
    sound.apply(start_no, &start, true, &mut answer).expect("sound");
    bench.deliver(&answer);
    assert_eq!(bench.kinds(), []);
}

#[test]
fn a_host_that_comes_back_goes_on() {
    let mut bench = Bench::new();
    bench.done(1, Write, b"/a\0one");
    let kept = bench.machine.clone();
    // Never answered, and not in the log.
    bench.ask(1, Write, b"/a\0two");
    bench.machine = kept;
    let last = bench.machine.last_input();
    bench.judge.restarted(last, false, 0);
    bench.last = last.0;
    bench.input(&Input::Boot);
    bench.open(9);
    bench.done(9, Read, b"/a\0");
    bench.judge.replica_state(bench.machine.last_input(), bench.machine.digest(), 0);
    assert_eq!(bench.kinds(), []);
    assert_eq!(bench.judge.stats().digests, 1);
}

#[test]
fn power_may_take_what_it_may() {
    let mut bench = Bench::new();
    bench.judge = Judge::new(1000);
    bench.last = 0;
    bench.machine = Numbered::default();
    bench.input(&Input::Boot);
    bench.open(1);
    let mut states = Vec::new();
    for round in 0..300 {
        bench.done(1, Write, format!("/a\0{round}").as_bytes());
        states.push((bench.last, bench.machine.clone()));
    }
    let (last, machine) = states.swap_remove(100);
    (bench.last, bench.machine) = (last, machine);
    bench.judge.restarted(InputNo(last), true, 0);
    bench.open(7);
    bench.done(7, Read, b"/a\0");
    assert_eq!(bench.kinds(), []);
}

#[test]
fn memory_is_bounded_however_long_it_takes() {
    let mut bench = Bench::new();
    let mut most = 0;
    for round in 0..20_000 {
        let kind = if round % 4 == 0 { Write } else { Read };
        bench.done(1 + round % 2, kind, b"/a\0");
        most = most.max(bench.judge.kept());
    }
    assert!(most < 300, "{most}");
    // Nor does one who only reads make it grow.
    for _ in 0..20_000 {
        bench.done(1, Read, b"/a\0");
        bench.judge.released(InputNo(bench.last));
        most = most.max(bench.judge.kept());
    }
    assert!(most < 300, "{most}");
    assert_eq!(bench.kinds(), []);
}

#[test]
fn what_failovers_may_do_is_allowed() {
    let mixes = Mix::committed();
    let (mut anew, mut quarantined, mut failovers, mut windows) = (0, 0, 0, 0);
    for seed in 0..60 {
        // Few nodes and many clients: answers from later states differ.
        let population =
            Population { seed, clients: 14, think_us: 1000, keys: 1, entangled: false };
        let mut toy = Toy::new(seed, population.clients(&mixes), population.keys);
        toy.crash_per_mille = 20;
        toy.run(400_000).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        anew += toy.judge.stats().answers_anew;
        quarantined += toy.judge.stats().quarantined;
        failovers += toy.failovers;
        windows += toy.sampler.judged();
        assert!(toy.judge.kept() < 2000, "{}", toy.judge.kept());
    }
    let seen = format!("{failovers} failovers, {anew} anew, {quarantined} eio, {windows} windows");
    println!("{seen}");
    assert!(anew > 5 && quarantined > 20 && failovers > 500 && windows > 50, "{seen}");
}
