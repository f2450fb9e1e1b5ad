//! What is done to a running host. Whatever lasts is taken back when the
//! injector returns, also when it is told to stop in the middle.

mod cgroup;
mod classes;
mod clients;
mod cpu;
mod disk;
mod group;
mod guest;
mod limits;
mod maps;
mod memory;
mod process;
mod victim;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use classes::{Aim, CLASSES, Choice, ClassInfo, Needs, Parameter};
pub(super) use classes::{Planned, choice};
pub(super) use guest::HostImage;
use victim::Victim;

use super::daemon::{Daemon, DaemonError};
use super::stop::Stop;
use crate::client::ClientError;
use crate::harness::ComponentStatus;
use crate::report::record::{Component, FaultClass};

/// Why a fault was not injected.
#[derive(Debug, thiserror::Error)]
pub(super) enum FaultError {
    /// The machine, or the rights that we have, do not do.
    #[error("{0}")]
    Unavailable(String),
    /// What was to be hit is not there any more.
    #[error("{0}")]
    Missed(String),
    /// The daemon declined, or cannot be asked.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

impl FaultError {
    /// A system call on another process failed: it is gone, or we may not.
    fn system(what: &str, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        let text = format!("{what}: {error}");
        match error.kind() {
            // The memory of a process that just died takes nothing any more.
            std::io::ErrorKind::NotFound | std::io::ErrorKind::WriteZero => Self::Missed(text),
            _ if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Self::Missed(text)
            }
            _ => Self::Unavailable(text),
        }
    }

    fn client(what: &str, error: &ClientError) -> Self {
        Self::Missed(format!("{what}: {error}"))
    }
}

/// What an injector tells while it works.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// The fault is there.
    Injected {
        /// What it hit.
        component: Component,
        /// Which one.
        target: String,
        /// How.
        parameters: BTreeMap<String, String>,
    },
    /// A replica bears damage that may not be noticed for long.
    Damaged(u64),
    /// It was taken back.
    Healed,
    /// The one bad request was answered with an error.
    AnsweredEio,
}

/// What an injector works with.
pub(super) struct Scene<'a> {
    /// The host.
    pub(super) daemon: &'a Daemon,
    /// Its xenstore socket.
    pub(super) socket: &'a Path,
    /// Its process.
    pub(super) host_pid: u32,
    /// Its state directory, as this process can reach it, if that is a file
    /// system of its own.
    pub(super) disk: Option<&'a Path>,
    /// How xenstore was just before.
    pub(super) status: &'a ComponentStatus,
    /// How long anything may take to come back.
    pub(super) patience: Duration,
    /// What its replicas' virtual machines run.
    pub(super) image: &'a HostImage,
    /// Whether to stop.
    pub(super) stop: &'a Stop,
    /// Who is told.
    pub(super) tell: &'a mut dyn FnMut(Told),
}

const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Scene<'_> {
    /// Injects a fault and takes it back.
    pub(super) fn inject(&mut self, fault: &Planned) -> Result<(), FaultError> {
        match fault.class.class {
            FaultClass::Crash => process::crash(self, fault),
            FaultClass::Hang => process::hang(self, fault),
            FaultClass::Slow => process::slow(self, fault),
            FaultClass::CpuStarvation if fault.way == "quota" => cpu::quota(self, fault),
            FaultClass::CpuStarvation => cpu::spin(self, fault),
            FaultClass::StateBitFlip if fault.way == "state" => memory::corrupt(self, fault),
            FaultClass::StateBitFlip => memory::flip_heap(self, fault),
            FaultClass::RingBitFlip => memory::flip_ring(self, fault),
            FaultClass::HostileRing => memory::garble_ring(self, fault),
            FaultClass::Guest => guest::strike(self, fault),
            FaultClass::Poison => process::poison(self),
            FaultClass::VanishingClient => clients::vanish(self, fault),
            FaultClass::StuckClient => clients::stick(self, fault),
            FaultClass::MemoryPressure => limits::memory(self, fault),
            FaultClass::DescriptorExhaustion => limits::host_descriptors(self, fault),
            FaultClass::DiskFull => disk::fill(self, fault),
            FaultClass::DiskError => limits::disk(self, fault),
            FaultClass::KillAll => process::kill_all(self),
            FaultClass::KillInFailover => group::kill_in_failover(self, fault),
            FaultClass::KillInRebuild => group::kill_in_rebuild(self, fault),
            FaultClass::Scale => group::scale(self, fault),
            FaultClass::PromoteStorm => group::promote_storm(self, fault),
            other => Err(FaultError::Unavailable(format!("{other} is for the simulator"))),
        }
    }

    /// Says that the fault is there.
    fn injected(
        &mut self,
        component: Component,
        target: impl ToString,
        parameters: &[(&str, String)],
    ) {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let parameters = parameters.collect();
        (self.tell)(Told::Injected { component, target: target.to_string(), parameters });
    }

    /// Says that it hit a replica.
    fn hit(&mut self, victim: &Victim, parameters: &[(&str, String)]) {
        self.injected(victim.component(), format!("replica {}", victim.id), parameters);
    }

    /// Says that a replica's memory is not what it was.
    fn damaged(&mut self, victim: &Victim, parameters: &[(&str, String)]) {
        self.hit(victim, parameters);
        (self.tell)(Told::Damaged(victim.id));
    }

    /// Says that it is taken back.
    fn healed(&mut self) {
        (self.tell)(Told::Healed);
    }

    /// One that the fault is aimed at.
    fn victim(&self, fault: &Planned) -> Result<Victim, FaultError> {
        self.victims(fault)?
            .into_iter()
            .next()
            .ok_or_else(|| FaultError::Missed("there is nobody to hit just now".into()))
    }

    /// All that the fault is aimed at; one unless it is aimed at all.
    fn victims(&self, fault: &Planned) -> Result<Vec<Victim>, FaultError> {
        let mut rng = fault.rng.clone();
        let (primary, standbys) = (self.status.primary(), self.status.standbys());
        let in_machines = fault.class.class == FaultClass::Guest;
        let mut candidates: Vec<_> = match fault.aim {
            Some(Aim::Primary) => primary.into_iter().collect(),
            Some(Aim::Standby) => standbys.collect(),
            _ => primary.into_iter().chain(standbys).collect(),
        };
        candidates.retain(|replica| !in_machines || replica.backend == guest::BACKEND);
        if candidates.is_empty() {
            return Err(FaultError::Missed("there is nobody to hit just now".into()));
        }
        if fault.aim != Some(Aim::All) {
            candidates = vec![candidates[rng.below(candidates.len())]];
        }
        candidates.into_iter().map(|replica| Victim::of(self.host_pid, replica)).collect()
    }

    /// Ends a replica that was damaged, if it is still there; whether it was.
    pub(super) fn retire(&self, id: u64) -> bool {
        let damaged = self.status.replicas.iter().find(|replica| replica.id == id);
        let victim = damaged.and_then(|replica| Victim::of(self.host_pid, replica).ok());
        victim.is_some_and(|victim| victim.signal(rustix::process::Signal::KILL).is_ok())
    }

    /// Waits for a state of xenstore.
    fn wait_until(&self, wanted: impl Fn(&ComponentStatus) -> bool) -> Option<ComponentStatus> {
        self.stop.wait_for(self.patience, LOOK_EVERY, || {
            self.daemon.xenstore().ok().filter(|status| wanted(status))
        })
    }
}

/// A temporary file's or directory's name that nobody else uses.
fn own_name(what: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("rvmm-chaos-{what}-{}-{number}", std::process::id()))
}
