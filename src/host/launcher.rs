//! Starts replicas in a thread of its own: a `fork` takes a millisecond in which
//! clients should not wait.

use crossbeam_channel::{Receiver, Sender, bounded};
use hypervisor::ReplicaId;
use hypervisor::domain::{DomainError, ProcessDomain, SpawnSpec};

use super::waker::Waker;

/// More replicas than slots are never on their way.
const QUEUE: usize = 16;

/// A replica that was started, or not.
pub(crate) struct Launched {
    /// Which.
    pub(crate) id: ReplicaId,
    /// Its process.
    pub(crate) domain: Result<ProcessDomain, DomainError>,
}

/// See the module.
pub(crate) struct Launcher {
    orders: Sender<(ReplicaId, SpawnSpec)>,
    launched: Receiver<Launched>,
}

impl Launcher {
    /// Starts the thread; it ends with the launcher.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn start(waker: Waker) -> std::io::Result<Self> {
        let (orders, todo) = bounded::<(ReplicaId, SpawnSpec)>(QUEUE);
        let (done, launched) = bounded(QUEUE);
        std::thread::Builder::new().name("launcher".into()).spawn(move || {
            for (id, spec) in todo {
                let domain = ProcessDomain::spawn(spec);
                if done.send(Launched { id, domain }).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(Self { orders, launched })
    }

    /// Orders a replica; it comes out of [`Self::take`].
    pub(crate) fn order(&self, id: ReplicaId, spec: SpawnSpec) -> bool {
        self.orders.try_send((id, spec)).is_ok()
    }

    /// The next replica that was started.
    pub(crate) fn take(&self) -> Option<Launched> {
        self.launched.try_recv().ok()
    }
}
