//! The switch of a build that has bugs.

use core::cell::Cell;

use crate::Bug;

std::thread_local! {
    static BITING: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches `bug` on and every other off, in this thread. Does nothing unless the
/// build is [`crate::ARMED`].
pub fn set(bug: Option<Bug>) {
    BITING.set(bug);
}

/// Whether `bug` is switched on in this thread.
#[inline(always)]
#[must_use]
pub fn bites(bug: Bug) -> bool {
    BITING.get() == Some(bug)
}

/// Does `work` without any bug.
pub fn spared<T>(work: impl FnOnce() -> T) -> T {
    /// Switches it on again, however the work ends.
    struct Again(Option<Bug>);

    impl Drop for Again {
        fn drop(&mut self) {
            set(self.0);
        }
    }

    let _again = Again(BITING.take());
    work()
}
