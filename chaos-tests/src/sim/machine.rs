//! The machine of the simulated host: processes that start, run and end, and
//! their disks, as the coordinator sees them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coordinator::{
    DeathWatch, Domain, Held, Holder, LogOnDisk, Observed, Platform, PlatformError, Used,
};
use hypervisor::decision::Cause;
use hypervisor::domain::CpuTimes;
use hypervisor::fabric::ReplicaPageView;
use hypervisor::memory::Fuse;
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::spec::{Backend, ReplicaSpec, Storage};
use state_machine::{ConnId, DomId, InputNo};

use super::disk::SimDisk;

/// Virtual time, shared by all parties.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    begin: Instant,
    now_us: Rc<Cell<u64>>,
    /// How far the clock that the parties read has jumped ahead.
    jumped_us: Rc<Cell<u64>>,
}

impl Default for Clock {
    fn default() -> Self {
        // What the parties see are differences only.
        Self { begin: Instant::now(), now_us: Rc::default(), jumped_us: Rc::default() }
    }
}

impl Clock {
    /// Microseconds since the beginning.
    pub(super) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    pub(super) fn set(&self, now_us: u64) {
        self.now_us.set(now_us);
    }

    /// The time that parties read from now on is so much later.
    pub(super) fn jump(&self, by_us: u64) {
        self.jumped_us.set(self.jumped_us.get() + by_us);
    }

    /// What a party reads.
    pub(super) fn read(&self) -> Instant {
        self.begin + Duration::from_micros(self.now_us.get() + self.jumped_us.get())
    }
}

/// What a process is doing, for those who look at it from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Works and sleeps as it should.
    Well,
    /// A signal has stopped it.
    Stopped,
    /// It runs and does not come back.
    Spins,
    /// It would like to run, and gets no core.
    Starved,
    /// It has ended.
    Ended,
}

/// A simulated process, seen from outside.
#[derive(Debug)]
pub(super) struct Process {
    clock: Clock,
    activity: Cell<Activity>,
    since_us: Cell<u64>,
    on_cpu_us: Cell<u64>,
    waited_us: Cell<u64>,
    /// The host has sent SIGKILL.
    pub(super) killed: Cell<bool>,
    /// Its death was told.
    pub(super) noticed: Cell<bool>,
    /// Its memory is gone.
    pub(super) gone: Cell<bool>,
    /// What it runs.
    pub(super) program: Cell<u64>,
}

impl Process {
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            since_us: Cell::new(clock.now_us()),
            clock: clock.clone(),
            activity: Cell::new(Activity::Well),
            on_cpu_us: Cell::new(0),
            waited_us: Cell::new(0),
            killed: Cell::new(false),
            noticed: Cell::new(false),
            gone: Cell::new(false),
            program: Cell::new(0),
        }
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.get()
    }

    /// It has run for so long.
    pub(super) fn ran(&self, for_us: u64) {
        self.on_cpu_us.set(self.on_cpu_us.get() + for_us);
    }

    pub(super) fn set_activity(&self, activity: Activity) {
        let (ran, waited) = self.times();
        self.on_cpu_us.set(ran);
        self.waited_us.set(waited);
        self.since_us.set(self.clock.now_us());
        self.activity.set(activity);
    }

    /// For how long it has done what it does.
    pub(super) fn lasts_us(&self) -> u64 {
        self.clock.now_us() - self.since_us.get()
    }

    fn times(&self) -> (u64, u64) {
        let since = self.clock.now_us() - self.since_us.get();
        match self.activity.get() {
            Activity::Spins => (self.on_cpu_us.get() + since, self.waited_us.get()),
            Activity::Starved => (self.on_cpu_us.get(), self.waited_us.get() + since),
            _ => (self.on_cpu_us.get(), self.waited_us.get()),
        }
    }
}

/// The coordinator's hand on a process.
pub(super) struct SimDomain {
    process: Rc<Process>,
    runs_this_program: bool,
    /// The host ends without having let go of it.
    abandoned: Rc<Cell<bool>>,
}

