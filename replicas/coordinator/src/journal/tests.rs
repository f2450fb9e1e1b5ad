use std::collections::VecDeque;

use hypervisor::fabric::{FabricConfig, HostFabric};
use hypervisor::xen::RemotePort;
use quickcheck::{Arbitrary, Gen, QuickCheck};
use state_machine::Input;

use super::*;
use crate::inlet::Inlet;

fn limits() -> FrontLimits {
    FrontLimits { max_connections: 4, backlog_bytes: 4096, outstanding: 4, guest_outstanding: 4 }
}

const CONN: ConnId = ConnId(7);
const GUEST: DomId = DomId(5);

#[test]
fn domains_are_remembered_one_by_one() {
    let journal = Journal::new(limits(), 4096, None).unwrap();
    let (named, gone) = (journal.named(), journal.gone());
    for domid in [0, 63, 64, 0xffff] {
        named.insert(DomId(domid));
    }
    named.remove(DomId(63));
    gone.remove(DomId(1));
    assert_eq!(named.all(), [0, 64, 0xffff].map(DomId));
    assert_eq!(gone.all(), []);
}

#[test]
fn seats_come_back_until_they_are_left() {
    let mut journal = Journal::new(limits(), 4096, None).unwrap();
    journal.set_next_conn(ConnId(9));
    journal.set_serves();
    let first = journal.seat(CONN, GUEST, Kind::Socket).unwrap();
    let port = RemotePort(3);
    let ring = Kind::Ring { port, consumed: u32::MAX, produced: 8, effect: OutputNo(6) };
    let second = journal.seat(ConnId(8), DomId(0), ring).unwrap();
    second.close();
    journal.leave(first);
    let fd = journal.segment.duplicate_fd().unwrap();
    let (mut next, seats) = Journal::adopt(fd, None).unwrap();
    assert!(next.serves() && next.next_conn() == ConnId(9));
    let [seat] = &seats[..] else { panic!("{seats:?}") };
    assert_eq!((seat.conn(), seat.domid(), seat.kind()), (ConnId(8), DomId(0), ring));
    assert_eq!(seat.state(), State::Closing);
    let seats: Vec<_> = std::iter::from_fn(|| next.seat(CONN, GUEST, Kind::Socket)).collect();
    assert_eq!(seats.len(), limits().max_connections + RINGS - 1, "one is taken");
}

#[test]
fn what_is_no_journal_is_refused() {
    let other = Segment::create("test", PAGE_BYTES).unwrap();
    assert!(matches!(
        Journal::adopt(other.duplicate_fd().unwrap(), None),
        Err(JournalError::Foreign(_))
    ));
    let memory = other.map_writable().unwrap();
    memory.store(word::MAGIC, MAGIC);
    memory.store(word::SEATS, u64::MAX);
    assert!(matches!(
        Journal::adopt(other.duplicate_fd().unwrap(), None),
        Err(JournalError::Foreign(_))
    ));
}

/// Something that happens to a connection over a ring.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many bytes come.
    Read(u16),
    /// A request of so many is handed in, if there are as many.
    HandIn(u8),
    /// So many bytes are left out, with an error of so many bytes, and so many more
    /// later.
    Skip(u8, u8),
    /// Its oldest request that waits is answered with so many bytes.
    Answer(u16),
    /// An event of so many bytes comes.
    Event(u16),
    /// So many bytes are sent.
    Send(u16),
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Self {
        let len = u16::arbitrary(g) % 700;
        match u8::arbitrary(g) % 7 {
            0 => Self::Read(len),
            1 => Self::HandIn(u8::arbitrary(g) % 60 + 1),
            2 => Self::Answer(len),
            3 => Self::Event(len),
            4 => Self::Skip(u8::arbitrary(g) % 60 + 1, u8::arbitrary(g) % 20),
            _ => Self::Send(len),
        }
    }
}

/// What a connection is to a host: all that the journal has to tell the next one.
struct Host {
    inlet: Inlet,
    seat: Seat,
    inbox: Vec<u8>,
    taken: u64,
    outbox: Vec<u8>,
    fuse: Arc<Fuse>,
}

