use std::collections::VecDeque;

use quickcheck::{Arbitrary, Gen, QuickCheck, TestResult};

use super::super::testing::{CONSUMER as ME, PRODUCER as OTHER, RingMemory, bytes};
use super::*;

fn pop(consumer: &mut Consumer) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    consumer.pop_into(&mut out).unwrap().then_some(out)
}

#[test]
fn records_come_out_as_they_went_in_even_across_the_end() {
    let memory = RingMemory::new(256);
    let (mut producer, mut consumer) = memory.pair();
    for round in 0..200 {
        let record = bytes(round, round % 120);
        producer.push(&record).unwrap();
        assert_eq!(pop(&mut consumer), None, "not published yet");
        assert!(producer.publish());
        assert!(!producer.publish(), "nothing new");
        assert_eq!(pop(&mut consumer), Some(record));
        consumer.release();
    }
}

#[test]
fn a_full_ring_refuses_and_says_when_it_waits() {
    let memory = RingMemory::new(64);
    let (mut producer, mut consumer) = memory.pair();
    assert_eq!(producer.push(&[0; 57]), Err(PushError::TooLarge { len: 57 }));
    producer.push(&[1; 24]).unwrap();
    producer.push(&[2; 24]).unwrap();
    producer.publish();
    assert!(!consumer.release(), "nobody waits yet");
    assert_eq!(producer.push(&[]), Err(PushError::Full));
    assert_eq!(pop(&mut consumer), Some(vec![1; 24]));
    assert!(consumer.release(), "the producer waits");
    producer.push(&[3; 24]).unwrap();
    assert!(!consumer.release(), "it does not wait any more");
    producer.publish();
    assert_eq!(pop(&mut consumer), Some(vec![2; 24]));
    assert_eq!(pop(&mut consumer), Some(vec![3; 24]));
}

#[test]
fn what_a_dead_producer_did_not_publish_is_not_seen() {
    let memory = RingMemory::new(4096);
    let (mut producer, mut consumer) = memory.pair();
    producer.push(b"whole").unwrap();
    producer.publish();
    producer.push(b"never shown").unwrap();
    drop(producer);
    assert_eq!(pop(&mut consumer), Some(b"whole".to_vec()));
    assert_eq!(pop(&mut consumer), None);
}

#[test]
fn a_ring_is_for_one_consumer_only() {
    let memory = RingMemory::new(4096);
    let mut producer = memory.producer(OTHER);
    assert_eq!(producer.push(b"x"), Err(PushError::Unbound));
    producer.bind(PartyId(5));
    producer.push(b"for 5").unwrap();
    producer.publish();
    let mut consumer = memory.consumer(ME, OTHER);
    assert_eq!(pop(&mut consumer), None);
    producer.bind(ME);
    assert_eq!(pop(&mut consumer), None, "what 5 did not take is dropped");
    producer.push(b"for 9").unwrap();
    producer.publish();
    assert_eq!(pop(&mut consumer), Some(b"for 9".to_vec()));
}

#[test]
fn a_position_that_bears_another_producers_id_does_not_count() {
    let memory = RingMemory::new(64);
    let mut producer = memory.producer(OTHER);
    producer.bind(ME);
    // The consumer was bound to a predecessor that had written a lot.
    memory.position().store(PRODUCER, 1234);
    memory.position().store(POSITION, 56);
    producer.push(&[1; 48]).unwrap();
    producer.publish();
    assert_eq!(producer.push(&[2; 48]), Err(PushError::Full));
    let mut consumer = memory.consumer(ME, OTHER);
    assert_eq!(pop(&mut consumer), Some(vec![1; 48]));
    consumer.release();
    producer.push(&[2; 48]).unwrap();
}

#[test]
fn a_consumer_that_returns_goes_on_where_it_was() {
    let memory = RingMemory::new(4096);
    let (mut producer, mut consumer) = memory.pair();
    for record in [b"a", b"b"] {
        producer.push(record).unwrap();
    }
    producer.publish();
    assert_eq!(pop(&mut consumer), Some(b"a".to_vec()));
    consumer.release();
    producer.bind(ME);
    let mut consumer = memory.consumer(ME, OTHER);
    assert_eq!(pop(&mut consumer), Some(b"b".to_vec()));
}

/// A line that somebody else's bug, or a flipped bit, has overwritten.
fn spoil(line: &crate::memory::ViewMut) {
    (0..LINE_BYTES).step_by(WORD_BYTES).for_each(|at| line.store(at, 0x5eed_5eed_5eed_5eed));
}

