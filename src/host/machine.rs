//! The machine that replicas run on: processes of this program, locked up in
//! their sandbox, and their disks.

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use coordinator::{DeathWatch, Domain, LogOnDisk, Platform, PlatformError, Token, Used};
use hypervisor::domain::{Bond, CpuTimes, Limits, ProcessDomain, Program, SpawnSpec, Tether};
use hypervisor::fabric::ReplicaPageView;
use hypervisor::waiting::pin_process;
use hypervisor::xen::{Xen, XenHost};
use hypervisor::{ReplicaId, SlotId};
use replica::spec::{Backend, ReplicaSpec, Storage};
use rustix::event::epoll;

use super::launcher::Launcher;
use super::settings::Settings;
use super::waker::Waker;

/// Beside the replicas' disks: what must not be used again.
const USED_FILE: &str = "group.json";

/// As much as a thread of ours gets. The database's threads would take eight MiB each
/// of the memory that a replica may have.
const STACK_BYTES: u64 = 2 << 20;

/// See the module.
pub(super) struct Machine {
    settings: Arc<Settings>,
    epoll: Arc<OwnedFd>,
    waker: Waker,
    /// Replicas live as long as the holder.
    tether: Arc<Tether>,
    launcher: Launcher,
}

/// A replica's process.
pub(super) struct Process(ProcessDomain);

/// The thread that waits for a replica's robust futex.
pub(super) struct FutexWatch {
    dead: Arc<AtomicBool>,
    _watch: hypervisor::death::DeathWatch,
}

impl Process {
    /// The process itself.
    pub(super) fn process(&self) -> &ProcessDomain {
        &self.0
    }

