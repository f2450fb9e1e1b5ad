//! A replica of the simulated host: the production runtime on real rings, with
//! a process around it that the world starts, holds up and ends.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use consensus::{LogStore, MemoryStore};
use hypervisor::ReplicaId;
use hypervisor::fabric::ReplicaFabric;
use replica::background::{Background, Job};
use replica::error::Fatal;
use replica::executor::Local;
use replica::runtime::Runtime;
use replica::snapshot::Encoded;
use replica::spec::{ReplicaSpec, Storage};
use xenstore::Xenstore;

use super::disk::{Alive, SimDisk};
use super::machine::{Clock, Process};

/// As in a virtual machine.
const TASKS_AT_ONCE: usize = 32;

/// Encodes a snapshot at once, and hands it out some time later.
struct SlowEncoder {
    clock: Clock,
    takes_us: u64,
    ready: Option<(u64, Encoded)>,
}

impl Background for SlowEncoder {
    fn give(&mut self, job: Job) -> bool {
        if self.ready.is_some() {
            return false;
        }
        let at = self.clock.now_us() + self.takes_us;
        self.ready = Some((at, job()));
        true
    }

    fn take(&mut self) -> Option<Encoded> {
        let due = self.ready.as_ref().is_some_and(|(at, _)| *at <= self.clock.now_us());
        due.then(|| self.ready.take().map(|(_, encoded)| encoded)).flatten()
    }
}

/// See the module.
pub(super) struct Body {
    pub(super) id: ReplicaId,
    pub(super) spec: ReplicaSpec,
    memory: Option<Vec<OwnedFd>>,
    pub(super) process: Rc<Process>,
    pub(super) alive: Alive,
    pub(super) runtime: Option<Runtime<Local<Xenstore>>>,
    /// When the host gets its hand on the process.
    pub(super) launched_us: u64,
    /// It has told the others that it sleeps.
    pub(super) asleep: bool,
    /// When it acts next; [`u64::MAX`] when nothing is planned.
    pub(super) next_us: u64,
    /// Its end is on its way.
    pub(super) dying: bool,
    /// How many times slower than usual it is.
    pub(super) slower: u64,
    /// Faults that were injected, are not over, and that it may not survive.
    pub(super) dooms: u32,
    /// A fault was injected that may make it look broken, now or before.
    pub(super) touched: bool,
    /// The host that has ordered it did not live to get it.
    pub(super) is_stranger: bool,
}

impl Body {
    pub(super) fn new(spec: ReplicaSpec, memory: Vec<OwnedFd>, clock: &Clock) -> Self {
        Self {
            id: spec.replica_id(),
            spec,
            memory: Some(memory),
            process: Rc::new(Process::new(clock)),
            alive: Alive::default(),
            runtime: None,
            launched_us: u64::MAX,
            asleep: false,
            next_us: u64::MAX,
            dying: false,
            slower: 1,
            dooms: 0,
            touched: false,
            is_stranger: false,
        }
    }

    /// Does what the first instructions of its process do.
    pub(super) fn boot(
        &mut self,
        disk: Option<&SimDisk>,
        encoding_us: u64,
        clock: &Clock,
    ) -> Result<(), Fatal> {
        let memory = self.memory.take().unwrap_or_default();
        let ring = |error: &dyn std::fmt::Display| Fatal::Ring(error.to_string());
        let slot = self.spec.slot_id().ok_or_else(|| ring(&"no slot"))?;
        let fuse = Some(self.alive.fuse().clone());
        let fabric = ReplicaFabric::attach_fused(memory, slot, self.id, fuse)
            .map_err(|error| ring(&error))?;
        let page = fabric.page().clone();
        let store: Box<dyn LogStore> = match (&self.spec.storage, disk) {
            (Storage::Volatile, _) | (_, None) => Box::new(MemoryStore),
            (_, Some(disk)) => Box::new(disk.handle(&self.alive)),
        };
        let encoder = SlowEncoder { clock: clock.clone(), takes_us: encoding_us, ready: None };
        // By turns as replicas in processes and in virtual machines do.
        let at_once = if slot.get().is_multiple_of(2) { 1 } else { TASKS_AT_ONCE };
        let executor = Local::new(Box::new(encoder)).taking(at_once);
        match Runtime::new(&self.spec, fabric, store, executor, clock.read()) {
            Ok(runtime) => self.runtime = Some(runtime),
            Err(fatal) => {
                page.mark_crashed(fatal.to_string().as_bytes());
                return Err(fatal);
            }
        }
        Ok(())
    }

    /// Whether it runs, or would if it were let.
    pub(super) fn lives(&self) -> bool {
        !self.dying && !self.process.killed.get() && self.alive.get()
    }

    /// Whether it was broken, and does not count as one that carries on.
    pub(super) fn is_doomed(&self) -> bool {
        self.dooms > 0
    }

    /// Wakes up if it slept.
    pub(super) fn wake_up(&mut self) {
        if std::mem::take(&mut self.asleep)
            && let Some(runtime) = &self.runtime
        {
            runtime.wake_up();
        }
    }
}