#[test]
fn spoiled_lines_are_as_they_should_be_with_the_next_record() {
    let memory = RingMemory::new(64);
    let (mut producer, mut consumer) = memory.pair();
    for round in 0..20 {
        let record = bytes(round, 24);
        spoil(&memory.header());
        assert_eq!(pop(&mut consumer), None, "it is not said to be for us");
        producer.push(&record).unwrap();
        producer.publish();
        spoil(&memory.position());
        assert_eq!(pop(&mut consumer), Some(record));
        consumer.release();
    }
}

#[test]
fn a_record_with_a_changed_bit_is_no_record() {
    let record = bytes(5, 20);
    for bit in 0..(8 + 20) * 8 {
        let memory = RingMemory::new(256);
        let (mut producer, mut consumer) = memory.pair();
        producer.push(&record).unwrap();
        producer.publish();
        let (data, at) = (memory.data(), bit / 64 * 8);
        data.store(at, data.load(at) ^ 1 << (bit % 64));
        let mut out = Vec::new();
        assert!(consumer.pop_into(&mut out).is_err(), "bit {bit}: {out:?}");
    }
}

#[test]
fn impossible_contents_end_the_ring_for_good() {
    type Damage = fn(&RingMemory);
    let damages: [(&str, Damage); 5] = [
        ("the head went back", |m| m.header().store(HEAD, 0)),
        ("more than the ring holds", |m| m.header().store(HEAD, 1 << 40)),
        ("the head is not aligned", |m| m.header().store(HEAD, 33)),
        ("no record where one should begin", |m| m.data().store(16, 1)),
        ("a record longer than what was shown", |m| {
            m.data().store(16, RecordHead { len: 100, flags: 3 }.encode(16, b""));
        }),
    ];
    for (name, damage) in damages {
        let memory = RingMemory::new(256);
        let (mut producer, mut consumer) = memory.pair();
        producer.push(b"1").unwrap();
        producer.publish();
        assert_eq!(pop(&mut consumer), Some(b"1".to_vec()));
        producer.push(b"2").unwrap();
        producer.publish();
        damage(&memory);
        let error = consumer.pop_into(&mut Vec::new()).unwrap_err();
        assert_eq!(error, RingError::Corrupt(name));
        memory.header().store(HEAD, 32);
        assert_eq!(consumer.pop_into(&mut Vec::new()), Err(error), "for ever");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u8),
    Publish,
    Pop,
    Release,
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Self {
        match u8::arbitrary(g) % 8 {
            0..=2 => Self::Push(u8::arbitrary(g)),
            3 | 4 => Self::Publish,
            5 | 6 => Self::Pop,
            _ => Self::Release,
        }
    }
}

/// The ring is a bounded queue with a hidden tail.
fn is_a_queue(steps: Vec<Step>) -> bool {
    const CAPACITY: usize = 512;
    let memory = RingMemory::new(CAPACITY);
    let (mut producer, mut consumer) = memory.pair();
    let mut shown = VecDeque::new();
    let mut hidden = VecDeque::new();
    // Bytes whose room has not certainly been given back.
    let mut pending: usize = 0;
    let mut taken: usize = 0;
    for (seed, step) in steps.into_iter().enumerate() {
        match step {
            Step::Push(len) => {
                let record = bytes(seed, len.into());
                let size = record_bytes(record.len());
                match producer.push(&record) {
                    Ok(()) => {
                        pending += size;
                        hidden.push_back(record);
                    }
                    Err(PushError::Full) if pending + size > CAPACITY => {}
                    Err(_) => return false,
                }
            }
            Step::Publish => {
                if producer.publish() == hidden.is_empty() {
                    return false;
                }
                shown.append(&mut hidden);
            }
            Step::Pop => {
                let found = pop(&mut consumer);
                taken += found.as_ref().map_or(0, |record| record_bytes(record.len()));
                if found != shown.pop_front() {
                    return false;
                }
            }
            Step::Release => {
                consumer.release();
                pending -= taken;
                taken = 0;
            }
        }
    }
    true
}

#[test]
fn behaves_like_a_queue() {
    QuickCheck::new().tests(300).quickcheck(is_a_queue as fn(Vec<Step>) -> bool);
}

