//! A simulated disk: what a replica has written, kept while replicas come and
//! go, with the losses that a crash and a loss of power cause.
//!
//! It behaves as the RocksDB of the product does. A batch is atomic. The death
//! of a process loses nothing that was written. A loss of power loses batches
//! that were not synced, but only from some batch on: the write-ahead log is
//! recovered up to where it is torn.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use consensus::{
    Batch, HardState, LogIndex, LogState, LogStore, MembersRecord, StoreError, StoredEntry,
    StoredSnapshot,
};

use hypervisor::memory::Fuse;

use crate::rng::Rng;

/// Unsynced batches after which the oldest reaches the disk by itself, as the
/// kernel's writeback has it.
const WRITEBACK_BATCHES: usize = 64;

/// Whether the owner of a disk still lives: the fuse behind which all its
/// effects lie. A disk takes nothing from the dead.
#[derive(Clone, Debug, Default)]
pub struct Alive(Arc<Fuse>);

impl Alive {
    /// Whether nobody ended it.
    #[must_use]
    pub fn get(&self) -> bool {
        !self.0.is_blown()
    }

    /// Ends it: what its owner does from now on has no effect.
    pub fn end(&self) {
        self.0.light(0);
    }

    /// The fuse.
    #[must_use]
    pub fn fuse(&self) -> &Arc<Fuse> {
        &self.0
    }
}

/// What goes wrong with a disk. Writes are counted from the injection, the next
/// one is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// A write reports an error; it was done all the same if `reached`.
    FailWrite {
        /// Which one.
        nth: u64,
        /// Whether the disk has it nevertheless.
        reached: bool,
    },
    /// This write and all that follow report that the disk is full.
    Full {
        /// The first of them.
        nth: u64,
    },
    /// The owner dies in this write.
    Crash {
        /// Which one.
        nth: u64,
        /// Whether it was done before.
        reached: bool,
    },
    /// Reading back fails.
    FailLoad,
}

/// What a loss of power did to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerLoss {
    /// Unsynced batches that came through.
    pub kept: usize,
    /// Batches that are gone.
    pub lost: usize,
}

/// A batch that owns its content.
#[derive(Clone, Debug)]
struct OwnedBatch {
    hard_state: Option<HardState>,
    members: Option<MembersRecord>,
    snapshot: Option<StoredSnapshot>,
    drop_log: bool,
    entries: Vec<(u64, StoredEntry)>,
    compact_to: Option<LogIndex>,
}

impl From<&Batch<'_>> for OwnedBatch {
    fn from(batch: &Batch<'_>) -> Self {
        let entry = |entry: consensus::LogEntry<'_>| {
            let stored =
                StoredEntry { term: entry.term, kind: entry.kind, data: entry.data.to_vec() };
            (entry.index.0, stored)
        };
        Self {
            hard_state: batch.hard_state,
            members: batch.members.cloned(),
            snapshot: batch.snapshot.map(|snapshot| StoredSnapshot {
                index: snapshot.index,
                term: snapshot.term,
                members: snapshot.members.clone(),
                data: snapshot.data.to_vec(),
            }),
            drop_log: batch.drop_log,
            entries: batch.entries.iter().map(entry).collect(),
            compact_to: batch.compact_to,
        }
    }
}

/// What is on a disk.
#[derive(Clone, Debug, Default)]
struct Image {
    is_new: bool,
    hard_state: HardState,
    members: MembersRecord,
    snapshot: Option<StoredSnapshot>,
    entries: BTreeMap<u64, StoredEntry>,
}

impl Image {
    fn write(&mut self, batch: OwnedBatch) {
        self.is_new = false;
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(members) = batch.members {
            self.members = members;
        }
        if batch.snapshot.is_some() {
            self.snapshot = batch.snapshot;
        }
        if batch.drop_log {
            self.entries.clear();
        }
        if let Some((first, _)) = batch.entries.first() {
            self.entries.split_off(first);
        }
        self.entries.extend(batch.entries);
        if let Some(through) = batch.compact_to {
            self.entries = self.entries.split_off(&(through.0 + 1));
        }
    }

    fn into_state(self) -> Result<Option<LogState>, StoreError> {
        if self.is_new {
            return Ok(None);
        }
        let first_index = self.entries.keys().next().copied().unwrap_or(0);
        for (expected, index) in (first_index..).zip(self.entries.keys()) {
            if expected != *index {
                let key = format!("entry {expected}");
                return Err(StoreError::Corrupt { key, what: "it is missing" });
            }
        }
        Ok(Some(LogState {
            hard_state: self.hard_state,
            members: self.members,
            snapshot: self.snapshot,
            first_index: LogIndex(first_index),
            entries: self.entries.into_values().collect(),
        }))
    }
}

#[derive(Debug)]
struct Contents {
    sync: bool,
    stable: Image,
    unsynced: VecDeque<OwnedBatch>,
    faults: Vec<DiskFault>,
    writes: u64,
    faults_hit: u64,
}

