//! Connections over rings, with a Xen that is played in memory.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hypervisor::fabric::{FabricConfig, HostFabric};
use hypervisor::memory::Fuse;
use hypervisor::ring::IntakeReader;
use hypervisor::xen::RING_BYTES;
use hypervisor::xen::testing::{PlayedGuest, PlayedXen};
use hypervisor::xen::{DomainId, RemotePort};
use quickcheck::{Arbitrary, Gen, QuickCheck};
use state_machine::{InputNo, Reader};
use xenstore::wire::{self, MAX_PAYLOAD, MessageType};

use super::*;
use crate::holder::NoHolder;

mod succession;

const GUEST: DomId = DomId(5);
const OUTSTANDING: u32 = 3;

fn limits() -> FrontLimits {
    FrontLimits {
        max_connections: 10,
        backlog_bytes: 20_000,
        outstanding: 100,
        guest_outstanding: OUTSTANDING,
    }
}

struct Rig {
    front: Front,
    inlet: Inlet,
    seen: IntakeReader,
    xen: PlayedXen,
    control: PlayedGuest,
    guest: PlayedGuest,
    introduced: u64,
    events: u64,
}

/// What the component is told, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Open(ConnId, DomId),
    Close(ConnId),
    Request(ConnId, Vec<u8>),
    Gone(DomId),
    ShutDown,
    Exists(DomId),
}
use Told::{Close, Exists, Gone, Open, ShutDown};

impl Rig {
    /// The control domain's ring has connection 1, the guest is not introduced.
    fn new(config: FabricConfig) -> Self {
        Self::fused(config, None)
    }

    /// With a host whose memory lies behind a fuse.
    fn fused(config: FabricConfig, fuse: Option<Arc<Fuse>>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let name = format!("rvmm-front-{}-{}", std::process::id(), since.as_nanos());
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        let directory = std::env::temp_dir().join(name);
        let journal = Journal::new(limits(), config.intake_bytes, fuse.clone()).unwrap();
        let mut inlet = Inlet::new(HostFabric::new_fused(config, fuse).unwrap(), journal.marks());
        let events = Arc::new(Events::new(100));
        let mut front =
            Front::new(epoll, &directory, limits(), journal, Arc::new(NoHolder), events);
        let xen = PlayedXen::new().unwrap();
        let control = xen.create(DomainId::CONTROL);
        let guest = xen.create(DomainId(GUEST.0));
        front.serve_rings(Box::new(xen.host()), &mut inlet).unwrap();
        let seen = inlet.fabric.observe_intake().unwrap();
        Self { front, inlet, seen, xen, control, guest, introduced: 0, events: 0 }
    }

    /// The guest has connection 2.
    fn introduced() -> Self {
        let mut rig = Self::new(FabricConfig::default());
        rig.introduce();
        assert_eq!(rig.told(), [Open(ConnId(1), DomId(0)), Open(ConnId(2), GUEST)]);
        rig
    }

    fn introduce(&mut self) {
        self.introduced += 1;
        let effect = OutputNo(self.introduced);
        self.front.introduce_ring(GUEST, self.guest.port(), effect, &mut self.inlet);
    }

    /// One turn of the host's loop; whether a ring had something to say.
    fn turn(&mut self) -> bool {
        let mut ready = Vec::with_capacity(8);
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let space = rustix::buffer::spare_capacity(&mut ready);
        epoll::wait(&*self.front.epoll, space, Some(&none)).unwrap();
        for event in &ready {
            assert_eq!(Token::from_data(event.data), Token::Rings);
            self.front.rings_ready(&mut self.inlet);
        }
        self.front.go_on(&mut self.inlet);
        self.front.flush(&mut self.inlet);
        !ready.is_empty()
    }

    /// What the component was told since the last time, after some turns.
    fn told(&mut self) -> Vec<Told> {
        while self.turn() || self.front.has_more() {}
        let (mut told, mut bytes) = (Vec::new(), Vec::new());
        while self.seen.next(&mut bytes).unwrap().is_some() {
            let (_, input) = Input::decode(&mut Reader::new(&bytes)).unwrap();
            told.push(match input {
                Input::Open { conn, domid } => Open(conn, domid),
                Input::Close { conn } => Close(conn),
                Input::Request { conn, frame } => Told::Request(conn, frame.to_vec()),
                Input::DomainGone { domid } => Gone(domid),
                Input::DomainShutDown => ShutDown,
                Input::DomainExists { domid } => Exists(domid),
                input => panic!("{input:?}"),
            });
        }
        told
    }

