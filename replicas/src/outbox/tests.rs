use std::collections::BTreeMap;

use quickcheck::QuickCheck;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Left {
    Output(Output),
    Done(InputNo),
}

fn reply(input: u64, conn: u64) -> Output {
    Output::Reply { input: InputNo(input), conn: ConnId(conn), frame: [1, 2, 3][..].into() }
}

fn event(no: u64, conn: u64) -> Output {
    Output::Event { no: OutputNo(no), conn: ConnId(conn), frame: [4, 5][..].into() }
}

fn note(left: &mut Vec<Left>) -> impl FnMut(Emission<'_>) + use<'_> {
    |emission| {
        left.push(match emission {
            Emission::Output(output) => Left::Output(output.clone()),
            Emission::Done(no) => Left::Done(no),
        });
    }
}

fn done(no: u64) -> Left {
    Left::Done(InputNo(no))
}

#[test]
fn a_command_is_answered_once_it_is_released() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.logged(BatchNo(1), reply(1, 7), &mut note(&mut left));
    outbox.done(BatchNo(1), InputNo(1), &mut note(&mut left));
    assert_eq!(left, []);
    assert!(!outbox.nothing_held());
    outbox.release_through(BatchNo(1), &mut note(&mut left));
    assert_eq!(left, [Left::Output(reply(1, 7)), done(1)]);
    assert!(outbox.nothing_held());
}

#[test]
fn a_tentative_answer_leaves_at_once_unless_its_connection_waits() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.logged(BatchNo(1), reply(1, 7), &mut note(&mut left));
    outbox.logged(BatchNo(0), reply(2, 7), &mut note(&mut left));
    outbox.logged(BatchNo(0), reply(3, 8), &mut note(&mut left));
    outbox.done(BatchNo(1), InputNo(3), &mut note(&mut left));
    assert_eq!(left, [Left::Output(reply(3, 8))]);
    outbox.release_through(BatchNo(1), &mut note(&mut left));
    assert_eq!(left[1..], [Left::Output(reply(1, 7)), Left::Output(reply(2, 7)), done(3)]);
}

#[test]
fn an_open_transaction_holds_up_nobody_else() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.logged(BatchNo(0), reply(1, 7), &mut note(&mut left));
    outbox.done(BatchNo(1), InputNo(1), &mut note(&mut left));
    for no in 2..1000 {
        outbox.answer(BatchNo(0), reply(no, 8), &mut note(&mut left));
        outbox.done(BatchNo(0), InputNo(no), &mut note(&mut left));
    }
    let replies: Vec<_> = (2..1000).map(|no| Left::Output(reply(no, 8))).collect();
    assert_eq!(left[1..], replies);
    assert_eq!(outbox.notes.len(), 1, "that all is done waits, as one note");
    outbox.release_through(BatchNo(1), &mut note(&mut left));
    assert_eq!(left.last(), Some(&done(999)));
    assert!(outbox.nothing_held() && outbox.held_for.is_empty());
}

#[test]
fn an_answer_waits_for_no_note_about_a_transaction() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.logged(BatchNo(0), reply(1, 7), &mut note(&mut left));
    outbox.done(BatchNo(2), InputNo(1), &mut note(&mut left));
    outbox.logged(BatchNo(1), reply(2, 8), &mut note(&mut left));
    outbox.done(BatchNo(2), InputNo(2), &mut note(&mut left));
    outbox.release_through(BatchNo(1), &mut note(&mut left));
    assert_eq!(left, [Left::Output(reply(1, 7)), Left::Output(reply(2, 8))]);
    assert!(!outbox.nothing_held());
    outbox.release_through(BatchNo(2), &mut note(&mut left));
    assert_eq!(left[2..], [done(2)]);
    assert!(outbox.nothing_held());
}

#[test]
fn an_opening_answer_leaves_with_the_last_command_before_it() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.logged(BatchNo(1), reply(1, 7), &mut note(&mut left));
    outbox.logged(BatchNo(1), reply(2, 8), &mut note(&mut left));
    outbox.done(BatchNo(2), InputNo(2), &mut note(&mut left));
    assert_eq!(left, []);
    outbox.release_through(BatchNo(1), &mut note(&mut left));
    assert_eq!(left, [Left::Output(reply(1, 7)), Left::Output(reply(2, 8))]);
    outbox.logged(BatchNo(1), reply(3, 8), &mut note(&mut left));
    assert_eq!(left[2..], [Left::Output(reply(3, 8))], "nothing to wait for");
    outbox.release_through(BatchNo(2), &mut note(&mut left));
    assert_eq!(left[3..], [done(2)]);
}

#[test]
fn a_query_waits_for_what_it_has_seen() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.answer(BatchNo(0), reply(1, 7), &mut note(&mut left));
    outbox.done(BatchNo(0), InputNo(1), &mut note(&mut left));
    assert_eq!(left, [Left::Output(reply(1, 7)), done(1)]);
    outbox.answer(BatchNo(1), reply(2, 8), &mut note(&mut left));
    outbox.done(BatchNo(1), InputNo(2), &mut note(&mut left));
    assert_eq!(left.len(), 2);
    outbox.release_through(BatchNo(1), &mut note(&mut left));
    assert_eq!(left[2..], [Left::Output(reply(2, 8)), done(2)]);
    assert_eq!(outbox.bytes(), 0, "an answer is not kept");
}

