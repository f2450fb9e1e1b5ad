//! Snapshots, taken and installed, and the log that they shorten.

use consensus::LogIndex;
use state_machine::StateMachine;

use super::{Link, Replica};
use crate::error::Fatal;
use crate::frozen::{self, Frozen, Purpose};
use crate::outbox::{Outbox, Watermarks};
use crate::protocol::FromReplica;

impl<M: StateMachine> Replica<M> {
    pub(super) fn install(&mut self, index: LogIndex, bytes: &[u8]) -> Result<(), Fatal> {
        let (kept, machine) = frozen::restore(bytes)?;
        self.outbox = Outbox::from_kept(kept);
        self.machine = machine;
        self.applied = index;
        self.peer.applied(index);
        Ok(())
    }

    /// The frozen state that is to be encoded, if a snapshot is wanted. Encoding
    /// takes long and goes elsewhere; see [`Self::on_encoded`].
    pub fn take_frozen(&mut self, watermarks: Watermarks) -> Option<Frozen<M>> {
        if !self.batch.is_empty() || self.early_snapshot.is_some() {
            return None;
        }
        let purpose = self.freeze_wanted.take()?;
        self.snapshot_under_way |= purpose == Purpose::Log;
        Some(Frozen {
            purpose,
            index: self.applied,
            undelivered: self.outbox.undelivered(watermarks),
            numbered: self.machine.freeze(),
            digest: self.machine.digest(),
        })
    }

    /// Takes an encoded snapshot back.
    pub fn on_encoded(&mut self, purpose: Purpose, index: LogIndex, bytes: Vec<u8>) {
        self.early_snapshot = Some((purpose, index, bytes));
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