    fn answer(&mut self, conn: ConnId, frame: &[u8]) {
        // Which input it answers matters to the next host only.
        let to = Answered { conn, query: false };
        self.front.answer(InputNo(1), to, frame, &mut self.inlet);
    }

    fn event(&mut self, conn: ConnId, frame: &[u8]) {
        self.events += 1;
        self.front.event(OutputNo(self.events), conn, frame, &mut self.inlet);
    }

    /// All that the guest gets, with the turns that this takes.
    fn got(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        loop {
            self.turn();
            match self.guest.read(usize::MAX) {
                bytes if bytes.is_empty() => return got,
                bytes => got.extend(bytes),
            }
        }
    }
}

fn request(id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::frame(MessageType::Write, id, 0, payload, &mut bytes);
    bytes
}

fn asked(conn: u64, frame: &[u8]) -> Told {
    Told::Request(ConnId(conn), frame.to_vec())
}

#[test]
fn requests_and_answers_go_over_a_ring() {
    let mut rig = Rig::introduced();
    let greeted = rig.guest.signals();
    assert_eq!(greeted, 1, "the server is there");
    let (first, second) = (request(1, b"a\0b"), request(2, b"c\0d"));
    // In pieces, and two at once.
    rig.guest.write(&first[..10]);
    assert_eq!(rig.told(), []);
    rig.guest.write(&[&first[10..], &second].concat());
    assert_eq!(rig.told(), [asked(2, &first), asked(2, &second)]);
    assert_eq!(rig.guest.signals(), greeted + 2, "there is room again");
    rig.answer(ConnId(2), b"OK");
    rig.event(ConnId(2), b"event");
    assert_eq!(rig.got(), b"OKevent");
    assert_eq!(rig.guest.signals(), greeted + 3, "once for both");
    assert_eq!(rig.told(), []);
}

#[test]
fn the_kernel_of_the_control_domain_is_a_client_like_others() {
    let mut rig = Rig::introduced();
    assert_eq!(rig.control.signals(), 1);
    let frame = request(1, b"x\0y");
    rig.control.write(&frame);
    assert_eq!(rig.told(), [asked(1, &frame)]);
    rig.answer(ConnId(1), b"OK");
    rig.turn();
    assert_eq!((rig.control.read(99), rig.guest.read(99)), (b"OK".to_vec(), vec![]));
}

#[test]
fn a_domain_is_told_of_before_the_first_request_that_names_it() {
    let mut rig = Rig::new(FabricConfig::default());
    assert_eq!(rig.told(), [Open(ConnId(1), DomId(0))]);
    let mut give = |payload: &[u8]| {
        let mut frame = Vec::new();
        wire::frame(MessageType::SetPerms, 1, 0, payload, &mut frame);
        rig.control.write(&frame);
        let told = rig.told();
        assert_eq!(told.last(), Some(&asked(1, &frame)));
        told[..told.len() - 1].to_vec()
    };
    assert_eq!(give(b"n5\0n0\0r9\0"), [], "there is no domain 9, and a path is none");
    assert_eq!(give(b"/a\0n0\0r5\0"), [Exists(GUEST)]);
    assert_eq!(give(b"/a\0n5\0"), [], "once");
    rig.xen.destroy(DomainId(GUEST.0));
    assert_eq!(rig.told(), [Gone(GUEST)], "though it was never introduced");
}

#[test]
fn what_is_larger_than_the_ring_goes_through_it() {
    let mut rig = Rig::introduced();
    let frame = request(1, &[7; MAX_PAYLOAD]);
    let (mut sent, mut told) = (0, Vec::new());
    while sent < frame.len() {
        sent += rig.guest.write(&frame[sent..]);
        told.extend(rig.told());
    }
    assert_eq!(told, [asked(2, &frame)]);
    let answer = [8; 4112];
    rig.answer(ConnId(2), &answer);
    assert_eq!(rig.got(), answer);
    assert!(answer.len() > 4 * RING_BYTES);
}

