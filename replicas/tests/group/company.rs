//! Which inputs are executed together, on real rings.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use consensus::MemoryStore;
use hypervisor::fabric::{FabricConfig, HostFabric, ReplicaFabric};
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::error::Fatal;
use replica::executor::{Execute, Local, Results, Task};
use replica::protocol::{FromReplica, ToReplica};
use replica::runtime::Runtime;
use replica::snapshot::{Encoded, Head};
use replica::spec::{Ack, Backend, LogLimits, ReplicaSpec, Start, Storage};
use state_machine::executor::State;
use state_machine::{ConnId, Digest, Input, InputNo, OutputNo, ScrubProgress};

use crate::machine::{BEGIN, Board, GET, PUT};
use crate::world::Desk;

const AT_ONCE: usize = 8;
const GENERATION: Generation = Generation(1);

/// Notes how many inputs were executed at once.
struct Counting {
    board: Local<Board>,
    counts: Rc<RefCell<Vec<usize>>>,
}

impl Execute for Counting {
    type Machine = Board;

    fn tasks_at_once(&self) -> usize {
        AT_ONCE
    }

    fn run(&mut self, tasks: &[Task<'_>], results: &mut Results) -> Result<(), Fatal> {
        self.counts.borrow_mut().push(tasks.len());
        self.board.run(tasks, results)
    }

    fn culprit(&self) -> Option<usize> {
        self.board.culprit()
    }

    fn state(&self) -> State {
        self.board.state()
    }

    fn numbers(&self) -> (InputNo, OutputNo) {
        self.board.numbers()
    }

    fn restore(&mut self, bytes: &[u8], digest: Digest) -> Result<(), Fatal> {
        self.board.restore(bytes, digest)
    }

    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Fatal> {
        self.board.scrub(budget)
    }

    fn flip_bit(&mut self, seed: u64) -> Result<(), Fatal> {
        self.board.flip_bit(seed)
    }

    fn freeze(&mut self, head: &Head) -> Result<bool, Fatal> {
        self.board.freeze(head)
    }

    fn encoded(&mut self) -> Result<Option<Encoded>, Fatal> {
        self.board.encoded()
    }
}

/// A host and its replicas in one thread.
struct House {
    fabric: HostFabric,
    replicas: BTreeMap<SlotId, Runtime<Counting>>,
    /// Of the primary, in slot 0.
    counts: Rc<RefCell<Vec<usize>>>,
    /// Where snapshots are encoded, of all replicas.
    desk: Desk,
    now: Instant,
    last_input: u64,
}

fn slot(number: u8) -> SlotId {
    SlotId::new(number).expect("there is one")
}

fn id(slot: SlotId) -> ReplicaId {
    ReplicaId(u64::from(slot.get()) + 1)
}

impl House {
    fn new() -> Self {
        let mut fabric = HostFabric::new(FabricConfig {
            intake_bytes: 64 << 10,
            output_bytes: 64 << 10,
            peer_ring_bytes: 64 << 10,
            control_bytes: 16 << 10,
            backlog_bytes: 1 << 20,
            message_bytes: 1 << 20,
        })
        .expect("memory");
        let (now, counts) = (Instant::now(), Rc::default());
        let desk = Desk::default();
        let slots = [0, 1, 2].map(slot);
        for slot in slots {
            fabric.reset_slot(slot, id(slot)).expect("memory");
        }
        let start = |slot: SlotId| {
            let spec = ReplicaSpec {
                id: id(slot).0,
                slot: slot.get(),
                start: Start::Bootstrap { voters: slots.map(|slot| id(slot).0).to_vec() },
                ack: Ack::AllLive,
                storage: Storage::Volatile,
                backend: Backend::Process,
                lockstep: false,
                spin_us: 0,
                spin_unreleased_us: 0,
                beat_ms: 20,
                idle_beat_ms: 100,
                election_ms: 10_000,
                log: LogLimits::default(),
                peers: slots.map(|slot| (id(slot).0, slot.get())).to_vec(),
            };
            let memory = fabric.descriptors(slot).expect("descriptors");
            let own = ReplicaFabric::attach(memory, slot, id(slot)).expect("attaches");
            let counts = if slot.get() == 0 { Rc::clone(&counts) } else { Rc::default() };
            let board = Local::new(Box::new(desk.clone()));
            let executor = Counting { board, counts };
            let runtime = Runtime::new(&spec, own, Box::new(MemoryStore), executor, now);
            (slot, runtime.expect("starts"))
        };
        let replicas = slots.map(start).into();
        Self { fabric, replicas, counts, desk, now, last_input: 0 }
    }

