//! Snapshots, taken and installed, and the log that they shorten.

use consensus::LogIndex;

use super::{Link, Replica};
use crate::error::Fatal;
use crate::executor::Execute;
use crate::outbox::{Outbox, Watermarks};
use crate::protocol::FromReplica;
use crate::snapshot::{self, Head, Purpose};

impl<X: Execute> Replica<X> {
    pub(super) fn install(&mut self, index: LogIndex, bytes: &[u8]) -> Result<(), Fatal> {
        let snapshot = snapshot::split(bytes)?;
        self.executor.restore(snapshot.numbered, snapshot.digest)?;
        self.outbox = Outbox::from_kept(snapshot.undelivered);
        // What is behind the state is in the snapshot.
        self.behind.clear();
        self.applied = index;
        self.peer.applied(index);
        Ok(())
    }

    /// Begins the snapshot that is wanted, if one is; goes on with the one that was
    /// begun. That takes long, and much of it happens elsewhere.
    ///
    /// # Errors
    /// [`Fatal::Corruption`] when a snapshot shows that the state was damaged.
    pub fn snapshots(&mut self, watermarks: Watermarks) -> Result<(), Fatal> {
        if !self.encoding {
            self.freeze(watermarks)?;
        }
        if self.encoding
            && let Some(encoded) = self.executor.encoded()?
        {
            self.encoding = false;
            self.early_snapshot = Some((encoded.purpose, encoded.index, encoded.bytes?));
        }
        Ok(())
    }

    /// Whether a snapshot is being made.
    #[must_use]
    pub fn is_encoding(&self) -> bool {
        self.encoding
    }

    fn freeze(&mut self, watermarks: Watermarks) -> Result<(), Fatal> {
        if !self.batch.is_empty() || self.early_snapshot.is_some() {
            return Ok(());
        }
        let Some(purpose) = self.freeze_wanted else { return Ok(()) };
        let undelivered = self.outbox.undelivered(watermarks);
        let head = Head { purpose, index: self.applied, undelivered };
        self.encoding = self.executor.freeze(&head)?;
        if self.encoding {
            self.freeze_wanted = None;
            self.snapshot_under_way |= purpose == Purpose::Log;
        }
        Ok(())
    }

    /// The primary's state runs ahead of the log: a snapshot of it counts only
    /// once the log has caught up.
    pub(super) fn take_up_snapshot(&mut self, link: &mut dyn Link) {
        let commit = self.peer.released();
        let ready = self.early_snapshot.take_if(|(_, index, _)| *index <= commit);
        let Some((purpose, index, bytes)) = ready else { return };
        match purpose {
            Purpose::Export { ticket } => {
                self.say(&FromReplica::Exported { ticket, snapshot: bytes }, link);
            }
            Purpose::Log => {
                self.snapshot_under_way = false;
                if let Err(error) = self.peer.offer_snapshot(index, bytes) {
                    // Too old by now; consensus asks again if it needs one.
                    tracing::debug!(%error, "a snapshot was of no use");
                }
            }
        }
    }

    /// Drops log entries that nobody needs, when the log is longer than `max`,
    /// but for a tail of `keep`.
    pub fn compact(&mut self, max: u64, keep: u64) {
        if self.peer.log_len() > max {
            let through = self.applied.min(self.peer.released()).0.saturating_sub(keep);
            self.peer.compact(LogIndex(through));
        }
    }
}
