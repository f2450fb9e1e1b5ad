use std::collections::VecDeque;

use quickcheck::{Arbitrary, Gen, QuickCheck, TestResult};

use super::super::testing::{PlayedGuest, PlayedHost, PlayedXen};
use super::super::{DomainId, XenHost};
use super::*;

const GUEST: DomainId = DomainId(5);

struct Rig {
    xen: PlayedHost,
    guest: PlayedGuest,
    ring: StoreRing,
}

/// A guest whose indices all begin at `first`, and its server.
fn rig(first: u32) -> Rig {
    let xen = PlayedXen::new().unwrap();
    let guest = xen.create(GUEST);
    let mut xen = xen.host();
    for index in 0..4 {
        guest.scribble_index(index, first);
    }
    let ring = StoreRing::new(xen.map_ring(GUEST).unwrap(), Start::Resumed);
    Rig { xen, guest, ring }
}

/// Writes, and shows it.
fn write(ring: &mut StoreRing, bytes: &[u8]) -> Result<usize, RingFault> {
    let outcome = ring.write(bytes);
    if outcome.is_ok_and(|len| len > 0) {
        ring.show();
    }
    outcome
}

fn read(ring: &mut StoreRing) -> Result<Vec<u8>, RingFault> {
    let mut bytes = Vec::new();
    ring.read(&mut bytes).map(|len| {
        assert_eq!(len, bytes.len());
        if len > 0 {
            ring.show();
        }
        bytes
    })
}

// Words of `PlayedGuest::scribble_index`.
const REQ_CONS: usize = 0;
const REQ_PROD: usize = 1;
const RSP_CONS: usize = 2;
const RSP_PROD: usize = 3;
const ERROR_WORD: usize = 6;

#[test]
fn bytes_go_both_ways_and_the_guest_is_signalled_once_a_round() {
    let Rig { guest, mut ring, .. } = rig(0);
    assert!(ring.take_notice(), "the server is there");
    assert!(!ring.take_notice() && !ring.has_requests());
    assert_eq!(read(&mut ring), Ok(vec![]));
    assert!(!ring.take_notice(), "nothing has changed");
    assert_eq!(guest.write(b"request"), 7);
    assert!(ring.has_requests());
    assert_eq!(read(&mut ring), Ok(b"request".to_vec()));
    assert_eq!(write(&mut ring, b"response"), Ok(8));
    assert!(ring.take_notice() && !ring.take_notice());
    assert_eq!(guest.read(usize::MAX), b"response");
    assert!(!ring.has_requests());
}

#[test]
fn a_full_ring_takes_no_more() {
    let Rig { guest, mut ring, .. } = rig(u32::MAX - 100);
    assert_eq!(write(&mut ring, &[1; 2000]), Ok(RING_BYTES));
    assert_eq!(write(&mut ring, &[2; 10]), Ok(0));
    assert_eq!(guest.read(4), [1; 4]);
    assert_eq!(write(&mut ring, &[2; 10]), Ok(4));
    assert_eq!(guest.read(usize::MAX)[RING_BYTES - 5..], [1, 2, 2, 2, 2]);
    assert_eq!(guest.write(&[3; 2000]), RING_BYTES);
    assert_eq!(read(&mut ring).unwrap().len(), RING_BYTES);
    assert_eq!(guest.write(&[3; 2000]), RING_BYTES, "its room is given back");
}

#[test]
fn impossible_indices_end_the_service_until_the_guest_begins_anew() {
    for (word, value) in [(REQ_PROD, 500_u32), (REQ_PROD, 2025), (RSP_CONS, 999), (RSP_CONS, 1003)]
    {
        let Rig { guest, mut ring, .. } = rig(1000);
        write(&mut ring, b"12").unwrap();
        guest.scribble_index(word, value);
        let mut bytes = Vec::new();
        let outcome = read(&mut ring).and_then(|_| write(&mut ring, b"3"));
        assert_eq!(outcome, Err(RingFault::Index), "{word} {value}");
        assert_eq!((bytes.len(), guest.error()), (0, RingFault::Index as u32));
        // What looks right again is not believed.
        guest.scribble_index(REQ_PROD, 1000);
        guest.scribble_index(RSP_CONS, 1000);
        assert_eq!(ring.read(&mut bytes), Err(RingFault::Index));
        assert_eq!(write(&mut ring, b"4"), Err(RingFault::Index));
        assert!(!ring.has_requests());
        guest.reconnect();
        assert!(ring.wants_reset() && !guest.is_connected());
        ring.reset();
        assert!(!ring.wants_reset() && guest.is_connected() && ring.take_notice());
        assert_eq!((guest.error(), ring.fault()), (0, None));
        guest.write(b"again");
        assert_eq!(read(&mut ring), Ok(b"again".to_vec()));
    }
}

#[test]
fn a_consumer_cannot_give_back_what_it_took() {
    let Rig { guest, mut ring, .. } = rig(0);
    write(&mut ring, &[1; 100]).unwrap();
    guest.read(60);
    write(&mut ring, &[2; 1]).unwrap();
    guest.scribble_index(RSP_CONS, 59);
    assert_eq!(write(&mut ring, &[3; 1]), Err(RingFault::Index));
}