    fn tell(&mut self, to: SlotId, message: &ToReplica) {
        let control = self.fabric.control(to);
        control.send(&message.encode()).expect("room");
        control.flush();
    }

    fn isolate(&mut self, certificate: u32, fenced: &[ReplicaId]) {
        let slots: Vec<_> = self.replicas.keys().copied().collect();
        for slot in slots {
            let fenced = fenced.to_vec();
            self.tell(slot, &ToReplica::Isolate { generation: GENERATION, certificate, fenced });
        }
        self.run();
    }

    fn ask(&mut self, count: u64) {
        for _ in 0..count {
            self.hand_in(&[PUT, 1, 2]);
        }
    }

    fn hand_in(&mut self, frame: &[u8]) {
        self.last_input += 1;
        let mut record = Vec::new();
        let input = Input::Request { conn: ConnId(1), frame };
        input.encode(InputNo(self.last_input), &mut record);
        self.fabric.intake().push(self.last_input, &record).expect("room");
    }

    /// Takes what the primary says.
    fn said(&mut self) -> Vec<FromReplica> {
        let (mut all, mut bytes) = (Vec::new(), Vec::new());
        let outputs = self.fabric.outputs(slot(0)).expect("a ring");
        while outputs.receive(&mut bytes).expect("is in order") {
            all.push(FromReplica::decode(&bytes).expect("decodes").1);
        }
        all
    }

    /// The same; up to which input the intake may be freed.
    fn released(&mut self) -> Option<InputNo> {
        let released = |said: &FromReplica| match *said {
            FromReplica::Released(no) => Some(no),
            _ => None,
        };
        self.said().iter().rev().find_map(released)
    }

    /// Runs until all is done; how many inputs the primary executed at once meanwhile.
    fn run(&mut self) -> Vec<usize> {
        self.run_by(Duration::from_millis(5))
    }

    /// The same, with a clock that goes on by `step` each time.
    fn run_by(&mut self, step: Duration) -> Vec<usize> {
        for _ in 0..50 {
            self.now += step;
            for runtime in self.replicas.values_mut() {
                runtime.step(self.now).expect("goes on");
            }
            self.desk.work();
        }
        self.counts.take()
    }
}

#[test]
fn an_input_has_company_only_where_its_hanging_the_primary_can_be_found_out() {
    let mut house = House::new();
    house.ask(20);
    house.isolate(0, &[]);
    house.tell(slot(0), &ToReplica::Promote { generation: GENERATION, quarantine: vec![] });
    assert_eq!(house.run(), [1; 20], "a predecessor may have died of them");
    house.ask(20);
    assert_eq!(house.run(), [8, 8, 4], "two standbys are left");
    house.replicas.remove(&slot(2));
    house.isolate(1, &[id(slot(2))]);
    house.ask(20);
    assert_eq!(house.run(), [1; 20], "one standby is left");
}

#[test]
fn queries_that_wait_for_room_behind_a_note_do_not_wait_for_a_tick() {
    let mut house = House::new();
    house.isolate(0, &[]);
    house.tell(slot(0), &ToReplica::Promote { generation: GENERATION, quarantine: vec![] });
    house.run();
    house.released();
    house.hand_in(&[BEGIN, 1, 2]);
    house.hand_in(&[GET, 1, 2]);
    house.run_by(Duration::ZERO);
    assert_eq!(house.released(), None, "the note may wait for company");
    (0..600).for_each(|_| house.hand_in(&[GET, 1, 2]));
    house.run_by(Duration::ZERO);
    assert_eq!(house.released(), Some(InputNo(house.last_input)));
}

#[test]
fn a_snapshot_does_not_wait_for_a_tick_behind_a_note() {
    let mut house = House::new();
    house.isolate(0, &[]);
    house.tell(slot(0), &ToReplica::Promote { generation: GENERATION, quarantine: vec![] });
    house.run();
    house.hand_in(&[BEGIN, 1, 2]);
    house.run_by(Duration::ZERO);
    house.tell(slot(0), &ToReplica::Export { ticket: 7 });
    house.run_by(Duration::ZERO);
    let exported = |said: &FromReplica| matches!(said, FromReplica::Exported { ticket: 7, .. });
    assert!(house.said().iter().any(exported));
}
