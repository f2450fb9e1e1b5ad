//! Where the time of a request goes on each backend: the executor alone, in this very
//! process, without host, rings and consensus; and what a virtual machine costs before
//! it executes anything.

#[cfg(target_arch = "x86_64")]
mod guest;
#[cfg(target_arch = "x86_64")]
mod load;
mod table;

use hdrhistogram::Histogram;
#[cfg(target_arch = "x86_64")]
use replica::executor::{Guest, Local, Virtual};
use serde::{Deserialize, Serialize};

#[cfg(target_arch = "x86_64")]
use super::row::{histogram, nanos};
#[cfg(target_arch = "x86_64")]
use crate::background::NoSnapshots;
#[cfg(target_arch = "x86_64")]
use load::Load;

/// How many tasks are run at once.
#[cfg(target_arch = "x86_64")]
const TASKS: [usize; 3] = [1, 8, 32];
/// How often each cell is run in a round.
#[cfg(target_arch = "x86_64")]
const RUNS: u32 = 400;
/// Bytes of memory that a guest has: as a replica's by default.
#[cfg(target_arch = "x86_64")]
const GUEST_BYTES: u64 = 512 << 20;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There are no virtual machines on this architecture.
    #[error("virtual machines need x86-64")]
    WrongArchitecture,
    /// An executor failed.
    #[error(transparent)]
    Executor(#[from] replica::error::Fatal),
    /// KVM failed.
    #[cfg(target_arch = "x86_64")]
    #[error(transparent)]
    Kvm(#[from] hypervisor::kvm::KvmError),
    /// The image is none.
    #[cfg(target_arch = "x86_64")]
    #[error(transparent)]
    Image(#[from] hypervisor::kvm::ImageError),
    /// A guest came back otherwise than it should; in words.
    #[error("guest: {0}")]
    Guest(String),
    /// The state machine did not answer a request, or with an error.
    #[error("{0} was not answered as it should be")]
    Answer(Operation),
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A query.
    Read,
    /// A command, which is applied.
    Write,
}

/// Of some times, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Half took at most so long.
    pub median_us: f64,
    /// 99 of 100 took at most so long.
    pub p99_us: f64,
}

/// A virtual machine that is made for the first time, again and again: what comes
/// before the first request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boots {
    /// How many were booted.
    pub count: u32,
    /// Until it was made, and the image loaded.
    pub made: Times,
    /// From then until the guest yielded: it is ready.
    pub ready: Times,
    /// Both together.
    pub whole: Times,
}

/// How long running some tasks at once took; measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// All of them.
    pub run: Times,
    /// Each of them: the run's, divided by their number.
    pub task: Times,
}

/// Tasks of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// What each does.
    pub operation: Operation,
    /// How many were run at once.
    pub tasks: usize,
    /// With the state machine in the process.
    pub process: Cell,
    /// With the state machine in a virtual machine.
    pub kvm: Cell,
    /// Derived: the median of a run in a virtual machine without that of an entry,
    /// microseconds. It is spent inside the guest, and on writing the request and
    /// reading the answers on either side.
    pub kvm_rest_us: f64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Nodes in the stores.
    pub nodes: u32,
    /// Booting a machine.
    pub boots: Boots,
    /// An entry; measured: an empty request, whose answer is empty. Into the guest,
    /// back by its yielding, and nothing else.
    pub entry: Times,
    /// A request for the state's numbers and digest alone; measured. Every run ends
    /// with one.
    pub state: Times,
    /// The tasks.
    pub rows: Vec<Tasks>,
}

/// Measures the executors of `image` and of this process, with so many nodes in their
/// stores, in so many rounds.
///
/// # Errors
/// The first failure; among them that there is no KVM.
#[cfg(target_arch = "x86_64")]
pub fn profile(image: &[u8], nodes: u32, rounds: u32) -> Result<Profile, ProfileError> {
    let (boots, mut machine) = guest::boot(image)?;
    let mut process = Load::new(Local::new(Box::new(NoSnapshots)), nodes)?;
    let guest = Guest::boot(image, GUEST_BYTES)?;
    let mut kvm = Load::new(Virtual::new(guest, Box::new(NoSnapshots))?, nodes)?;
    let (mut entry, mut state) = (histogram(), histogram());
    let operations = [Operation::Read, Operation::Write];
    let kinds = operations.into_iter().flat_map(|kind| TASKS.map(|tasks| (kind, tasks)));
    let mut cells: Vec<_> = kinds.map(|kind| (kind, histogram(), histogram())).collect();
    // What else the machine does hits all of them alike.
    for _ in 0..rounds {
        for _ in 0..RUNS {
            entry.saturating_record(nanos(machine.enter()?));
            state.saturating_record(nanos(machine.ask_for_state()?));
        }
        for ((operation, tasks), in_process, in_machine) in &mut cells {
            for _ in 0..RUNS {
                in_process.saturating_record(nanos(process.run(*operation, *tasks)?));
            }
            for _ in 0..RUNS {
                in_machine.saturating_record(nanos(kvm.run(*operation, *tasks)?));
            }
        }
    }
    let entry = Times::of(&entry);
    let rows = cells.iter().map(|((operation, tasks), in_process, in_machine)| {
        let (process, kvm) = (Cell::of(in_process, *tasks), Cell::of(in_machine, *tasks));
        let kvm_rest_us = (kvm.run.median_us - entry.median_us).max(0.0);
        Tasks { operation: *operation, tasks: *tasks, process, kvm, kvm_rest_us }
    });
    Ok(Profile { nodes, boots, entry, state: Times::of(&state), rows: rows.collect() })
}

/// There are no virtual machines here.
///
/// # Errors
/// Always.
#[cfg(not(target_arch = "x86_64"))]
pub fn profile(_: &[u8], _: u32, _: u32) -> Result<Profile, ProfileError> {
    Err(ProfileError::WrongArchitecture)
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
impl Times {
    fn of(times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Self { median_us: at(0.5), p99_us: at(0.99) }
    }

    fn divided(self, by: usize) -> Self {
        let by = by as f64;
        Self { median_us: self.median_us / by, p99_us: self.p99_us / by }
    }
}

impl Cell {
    fn of(times: &Histogram<u64>, tasks: usize) -> Self {
        let run = Times::of(times);
        Self { run, task: run.divided(tasks) }
    }
}
