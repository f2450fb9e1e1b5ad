//! A replica as a process: from the first instruction to the end.

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use consensus::{LogStore, MemoryStore};
use hypervisor::fabric::ReplicaFabric;
use hypervisor::sandbox::{self, Access, FileAccess};
use hypervisor::waiting::{Nap, Spinner, Turn, set_time_slice};
use hypervisor::{death, domain};
use state_machine::StateMachine;

use crate::background::Worker;
use crate::error::Fatal;
use crate::executor::{Execute, Local, Lockstep};
use crate::runtime::Runtime;
use crate::spec::{Backend, ReplicaSpec, Storage};

/// Shorter than the host's: a replica that is woken runs at once, and the host
/// goes on when it sleeps again.
const TIME_SLICE: Duration = Duration::from_micros(100);

/// How soon to look again for what nobody rings for.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Runs a replica of `M` on the descriptors that the host left to this process.
/// `image` is what its virtual machine boots, if it is to have one: a program that
/// executes an `M`. Comes back only when it must stop; why is also in its page, for
/// the host.
#[must_use]
pub fn start<M: StateMachine + 'static>(spec: &ReplicaSpec, image: &[u8]) -> Fatal {
    let fabric = match attach(spec) {
        Ok(fabric) => fabric,
        Err(fatal) => return fatal,
    };
    let page = fabric.page().clone();
    let Err(fatal) = run::<M>(spec, image, fabric);
    page.mark_crashed(fatal.to_string().as_bytes());
    fatal
}

fn attach(spec: &ReplicaSpec) -> Result<ReplicaFabric, Fatal> {
    let slot = spec.slot_id().ok_or_else(|| Fatal::Ring(format!("no slot {}", spec.slot)))?;
    let descriptors =
        domain::inherited_descriptors().map_err(|error| Fatal::Ring(error.to_string()))?;
    ReplicaFabric::attach(descriptors, slot, spec.replica_id())
        .map_err(|error| Fatal::Ring(error.to_string()))
}

fn run<M: StateMachine + 'static>(
    spec: &ReplicaSpec,
    image: &[u8],
    fabric: ReplicaFabric,
) -> Result<std::convert::Infallible, Fatal> {
    let os = |what| move |source| Fatal::Os { what, source };
    death::mark_crashes(fabric.page()).map_err(os("marking crashes"))?;
    death::arm(fabric.page()).map_err(os("arming the death notice"))?;
    let files = match &spec.storage {
        Storage::Volatile => FileAccess::Nothing,
        Storage::Process { directory } | Storage::Power { directory } => {
            std::fs::create_dir_all(directory).map_err(os("making the replica's directory"))?;
            FileAccess::Directory(directory.clone())
        }
    };
    // A kernel that knows no such thing schedules as it does.
    let _ = set_time_slice(TIME_SLICE);
    let nap = Nap::new(fabric.doorbell_fd(), spec.beat()).map_err(os("making a timer"))?;
    // Before the first thread is started: it must not escape.
    let lock_in = |runs_guest| sandbox::enter(&Access { files, runs_guest });
    match spec.backend {
        Backend::Process => {
            lock_in(false)?;
            drive_with(spec, fabric, local::<M>()?, &nap)
        }
        #[cfg(target_arch = "x86_64")]
        Backend::Kvm { memory_bytes } => {
            use crate::executor::{Guest, Virtual};
            let guest = Guest::boot(image, memory_bytes)?;
            lock_in(true)?;
            let executor = Virtual::<M>::new(guest, Box::new(Worker::start()?))?;
            drive_with(spec, fabric, executor, &nap)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Backend::Kvm { .. } => {
            let _ = image;
            Err(Fatal::Guest("there are images for x86-64 only".into()))
        }
    }
}

fn local<M: StateMachine + 'static>() -> Result<Local<M>, Fatal> {
    Ok(Local::new(Box::new(Worker::start()?)))
}

/// Drives the replica with `executor`, alone or beside another one in this process.
fn drive_with<X: Execute<Machine: 'static>>(
    spec: &ReplicaSpec,
    fabric: ReplicaFabric,
    executor: X,
    nap: &Nap,
) -> Result<std::convert::Infallible, Fatal> {
    if spec.lockstep {
        drive(spec, fabric, Lockstep::new(executor, local::<X::Machine>()?), nap)
    } else {
        drive(spec, fabric, executor, nap)
    }
}

/// Steps and sleeps until something fatal happens.
fn drive(
    spec: &ReplicaSpec,
    fabric: ReplicaFabric,
    executor: impl Execute,
    nap: &Nap,
) -> Result<std::convert::Infallible, Fatal> {
    let store = open_store(&spec.storage)?;
    let runtime = Runtime::new(spec, fabric, store, executor, Instant::now())?;
    // What is fatal ends the process. To take a large state apart before would
    // only keep those waiting who wait for its end.
    let mut runtime = ManuallyDrop::new(runtime);
    let mut spinner = Spinner::new();
    let mut period = spec.beat();
    loop {
        let step = runtime.step(Instant::now())?;
        if !runtime.slowness().is_zero() {
            std::thread::sleep(runtime.slowness());
        }
        if runtime.period() != period {
            period = runtime.period();
            let set = nap.set_period(period);
            set.map_err(|source| Fatal::Os { what: "setting the timer", source })?;
        }
        if step.moved {
            spinner.reset();
        }
        let spin_us = if step.waits_for_peers { spec.spin_unreleased_us } else { spec.spin_us };
        if step.go_on || spinner.turn(spin_us) == Turn::Again {
            continue;
        }
        if runtime.must_look_again() {
            runtime.sleep(LOOK_AGAIN);
        } else {
            runtime.sleep(nap);
        }
    }
}

fn open_store(storage: &Storage) -> Result<Box<dyn LogStore>, Fatal> {
    let (directory, sync) = match storage {
        Storage::Volatile => return Ok(Box::new(MemoryStore)),
        Storage::Process { directory } => (directory, false),
        Storage::Power { directory } => (directory, true),
    };
    Ok(consensus::open_durable(directory, sync)?)
}