impl SimDomain {
    pub(super) fn new(process: &Rc<Process>, hall: &Hall) -> Self {
        Self {
            process: Rc::clone(process),
            runs_this_program: process.program.get() == hall.program,
            abandoned: Rc::clone(&hall.abandoned),
        }
    }
}

impl Domain for SimDomain {
    fn kill(&self) -> Result<(), PlatformError> {
        self.process.killed.set(true);
        Ok(())
    }

    fn runs_this_program(&self) -> bool {
        self.runs_this_program
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        // The name that they are held by says all.
        Vec::new()
    }

    fn is_gone(&mut self) -> Result<bool, PlatformError> {
        Ok(self.process.gone.get())
    }

    fn cpu_times(&self) -> Option<CpuTimes> {
        let (ran, waited) = self.process.times();
        (self.process.activity() != Activity::Ended)
            .then_some(CpuTimes { on_cpu_ns: ran * 1000, runnable_wait_ns: waited * 1000 })
    }

    fn state(&self) -> Option<char> {
        match self.process.activity() {
            Activity::Well => Some('S'),
            Activity::Stopped => Some('T'),
            Activity::Spins | Activity::Starved => Some('R'),
            Activity::Ended => None,
        }
    }
}

impl Drop for SimDomain {
    fn drop(&mut self) {
        // One that unwinds has ended.
        if !self.abandoned.get() && !std::thread::panicking() {
            self.process.killed.set(true);
        }
    }
}

/// Tells of a process's end, once the world lets it.
pub(super) struct SimDeathWatch(Rc<Process>);

impl DeathWatch for SimDeathWatch {
    fn says_dead(&self) -> bool {
        self.0.noticed.get()
    }
}

/// What the coordinator was seen to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Accepted { domid: DomId, first: ConnId, end: ConnId },
    Promoted { id: ReplicaId, generation: Generation, last_input: InputNo },
    Fenced { id: ReplicaId, cause: Cause },
    Effect(Box<[u8]>),
    Abandoned(ConnId),
}

/// A replica that was ordered.
pub(super) struct Order {
    pub(super) spec: ReplicaSpec,
    pub(super) memory: Vec<OwnedFd>,
}

/// What the machine and the world share.
#[derive(Default)]
pub(super) struct Hall {
    pub(super) orders: Vec<Order>,
    pub(super) started: VecDeque<(ReplicaId, Result<SimDomain, PlatformError>)>,
    pub(super) processes: BTreeMap<ReplicaId, Rc<Process>>,
    pub(super) disks: BTreeMap<ReplicaId, SimDisk>,
    pub(super) used: Option<Used>,
    pub(super) seen: Vec<Seen>,
    /// The next order is refused.
    pub(super) refuse: bool,
    /// What the host runs.
    pub(super) program: u64,
    /// The host's process ends.
    pub(super) abandoned: Rc<Cell<bool>>,
    /// Behind it lies all that the host writes.
    pub(super) fuse: Arc<Fuse>,
}

/// Holds what the next host needs.
#[derive(Default)]
pub(super) struct SimHolder {
    held: Mutex<BTreeMap<Held, Vec<OwnedFd>>>,
}

impl SimHolder {
    fn held(&self) -> MutexGuard<'_, BTreeMap<Held, Vec<OwnedFd>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held, for the next host; it goes on being held.
    pub(super) fn hand_out(&self) -> BTreeMap<Held, Vec<OwnedFd>> {
        let clone = |fds: &Vec<OwnedFd>| fds.iter().filter_map(|fd| fd.try_clone().ok()).collect();
        self.held().iter().map(|(name, fds)| (*name, clone(fds))).collect()
    }

    /// Nothing is held any more.
    pub(super) fn forget(&self) {
        self.held().clear();
    }

    pub(super) fn holds(&self, name: Held) -> bool {
        self.held().contains_key(&name)
    }
}

impl Holder for SimHolder {
    fn hold(&self, name: Held, descriptors: &[BorrowedFd<'_>]) {
        let held = descriptors.iter().filter_map(|fd| fd.try_clone_to_owned().ok()).collect();
        self.held().insert(name, held);
    }

    fn let_go(&self, name: Held) {
        self.held().remove(&name);
    }
}

/// Where logs are, by the configured durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// There are none.
    None,
    /// Not synced: survive the death of all replicas.
    Unsynced,
    /// Synced: survive a loss of power.
    Synced,
}