#[test]
fn a_guest_has_only_so_many_requests_under_way() {
    let mut rig = Rig::introduced();
    let frames: Vec<_> = (0..10).map(|id| request(id, b"p\0")).collect();
    rig.guest.write(&frames.concat());
    for round in 0..4 {
        let told = rig.told();
        let from = round * OUTSTANDING as usize;
        let expected = frames[from..].iter().take(OUTSTANDING as usize);
        assert_eq!(told, expected.map(|frame| asked(2, frame)).collect::<Vec<_>>());
        let loads = rig.front.loads().find(|load| load.conn == ConnId(2)).unwrap();
        assert_eq!((loads.under_way, loads.outstanding), (told.len() as u32, OUTSTANDING));
        for _ in told {
            rig.answer(ConnId(2), b"OK");
        }
    }
}

#[test]
fn a_guest_that_does_not_read_waits_and_misses_what_is_beyond_its_backlog() {
    let mut rig = Rig::introduced();
    let event = |no: u32| [no.to_le_bytes().to_vec(), vec![1; 996]].concat();
    for no in 0..100 {
        rig.event(ConnId(2), &event(no));
        rig.turn();
    }
    let unsent = rig.front.loads().find(|load| load.conn == ConnId(2)).unwrap().unsent_bytes;
    assert!((20_000..21_024).contains(&unsent), "{unsent}");
    assert_eq!((rig.told(), rig.guest.error()), (vec![], 0), "it stays connected");
    // An answer is none of those that are dropped.
    rig.guest.write(&request(1, b""));
    assert_eq!(rig.told().len(), 1);
    rig.answer(ConnId(2), b"answer");
    let got = rig.got();
    let (events, answer) = got.split_at(got.len() - 6);
    assert!(answer == b"answer" && events.len() % 1000 == 0 && events.len() <= 22_000);
    for (no, found) in (0..).zip(events.chunks(1000)) {
        assert_eq!(found, event(no), "whole and in order");
    }
    rig.event(ConnId(2), b"later");
    assert_eq!(rig.got(), b"later");
}

#[test]
fn a_new_beginning_is_a_new_connection() {
    let mut rig = Rig::introduced();
    let frame = request(1, b"one");
    rig.guest.write(&[&frame[..], b"half of the ne"].concat());
    assert_eq!(rig.told(), [asked(2, &frame)]);
    rig.event(ConnId(2), &[9; 3000]);
    rig.turn();
    let signals = rig.guest.signals();
    rig.guest.reconnect();
    assert_eq!(rig.told(), [Close(ConnId(2)), Open(ConnId(3), GUEST)]);
    assert!(rig.guest.is_connected() && rig.guest.signals() == signals + 1);
    // What was under way concerns nobody.
    rig.answer(ConnId(2), b"late");
    rig.event(ConnId(2), b"late");
    assert_eq!(rig.got(), b"");
    rig.guest.write(&frame);
    assert_eq!(rig.told(), [asked(3, &frame)]);
    rig.answer(ConnId(3), b"OK");
    assert_eq!(rig.got(), b"OK");
}

#[test]
fn who_breaks_the_protocol_is_not_served_until_it_begins_anew() {
    let too_long = wire::Header { kind: 2, req_id: 1, tx_id: 0, len: MAX_PAYLOAD as u32 + 1 };
    for broken in [0, 1] {
        let mut rig = Rig::introduced();
        if broken == 0 {
            rig.guest.write(&too_long.encode());
        } else {
            rig.guest.scribble_index(1, 70_000);
            rig.guest.signal();
        }
        assert_eq!(rig.told(), [Close(ConnId(2))]);
        assert_eq!(rig.guest.error(), if broken == 0 { 3 } else { 2 });
        // Others are.
        let frame = request(1, b"x");
        rig.control.write(&frame);
        assert_eq!(rig.told(), [asked(1, &frame)]);
        rig.guest.write(&frame);
        rig.guest.signal();
        assert_eq!(rig.told(), []);
        rig.guest.reconnect();
        assert_eq!(rig.told(), [Open(ConnId(3), GUEST)]);
        rig.guest.write(&frame);
        assert_eq!((rig.told(), rig.guest.error()), (vec![asked(3, &frame)], 0));
    }
}

#[test]
fn a_dead_domain_is_noticed_once_and_let_go() {
    let mut rig = Rig::introduced();
    rig.xen.raise_virq();
    assert_eq!(rig.told(), [ShutDown], "it was another, or has only shut down");
    rig.xen.destroy(DomainId(GUEST.0));
    assert_eq!(rig.told(), [Close(ConnId(2)), Gone(GUEST)]);
    rig.xen.raise_virq();
    assert_eq!((rig.told(), rig.front.clients()), (vec![ShutDown], 1));
    // The component says so as well, which changes nothing.
    assert!(!rig.front.remove_ring(GUEST, &mut rig.inlet));
    // A domain of that number again.
    rig.guest = rig.xen.create(DomainId(GUEST.0));
    rig.introduce();
    assert_eq!(rig.told(), [Open(ConnId(3), GUEST)]);
}

