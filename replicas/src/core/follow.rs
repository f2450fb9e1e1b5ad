//! How a standby comes by its state: by the log, as far as it is committed.
//!
//! Where an execution has a price of its own, as the entry into a virtual machine
//! has, a standby lags behind the log: as long as more is on its way, committed
//! entries wait until there are enough of them to share that price. Nobody waits
//! for a standby's state, only for its log. Whoever is to lead waits for nothing.

use consensus::{Committed, LogIndex};
use state_machine::{Class, StateMachine as _};
use teeth::Bug;

use super::{DIGEST_EVERY, FULL_BATCH_BYTES, Link, Replica, Role};
use crate::batch;
use crate::error::Fatal;
use crate::executor::{Execute, Task, Treatment};

/// Entries that are committed and not yet applied.
#[derive(Default)]
pub(super) struct Behind {
    entries: Vec<Committed>,
    bytes: usize,
    /// One of them is to be followed by a look at the digest.
    shows: bool,
}

impl Behind {
    fn push(&mut self, entry: Committed) {
        self.bytes += entry.data.len();
        self.shows |= shows(entry.index);
        self.entries.push(entry);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn shows(index: LogIndex) -> bool {
    index.0.is_multiple_of(DIGEST_EVERY)
}

impl<X: Execute> Replica<X> {
    pub(super) fn commit(&mut self, entries: Vec<Committed>) {
        for entry in entries {
            if entry.data.is_empty() {
                self.membership_changed = true;
                self.change_under_way.take_if(|at| *at <= entry.index);
            }
            self.behind.push(entry);
        }
    }

    /// Applies what is committed, unless it can wait for company.
    pub(super) fn apply(&mut self, idle: bool, link: &mut dyn Link) -> Result<(), Fatal> {
        if !self.must_apply(idle) {
            return Ok(());
        }
        let behind = std::mem::take(&mut self.behind);
        let mut tasks = Vec::new();
        for (entry, left) in behind.entries.iter().zip((0..behind.entries.len()).rev()) {
            let index = entry.index;
            link.at_work();
            // As primary, the state has these inputs already.
            if !self.leads() {
                Self::logged_tasks(&entry.data, &mut tasks)?;
            }
            let shows = shows(index);
            if left > 0 && !shows && tasks.len() < self.executor.tasks_at_once() {
                continue;
            }
            self.apply_logged(&tasks)?;
            tasks.clear();
            self.applied = self.applied.max(index);
            self.peer.applied(index);
            if !self.leads() {
                self.show_digest(shows, link);
            }
        }
        Ok(())
    }

    fn must_apply(&self, idle: bool) -> bool {
        let Behind { entries, bytes, shows } = &self.behind;
        let Some(newest) = entries.last() else { return false };
        idle || *shows
            || *bytes >= FULL_BATCH_BYTES
            || self.executor.tasks_at_once() == 1
            || self.role != Role::Standby
            || newest.index >= self.peer.log_end().0
    }

    /// Adds the inputs of a log entry.
    fn logged_tasks<'a>(entry: &'a [u8], tasks: &mut Vec<Task<'a>>) -> Result<(), Fatal> {
        for logged in batch::inputs(entry) {
            let logged = logged?;
            if teeth::bites(Bug::TentativeNotReplicated)
                && X::Machine::classify(&logged.input) == Class::Tentative
            {
                continue;
            }
            let quarantined = logged.quarantined && !teeth::bites(Bug::QuarantineNotReplicated);
            let treatment = if quarantined { Treatment::Quarantine } else { Treatment::Apply };
            tasks.push(Task { no: logged.no, input: logged.input, treatment });
        }
        Ok(())
    }

    fn apply_logged(&mut self, tasks: &[Task<'_>]) -> Result<(), Fatal> {
        if tasks.is_empty() {
            return Ok(());
        }
        let mut results = std::mem::take(&mut self.results);
        self.execute(tasks, &mut results)?;
        let outbox = &mut self.outbox;
        results.for_each(|_, _, outputs| outputs.for_each(|output| outbox.keep(output)));
        self.results = results;
        Ok(())
    }
}