/// See the module.
pub(super) struct SimMachine {
    pub(super) hall: Rc<RefCell<Hall>>,
    pub(super) clock: Clock,
    pub(super) disks: Disks,
}

impl Platform for SimMachine {
    type Domain = SimDomain;
    type DeathWatch = SimDeathWatch;

    fn now(&self) -> Instant {
        self.clock.read()
    }

    fn start(&mut self, spec: &ReplicaSpec, memory: Vec<OwnedFd>) -> Result<(), PlatformError> {
        let mut hall = self.hall.borrow_mut();
        if std::mem::take(&mut hall.refuse) {
            return Err(PlatformError("an injected fault".into()));
        }
        hall.orders.push(Order { spec: spec.clone(), memory });
        Ok(())
    }

    fn started(&mut self) -> Option<(ReplicaId, Result<SimDomain, PlatformError>)> {
        self.hall.borrow_mut().started.pop_front()
    }

    fn watch(&mut self, page: &ReplicaPageView) -> Result<SimDeathWatch, PlatformError> {
        let hall = self.hall.borrow();
        let process = hall.processes.get(&page.replica());
        process.cloned().map(SimDeathWatch).ok_or_else(|| PlatformError("no such process".into()))
    }

    fn fuse(&self) -> Option<Arc<Fuse>> {
        Some(Arc::clone(&self.hall.borrow().fuse))
    }

    fn adopt(&mut self, id: ReplicaId, _: Vec<OwnedFd>) -> Result<SimDomain, PlatformError> {
        let hall = self.hall.borrow();
        let process = hall.processes.get(&id);
        process
            .map(|process| SimDomain::new(process, &hall))
            .ok_or_else(|| PlatformError("no such process".into()))
    }

    fn bind(&self, _: &SimDomain) -> Result<(), PlatformError> {
        Ok(())
    }

    fn backend(&self, _: SlotId) -> Backend {
        Backend::Process
    }

    fn storage(&self, id: ReplicaId) -> Storage {
        let directory = PathBuf::from(format!("replica-{id}"));
        match self.disks {
            Disks::None => Storage::Volatile,
            Disks::Unsynced => Storage::Process { directory },
            Disks::Synced => Storage::Power { directory },
        }
    }

    fn logs(&mut self) -> Result<Vec<LogOnDisk>, PlatformError> {
        let hall = self.hall.borrow();
        let logs = hall.disks.iter().map(|(&id, disk)| LogOnDisk {
            id,
            place: format!("replica-{id}"),
            state: disk.look().map_err(|error| PlatformError(error.to_string())),
        });
        Ok(logs.collect())
    }

    fn log_ids(&mut self) -> Vec<ReplicaId> {
        self.hall.borrow().disks.keys().copied().collect()
    }

    fn discard_log(&mut self, id: ReplicaId) -> Result<(), PlatformError> {
        self.hall.borrow_mut().disks.remove(&id);
        Ok(())
    }

    fn remembered(&mut self) -> Result<Option<Used>, PlatformError> {
        Ok(self.hall.borrow().used)
    }

    fn remember(&mut self, used: &Used) -> Result<(), PlatformError> {
        if self.disks != Disks::None {
            self.hall.borrow_mut().used = Some(*used);
        }
        Ok(())
    }

    fn observe(&mut self, seen: Observed<'_>) {
        self.hall.borrow_mut().seen.push(match seen {
            Observed::Accepted { domid, first, end } => Seen::Accepted { domid, first, end },
            Observed::Promoted { id, generation, last_input } => {
                Seen::Promoted { id, generation, last_input }
            }
            Observed::Fenced { id, cause } => Seen::Fenced { id, cause },
            Observed::Effect(bytes) => Seen::Effect(bytes.into()),
            Observed::Abandoned(conn) => Seen::Abandoned(conn),
        });
    }
}