/// Whatever a hostile producer writes at whatever time, the consumer neither
/// panics nor reads more than there can be.
fn survives_a_hostile_producer(words: Vec<(u8, u64)>, plausible: bool) -> TestResult {
    const CAPACITY: usize = 256;
    let memory = RingMemory::new(CAPACITY);
    let (mut producer, mut consumer) = memory.pair();
    let mut out = Vec::new();
    for (place, word) in words {
        // Numbers that are nearly right reach further.
        let word = if plausible { word % 1024 / 8 * 8 } else { word };
        match place % 8 {
            0 => memory.header().store(START, word),
            1..=3 => memory.header().store(HEAD, word),
            4 => memory.data().store(place as usize / 8 * 8, word),
            5 => {
                let head = RecordHead { len: word as u32, flags: place };
                memory.data().store(place as usize / 8 * 8, head.encode(place.into(), b""));
            }
            _ => {
                let _ = producer.push(&[place; 24]);
                producer.publish();
            }
        }
        for _ in 0..=CAPACITY / WORD_BYTES {
            match consumer.pop_into(&mut out) {
                Ok(true) if out.len() > CAPACITY => return TestResult::failed(),
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return TestResult::passed(),
            }
        }
        consumer.release();
    }
    TestResult::passed()
}

#[test]
fn no_harm_from_a_hostile_producer() {
    QuickCheck::new()
        .tests(2000)
        .quickcheck(survives_a_hostile_producer as fn(Vec<(u8, u64)>, bool) -> TestResult);
}

/// A consumer that lies about its position cannot make the producer write over
/// what it has not shown, or panic.
fn survives_a_hostile_consumer(words: Vec<(bool, u64)>) -> bool {
    let memory = RingMemory::new(256);
    let mut producer = memory.producer(OTHER);
    producer.bind(ME);
    for (tag, word) in words {
        memory.position().store(PRODUCER, if tag { OTHER.0 } else { word });
        memory.position().store(POSITION, word % 2048);
        let _ = producer.push(&word.to_le_bytes());
        if word % 3 == 0 {
            producer.publish();
        }
        if producer.pending_bytes() > 256 {
            return false;
        }
    }
    true
}

#[test]
fn no_harm_from_a_hostile_consumer() {
    QuickCheck::new()
        .tests(1000)
        .quickcheck(survives_a_hostile_consumer as fn(Vec<(bool, u64)>) -> bool);
}

#[test]
fn two_threads_at_full_speed() {
    const RECORDS: u64 = 100_000;
    let memory = RingMemory::new(4096);
    let (mut producer, mut consumer) = memory.pair();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..RECORDS {
                let record = i.to_le_bytes().repeat(1 + (i % 5) as usize);
                while producer.push(&record).is_err() {
                    producer.publish();
                    std::thread::yield_now();
                }
                if i % 3 == 0 {
                    producer.publish();
                }
            }
            producer.publish();
        });
        let mut out = Vec::new();
        for i in 0..RECORDS {
            while !consumer.pop_into(&mut out).unwrap() {
                consumer.release();
                std::thread::yield_now();
            }
            assert_eq!(out, i.to_le_bytes().repeat(1 + (i % 5) as usize));
        }
    });
}

#[test]
fn a_producer_that_goes_on_believes_no_position_that_cannot_be() {
    let memory = RingMemory::new(64);
    let (mut first, mut consumer) = memory.pair();
    for _ in 0..10 {
        first.push(&[1; 24]).unwrap();
        first.publish();
        pop(&mut consumer).unwrap();
        consumer.release();
    }
    memory.position().store(PRODUCER, 77);
    let position = memory.position().read_only();
    let parts = ProducerParts { header: memory.header(), data: memory.data(), position };
    let mut second = Producer::resume(parts, OTHER, ME);
    assert_eq!(second.push(&[2; 24]), Err(PushError::Full));
    memory.position().store(PRODUCER, OTHER.0);
    second.push(&[2; 24]).unwrap();
}

#[test]
fn a_producer_goes_on_where_another_ended() {
    let memory = RingMemory::new(64);
    let (mut first, mut consumer) = memory.pair();
    first.push(b"shown").unwrap();
    first.publish();
    first.push(b"not shown").unwrap();
    assert_eq!(first.push(&[0; 40]), Err(PushError::Full), "it waits for room");
    drop(first);
    let parts = || ProducerParts {
        header: memory.header(),
        data: memory.data(),
        position: memory.position().read_only(),
    };
    let mut second = Producer::resume(parts(), OTHER, ME);
    assert_eq!(pop(&mut consumer), Some(b"shown".to_vec()));
    assert!(!consumer.release(), "the second does not wait");
    second.push(b"next").unwrap();
    second.publish();
    assert_eq!(pop(&mut consumer), Some(b"next".to_vec()));
    let mut third = Producer::resume(parts(), OTHER, PartyId(5));
    third.push(b"for 5").unwrap();
    third.publish();
    assert_eq!(pop(&mut consumer), None, "the ring is for another now");
}