#[test]
fn what_the_guest_does_to_our_indices_is_of_no_consequence() {
    let Rig { guest, mut ring, .. } = rig(7);
    guest.write(b"one");
    guest.scribble_index(REQ_CONS, 999_999);
    guest.scribble_index(RSP_PROD, 999_999);
    assert_eq!(read(&mut ring), Ok(b"one".to_vec()));
    assert_eq!(write(&mut ring, b"two"), Ok(3));
    assert_eq!(guest.read(usize::MAX), b"two", "both are shown as they are");
    guest.write(b"three");
    assert_eq!(read(&mut ring), Ok(b"three".to_vec()));
}

#[test]
fn the_first_fault_is_told() {
    let Rig { guest, mut ring, .. } = rig(0);
    ring.take_notice();
    ring.fail(RingFault::Protocol);
    assert!(ring.take_notice());
    ring.fail(RingFault::Communication);
    assert!(!ring.take_notice());
    assert_eq!((guest.error(), ring.fault()), (3, Some(RingFault::Protocol)));
}

#[test]
fn a_new_server_goes_on_where_the_last_one_was() {
    let Rig { mut xen, guest, mut ring } = rig(u32::MAX - 2);
    guest.write(b"first");
    read(&mut ring).unwrap();
    write(&mut ring, b"answer").unwrap();
    guest.write(b"second");
    drop(ring);
    let mut ring = StoreRing::new(xen.map_ring(GUEST).unwrap(), Start::Resumed);
    assert!(ring.take_notice());
    assert_eq!(read(&mut ring), Ok(b"second".to_vec()));
    write(&mut ring, b"another").unwrap();
    assert_eq!(guest.read(usize::MAX), b"answeranother");
    // Or begins anew, when the toolstack says so.
    let mut ring = StoreRing::new(xen.map_ring(GUEST).unwrap(), Start::Emptied);
    assert_eq!(read(&mut ring), Ok(vec![]));
    guest.write(b"third");
    assert_eq!(read(&mut ring), Ok(b"third".to_vec()));
}

#[test]
fn a_page_that_cannot_be_or_was_given_up_is_not_served() {
    for (word, value, fault) in [
        (REQ_PROD, 1025, RingFault::Index),
        (RSP_PROD, 1025, RingFault::Index),
        (ERROR_WORD, 3, RingFault::Protocol),
        (ERROR_WORD, 77, RingFault::Communication),
    ] {
        let Rig { mut xen, guest, .. } = rig(0);
        guest.scribble_index(word, value);
        let mut ring = StoreRing::new(xen.map_ring(GUEST).unwrap(), Start::Resumed);
        assert_eq!((ring.fault(), read(&mut ring)), (Some(fault), Err(fault)));
        ring.reset();
        assert_eq!(read(&mut ring), Ok(vec![]));
    }
}

/// What happens next to a well-behaved guest.
#[derive(Clone, Copy, Debug)]
enum Move {
    GuestWrites(u16),
    GuestReads(u16),
    ServerReads,
    ServerWrites(u16),
    Reconnect,
    NewServer,
}

impl Arbitrary for Move {
    fn arbitrary(g: &mut Gen) -> Self {
        let len = u16::arbitrary(g) % 1500;
        match u8::arbitrary(g) % 21 {
            0..=4 => Self::GuestWrites(len),
            5..=9 => Self::GuestReads(len),
            10..=13 => Self::ServerReads,
            14..=18 => Self::ServerWrites(len),
            19 => Self::Reconnect,
            _ => Self::NewServer,
        }
    }
}

/// Consecutive bytes that differ for long.
struct Source(u32);

impl Source {
    fn take(&mut self, len: u16) -> Vec<u8> {
        let from = self.0;
        (from..from + u32::from(len)).map(|i| (i ^ i >> 8).to_le_bytes()[0]).collect()
    }
}

#[test]
fn bytes_come_out_in_order_and_once() {
    fn property(first: u32, near_the_wrap: bool, moves: Vec<Move>) -> TestResult {
        let first = if near_the_wrap { u32::MAX - first % 3000 } else { first };
        let Rig { mut xen, guest, mut ring } = rig(first);
        let (mut requests, mut responses) = (Source(0), Source(7));
        let (mut to_server, mut to_guest) = (VecDeque::new(), VecDeque::new());
        for step in moves {
            match step {
                Move::GuestWrites(len) => {
                    let bytes = requests.take(len);
                    let done = guest.write(&bytes);
                    assert_eq!(done, bytes.len().min(RING_BYTES - to_server.len()));
                    to_server.extend(&bytes[..done]);
                    requests.0 += done as u32;
                }
                Move::GuestReads(len) => {
                    let expected = to_guest.len().min(usize::from(len));
                    let bytes = guest.read(usize::from(len));
                    assert_eq!(bytes, to_guest.drain(..expected).collect::<Vec<u8>>());
                }
                Move::ServerReads => {
                    let bytes = read(&mut ring).unwrap();
                    assert_eq!(bytes, to_server.drain(..).collect::<Vec<u8>>());
                }
                Move::ServerWrites(len) => {
                    let bytes = responses.take(len);
                    let done = write(&mut ring, &bytes).unwrap();
                    assert_eq!(done, bytes.len().min(RING_BYTES - to_guest.len()));
                    to_guest.extend(&bytes[..done]);
                    responses.0 += done as u32;
                }
                Move::Reconnect => {
                    guest.reconnect();
                    assert!(ring.wants_reset());
                    ring.reset();
                    assert!(guest.is_connected());
                    to_server.clear();
                    to_guest.clear();
                }
                Move::NewServer => {
                    ring = StoreRing::new(xen.map_ring(GUEST).unwrap(), Start::Resumed);
                }
            }
            assert_eq!(ring.has_requests(), !to_server.is_empty());
            assert_eq!(ring.fault(), None);
        }
        TestResult::passed()
    }
    let property = property as fn(u32, bool, Vec<Move>) -> TestResult;
    QuickCheck::new().tests(500).quickcheck(property);
}

