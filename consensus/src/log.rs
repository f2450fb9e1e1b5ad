//! The log in memory, as raft reads it.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use prost_raft::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::{Members, PeerId};

/// What an entry costs beside its data, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// A snapshot ready to be sent.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) members: Members,
    pub(crate) data: Vec<u8>,
}

/// Entries `base_index + 1 ..`, and what stands for those before.
#[derive(Debug, Default)]
pub(crate) struct Log {
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    pub(crate) hard_state: HardState,
    /// Members for raft to begin with.
    pub(crate) initial_members: Members,
    pub(crate) offer: Option<Offer>,
    /// Followers whose need for a snapshot could not be met; written while raft
    /// reads the log.
    wanted_by: RefCell<BTreeSet<u64>>,
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

impl Log {
    pub(crate) fn base_index(&self) -> u64 {
        self.base_index
    }

    pub(crate) fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// Bytes of memory the entries take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base_index {
            return Some(self.base_term);
        }
        let place = index.checked_sub(self.base_index + 1)?;
        self.entries.get(usize::try_from(place).ok()?).map(|entry| entry.term)
    }

    /// The entries behind `index`.
    pub(crate) fn after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let skip = index.saturating_sub(self.base_index);
        self.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    /// Replaces the log from the first of `entries` on.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.base_index + 1) as usize;
        for dropped in self.entries.drain(keep.min(self.entries.len())..) {
            self.bytes -= cost(&dropped);
        }
        self.bytes += entries.iter().map(cost).sum::<usize>();
        self.entries.extend(entries);
    }

    /// Begins anew behind a snapshot.
    pub(crate) fn restart(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.base_index = index;
        self.base_term = term;
    }

    /// Drops the entries up to `through`, which must be in the log.
    pub(crate) fn compact(&mut self, through: u64) {
        let Some(term) = self.term_at(through) else { return };
        let count = (through - self.base_index) as usize;
        for dropped in self.entries.drain(..count) {
            self.bytes -= cost(&dropped);
        }
        self.base_index = through;
        self.base_term = term;
    }

    pub(crate) fn is_snapshot_wanted(&self) -> bool {
        !self.wanted_by.borrow().is_empty()
    }

    pub(crate) fn take_wanted_by(&self) -> BTreeSet<u64> {
        self.wanted_by.take()
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = if self.initial_members.is_empty() {
            ConfState::default()
        } else {
            self.initial_members.to_conf_state()
        };
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let first = (low - self.base_index - 1) as usize;
        let range = self.entries.range(first..first + (high - low) as usize);
        let Some(max_size) = max_size.into().filter(|&max| max != raft::NO_LIMIT) else {
            return Ok(range.cloned().collect());
        };
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let is_first = size == 0;
            size += entry.encoded_len() as u64;
            is_first || size <= max_size
        };
        Ok(range.take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base_index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The metadata only: the state itself is put into the message when that is
    /// encoded, so that raft need not copy it around.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let least = request_index.max(self.base_index);
        match &self.offer {
            Some(offer) if offer.index >= least && offer.members.contains(PeerId(to)) => {
                let metadata = SnapshotMetadata {
                    index: offer.index,
                    term: offer.term,
                    conf_state: Some(offer.members.to_conf_state()),
                };
                Ok(Snapshot { data: Vec::new(), metadata: Some(metadata) })
            }
            _ => {
                self.wanted_by.borrow_mut().insert(to);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quickcheck::QuickCheck;

    use super::*;

    fn entries(first: u64, terms: &[u8]) -> Vec<Entry> {
        let entry = |(index, term): (u64, &u8)| Entry {
            index,
            term: u64::from(*term) + 1,
            data: vec![0; usize::from(*term)],
            ..Entry::default()
        };
        (first..).zip(terms).map(entry).collect()
    }

    /// The log is what a map from index to entry would be.
    #[test]
    fn a_log_is_a_map_without_gaps() {
        fn property(steps: Vec<(u8, u8, Vec<u8>)>) {
            let (mut log, mut map, mut base) = (Log::default(), BTreeMap::new(), 0);
            for (kind, place, terms) in steps {
                let last = map.keys().next_back().copied().unwrap_or(base);
                let index = base + u64::from(place) % (last - base + 1);
                match kind % 4 {
                    0 | 1 => {
                        let new = entries(index + 1, &terms);
                        if !new.is_empty() {
                            map.split_off(&(index + 1));
                        }
                        map.extend(new.iter().map(|entry| (entry.index, entry.clone())));
                        log.append(new);
                    }
                    2 => {
                        log.compact(index);
                        map = map.split_off(&(index + 1));
                        base = index;
                    }
                    _ if place == 0 => {
                        base = last + 5;
                        map.clear();
                        log.restart(base, 1000);
                    }
                    _ => {}
                }
                let last = map.keys().next_back().copied().unwrap_or(base);
                assert_eq!((log.base_index(), log.last()), (base, last));
                assert_eq!(log.bytes(), map.values().map(cost).sum::<usize>());
                assert!(log.after(index).eq(map.range(index + 1..).map(|(_, entry)| entry)));
                for index in base + 1..=last {
                    assert_eq!(log.term_at(index), Some(map[&index].term));
                }
                assert_eq!(log.term_at(last + 1), None);
                let context = GetEntriesContext::empty(false);
                let all = log.entries(base + 1, last + 1, None, context).unwrap();
                assert!(all.iter().eq(map.values()));
            }
        }
        QuickCheck::new().tests(500).quickcheck(property as fn(Vec<(u8, u8, Vec<u8>)>));
    }

    #[test]
    fn at_least_one_entry_is_read() {
        let mut log = Log::default();
        log.append(entries(1, &[50, 50, 50]));
        let read =
            |max: u64| log.entries(1, 4, Some(max), GetEntriesContext::empty(false)).unwrap().len();
        assert_eq!((read(0), read(60), read(120), read(1000)), (1, 1, 2, 3));
    }
}
