//! Noticing at once that a replica died, and why.
//!
//! The kernel tells pidfd and hang-ups of a death only after it has torn down the
//! process's memory: 29 to 93 ms later with 500 MB. A robust futex word is
//! released before that, 0.1 to 0.2 ms after `kill -9`. So the replica arms one
//! in its page ([`arm`]) and the host watches it ([`DeathWatch`]). pidfd stays
//! the backup, and the proof that the process is gone.
//!
//! What a replica can still say when it crashes it leaves in its page, see
//! [`mark_crashes`].

mod crash;
mod watch;

pub use crash::mark_crashes;
pub use watch::{DeathWatch, arm};