/// What a hostile guest does, and the server at the same time.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    Anywhere(u16, u32),
    Index(u8, u32),
    Nudge(u8, i16),
    Read,
    Write(u16),
    ResetIfAsked,
}

impl Arbitrary for Mischief {
    fn arbitrary(g: &mut Gen) -> Self {
        match u8::arbitrary(g) % 8 {
            0 => Self::Anywhere(u16::arbitrary(g), u32::arbitrary(g)),
            1 => Self::Index(u8::arbitrary(g), u32::arbitrary(g)),
            2 | 3 => Self::Nudge(u8::arbitrary(g), i16::arbitrary(g) % 1100),
            4 | 5 => Self::Read,
            6 => Self::Write(u16::arbitrary(g) % 3000),
            _ => Self::ResetIfAsked,
        }
    }
}

#[test]
fn nothing_in_the_page_hurts_the_server() {
    fn property(resumed: bool, moves: Vec<Mischief>) -> TestResult {
        let Rig { mut xen, guest, .. } = rig(0);
        let start = if resumed { Start::Resumed } else { Start::Emptied };
        let mut ring = StoreRing::new(xen.map_ring(GUEST).unwrap(), start);
        let mut bytes = Vec::new();
        for step in moves {
            let before = ring.fault();
            match step {
                Mischief::Anywhere(word, value) => guest.scribble(usize::from(word), value),
                Mischief::Index(word, value) => guest.scribble_index(usize::from(word), value),
                Mischief::Nudge(word, by) => {
                    let word = REQUEST_CONSUMER + 4 * usize::from(word % 4);
                    let value = ring.page.load_acquire(word).wrapping_add_signed(by.into());
                    guest.scribble(word / 4, value);
                }
                Mischief::Read => {
                    bytes.clear();
                    let outcome = ring.read(&mut bytes).inspect(|_| ring.show());
                    assert!(bytes.len() <= RING_BYTES);
                    assert_eq!(outcome.err(), ring.fault());
                }
                Mischief::Write(len) => {
                    let outcome = write(&mut ring, &vec![7; len.into()]);
                    assert!(outcome.is_err() || outcome.unwrap() <= RING_BYTES.min(len.into()));
                    assert_eq!(outcome.err(), ring.fault());
                }
                Mischief::ResetIfAsked if ring.wants_reset() => {
                    ring.reset();
                    assert_eq!((guest.error(), ring.fault()), (0, None));
                    assert!(guest.is_connected());
                    continue;
                }
                Mischief::ResetIfAsked => {}
            }
            assert!(before.is_none() || ring.fault() == before, "a fault stays");
            assert!(
                ring.produced.wrapping_sub(ring.taken) as usize <= RING_BYTES || before.is_some()
            );
            assert!(!ring.has_requests() || ring.fault().is_none());
        }
        TestResult::passed()
    }
    let property = property as fn(bool, Vec<Mischief>) -> TestResult;
    QuickCheck::new().tests(2000).quickcheck(property);
}

#[test]
fn two_threads_lose_nothing() {
    const BYTES: usize = 300_000;
    let Rig { guest, mut ring, .. } = rig(u32::MAX - 5000);
    let byte = |i: usize| (i % 251) as u8;
    let played = std::thread::spawn(move || {
        let (mut sent, mut got) = (0, 0);
        while got < BYTES {
            let chunk: Vec<u8> = (sent..BYTES.min(sent + 700)).map(byte).collect();
            sent += guest.write(&chunk);
            for answer in guest.read(333) {
                assert_eq!(answer, byte(got));
                got += 1;
            }
            std::thread::yield_now();
        }
    });
    // An echo.
    let (mut taken, mut bytes) = (0, Vec::new());
    let mut done = 0;
    while done < BYTES {
        let from = bytes.len();
        if from < 4000 {
            taken += ring.read(&mut bytes).unwrap();
        }
        let sent = write(&mut ring, &bytes).unwrap();
        bytes.drain(..sent);
        done += sent;
        std::thread::yield_now();
    }
    assert_eq!(taken, BYTES);
    played.join().unwrap();
}
