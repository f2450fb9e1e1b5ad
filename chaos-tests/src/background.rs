//! State machines of which nobody wants a snapshot.

use replica::background::{Background, Job};
use replica::snapshot::Encoded;

/// Makes no snapshots.
#[derive(Clone, Copy, Debug)]
pub struct NoSnapshots;

impl Background for NoSnapshots {
    fn give(&mut self, _: Job) -> bool {
        false
    }

    fn take(&mut self) -> Option<Encoded> {
        None
    }
}
