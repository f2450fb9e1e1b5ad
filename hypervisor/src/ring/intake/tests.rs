use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quickcheck::QuickCheck;

use super::super::testing::{RingMemory, bytes};
use super::*;
use crate::memory::Fuse;

fn intake(capacity: usize) -> (RingMemory, IntakeWriter, IntakeReader) {
    let memory = RingMemory::new(capacity);
    let writer = IntakeWriter::new(memory.header(), memory.data());
    let reader = reader(&memory);
    (memory, writer, reader)
}

fn reader(memory: &RingMemory) -> IntakeReader {
    IntakeReader::new(memory.header().read_only(), memory.data().read_only())
}

fn next(reader: &mut IntakeReader) -> Option<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    let no = reader.next(&mut out).unwrap()?;
    Some((no, out))
}

#[test]
fn several_readers_read_at_their_own_pace() {
    let (memory, mut writer, mut first) = intake(4096);
    assert_eq!(next(&mut first), None);
    for no in 5..8 {
        writer.push(no, &bytes(no as usize, 10)).unwrap();
    }
    let mut second = reader(&memory);
    for reader in [&mut first, &mut second] {
        for no in 5..8 {
            assert!(reader.has_more());
            assert_eq!(next(reader), Some((no, bytes(no as usize, 10))));
        }
        assert!(!reader.has_more());
        assert_eq!(reader.last_no(), 7);
    }
    first.seek_oldest();
    assert_eq!(next(&mut first), Some((5, bytes(5, 10))));
}

#[test]
fn numbers_must_follow_each_other() {
    let (_memory, mut writer, _) = intake(4096);
    let wrong = |found, last| Err(IntakePushError::OutOfOrder { found, last });
    assert_eq!(writer.push(0, b""), wrong(0, 0));
    writer.push(3, b"").unwrap();
    assert_eq!(writer.push(3, b""), wrong(3, 3));
    assert_eq!(writer.push(5, b""), wrong(5, 3));
    writer.push(4, b"").unwrap();
    assert_eq!(writer.last(), 4);
}

#[test]
fn room_comes_back_when_inputs_are_freed() {
    let (_memory, mut writer, mut reader) = intake(128);
    assert_eq!(writer.push(1, &[0; 113]), Err(IntakePushError::TooLarge { len: 113 }));
    writer.push(1, &[1; 48]).unwrap();
    writer.push(2, &[2; 40]).unwrap();
    assert_eq!(writer.push(3, &[3; 8]), Err(IntakePushError::Full));
    assert_eq!((writer.oldest(), writer.kept()), (Some(1), 2));
    writer.free_through(0);
    assert_eq!(writer.oldest(), Some(1));
    assert_eq!(next(&mut reader), Some((1, vec![1; 48])));
    writer.free_through(1);
    assert_eq!(writer.oldest(), Some(2));
    writer.push(3, &[3; 48]).unwrap();
    assert_eq!(next(&mut reader), Some((2, vec![2; 40])));
    assert_eq!(next(&mut reader), Some((3, vec![3; 48])));
    writer.free_through(100);
    assert_eq!((writer.oldest(), writer.room_bytes()), (None, 128));
    assert_eq!(next(&mut reader), None);
}

#[test]
fn a_reader_that_was_overtaken_is_told() {
    let (_memory, mut writer, mut reader) = intake(128);
    for no in 1..=100 {
        writer.push(no, &no.to_le_bytes()).unwrap();
        writer.free_through(no - 1);
    }
    let mut out = Vec::new();
    assert_eq!(reader.next(&mut out), Err(IntakeError::Overtaken));
    assert_eq!(reader.next(&mut out), Err(IntakeError::Overtaken), "until it seeks");
    reader.seek_oldest();
    assert_eq!(next(&mut reader), Some((100, 100u64.to_le_bytes().to_vec())));
}

#[test]
fn what_is_freed_is_not_read_even_if_still_there() {
    let (_memory, mut writer, mut reader) = intake(4096);
    for no in 1..=3 {
        writer.push(no, b"same").unwrap();
    }
    assert_eq!(next(&mut reader), Some((1, b"same".to_vec())));
    writer.free_through(2);
    assert_eq!(reader.next(&mut Vec::new()), Err(IntakeError::Overtaken));
    reader.seek_oldest();
    assert_eq!(next(&mut reader), Some((3, b"same".to_vec())));
}