/// What the world has seen, which nobody can take back.
#[derive(Default)]
struct World {
    /// Bytes that came.
    came: Vec<u8>,
    /// Bytes that went out.
    went: Vec<u8>,
    /// Bytes of outputs in the order in which they were made.
    made: VecDeque<(Made, Vec<u8>)>,
    /// What was left out: up to where, what, and how much more was to be.
    skips: Vec<(u64, Vec<u8>, usize)>,
    waiting: VecDeque<InputNo>,
    next_event: u64,
}

/// What has yielded an output.
#[derive(Clone, Copy, Debug)]
enum Made {
    Output(Mark),
    /// What was left out up to here.
    Skip(u64),
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seed * 31 + at * 7) as u8).collect()
}

impl Host {
    /// Does one step as the front does.
    fn step(&mut self, step: Step, world: &mut World) {
        match step {
            Step::Read(len) => {
                let read = bytes(world.came.len(), len.into());
                self.inbox.extend_from_slice(&read);
                self.seat.keep_read(&read, &self.inbox);
                // Only then is the ring's room given back.
                if !self.fuse.is_blown() {
                    world.came.extend(read);
                }
            }
            Step::HandIn(len) if usize::from(len) <= self.inbox.len() => {
                let len = usize::from(len);
                let frame: Vec<_> = self.inbox.drain(..len).collect();
                let no = self.inlet.ledger.next_no();
                self.seat.handing(no, self.taken + len as u64);
                let input = Input::Request { conn: CONN, frame: &frame };
                if self.inlet.push(&input).is_err() {
                    self.seat.not_handed(self.taken);
                    self.inbox.splice(..0, frame);
                    return;
                }
                self.taken += len as u64;
                if self.inbox.is_empty() {
                    self.seat.inbox_is_empty();
                }
                world.waiting.push_back(no);
            }
            Step::HandIn(_) => {}
            Step::Skip(len, more) if usize::from(len) <= self.inbox.len() => {
                let skipped: Vec<_> = self.inbox.drain(..usize::from(len)).collect();
                self.taken += u64::from(len);
                let error = bytes(self.taken as usize, more.into());
                self.seat.skipped(self.taken, more.into(), &error, &self.outbox);
                self.outbox.extend_from_slice(&error);
                world.skips.push((self.taken, skipped, usize::from(more)));
                world.made.push_back((Made::Skip(self.taken), error));
            }
            Step::Skip(..) => {}
            Step::Answer(len) => {
                let Some(no) = world.waiting.pop_front() else { return };
                self.deliver(Mark::Reply(no), bytes(no.0 as usize, len.into()), world);
            }
            Step::Event(len) => {
                world.next_event += 1;
                let no = OutputNo(world.next_event);
                self.deliver(Mark::Event(no), bytes(no.0 as usize, len.into()), world);
            }
            Step::Send(len) => {
                let len = self.outbox.len().min(len.into());
                if len == 0 || self.fuse.is_blown() {
                    return;
                }
                self.seat.sent(len, len == self.outbox.len());
                // Shown to the guest only then.
                if !self.fuse.is_blown() {
                    world.went.extend(self.outbox.drain(..len));
                }
            }
        }
    }

    fn deliver(&mut self, mark: Mark, frame: Vec<u8>, world: &mut World) {
        if self.outbox.len() > limits().backlog_bytes {
            // Such a client is closed, or misses it.
            if let Mark::Event(_) = mark {
                world.next_event -= 1;
            } else if let Mark::Reply(no) = mark {
                world.waiting.push_front(no);
            }
            return;
        }
        self.seat.queue(&frame, &self.outbox, mark, &self.inlet);
        self.outbox.extend_from_slice(&frame);
        world.made.push_back((Made::Output(mark), frame));
    }
}

