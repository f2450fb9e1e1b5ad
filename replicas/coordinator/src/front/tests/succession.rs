//! A host ends, and the next one goes on with the rings.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hypervisor::memory::FuseBlown;

use super::*;

impl Rig {
    /// The next host, on what this one has left.
    fn next_host(self) -> Self {
        let Self { front, inlet, seen, xen, control, guest, introduced, events } = self;
        let owned = |fds: Vec<std::os::fd::BorrowedFd<'_>>| {
            fds.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect::<Vec<_>>()
        };
        let fabric = owned(inlet.fabric.own_descriptors());
        let journal = owned(vec![front.journal.descriptor()]).remove(0);
        // With it, its event channels are gone.
        drop((front, inlet));
        let (journal, seats) = Journal::adopt(journal, None).unwrap();
        let mut pending = Vec::new();
        let fabric = HostFabric::adopt(fabric, None).unwrap();
        let mut inlet =
            Inlet::adopt(fabric, journal.marks(), |conn, query| pending.push((conn, query)))
                .unwrap();
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        let log = Arc::new(Events::new(100));
        let directory = std::env::temp_dir();
        let mut front = Front::new(epoll, &directory, limits(), journal, Arc::new(NoHolder), log);
        let host = Box::new(xen.host());
        let left = Left { held: BTreeMap::new(), seats, pending, inner: None };
        front.adopt(left, Some(host), &mut inlet, &mut |_| {}).unwrap();
        Self { front, inlet, seen, xen, control, guest, introduced, events }
    }
}

#[test]
fn the_next_host_goes_on_in_the_middle_of_a_request_and_of_an_answer() {
    let mut rig = Rig::introduced();
    let frames = [request(1, &[1; 2000]), request(2, b"two"), request(3, b"three")];
    let stream = frames.concat();
    let mut sent = rig.guest.write(&stream);
    assert_eq!(rig.told(), [], "half of the first");
    rig.event(ConnId(2), &[9; 3000]);
    rig.turn();
    let mut got = rig.guest.read(500);
    let signals = rig.guest.signals();
    let mut rig = rig.next_host();
    assert_eq!(rig.guest.signals(), signals + 1, "it may have waited for somebody to come");
    // Xen may have said anything while nobody listened.
    let mut told = rig.told();
    assert_eq!(told.remove(0), ShutDown);
    while sent < stream.len() {
        sent += rig.guest.write(&stream[sent..]);
        told.extend(rig.told());
    }
    assert_eq!(told, frames.map(|frame| asked(2, &frame)));
    let loads = rig.front.loads().find(|load| load.conn == ConnId(2)).unwrap();
    assert_eq!(loads.under_way, 3);
    got.extend(rig.got());
    assert_eq!(got, [9; 3000]);
}

#[test]
fn who_went_while_nobody_looked_is_gone_for_the_next_host() {
    let rig = Rig::introduced();
    rig.xen.destroy(DomainId(GUEST.0));
    let mut rig = rig.next_host();
    assert_eq!(rig.told(), [Close(ConnId(2)), Gone(GUEST), ShutDown]);
    let mut rig = rig.next_host();
    assert_eq!(rig.told(), [ShutDown], "told once");
}

#[test]
fn a_ring_is_introduced_once_by_one_effect() {
    let rig = Rig::introduced();
    let mut rig = rig.next_host();
    assert_eq!(rig.told(), [ShutDown]);
    let effect = OutputNo(rig.introduced);
    rig.front.introduce_ring(GUEST, rig.guest.port(), effect, &mut rig.inlet);
    assert_eq!(rig.told(), [], "the last host had done it");
    rig.introduce();
    assert_eq!(rig.told(), [Close(ConnId(2)), Open(ConnId(3), GUEST)]);
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Ask(u16),
    Read(u16),
    Turn,
    Answer(u16),
    Event(u16),
}

impl Arbitrary for Move {
    fn arbitrary(g: &mut Gen) -> Self {
        let len = u16::arbitrary(g);
        match u8::arbitrary(g) % 8 {
            0 | 1 => Self::Ask(len % 1500),
            2 => Self::Read(len % 1200),
            3 | 4 => Self::Turn,
            5 | 6 => Self::Answer(len % 1500),
            _ => Self::Event(len % 900),
        }
    }
}

/// What is on its way when a host ends.
#[derive(Default)]
struct Traffic {
    /// What the guest has yet to write, and all of it.
    to_write: VecDeque<u8>,
    asked: Vec<Vec<u8>>,
    /// Outputs in the order in which they were made.
    made: Vec<(Mark, Vec<u8>)>,
    /// Inputs that were taken, oldest first, and how many of them were answered.
    taken: Vec<InputNo>,
    answered: usize,
    got: Vec<u8>,
}