    /// Waits for the end of one that was killed. One that the kernel does not let
    /// go of is left to it.
    pub(super) fn wait_until_gone(&mut self, deadline: Instant) {
        let _ = self.0.wait(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Domain for Process {
    fn kill(&self) -> Result<(), PlatformError> {
        self.0.kill().map_err(|error| PlatformError(error.to_string()))
    }

    fn is_gone(&mut self) -> Result<bool, PlatformError> {
        let exit = self.0.try_wait().map_err(|error| PlatformError(error.to_string()))?;
        Ok(exit.is_some())
    }

    fn cpu_times(&self) -> Option<CpuTimes> {
        self.0.cpu_times().ok()
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.pidfd()]
    }

    fn state(&self) -> Option<char> {
        self.0.state().ok()
    }

    fn runs_this_program(&self) -> bool {
        self.0.runs_this_program().unwrap_or(true)
    }
}

impl DeathWatch for FutexWatch {
    fn says_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

impl Machine {
    /// The machine. Replicas' ends are told through `epoll`, all else by `waker`.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(super) fn new(
        settings: Arc<Settings>,
        epoll: Arc<OwnedFd>,
        waker: Waker,
        tether: Arc<Tether>,
    ) -> io::Result<Self> {
        let launcher = Launcher::start(waker.clone())?;
        Ok(Self { launcher, settings, epoll, waker, tether })
    }

    fn attend(&self, id: ReplicaId, domain: &ProcessDomain) -> Result<(), PlatformError> {
        let data = Token::Replica(id).to_data();
        epoll::add(&*self.epoll, domain.pidfd(), data, epoll::EventFlags::IN)
            .map_err(|errno| PlatformError::new("epoll", errno))
    }
}

impl Platform for Machine {
    type Domain = Process;
    type DeathWatch = FutexWatch;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn start(&mut self, spec: &ReplicaSpec, memory: Vec<OwnedFd>) -> Result<(), PlatformError> {
        let text = serde_json::to_string(spec).map_err(|error| PlatformError(error.to_string()))?;
        let id = spec.replica_id();
        let order = SpawnSpec {
            // The same version as this process, whatever is at its path by now.
            program: Program::own(),
            name: OsString::from(format!("rvmm: xenstore replica {id}")),
            args: vec!["replica".into(), text.into()],
            // Nothing but what they log.
            env: vec![("RUST_BACKTRACE".into(), "0".into())],
            descriptors: memory,
            error_output: Default::default(),
            limits: Limits {
                data_bytes: self.settings.memory_bytes(),
                stack_bytes: Some(STACK_BYTES),
                ..Limits::default()
            },
            bond: Bond::Lifeline(Arc::clone(&self.tether)),
        };
        if self.launcher.order(id, order) {
            return Ok(());
        }
        Err(PlatformError("too many replicas are being started".into()))
    }

    fn started(&mut self) -> Option<(ReplicaId, Result<Process, PlatformError>)> {
        let launched = self.launcher.take()?;
        let domain = launched.domain.map_err(|error| PlatformError(error.to_string()));
        let attended = domain.and_then(|domain| {
            self.attend(launched.id, &domain)?;
            Ok(Process(domain))
        });
        Some((launched.id, attended))
    }

    fn adopt(
        &mut self,
        id: ReplicaId,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Process, PlatformError> {
        let pidfd = <[OwnedFd; 1]>::try_from(descriptors).map_err(|descriptors| {
            PlatformError::new(
                format_args!("replica {id}"),
                format_args!("{} descriptors instead of its process", descriptors.len()),
            )
        })?;
        let [pidfd] = pidfd;
        let domain = ProcessDomain::adopt(pidfd)
            .map_err(|error| PlatformError::new(format_args!("replica {id}"), error))?;
        self.attend(id, &domain)?;
        Ok(Process(domain))
    }

    fn watch(&mut self, page: &ReplicaPageView) -> Result<FutexWatch, PlatformError> {
        let dead = Arc::new(AtomicBool::new(false));
        let watch = hypervisor::death::DeathWatch::start(page, {
            let dead = Arc::clone(&dead);
            let waker = self.waker.clone();
            move || {
                dead.store(true, Ordering::SeqCst);
                waker.wake();
            }
        })?;
        Ok(FutexWatch { dead, _watch: watch })
    }

    fn bind(&self, domain: &Process) -> Result<(), PlatformError> {
        let Some(core) = self.settings.core() else { return Ok(()) };
        pin_process(domain.0.pid(), &[core])
            .map_err(|error| PlatformError::new(format_args!("core {}", core.0), error))
    }

    fn storage(&self, id: ReplicaId) -> Storage {
        self.settings.storage(id)
    }

    fn backend(&self, slot: SlotId) -> Backend {
        self.settings.backends.of(slot)
    }

    fn logs(&mut self) -> Result<Vec<LogOnDisk>, PlatformError> {
        let Some(disks) = self.settings.disks() else { return Ok(Vec::new()) };
        std::fs::create_dir_all(&disks).map_err(at(&disks))?;
        let logs = replica_disks(&disks).map_err(at(&disks))?;
        let log = |(id, path): (ReplicaId, PathBuf)| {
            let state = consensus::open_durable(&path, false).and_then(|mut store| store.load());
            let state = state.map_err(|error| PlatformError(error.to_string()));
            LogOnDisk { id, place: path.display().to_string(), state }
        };
        Ok(logs.into_iter().map(log).collect())
    }

    fn log_ids(&mut self) -> Vec<ReplicaId> {
        let disks = self.settings.disks().and_then(|disks| replica_disks(&disks).ok());
        disks.unwrap_or_default().into_iter().map(|(id, _)| id).collect()
    }

    fn discard_log(&mut self, id: ReplicaId) -> Result<(), PlatformError> {
        let Some(disk) = self.settings.disk(id) else { return Ok(()) };
        match std::fs::remove_dir_all(&disk) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&disk)(error)),
            _ => Ok(()),
        }
    }

    fn remembered(&mut self) -> Result<Option<Used>, PlatformError> {
        let Some(path) = self.settings.disks().map(|disks| disks.join(USED_FILE)) else {
            return Ok(None);
        };
        match std::fs::read(&path) {
            Ok(bytes) => {
                let used = serde_json::from_slice(&bytes);
                used.map(Some).map_err(|error| PlatformError::new(path.display(), error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path)(error)),
        }
    }

    fn xen(&mut self) -> Result<Option<Box<dyn XenHost>>, PlatformError> {
        if !self.settings.config.xenstore.rings {
            return Ok(None);
        }
        let xen = Xen::open().map_err(|error| PlatformError(error.to_string()))?;
        Ok(Some(Box::new(xen)))
    }

    fn remember(&mut self, used: &Used) -> Result<(), PlatformError> {
        let Some(disks) = self.settings.disks() else { return Ok(()) };
        write_used(&disks, used).map_err(at(&disks))
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> PlatformError {
    move |error| PlatformError::new(path.display(), error)
}

fn replica_disks(disks: &Path) -> io::Result<Vec<(ReplicaId, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(disks)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix("replica-"));
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            found.push((ReplicaId(id), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a new file and then gives it the name, so that a crash leaves the old
/// one or the new one.
fn write_used(disks: &Path, used: &Used) -> io::Result<()> {
    let new = disks.join("group.json.new");
    let file = std::fs::File::create(&new)?;
    serde_json::to_writer(&file, used)?;
    file.sync_all()?;
    std::fs::rename(&new, disks.join(USED_FILE))?;
    std::fs::File::open(disks)?.sync_all()
}
