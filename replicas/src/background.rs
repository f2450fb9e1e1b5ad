//! What takes long is done beside the replica, so that clients do not wait for it.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::Fatal;
use crate::snapshot::Encoded;

/// Makes a snapshot.
pub type Job = Box<dyn FnOnce() -> Encoded + Send>;

/// Does one job at a time, while its owner goes on.
pub trait Background {
    /// Gives a job; whether it was taken.
    fn give(&mut self, job: Job) -> bool;

    /// What the job has made, when it is done.
    fn take(&mut self) -> Option<Encoded>;
}

/// Does its jobs in a thread of its own; the thread's two ends.
pub(crate) struct Worker {
    jobs: Sender<Job>,
    done: Receiver<Encoded>,
}

impl Worker {
    /// Starts the thread; to be called after the sandbox has closed, which it must
    /// not escape.
    pub(crate) fn start() -> Result<Self, Fatal> {
        let (jobs, to_do) = bounded::<Job>(1);
        let (sender, done) = bounded(1);
        std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || {
                for job in to_do {
                    if sender.send(job()).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| Fatal::Os { what: "starting the snapshot thread", source })?;
        Ok(Self { jobs, done })
    }
}

impl Background for Worker {
    fn give(&mut self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    fn take(&mut self) -> Option<Encoded> {
        self.done.try_recv().ok()
    }
}
