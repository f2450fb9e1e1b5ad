//! Snapshots for those who lack the log's beginning, and the log's compaction.

use std::collections::BTreeMap;

use raft::{Progress, ProgressState, SnapshotStatus};

use super::Peer;
use crate::log::Offer;
use crate::store::{Batch, LogStore, SnapshotRef, StoreError};
use crate::{LogIndex, PeerId, Term};

/// Why a snapshot is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The log, or the memory of its members, begins later.
    #[error("snapshot at {given}, but it must be at least at {least}")]
    TooOld {
        /// Its last entry.
        given: LogIndex,
        /// What its last entry must at least be.
        least: LogIndex,
    },
    /// It includes entries that were not committed here.
    #[error("snapshot at {given}, but only {handed_out} was handed out")]
    Ahead {
        /// Its last entry.
        given: LogIndex,
        /// The last entry handed out.
        handed_out: LogIndex,
    },
}

/// A snapshot is sent again when it is not answered within this many election
/// timeouts.
const SNAPSHOT_ELECTIONS: usize = 10;

fn is_sent(progress: &Progress) -> bool {
    progress.state == ProgressState::Snapshot
}

impl Peer {
    /// Provides the state as of `index` to followers that need it and to a
    /// durable store; the answer to [`crate::Actions::snapshot_wanted`].
    ///
    /// # Errors
    /// Any [`SnapshotError`]; nothing has changed then.
    pub fn offer_snapshot(&mut self, index: LogIndex, data: Vec<u8>) -> Result<(), SnapshotError> {
        if index.0 > self.handed_out {
            let handed_out = LogIndex(self.handed_out);
            return Err(SnapshotError::Ahead { given: index, handed_out });
        }
        let members = self.membership.at(index.0).filter(|members| !members.is_empty());
        let (Some(term), Some(members)) = (self.log().term_at(index.0), members) else {
            let least = self.log().base_index().max(self.membership.changed_at());
            return Err(SnapshotError::TooOld { given: index, least: LogIndex(least) });
        };
        let offer = Offer { index: index.0, term, members: members.clone(), data };
        self.raw.mut_store().offer = Some(offer);
        self.offer_unsaved = true;
        if self.is_leader() {
            for id in self.log().take_wanted_by() {
                if self.raw.raft.prs().get(id).is_some() {
                    self.raw.raft.send_append(id);
                }
            }
        }
        Ok(())
    }

    /// Tells how the transfer of a snapshot to `id` ended, if the caller knows
    /// before the receiver answers.
    pub fn report_snapshot(&mut self, id: PeerId, is_ok: bool) {
        let status = if is_ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(id.0, status);
    }

    /// Raft waits for the answer to a snapshot for ever. A receiver may have
    /// refused it, or it may be lost: after a while it is sent again.
    pub(super) fn retry_snapshots(&mut self) {
        let patience = SNAPSHOT_ELECTIONS * self.config.election_ticks;
        let waiting = self.raw.raft.prs().iter().filter(|(_, progress)| is_sent(progress));
        let mut ticks: BTreeMap<u64, usize> = waiting
            .map(|(id, _)| (*id, self.snapshot_ticks.get(id).map_or(0, |ticks| ticks + 1)))
            .collect();
        let overdue: Vec<u64> =
            ticks.iter().filter(|(_, ticks)| **ticks >= patience).map(|(id, _)| *id).collect();
        for id in overdue {
            ticks.remove(&id);
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
        }
        self.snapshot_ticks = ticks;
    }

    /// Allows the log up to `through` to go, which happens at the next polls as
    /// far as possible: not beyond what is applied, what a durable store has a
    /// snapshot of, and what a leader's followers still need. Only when the log
    /// exceeds its bound, those followers are left to a snapshot.
    pub fn compact(&mut self, through: LogIndex) {
        self.compact_goal = self.compact_goal.max(through.0);
    }

    /// Stores what was offered, compacts, and tells whether a snapshot is wanted.
    pub(super) fn care_for_snapshots(
        &mut self,
        store: &mut dyn LogStore,
    ) -> Result<bool, StoreError> {
        self.store_offer(store)?;
        self.compact_log(store)?;
        let is_lagging = self.is_leader() && self.log().is_snapshot_wanted();
        let is_long = store.is_durable()
            && self.log().bytes() > self.config.snapshot_after_bytes
            && self.applied > self.stored_snapshot;
        Ok(is_lagging || is_long)
    }

    fn store_offer(&mut self, store: &mut dyn LogStore) -> Result<(), StoreError> {
        let Some(offer) = &self.log().offer else { return Ok(()) };
        let index = offer.index;
        if self.offer_unsaved && index > self.stored_snapshot {
            store.write(&Batch {
                snapshot: Some(SnapshotRef {
                    index: LogIndex(index),
                    term: Term(offer.term),
                    members: &offer.members,
                    data: &offer.data,
                }),
                ..Batch::default()
            })?;
            self.stored_snapshot = index;
            if store.is_durable() {
                self.compact_goal = self.compact_goal.max(index);
            }
        }
        self.offer_unsaved = false;
        let is_needed =
            self.is_leader() && self.raw.raft.prs().iter().any(|(_, progress)| is_sent(progress));
        if !is_needed {
            self.raw.mut_store().offer = None;
        }
        Ok(())
    }

    fn compact_log(&mut self, store: &mut dyn LogStore) -> Result<(), StoreError> {
        let log = self.log();
        let is_too_long = log.bytes() > self.config.max_log_bytes;
        let goal = if is_too_long { u64::MAX } else { self.compact_goal };
        if goal <= log.base_index() {
            return Ok(());
        }
        let mut through = goal.min(self.applied).min(self.handed_out);
        if store.is_durable() {
            through = through.min(self.stored_snapshot);
        }
        if let Some(offer) = &log.offer {
            through = through.min(offer.index);
        }
        if !is_too_long && self.is_leader() {
            let others = self.raw.raft.prs().iter().filter(|&(&id, _)| id != self.config.id.0);
            let needed =
                others.map(|(_, progress)| progress.matched.max(progress.pending_snapshot));
            through = needed.fold(through, u64::min);
        }
        if through <= log.base_index() {
            return Ok(());
        }
        self.raw.mut_store().compact(through);
        self.membership.forget_before(through);
        store.write(&Batch { compact_to: Some(LogIndex(through)), ..Batch::default() })
    }
}
