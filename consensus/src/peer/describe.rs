//! All that decides what a peer does next, for those who have to tell its states
//! apart: a model checker, and whoever reads its counterexample.

use std::collections::BTreeMap;
use std::fmt;

use super::Peer;
use crate::{LogIndex, Term};

impl Peer {
    /// Writes the state of the peer. After a [`Self::poll`], two peers that write
    /// the same behave the same from then on, but for what is left out:
    ///
    /// - raft's clocks and whom a leader has heard of lately, which matter only
    ///   once an election timeout passes without a leader's heartbeat;
    /// - bounds that are far away: appends in flight, uncommitted bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        write!(
            out,
            "{:?} term {} vote {} leader {} conf {} log {} {} {} ",
            raft.state,
            raft.term,
            raft.vote,
            raft.leader_id,
            raft.pending_conf_index,
            log.committed,
            log.persisted,
            log.applied,
        )?;
        for (index, term, is_change, data) in self.log_entries() {
            write!(out, "[{index} {term} {is_change} {data:?}]")?;
        }
        write!(out, "{:?}", log.unstable_entries())?;
        let votes: BTreeMap<_, _> = raft.prs().votes().iter().collect();
        let conf = raft.prs().conf();
        let voters: BTreeMap<_, _> = raft.prs().iter().collect();
        write!(out, "votes {votes:?} ")?;
        for (&id, progress) in voters {
            write!(
                out,
                "({id} {} {:?} {} {} {} {} {})",
                conf.voters().contains(id),
                progress.state,
                progress.matched,
                progress.next_idx,
                progress.paused,
                progress.pending_snapshot,
                progress.committed_index,
            )?;
        }
        write!(
            out,
            "{:?} {:?} pending {:?} led {} early {:?} campaign {} at {} {} {} {} snapshot {:?} {:?} {:?} {:?}",
            self.membership,
            self.role,
            self.pending,
            self.led_term,
            self.early_voters,
            self.wants_campaign,
            self.handed_out,
            self.applied,
            self.compact_goal,
            self.stored_snapshot,
            self.log().offer,
            self.install,
            self.snapshot_ticks,
            self.undelivered,
        )
    }

    /// The entries that the log holds: place, term, whether it is a change of
    /// members, and data.
    pub fn log_entries(&self) -> impl Iterator<Item = (LogIndex, Term, bool, &[u8])> {
        let base = self.log().base_index();
        self.log().after(base).map(|entry| {
            let is_change = entry.entry_type != 0;
            (LogIndex(entry.index), Term(entry.term), is_change, entry.data.as_slice())
        })
    }
}
