//! Wakes the host's loop from other threads.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A handle on the loop's doorbell.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker for the loop that sleeps on the eventfd `doorbell`.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub(crate) fn new(doorbell: BorrowedFd<'_>) -> std::io::Result<Self> {
        Ok(Self(Arc::new(doorbell.try_clone_to_owned()?)))
    }

    /// Has the loop look around, now or when it next would sleep.
    pub(crate) fn wake(&self) {
        // It fails only when the counter is full: then the loop is awake anyway.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}