#[test]
fn a_released_domain_is_let_go_and_one_introduced_again_begins_anew() {
    let mut rig = Rig::introduced();
    rig.guest.write(&request(1, b"one")[..7]);
    assert_eq!(rig.told(), []);
    rig.introduce();
    assert_eq!(rig.told(), [Close(ConnId(2)), Open(ConnId(3), GUEST)]);
    let frame = request(2, b"two");
    rig.guest.write(&frame);
    assert_eq!(rig.told(), [asked(3, &frame)]);
    assert!(rig.front.remove_ring(GUEST, &mut rig.inlet));
    assert_eq!(rig.told(), [Close(ConnId(3))]);
    assert!(!rig.xen.is_bound(DomainId(GUEST.0)));
}

#[test]
fn who_cannot_be_connected_is_watched_all_the_same() {
    let mut rig = Rig::new(FabricConfig::default());
    rig.front.introduce_ring(GUEST, RemotePort(77), OutputNo(8), &mut rig.inlet);
    rig.front.introduce_ring(DomId(9), RemotePort(77), OutputNo(9), &mut rig.inlet);
    let told = rig.told();
    assert_eq!(told, [Open(ConnId(1), DomId(0)), Gone(DomId(9))], "9 never was");
    rig.xen.destroy(DomainId(GUEST.0));
    assert_eq!(rig.told(), [Gone(GUEST)]);
    rig.xen.raise_virq();
    assert_eq!(rig.told(), [ShutDown]);
}

#[test]
fn after_the_daemon_a_ring_goes_on() {
    let mut rig = Rig::introduced();
    rig.guest.write(&request(1, b"one"));
    assert_eq!(rig.told().len(), 1);
    rig.event(ConnId(2), b"event");
    rig.turn();
    rig.front.close();
    assert!(!rig.xen.is_bound(DomainId(GUEST.0)));
    let frame = request(2, b"two");
    rig.guest.write(&frame);
    rig.front.serve_rings(Box::new(rig.xen.host()), &mut rig.inlet).unwrap();
    rig.introduce();
    let told = rig.told();
    assert_eq!(told.last(), Some(&asked(4, &frame)), "{told:?}");
    rig.answer(ConnId(4), b"OK");
    assert_eq!(rig.got(), b"eventOK");
}

impl Rig {
    /// With an intake that is full, after a request of the guest's.
    fn full() -> Self {
        let mut rig = Self::new(FabricConfig { intake_bytes: 4096, ..FabricConfig::default() });
        rig.introduce();
        let frame = request(1, &[1; 100]);
        rig.guest.write(&frame);
        rig.turn();
        while rig.inlet.push(&Input::Request { conn: ConnId(1), frame: &frame }).is_ok() {}
        while rig.inlet.push(&Input::DomainGone { domid: DomId(99) }).is_ok() {}
        rig
    }

    /// All that is in the intake is done, and its room is free again.
    fn release(&mut self) {
        let last = InputNo(self.inlet.ledger.next_no().0 - 1);
        for no in 1..=last.0 {
            let _ = self.inlet.ledger.answer(InputNo(no));
        }
        self.inlet.release(last).unwrap();
        self.seen.seek_oldest();
    }
}

/// A guest that begins anew all the time piles nothing up.
#[test]
fn nothing_piles_up_while_the_intake_is_full() {
    let mut rig = Rig::full();
    for _ in 0..100 {
        rig.guest.reconnect();
        rig.turn();
        rig.guest.scribble_index(1, 5000);
        rig.guest.signal();
        rig.xen.raise_virq();
        rig.turn();
    }
    assert!(rig.front.untold.len() <= 2 && rig.front.listed.len() <= 4);
    assert!(rig.front.clients() == 2 && rig.front.next_conn() == ConnId(4));
    rig.guest.reconnect();
    rig.turn();
    rig.release();
    assert_eq!(rig.told(), [Close(ConnId(2)), ShutDown, Open(ConnId(3), GUEST)]);
}