impl Traffic {
    fn step(&mut self, step: Move, rig: &mut Rig) {
        match step {
            Move::Ask(len) => {
                let frame = request(self.asked.len() as u32, &vec![5; len.into()]);
                self.to_write.extend(&frame);
                self.asked.push(frame);
            }
            Move::Read(most) => self.got.extend(rig.guest.read(most.into())),
            Move::Turn => {}
            Move::Answer(len) => {
                let Some(&no) = self.taken.get(self.answered) else { return };
                self.answered += 1;
                let frame = vec![no.0 as u8; len.into()];
                self.made.push((Mark::Reply(no), frame));
            }
            Move::Event(len) => {
                rig.events += 1;
                let frame = vec![!rig.events as u8; len.into()];
                self.made.push((Mark::Event(OutputNo(rig.events)), frame));
            }
        }
    }

    /// The guest writes what there is room for; the host has a turn.
    fn go_on(&mut self, rig: &mut Rig) {
        let written = rig.guest.write(self.to_write.make_contiguous());
        self.to_write.drain(..written);
        rig.turn();
    }

    /// Hears what the host was asked, from the intake.
    fn hear(&mut self, rig: &mut Rig) -> Vec<Vec<u8>> {
        let (mut heard, mut bytes) = (Vec::new(), Vec::new());
        while rig.seen.next(&mut bytes).unwrap().is_some() {
            let (no, input) = Input::decode(&mut Reader::new(&bytes)).unwrap();
            if let Input::Request { frame, .. } = input {
                self.taken.push(no);
                heard.push(frame.to_vec());
            }
        }
        heard
    }
}

fn deliver(mark: Mark, frame: &[u8], rig: &mut Rig) {
    match mark {
        Mark::Reply(no) => {
            let Ok(Some(to)) = rig.inlet.ledger.answer(no) else { return };
            rig.front.answer(no, to, frame, &mut rig.inlet);
        }
        Mark::Event(no) => {
            if rig.inlet.ledger.deliver(no) == Ok(true) {
                rig.front.event(no, ConnId(2), frame, &mut rig.inlet);
            }
        }
    }
}

/// Wherever a host ends: the guest's requests are in the intake once each and in their
/// order, and each answer and event reaches it once and whole.
#[test]
fn nothing_on_a_ring_is_lost_or_doubled_wherever_a_host_ends() {
    fn property(moves: Vec<Move>, stores: u16) -> bool {
        let fuse = Arc::new(Fuse::unwinding());
        let mut rig = Rig::fused(FabricConfig::default(), Some(Arc::clone(&fuse)));
        rig.introduce();
        let mut traffic = Traffic::default();
        let mut heard = traffic.hear(&mut rig);
        fuse.light(u64::from(stores % 3000) + 1);
        for step in moves {
            let before = traffic.made.len();
            traffic.step(step, &mut rig);
            let lives = catch_unwind(AssertUnwindSafe(|| {
                for (mark, frame) in &traffic.made[before..] {
                    deliver(*mark, frame, &mut rig);
                }
                traffic.go_on(&mut rig);
            }));
            heard.extend(traffic.hear(&mut rig));
            if let Err(panic) = lives {
                assert!(panic.is::<FuseBlown>());
                break;
            }
        }
        fuse.light(u64::MAX);
        let mut rig = rig.next_host();
        heard.extend(traffic.hear(&mut rig));
        // A primary puts out again what was not delivered.
        for (mark, frame) in traffic.made.clone() {
            deliver(mark, &frame, &mut rig);
        }
        while !traffic.to_write.is_empty() || heard.len() < traffic.asked.len() {
            let (asked, got) = (heard.len(), traffic.got.len());
            traffic.go_on(&mut rig);
            heard.extend(traffic.hear(&mut rig));
            traffic.got.extend(rig.guest.read(usize::MAX));
            let open = traffic.made.len();
            traffic.step(Move::Answer(3), &mut rig);
            for (mark, frame) in traffic.made[open..].iter().cloned() {
                deliver(mark, &frame, &mut rig);
            }
            let stands = heard.len() == asked && traffic.got.len() == got;
            assert!(!stands || traffic.made.len() > open || !traffic.to_write.is_empty());
        }
        traffic.got.extend(rig.got());
        assert_eq!(heard, traffic.asked, "each request once");
        let made: Vec<u8> = traffic.made.iter().flat_map(|(_, frame)| frame.clone()).collect();
        assert_eq!(traffic.got, made, "each output once");
        true
    }
    QuickCheck::new().tests(500).quickcheck(property as fn(Vec<Move>, u16) -> bool);
}
