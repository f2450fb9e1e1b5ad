//! All that decides what a replica does next, for a model checker and for whoever
//! reads its counterexample.

use std::fmt;

use consensus::{LogIndex, Term};

use super::Replica;
use crate::executor::Execute;
use crate::outbox::Outbox;

impl<X: Execute> Replica<X> {
    /// Writes the state of the replica, the component's by its digest. After a
    /// turn, two that write the same behave the same from then on; what is left
    /// out is told at [`consensus::Peer::describe`].
    ///
    /// # Errors
    /// Those of `out`.
    pub fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let state = self.executor.state();
        write!(
            out,
            "replica {} {:?} {:?} machine {} {} {:?} {:?} {:?} {:?} {:?} at {} {:?} ",
            self.id,
            self.generation,
            self.role,
            state.last_input,
            state.last_output,
            state.digest,
            self.quarantine,
            self.batch,
            self.last_command,
            self.in_flight,
            self.applied,
            self.outbox,
        )?;
        write!(
            out,
            "changes {:?} {:?} {:?} {} {:?} snapshots {:?} {} {} {:?} lead {:?} {} {} {} {} ",
            self.changes,
            self.change_under_way,
            self.learners_behind,
            self.membership_changed,
            self.membership_told,
            self.freeze_wanted,
            self.encoding,
            self.snapshot_under_way,
            self.early_snapshot,
            self.led_term,
            self.campaign_ticks,
            self.campaign_patience,
            self.became_primary,
            self.commit_announced,
        )?;
        self.peer.describe(out)
    }

    /// The entries of its log, as [`consensus::Peer::log_entries`] shows them.
    pub fn log_entries(&self) -> impl Iterator<Item = (LogIndex, Term, bool, &[u8])> {
        self.peer.log_entries()
    }

    /// How many entries its log has.
    #[must_use]
    pub fn log_len(&self) -> u64 {
        self.peer.log_len()
    }

    /// Its outputs that wait to be released or delivered.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }
}
