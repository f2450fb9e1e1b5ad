//! What a coordinator needs of the machine it runs on.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use consensus::LogState;
use hypervisor::decision::Cause;
use hypervisor::domain::CpuTimes;
use hypervisor::fabric::ReplicaPageView;
use hypervisor::memory::Fuse;
use hypervisor::xen::XenHost;
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::spec::{Backend, ReplicaSpec, Storage};
use serde::{Deserialize, Serialize};
use state_machine::{ConnId, DomId, InputNo};

/// Something that the machine refused; says what and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlatformError(pub String);

impl PlatformError {
    /// The error with what was to be done before it.
    pub fn new(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

impl From<io::Error> for PlatformError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// What a replica runs in. When it is dropped, it is killed.
pub trait Domain {
    /// Stops it for certain: it runs no more code of its own afterwards.
    ///
    /// # Errors
    /// When the machine refuses.
    fn kill(&self) -> Result<(), PlatformError>;

    /// Whether it has ended, and its memory is gone.
    ///
    /// # Errors
    /// When the machine refuses.
    fn is_gone(&mut self) -> Result<bool, PlatformError>;

    /// How long it has run, and waited to run; `None` when it has ended.
    fn cpu_times(&self) -> Option<CpuTimes>;

    /// Its state letter as in proc_pid_stat(5); `None` when it has ended.
    fn state(&self) -> Option<char>;

    /// Whether it runs the program that this process runs; also when that cannot be told.
    fn runs_this_program(&self) -> bool;

    /// What [`Platform::adopt`] needs to take charge of it once this process has ended.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
}

/// Notices the end of a replica at once.
pub trait DeathWatch {
    /// Whether the machine has said that it died.
    fn says_dead(&self) -> bool;
}

/// What must never be used again, as of the last time that a primary began to
/// serve; what came after that is in the log of whoever is recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// The last generation.
    pub generation: u64,
    /// The last certificate of a death.
    pub certificate: u32,
    /// The first replica id that was never given.
    pub next_id: u64,
}

/// A replica's log as it was found on disk.
#[derive(Debug)]
pub struct LogOnDisk {
    /// Whose.
    pub id: ReplicaId,
    /// Where, for people.
    pub place: String,
    /// What is in it; `None` when it was never begun.
    pub state: Result<Option<LogState>, PlatformError>,
}

/// What an observer may want to know of a coordinator at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed<'a> {
    /// Connections were accepted, in the order in which they came.
    Accepted {
        /// The domain that they speak for.
        domid: DomId,
        /// The first one's number.
        first: ConnId,
        /// The number after the last one's.
        end: ConnId,
    },
    /// A primary began to serve.
    Promoted {
        /// Which.
        id: ReplicaId,
        /// Its generation.
        generation: Generation,
        /// The last input in the log that it has finished.
        last_input: InputNo,
    },
    /// A replica was given up, for ever.
    Fenced {
        /// Which.
        id: ReplicaId,
        /// Why.
        cause: Cause,
    },
    /// An effect was carried out.
    Effect(&'a [u8]),
    /// A connection of the host before is not gone on with: what its client was sent
    /// is not known.
    Abandoned(ConnId),
}

/// The machine.
pub trait Platform {
    /// What replicas run in.
    type Domain: Domain;
    /// How their deaths are noticed.
    type DeathWatch: DeathWatch;

    /// The time now.
    fn now(&self) -> Instant;

    /// Orders a replica; it comes out of [`Self::started`].
    ///
    /// # Errors
    /// When it cannot even be ordered.
    fn start(&mut self, spec: &ReplicaSpec, memory: Vec<OwnedFd>) -> Result<(), PlatformError>;

    /// The next replica that was started, or failed to.
    fn started(&mut self) -> Option<(ReplicaId, Result<Self::Domain, PlatformError>)>;

    /// Takes charge of a replica that another process has started, by what its
    /// [`Domain::descriptors`] were there.
    ///
    /// # Errors
    /// When it has ended, or the descriptors are not those of a replica.
    fn adopt(
        &mut self,
        id: ReplicaId,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self::Domain, PlatformError>;

    /// Begins to watch for the end of the replica that shows this page.
    ///
    /// # Errors
    /// When the machine refuses.
    fn watch(&mut self, page: &ReplicaPageView) -> Result<Self::DeathWatch, PlatformError>;

    /// Moves a domain to the core that the component's parties share.
    ///
    /// # Errors
    /// When the machine refuses.
    fn bind(&self, domain: &Self::Domain) -> Result<(), PlatformError>;

    /// Where a replica's log is to be.
    fn storage(&self, id: ReplicaId) -> Storage;

    /// Where the state machine of a replica in this slot is to be executed.
    fn backend(&self, slot: SlotId) -> Backend;

    /// All logs on disk, by id.
    ///
    /// # Errors
    /// When the disk cannot be looked at.
    fn logs(&mut self) -> Result<Vec<LogOnDisk>, PlatformError>;

    /// The replicas that have a log on disk, by id.
    fn log_ids(&mut self) -> Vec<ReplicaId>;

    /// Removes a replica's log, if it has one.
    ///
    /// # Errors
    /// When the disk refuses.
    fn discard_log(&mut self, id: ReplicaId) -> Result<(), PlatformError>;

    /// What was remembered last.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn remembered(&mut self) -> Result<Option<Used>, PlatformError>;

    /// Remembers this instead: a crash leaves the old or the new.
    ///
    /// # Errors
    /// When the disk refuses.
    fn remember(&mut self, used: &Used) -> Result<(), PlatformError>;

    /// The Xen below, when the rings of its domains are to be served. Asked for
    /// once, when the component begins to serve.
    ///
    /// # Errors
    /// When they are to be served, and cannot.
    fn xen(&mut self) -> Result<Option<Box<dyn XenHost>>, PlatformError> {
        Ok(None)
    }

    /// Behind what the memory lies that this host writes; for those who end it in the
    /// middle of something.
    fn fuse(&self) -> Option<Arc<Fuse>> {
        None
    }

    /// Is told what happens; for those who watch a coordinator at work.
    fn observe(&mut self, seen: Observed<'_>) {
        let _ = seen;
    }
}
