//! A store whose content survives the peer, and can be looked into.

use std::collections::BTreeMap;

use consensus::{
    Batch, HardState, LogIndex, LogState, LogStore, MembersRecord, StoreError, StoredEntry,
    StoredSnapshot,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct SimStore {
    hard_state: HardState,
    members: MembersRecord,
    pub(crate) snapshot: Option<StoredSnapshot>,
    pub(crate) entries: BTreeMap<u64, StoredEntry>,
    is_written: bool,
}

impl SimStore {
    pub(crate) fn last(&self) -> u64 {
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0);
        self.entries.last_key_value().map_or(0, |(index, _)| *index).max(snapshot)
    }

    pub(crate) fn state(&self) -> Option<LogState> {
        self.is_written.then(|| LogState {
            hard_state: self.hard_state,
            members: self.members.clone(),
            snapshot: self.snapshot.clone(),
            first_index: LogIndex(self.entries.keys().next().copied().unwrap_or(0)),
            entries: self.entries.values().cloned().collect(),
        })
    }
}

impl LogStore for SimStore {
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.is_written = true;
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(members) = batch.members {
            self.members = members.clone();
        }
        if let Some(snapshot) = &batch.snapshot {
            self.snapshot = Some(StoredSnapshot {
                index: snapshot.index,
                term: snapshot.term,
                members: snapshot.members.clone(),
                data: snapshot.data.to_vec(),
            });
        }
        if batch.drop_log {
            self.entries.clear();
        }
        if let Some(first) = batch.entries.iter().next() {
            self.entries.split_off(&first.index.0);
        }
        for entry in batch.entries.iter() {
            let stored =
                StoredEntry { term: entry.term, kind: entry.kind, data: entry.data.to_vec() };
            self.entries.insert(entry.index.0, stored);
        }
        if let Some(through) = batch.compact_to {
            self.entries = self.entries.split_off(&(through.0 + 1));
        }
        Ok(())
    }

    fn load(&mut self) -> Result<Option<LogState>, StoreError> {
        Ok(self.state())
    }

    fn is_durable(&self) -> bool {
        true
    }
}