/// Against a queue: what is kept can be read again, from the oldest on.
fn is_a_replayable_queue(steps: Vec<u8>) -> bool {
    let (memory, mut writer, mut follower) = intake(512);
    let mut kept: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    let mut unread: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    let mut no = 0;
    for (seed, step) in steps.into_iter().enumerate() {
        match step % 4 {
            0 | 1 => {
                let record = bytes(seed, usize::from(step) % 100);
                if writer.push(no + 1, &record).is_ok() {
                    no += 1;
                    kept.push_back((no, record.clone()));
                    unread.push_back((no, record));
                }
            }
            2 => {
                if next(&mut follower) != unread.pop_front() {
                    return false;
                }
            }
            _ => {
                // Free some of what the follower has read.
                let read = unread.front().map_or(no, |(no, _)| no - 1);
                let through = read.saturating_sub(u64::from(step) / 4 % 3);
                writer.free_through(through);
                kept.retain(|(no, _)| *no > through);
            }
        }
        if writer.oldest() != kept.front().map(|(no, _)| *no) {
            return false;
        }
    }
    let mut newcomer = reader(&memory);
    kept.into_iter().all(|record| next(&mut newcomer) == Some(record))
        && next(&mut newcomer).is_none()
}

#[test]
fn behaves_like_a_replayable_queue() {
    QuickCheck::new().tests(300).quickcheck(is_a_replayable_queue as fn(Vec<u8>) -> bool);
}

fn survives_any_content(words: Vec<(u8, u64)>) -> bool {
    let (memory, mut writer, mut reader) = intake(256);
    let mut out = Vec::new();
    for (place, word) in words {
        let word = if place & 1 == 0 { word % 1024 / 8 * 8 } else { word };
        match place % 5 {
            0 => memory.header().store(HEAD, word),
            1 => memory.header().store(OLDEST, word),
            2 => memory.data().store(place as usize / 8 * 8, word),
            3 => {
                let head = RecordHead { len: word as u32, flags: 0 };
                memory.data().store(place as usize / 8 * 8, head.encode(place.into(), b""));
            }
            _ => {
                let _ = writer.push(writer.last() + 1, &[place; 20]);
                writer.free_through(word % 100);
            }
        }
        for _ in 0..40 {
            match reader.next(&mut out) {
                Ok(Some(_)) if out.len() > 256 => return false,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => reader.seek_oldest(),
            }
        }
    }
    true
}

#[test]
fn no_harm_from_any_content() {
    QuickCheck::new().tests(2000).quickcheck(survives_any_content as fn(Vec<(u8, u64)>) -> bool);
}

/// A slow reader beside a writer that frees at once never gets a wrong input: it
/// is either right or told that it was overtaken.
#[test]
fn a_racing_writer_never_fools_a_reader() {
    const INPUTS: u64 = 100_000;
    let (_memory, mut writer, mut reader) = intake(1024);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for no in 1..=INPUTS {
                while writer.push(no, &no.to_le_bytes().repeat(5)).is_err() {
                    writer.free_through(writer.oldest().unwrap() + 3);
                    if no % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            }
            done.store(1, Ordering::Release);
        });
        let mut out = Vec::new();
        let mut right = 0;
        loop {
            match reader.next(&mut out) {
                Ok(Some(no)) => {
                    assert_eq!(out, no.to_le_bytes().repeat(5));
                    right += 1;
                }
                Ok(None) if done.load(Ordering::Acquire) == 1 && !reader.has_more() => break,
                Ok(None) => std::thread::yield_now(),
                Err(IntakeError::Overtaken) => reader.seek_oldest(),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(right > 0);
    });
}

/// Whatever store of a push or of a freeing was the last one, the next writer goes on
/// where readers are, and with the number that they expect.
#[test]
fn a_writer_goes_on_where_another_was_interrupted() {
    fn keeps_on(inputs: Vec<(u8, bool)>, stores: u16) -> bool {
        let fuse = Arc::new(Fuse::default());
        let memory = RingMemory::fused(1024, Some(Arc::clone(&fuse)));
        let mut first = IntakeWriter::new(memory.header(), memory.data());
        let mut follower = reader(&memory);
        fuse.light(u64::from(stores % 256) + 1);
        for (len, frees) in inputs {
            let no = first.last() + 1;
            let _ = first.push(no, &bytes(no as usize, len.into()));
            if frees && let Some(oldest) = first.oldest() {
                first.free_through(oldest);
            }
        }
        fuse.light(u64::MAX);
        let mut second = IntakeWriter::resume(memory.header(), memory.data()).unwrap();
        let mut kept = reader(&memory);
        let mut shown = 0;
        while let Some((no, input)) = next(&mut kept) {
            assert_eq!(input, bytes(no as usize, input.len()));
            assert!(shown == 0 || no == shown + 1);
            shown = no;
        }
        assert_eq!(second.kept() as u64, shown.saturating_sub(second.oldest().unwrap_or(1) - 1));
        let no = second.last() + 1;
        second.free_through(second.last());
        second.push(no, b"more").unwrap();
        assert_eq!(next(&mut kept), Some((no, b"more".to_vec())));
        // Who had read all before goes on as well, once it has seen what is freed.
        while follower.next(&mut Vec::new()) == Err(IntakeError::Overtaken) {
            follower.seek_oldest();
        }
        follower.last_no() == no
    }
    QuickCheck::new().tests(2000).quickcheck(keeps_on as fn(_, _) -> _);
}
