//! The simulated host: who acts next, and when.
//!
//! One thread, one queue of events by virtual time. A party (the host's loop, a
//! replica, a client) acts in one piece at one moment; between two of its pieces
//! anything may happen. What a party writes into the rings is seen by the others
//! from that moment on; whom it rings for wakes up some time later, or never.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use coordinator::Coordinator;
use coordinator::events::Events;
use hypervisor::ReplicaId;
use hypervisor::ring::IntakeReader;
use rustix::event::epoll;
use state_machine::{ConnId, DomId, InputNo};
use tempfile::TempDir;

use super::body::Body;
use super::checkers::Checker;
use super::faults::Faults;
use super::judge::{Judge, Sampler};
use super::machine::{Clock, Disks, Hall, SimHolder, SimMachine};
use super::mix::Mix;
use super::people::Person;
use super::plan::Plan;
use super::trace::{Entry, Trace, TraceMode};
use super::verdict::{Flaw, Stats};
use super::watch::Watch;
use crate::rng::Rng;

/// Who acts, or what happens, at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The host's loop takes a turn.
    Host,
    /// A replica takes a step.
    Replica(u64),
    /// A client acts.
    Person(usize),
    /// A process was started; the host hears of it.
    Launched(u64),
    /// A process runs its first instructions.
    Boots(u64),
    /// A process ends.
    Dies(u64),
    /// The host is told of a death.
    Noticed(u64),
    /// A process's memory is gone.
    Gone(u64),
    /// A fault happens.
    Fault(u32),
    /// A lasting fault ends.
    Healed(u64, super::faults::Lasting),
    /// Another host goes on with what the last one has left.
    HostGoesOn,
    /// A part of a fault that has several.
    Strike(super::faults::Strike),
    /// The host's process is started again.
    HostBegins,
    /// Everything is looked at.
    Look,
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) clock: Clock,
    /// Delays and costs.
    pub(super) rng: Rng,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    queued: u64,
    pub(super) hall: Rc<RefCell<Hall>>,
    pub(super) host: Option<Coordinator<SimMachine>>,
    pub(super) epoll: Arc<OwnedFd>,
    pub(super) holder: Arc<SimHolder>,
    pub(super) events: Arc<Events>,
    pub(super) events_seen: u64,
    pub(super) observer: Option<IntakeReader>,
    pub(super) host_asleep: bool,
    pub(super) host_next_us: u64,
    /// The host's process came back and has no primary yet.
    pub(super) host_restarted: bool,
    /// It comes back after a loss of power.
    pub(super) power_was_lost: bool,
    /// What the host, or the one that has just ended, lets nobody execute.
    pub(super) quarantined: Vec<InputNo>,
    /// No state is left, as the configuration has it.
    pub(super) lost: bool,
    pub(super) bodies: BTreeMap<u64, Body>,
    pub(super) bodies_begun: u64,
    pub(super) people: Vec<Person>,
    pub(super) people_epoll: OwnedFd,
    /// Connections that the host has not accepted yet, by domain: who made them.
    pub(super) knocking: BTreeMap<DomId, VecDeque<(usize, u64)>>,
    pub(super) accepted: BTreeSet<ConnId>,
    /// Connections that the host has turned away so far.
    pub(super) refused: u64,
    pub(super) judge: Judge,
    pub(super) sampler: Sampler,
    pub(super) faults: Faults,
    pub(super) watch: Watch,
    pub(super) healing: bool,
    pub(super) stats: Stats,
    pub(super) flaws: Vec<Flaw>,
    pub(super) trace: Trace,
    pub(super) buffer: Vec<u8>,
    pub(super) read_buffer: Box<[u8]>,
    pub(super) last_released: InputNo,
    pub(super) directory: TempDir,
}

/// A flaw beyond this number says nothing new.
const MAX_FLAWS: usize = 8;

/// The black-box checker of short windows.
pub(super) fn sampler(plan: &Plan) -> Sampler {
    Sampler::new(plan.seed, plan.population.keys, 40, 200)
}

