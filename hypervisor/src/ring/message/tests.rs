use std::collections::VecDeque;

use quickcheck::QuickCheck;

use super::super::testing::{CONSUMER, PRODUCER, RingMemory, bytes};
use super::*;

fn pair(capacity: usize, backlog: usize, max: usize) -> (RingMemory, Sender, Receiver) {
    let memory = RingMemory::new(capacity);
    let (producer, consumer) = memory.pair();
    (memory, Sender::new(producer, backlog), Receiver::new(consumer, max))
}

fn receive(receiver: &mut Receiver) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    receiver.receive(&mut out).unwrap().then_some(out)
}

#[test]
fn a_message_larger_than_the_ring_goes_through() {
    let (_memory, mut sender, mut receiver) = pair(256, 100_000, 20_000);
    let large = bytes(3, 20_000);
    sender.send(&large).unwrap();
    sender.send(b"after").unwrap();
    let mut rounds = 0;
    let found = loop {
        sender.flush();
        if let Some(found) = receive(&mut receiver) {
            break found;
        }
        assert!(receiver.release(), "the sender waits for room");
        rounds += 1;
        assert!(rounds < 1000);
    };
    assert_eq!(found, large);
    receiver.release();
    sender.flush();
    assert_eq!(receive(&mut receiver), Some(b"after".to_vec()));
    assert!(!sender.has_backlog());
    assert_eq!(sender.backlog_bytes(), 0);
}

#[test]
fn the_backlog_is_bounded() {
    let (_memory, mut sender, _receiver) = pair(256, 1000, 1000);
    let mut taken = 0;
    while sender.send(&[1; 40]).is_ok() {
        taken += 1;
        sender.flush();
        assert!(sender.backlog_bytes() <= 1000);
        assert!(taken < 100);
    }
    assert!(taken >= 1000 / 72, "{taken}");
    assert_eq!(sender.send(&[]), Ok(()), "a smaller one may still fit");
    assert_eq!(sender.send(&[1; 40]), Err(SendError::BacklogFull));
}

#[test]
fn a_message_above_the_limit_ends_the_ring() {
    let (_memory, mut sender, mut receiver) = pair(256, 10_000, 100);
    sender.send(&[1; 100]).unwrap();
    sender.send(&[1; 101]).unwrap();
    sender.flush();
    assert_eq!(receive(&mut receiver), Some(vec![1; 100]));
    receiver.release();
    sender.flush();
    let error = receiver.receive(&mut Vec::new()).unwrap_err();
    assert_eq!(error, RingError::MessageTooLarge { max: 100 });
    assert_eq!(receiver.receive(&mut Vec::new()), Err(error));
}

#[test]
fn half_a_message_is_forgotten_when_the_sender_drops_the_rest() {
    let (_memory, mut sender, mut receiver) = pair(256, 10_000, 10_000);
    sender.send(&bytes(1, 5_000)).unwrap();
    sender.flush();
    assert_eq!(receive(&mut receiver), None);
    receiver.release();
    sender.discard_backlog();
    sender.send(b"new").unwrap();
    sender.flush();
    assert_eq!(receive(&mut receiver), Some(b"new".to_vec()));
}

#[test]
fn a_message_without_a_beginning_ends_the_ring() {
    let memory = RingMemory::new(256);
    let (mut producer, consumer) = memory.pair();
    producer.push_flagged(b"tail", LAST).unwrap();
    producer.publish();
    let mut receiver = Receiver::new(consumer, 100);
    assert!(matches!(receiver.receive(&mut Vec::new()), Err(RingError::Corrupt(_))));
}

#[test]
fn nobody_receives_from_an_unbound_sender() {
    let memory = RingMemory::new(256);
    let mut sender = Sender::new(memory.producer(PRODUCER), 1000);
    assert_eq!(sender.send(b"x"), Err(SendError::Unbound));
    assert_eq!(sender.send(&[0; 500]), Err(SendError::Unbound));
    sender.bind(CONSUMER);
    sender.send(b"x").unwrap();
}

/// Messages of any sizes arrive whole and in order, whoever is ahead.
fn in_order(sizes: Vec<u16>, mut schedule: u64) -> bool {
    let (_memory, mut sender, mut receiver) = pair(512, 1 << 20, 1 << 16);
    let mut sent = VecDeque::new();
    let mut pending: VecDeque<_> = sizes.iter().map(|&s| usize::from(s) % 3000).collect();
    for round in 0..100_000 {
        // Splitmix: any seed makes a fair schedule.
        schedule = schedule.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let choice = (schedule ^ (schedule >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        match choice >> 62 {
            0 => {
                if let Some(len) = pending.pop_front() {
                    let message = bytes(round, len);
                    sender.send(&message).unwrap();
                    sent.push_back(message);
                }
            }
            1 => {
                sender.flush();
            }
            _ => {
                if let Some(found) = receive(&mut receiver)
                    && Some(found) != sent.pop_front()
                {
                    return false;
                }
                receiver.release();
            }
        }
        if pending.is_empty() && sent.is_empty() {
            return true;
        }
    }
    false
}

#[test]
fn messages_arrive_in_order() {
    QuickCheck::new().tests(200).quickcheck(in_order as fn(Vec<u16>, u64) -> bool);
}

#[test]
fn a_receiver_that_follows_gets_what_the_last_one_was_not_done_with() {
    let (memory, mut sender, mut first) = pair(1024, 100_000, 20_000);
    let messages: Vec<_> = (0..6).map(|seed| bytes(seed, 130)).collect();
    for message in &messages {
        sender.send(message).unwrap();
    }
    sender.flush();
    for message in &messages[..4] {
        assert_eq!(receive(&mut first).as_ref(), Some(message), "and dies with the last");
    }
    drop(first);
    let follow = || Receiver::new(memory.consumer(CONSUMER, PRODUCER), 20_000).following();
    let mut second = follow();
    let rest: Vec<_> = std::iter::from_fn(|| receive(&mut second)).collect();
    assert!(rest.ends_with(&messages[3..]), "what is in doubt comes again");
    // Of a message larger than the ring, the beginning may be gone with the last one.
    second.release();
    let large = bytes(9, 5000);
    sender.send(&large).unwrap();
    sender.send(b"after").unwrap();
    for _ in 0..3 {
        sender.flush();
        assert_eq!(receive(&mut second), None);
        second.release();
    }
    drop(second);
    let mut third = follow();
    let found = loop {
        sender.flush();
        if let Some(found) = receive(&mut third) {
            break found;
        }
        third.release();
    };
    assert_eq!(found, b"after");
}
