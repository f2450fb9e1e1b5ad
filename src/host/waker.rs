//! Wakes the host's loop from other threads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// A handle on the loop's doorbell.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker for a loop that sleeps on [`Self::fd`].
    ///
    /// # Errors
    /// When descriptors have run out.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Becomes readable, once (edge-triggered), when the loop has to wake up.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Has the loop look around, now or when it next would sleep.
    pub(crate) fn wake(&self) {
        // It fails only when the counter is full: then the loop is awake anyway.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}