impl World {
    pub(super) fn new(plan: Plan, mode: TraceMode) -> std::io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rvmm-sim-").tempdir()?;
        let rng = Rng::new(plan.seed ^ 0x0077_6f72_6c64);
        let people = plan.population.clients(&Mix::committed());
        let flags = epoll::CreateFlags::CLOEXEC;
        let mut world = Self {
            sampler: sampler(&plan),
            faults: Faults::new(&plan),
            watch: Watch::default(),
            clock: Clock::default(),
            rng,
            queue: BinaryHeap::new(),
            queued: 0,
            hall: Rc::default(),
            host: None,
            epoll: Arc::new(epoll::create(flags)?),
            holder: Arc::default(),
            events: Arc::new(Events::new(64)),
            events_seen: 0,
            observer: None,
            host_asleep: false,
            host_next_us: u64::MAX,
            host_restarted: false,
            power_was_lost: false,
            quarantined: Vec::new(),
            lost: false,
            bodies: BTreeMap::new(),
            bodies_begun: 0,
            people: people.into_iter().map(Person::new).collect(),
            people_epoll: epoll::create(flags)?,
            knocking: BTreeMap::new(),
            accepted: BTreeSet::new(),
            refused: 0,
            // Its reference begins as it goes on: without deliberate bugs.
            judge: ::teeth::spared(|| {
                Judge::new(match plan.disks {
                    Disks::Unsynced => super::JUDGE_HORIZON,
                    Disks::None | Disks::Synced => 0,
                })
            }),
            healing: false,
            stats: Stats::default(),
            flaws: Vec::new(),
            trace: Trace::new(mode),
            buffer: Vec::new(),
            read_buffer: vec![0; 64 * 1024].into_boxed_slice(),
            last_released: InputNo(0),
            directory,
            plan,
        };
        world.host_begins();
        for person in 0..world.people.len() {
            let at = world.rng.below(20_000) as u64;
            world.call_person(person, at);
        }
        world.at(super::LOOK_PERIOD_US, What::Look);
        world.plan_next_fault();
        Ok(world)
    }

    pub(super) fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    /// Something from `0` to `below` microseconds.
    pub(super) fn delay(&mut self, from: u64, below: u64) -> u64 {
        from + self.rng.next_u64() % (below - from).max(1)
    }

    /// Plans something, so many microseconds from the beginning.
    pub(super) fn at(&mut self, at_us: u64, what: What) {
        self.queued += 1;
        self.queue.push(Reverse((at_us, self.queued, what)));
    }

    /// Plans something, so many microseconds from now.
    pub(super) fn after(&mut self, delay_us: u64, what: What) {
        self.at(self.now_us() + delay_us, what);
    }

    /// The host acts then, if it was not to act sooner.
    pub(super) fn call_host(&mut self, at_us: u64) {
        if at_us < self.host_next_us {
            self.host_next_us = at_us;
            self.at(at_us, What::Host);
        }
    }

    /// A replica acts then, if it was not to act sooner.
    pub(super) fn call_replica(&mut self, serial: u64, at_us: u64) {
        if let Some(body) = self.bodies.get_mut(&serial)
            && at_us < body.next_us
        {
            body.next_us = at_us;
            self.at(at_us, What::Replica(serial));
        }
    }

    /// A client acts then, if it was not to act sooner.
    pub(super) fn call_person(&mut self, index: usize, at_us: u64) {
        if at_us < self.people[index].next_us {
            self.people[index].next_us = at_us;
            self.at(at_us, What::Person(index));
        }
    }

    /// The body of the replica that has this id now.
    pub(super) fn serial_of(&self, id: ReplicaId) -> Option<u64> {
        self.bodies.iter().rev().find(|(_, body)| body.id == id).map(|(serial, _)| *serial)
    }

    pub(super) fn note(&mut self, who: &str, number: u64, what: &str, values: [u64; 4]) {
        let at_us = self.now_us();
        self.trace.step(&Entry { at_us, who, number, what, values });
    }

    /// A promise was broken.
    pub(super) fn flaw(&mut self, checker: &'static str, what: impl std::fmt::Display) {
        debug_assert!(Checker::ALL.iter().any(|known| known.name() == checker), "{checker}");
        let flaw = Flaw { checker, at_us: self.now_us(), what: what.to_string() };
        self.trace.say(flaw.at_us, &flaw);
        self.describe_replicas();
        *self.stats.broken.entry(checker).or_default() += 1;
        if self.flaws.len() < MAX_FLAWS {
            self.flaws.push(flaw);
        }
    }

    /// Runs until virtual time `until_us`, until `done`, or to the first flaw.
    pub(super) fn run_until(&mut self, until_us: u64, done: fn(&Self) -> bool) -> bool {
        while self.flaws.is_empty() {
            let Some(Reverse((at_us, _, what))) = self.queue.peek().copied() else { return true };
            if at_us > until_us {
                self.clock.set(until_us);
                return done(self);
            }
            self.queue.pop();
            self.clock.set(at_us);
            self.happens(at_us, what);
            if what == What::Look && done(self) {
                return true;
            }
        }
        false
    }

    fn happens(&mut self, at_us: u64, what: What) {
        match what {
            What::Host => {
                if self.host_next_us == at_us {
                    self.host_next_us = u64::MAX;
                    self.host_turn();
                }
            }
            What::Replica(serial) => {
                if self.bodies.get(&serial).is_some_and(|body| body.next_us == at_us) {
                    self.replica_step(serial);
                }
            }
            What::Person(index) => {
                if self.people[index].next_us == at_us {
                    self.people[index].next_us = u64::MAX;
                    self.person_acts(index);
                }
            }
            What::Launched(serial) => self.launched(serial),
            What::Boots(serial) => self.boots(serial),
            What::Dies(serial) => self.dies(serial),
            What::Noticed(serial) => self.noticed(serial),
            What::Gone(serial) => self.gone(serial),
            What::Fault(number) => self.fault(number),
            What::Healed(serial, lasting) => self.healed(serial, lasting),
            What::Strike(strike) => self.strike(strike),
            What::HostBegins => self.host_begins(),
            What::HostGoesOn => self.host_goes_on(),
            What::Look => {
                self.look();
                self.after(super::LOOK_PERIOD_US, What::Look);
            }
        }
    }

    /// Whoever was rung for while asleep wakes up: usually soon.
    pub(super) fn answer_doorbells(&mut self) {
        if self.host_asleep
            && let Some(host) = &self.host
            && host.fabric().drain_doorbell()
            && let Some(delay) = self.wake_up_delay()
        {
            self.call_host(self.now_us() + delay);
        }
        let mut rung = Vec::new();
        for (&serial, body) in &self.bodies {
            let bell = body.runtime.as_ref().filter(|_| body.asleep);
            if bell.is_some_and(|runtime| runtime.fabric().drain_doorbell()) {
                rung.push(serial);
            }
        }
        for serial in rung {
            if let Some(delay) = self.wake_up_delay() {
                self.call_replica(serial, self.now_us() + delay);
            }
        }
    }

    /// How long somebody takes to wake up who was rung for; `None` if never.
    fn wake_up_delay(&mut self) -> Option<u64> {
        use crate::report::record::FaultClass as Class;
        let drawn = u32::try_from(self.rng.below(1000)).unwrap_or(0);
        let bells = self.plan.doorbells;
        let faulty = !self.healing;
        if faulty && drawn < bells.lost {
            self.faults.tally(Class::LostDoorbell);
            return None;
        }
        if faulty && drawn < bells.lost + bells.late {
            self.faults.tally(Class::LateDoorbell);
            return Some(self.delay(500, 30_000));
        }
        if faulty && drawn < bells.lost + bells.late + bells.doubled {
            self.faults.tally(Class::DoubledDoorbell);
            // Everybody is woken, whoever was meant.
            let serials: Vec<_> = self.bodies.keys().copied().collect();
            for serial in serials {
                let at = self.now_us() + self.delay(1, 60);
                self.call_replica(serial, at);
            }
            let at = self.now_us() + self.delay(1, 60);
            self.call_host(at);
        }
        Some(self.delay(1, 25))
    }

    /// How long a party's step takes.
    pub(super) fn step_cost(&mut self) -> u64 {
        let held_up = !self.healing && self.rng.below(1000) < self.plan.held_up as usize;
        if held_up { self.delay(100, 20_000) } else { self.delay(2, 12) }
    }
}