/// Whatever store was a host's last one: the next host has each byte that came and was
/// not handed in, each request once in the intake, and each output once among what went
/// out, what it has to send, and what is made again.
#[test]
fn nothing_is_lost_or_doubled_wherever_a_host_ends() {
    fn holds(steps: Vec<Step>, stores: u16) -> bool {
        let fuse = Arc::new(Fuse::default());
        let config = FabricConfig { intake_bytes: 1 << 16, ..FabricConfig::default() };
        let fabric = HostFabric::new_fused(config, Some(Arc::clone(&fuse))).unwrap();
        let mut journal = Journal::new(limits(), 1 << 16, Some(Arc::clone(&fuse))).unwrap();
        let inlet = Inlet::new(fabric, journal.marks());
        let kind =
            Kind::Ring { port: RemotePort(1), consumed: 0, produced: 0, effect: OutputNo(0) };
        let seat = journal.seat(CONN, GUEST, kind).unwrap();
        let mut world = World::default();
        let mut host = Host {
            inlet,
            seat,
            inbox: Vec::new(),
            taken: 0,
            outbox: Vec::new(),
            fuse: Arc::clone(&fuse),
        };
        fuse.light(u64::from(stores % 4096) + 1);
        for step in steps {
            host.step(step, &mut world);
            if fuse.is_blown() {
                break;
            }
        }
        let held = host.inlet.fabric.own_descriptors();
        let held = held.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        let fabric = HostFabric::adopt(held, None).unwrap();
        let fd = journal.segment.duplicate_fd().unwrap();
        let (journal, mut seats) = Journal::adopt(fd, None).unwrap();
        let mut waiting = Vec::new();
        let inlet = Inlet::adopt(fabric, journal.marks(), |conn, _| waiting.push(conn)).unwrap();
        let mut seat = seats.pop().unwrap();

        let handed = seat.handed(inlet.last_no());
        let (inbox, end) = seat.inbox().unwrap();
        assert_eq!(end - handed.taken, inbox.len() as u64);
        let seen = end as usize;
        // The last read may have been kept without its room having been given back.
        assert!(seen >= world.came.len());
        let whole = &host_stream(&world, seen);
        assert_eq!(inbox, whole[handed.taken as usize..]);
        let mut asked = Vec::new();
        let (mut reader, mut bytes) = (inlet.fabric.observe_intake().unwrap(), Vec::new());
        while reader.next(&mut bytes).unwrap().is_some() {
            let (_, input) = Input::decode(&mut state_machine::Reader::new(&bytes)).unwrap();
            let Input::Request { frame, .. } = input else { panic!("{input:?}") };
            asked.extend_from_slice(frame);
        }
        // What was left out is known by where it ended.
        let mut expected = whole[..handed.taken as usize].to_vec();
        for (end, skipped, _) in world.skips.iter().rev() {
            if *end <= handed.taken {
                let end = *end as usize;
                expected.drain(end - skipped.len()..end);
            }
        }
        let last = world.skips.iter().rev().find(|(end, ..)| *end == handed.taken);
        assert_eq!(handed.skip, last.map_or(0, |(.., more)| *more));
        assert_eq!(asked, expected, "each request once");

        let outbox = seat.outbox(&inlet).expect("is known");
        let mut out = world.went.clone();
        let sent = seat.sent_bytes() as usize;
        let made: Vec<u8> = world.made.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        // What was noted as sent is shown by the next host at the latest.
        assert!(sent >= out.len());
        out.extend_from_slice(&made[out.len()..sent]);
        out.extend_from_slice(&outbox);
        for (made, bytes) in &world.made {
            let is_known = match *made {
                Made::Output(mark) => inlet.is_marked(mark),
                Made::Skip(end) => end <= handed.taken,
            };
            if !is_known {
                out.extend_from_slice(bytes);
            }
        }
        assert_eq!(out, made, "each output once");
        true
    }

    /// The stream of which the world knows a part: each read is a function of its place.
    fn host_stream(world: &World, seen: usize) -> Vec<u8> {
        let mut stream = world.came.clone();
        let more = seen - stream.len();
        stream.extend(bytes(stream.len(), more));
        stream
    }
    QuickCheck::new().tests(3000).quickcheck(holds as fn(_, _) -> _);
    // The very beginning, at each store.
    for stores in 0..100 {
        assert!(holds(vec![Step::Read(100), Step::Skip(30, 10)], stores));
    }
}