/// What a write comes to.
enum Fate {
    Done,
    Failed { reached: bool, why: &'static str, dies: bool },
}

impl Contents {
    fn current(&self) -> Image {
        let mut image = self.stable.clone();
        for batch in &self.unsynced {
            image.write(batch.clone());
        }
        image
    }

    fn accept(&mut self, batch: &Batch<'_>) {
        let batch = OwnedBatch::from(batch);
        if self.sync {
            self.stable.write(batch);
            return;
        }
        self.unsynced.push_back(batch);
        if self.unsynced.len() > WRITEBACK_BATCHES
            && let Some(oldest) = self.unsynced.pop_front()
        {
            self.stable.write(oldest);
        }
    }

    fn fate(&mut self) -> Fate {
        let now = self.writes;
        let hit = self.faults.iter().position(|fault| match *fault {
            DiskFault::FailWrite { nth, .. } | DiskFault::Crash { nth, .. } => nth == now,
            DiskFault::Full { nth } => nth <= now,
            DiskFault::FailLoad => false,
        });
        let Some(at) = hit else { return Fate::Done };
        self.faults_hit += 1;
        match self.faults[at] {
            DiskFault::FailWrite { reached, .. } => {
                self.faults.remove(at);
                Fate::Failed { reached, why: "input/output error", dies: false }
            }
            DiskFault::Crash { reached, .. } => {
                self.faults.remove(at);
                Fate::Failed { reached, why: "the process died", dies: true }
            }
            _ => Fate::Failed { reached: false, why: "no space left on device", dies: false },
        }
    }
}

/// A handle of a disk. Handles share the disk; each belongs to one owner.
#[derive(Clone, Debug)]
pub struct SimDisk {
    contents: Rc<RefCell<Contents>>,
    alive: Alive,
}

impl SimDisk {
    /// An empty disk. With `sync`, every batch is safe from a loss of power once
    /// it is written (durability `power`); without, only from the death of the
    /// process (`process`).
    #[must_use]
    pub fn new(sync: bool) -> Self {
        let stable = Image { is_new: true, ..Image::default() };
        let contents = Contents {
            sync,
            stable,
            unsynced: VecDeque::new(),
            faults: Vec::new(),
            writes: 0,
            faults_hit: 0,
        };
        Self { contents: Rc::new(RefCell::new(contents)), alive: Alive::default() }
    }

    /// The same disk for a new owner, who lives until `alive` is ended.
    #[must_use]
    pub fn handle(&self, alive: &Alive) -> Self {
        Self { contents: Rc::clone(&self.contents), alive: alive.clone() }
    }

    /// Has something go wrong. Several faults may wait.
    pub fn inject(&self, fault: DiskFault) {
        let mut contents = self.contents.borrow_mut();
        let now = contents.writes;
        contents.faults.push(match fault {
            DiskFault::FailWrite { nth, reached } => {
                DiskFault::FailWrite { nth: now + nth, reached }
            }
            DiskFault::Full { nth } => DiskFault::Full { nth: now + nth },
            DiskFault::Crash { nth, reached } => DiskFault::Crash { nth: now + nth, reached },
            DiskFault::FailLoad => DiskFault::FailLoad,
        });
    }

    /// Takes all faults back that have not happened.
    pub fn heal(&self) {
        self.contents.borrow_mut().faults.clear();
    }

    /// Faults that have happened.
    #[must_use]
    pub fn faults_hit(&self) -> u64 {
        self.contents.borrow().faults_hit
    }

    /// Writes that were tried.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.contents.borrow().writes
    }

    /// The power goes: a prefix of the unsynced batches survives. The owner dies
    /// with it.
    pub fn lose_power(&self, rng: &mut Rng) -> PowerLoss {
        self.alive.end();
        let mut contents = self.contents.borrow_mut();
        let unsynced = std::mem::take(&mut contents.unsynced);
        let kept = rng.below(unsynced.len() + 1);
        let lost = unsynced.len() - kept;
        for batch in unsynced.into_iter().take(kept) {
            contents.stable.write(batch);
        }
        PowerLoss { kept, lost }
    }

    /// What is on the disk, without disturbing faults.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the log has a gap.
    pub fn look(&self) -> Result<Option<LogState>, StoreError> {
        self.contents.borrow().current().into_state()
    }
}

impl LogStore for SimDisk {
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        if !self.alive.get() {
            return Err(StoreError::Database("its owner is dead".to_owned()));
        }
        let mut contents = self.contents.borrow_mut();
        contents.writes += 1;
        match contents.fate() {
            Fate::Done => {
                contents.accept(batch);
                Ok(())
            }
            Fate::Failed { reached, why, dies } => {
                if reached {
                    contents.accept(batch);
                }
                if dies {
                    self.alive.end();
                }
                Err(StoreError::Database(why.to_owned()))
            }
        }
    }

    fn load(&mut self) -> Result<Option<LogState>, StoreError> {
        let mut contents = self.contents.borrow_mut();
        if let Some(at) = contents.faults.iter().position(|f| *f == DiskFault::FailLoad) {
            contents.faults.remove(at);
            contents.faults_hit += 1;
            return Err(StoreError::Database("input/output error".to_owned()));
        }
        contents.current().into_state()
    }

    fn is_durable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