#[test]
fn a_connection_does_not_begin_before_the_last_one_has_ended() {
    let mut rig = Rig::full();
    rig.xen.raise_virq();
    rig.turn();
    // There is room before what waits for it could be told.
    rig.release();
    rig.guest.reconnect();
    rig.front.rings_ready(&mut rig.inlet);
    assert_eq!(rig.told(), [ShutDown, Close(ConnId(2)), Open(ConnId(3), GUEST)]);
}

/// What a hostile guest does between two turns of the host.
#[derive(Clone, Debug)]
enum Mischief {
    Bytes(Vec<u8>),
    Request(u8),
    Word(u16, u32),
    Index(u8, u32),
    Read(u16),
    Reconnect,
    Answers,
    Event(u16),
    Introduce,
}

impl Arbitrary for Mischief {
    fn arbitrary(g: &mut Gen) -> Self {
        match u8::arbitrary(g) % 12 {
            0 => Self::Bytes(Vec::arbitrary(g)),
            1..=3 => Self::Request(u8::arbitrary(g)),
            4 => Self::Word(u16::arbitrary(g), u32::arbitrary(g)),
            5 => Self::Index(u8::arbitrary(g), u32::arbitrary(g) % 3000),
            6 => Self::Read(u16::arbitrary(g)),
            7 | 8 => Self::Reconnect,
            9 => Self::Answers,
            10 => Self::Event(u16::arbitrary(g) % 5000),
            _ => Self::Introduce,
        }
    }
}

#[test]
fn a_ring_that_breaks_all_the_time_does_not_fill_the_log() {
    let mut rig = Rig::introduced();
    for _ in 0..100 {
        rig.guest.scribble_index(1, 5000);
        rig.guest.signal();
        rig.turn();
        rig.guest.reconnect();
        rig.told();
    }
    let told = rig.front.events.after(0, 1000);
    assert_eq!(told.len(), 7, "1, 2, 4, ... 64: {told:?}");
}

/// Connections are opened and closed in turn, nothing comes over one that is not
/// open, all stays within bounds, and another domain is served as if nothing was.
#[test]
fn a_hostile_guest_hurts_itself_alone() {
    fn property(moves: Vec<Mischief>) -> bool {
        let mut rig = Rig::introduced();
        let (mut open, mut asked_for) = (vec![ConnId(2)], 0);
        for (no, step) in (0_u32..).zip(moves) {
            match step {
                Mischief::Bytes(bytes) => _ = rig.guest.write(&bytes),
                Mischief::Request(len) => _ = rig.guest.write(&request(no, &vec![1; len.into()])),
                Mischief::Word(word, value) => rig.guest.scribble(word.into(), value),
                Mischief::Index(word, value) => rig.guest.scribble_index(word.into(), value),
                Mischief::Read(most) => _ = rig.guest.read(most.into()),
                Mischief::Reconnect => rig.guest.reconnect(),
                Mischief::Answers => {
                    for _ in 0..std::mem::take(&mut asked_for) {
                        rig.answer(open.first().copied().unwrap_or(ConnId(2)), &[2; 40]);
                    }
                }
                Mischief::Event(len) => {
                    let conn = open.first().copied().unwrap_or(ConnId(2));
                    rig.event(conn, &vec![3; len.into()]);
                }
                Mischief::Introduce => rig.introduce(),
            }
            rig.guest.signal();
            let frame = request(no, b"sane\0");
            rig.control.write(&frame);
            let mut sane = 0;
            for told in rig.told() {
                match told {
                    Open(conn, GUEST) if open.is_empty() => {
                        open.push(conn);
                        asked_for = 0;
                    }
                    Close(conn) if open == [conn] => open.clear(),
                    Told::Request(ConnId(1), told) => sane += u32::from(told == frame),
                    Told::Request(conn, _) if open == [conn] => asked_for += 1,
                    told => panic!("{told:?} with {open:?}"),
                }
            }
            assert!(sane == 1 && asked_for <= OUTSTANDING);
            rig.answer(ConnId(1), b"OK");
            rig.turn();
            assert_eq!(rig.control.read(usize::MAX), b"OK");
            let load = rig.front.loads().find(|load| load.conn != ConnId(1)).unwrap();
            assert!(load.unsent_bytes <= limits().backlog_bytes + 5000 + 1000);
        }
        true
    }
    QuickCheck::new().tests(300).quickcheck(property as fn(Vec<Mischief>) -> bool);
}