#[test]
fn an_input_applied_before_the_promotion_is_not_done_before_earlier_ones() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.logged(BatchNo(1), reply(5, 7), &mut note(&mut left));
    outbox.done(BatchNo(1), InputNo(5), &mut note(&mut left));
    outbox.done(BatchNo(0), InputNo(6), &mut note(&mut left));
    assert_eq!(left, []);
}

#[test]
fn a_new_primary_emits_again_what_was_not_delivered() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    for output in [reply(1, 7), event(1, 8), event(2, 8), reply(2, 7)] {
        outbox.keep(output);
    }
    outbox.prune(Watermarks { freed_input: InputNo(1), delivered_output: OutputNo(1) });
    outbox.emit_again(&mut note(&mut left));
    assert_eq!(left, [Left::Output(event(2, 8)), Left::Output(reply(2, 7))]);
    left.clear();
    outbox.emit_again(&mut note(&mut left));
    assert_eq!(left.len(), 2, "until it is delivered");
    outbox.prune(Watermarks { freed_input: InputNo(2), delivered_output: OutputNo(2) });
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn a_joining_replica_gets_what_is_held_too_but_no_answers() {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    outbox.keep(reply(1, 7));
    outbox.keep(reply(2, 7));
    outbox.logged(BatchNo(1), reply(3, 7), &mut note(&mut left));
    outbox.answer(BatchNo(1), reply(4, 8), &mut note(&mut left));
    let watermarks = Watermarks { freed_input: InputNo(1), ..Watermarks::default() };
    let undelivered = outbox.undelivered(watermarks);
    assert_eq!(undelivered, [reply(2, 7), reply(3, 7)]);
    Outbox::from_kept(undelivered).emit_again(&mut note(&mut left));
    assert_eq!(left, [Left::Output(reply(2, 7)), Left::Output(reply(3, 7))]);
}

/// Commands, tentative requests and queries of a few connections, released and
/// delivered at any time.
fn keeps_order(steps: &[u8]) -> bool {
    let (mut outbox, mut left) = (Outbox::default(), Vec::new());
    let (mut batch, mut last_command, mut events) = (1, 0, 0);
    let mut made: BTreeMap<ConnId, Vec<Output>> = BTreeMap::new();
    // With each input: how many outputs there were once it was applied.
    let mut counts = Vec::new();
    let mut count = 0;
    for (&step, input) in steps.iter().zip(1..) {
        let emit = &mut note(&mut left);
        let conn = u64::from(step / 16 % 3);
        let answer = reply(input, conn);
        let mut outputs = vec![answer.clone()];
        let release = match step % 4 {
            0 => {
                outbox.answer(BatchNo(last_command), answer, emit);
                last_command
            }
            1 => {
                let release = if step % 8 == 1 { 0 } else { last_command };
                outbox.logged(BatchNo(release), answer, emit);
                batch
            }
            _ => {
                events += 1;
                outputs.insert(0, event(events, conn + 1));
                for output in &outputs {
                    outbox.logged(BatchNo(batch), output.clone(), emit);
                }
                last_command = batch;
                batch
            }
        };
        outbox.done(BatchNo(release), InputNo(input), emit);
        count += outputs.len();
        counts.push(count);
        for output in outputs {
            made.entry(conn_of(&output).unwrap()).or_default().push(output);
        }
        if step >= 192 {
            outbox.release_through(BatchNo(batch - u64::from(step % 2)), emit);
            batch += 1;
        }
    }
    outbox.release_through(BatchNo(batch), &mut note(&mut left));
    let mut sent: BTreeMap<ConnId, Vec<Output>> = BTreeMap::new();
    let mut so_far = 0;
    for left in &left {
        match left {
            Left::Output(output) => {
                so_far += 1;
                sent.entry(conn_of(output).unwrap()).or_default().push(output.clone());
            }
            Left::Done(no) => {
                let least = counts[usize::try_from(no.0).unwrap() - 1];
                assert!(so_far >= least, "{no} is done, but not all of it has left");
            }
        }
    }
    assert_eq!(sent, made);
    if !steps.is_empty() {
        assert_eq!(left.last(), Some(&done(steps.len() as u64)));
    }
    let all = InputNo(steps.len() as u64);
    outbox.prune(Watermarks { freed_input: all, delivered_output: OutputNo(events) });
    assert_eq!(outbox.bytes(), 0);
    true
}

#[test]
fn whatever_is_asked_connections_keep_their_order_and_nothing_is_lost() {
    let property = |steps: Vec<u8>| keeps_order(&steps);
    QuickCheck::new().tests(2000).quickcheck(property as fn(Vec<u8>) -> bool);
}
