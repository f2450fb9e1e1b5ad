//! The durable store, on RocksDB.
//!
//! Keys: `format`, `hard`, `members`, `snapshot`; `e` and an index for an entry;
//! `s`, an index and a number for a piece of a snapshot's state. Numbers are
//! big-endian, so that keys are in the order of the log.

use std::path::Path;

use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use super::record::{
    EntryRecord, Format, GroupRecord, HardStateRecord, SnapshotRecord, corrupt, open, open_bytes,
    seal, seal_bytes,
};
use super::{
    Batch, LogState, LogStore, MembersRecord, SnapshotRef, StoreError, StoredEntry, StoredSnapshot,
};
use crate::{LogIndex, Term};

const FORMAT_KEY: &[u8] = b"format";
const HARD_KEY: &[u8] = b"hard";
const MEMBERS_KEY: &[u8] = b"members";
const SNAPSHOT_KEY: &[u8] = b"snapshot";

const FORMAT_VERSION: u32 = 1;

/// Pieces a snapshot's state is cut into, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Memory for writes before they go to a table file; there are at most two such
/// buffers.
const WRITE_BUFFER_BYTES: usize = 4 << 20;

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn piece_key(index: u64, piece: u32) -> [u8; 13] {
    let mut key = [b's'; 13];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&piece.to_be_bytes());
    key
}

fn database(error: rocksdb::Error) -> StoreError {
    StoreError::Database(error.into_string())
}

/// Durability `process` or `power`: a RocksDB in a directory of its own.
pub struct RocksStore {
    db: DB,
    options: WriteOptions,
    /// The last entry stored.
    last: u64,
    is_new: bool,
    value: Vec<u8>,
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

impl RocksStore {
    /// Opens the store in `path`, or creates it there. With `sync`, a write
    /// returns once it has reached the disk and so survives a loss of power;
    /// without, it survives the death of all processes.
    ///
    /// # Errors
    /// [`StoreError::Database`] when RocksDB cannot open the directory,
    /// [`StoreError::Corrupt`] when another format is in it.
    pub fn open(path: &Path, sync: bool) -> Result<Self, StoreError> {
        let db = DB::open(&small(), path).map_err(database)?;
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let mut store = Self { db, options, last: 0, is_new: false, value: Vec::new() };
        match store.get::<Format>(FORMAT_KEY)? {
            Some(Format { version: FORMAT_VERSION }) => {}
            Some(_) => return Err(corrupt(FORMAT_KEY, "it is of another version")),
            None => store.is_new = true,
        }
        let mut backwards =
            store.db.iterator(IteratorMode::From(&entry_key(u64::MAX), Direction::Reverse));
        if let Some(found) = backwards.next() {
            let (key, _) = found.map_err(database)?;
            store.last = index_of(&key).unwrap_or(0);
        }
        drop(backwards);
        Ok(store)
    }

    fn get<R: prost::Message + Default>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        let found = self.db.get_pinned(key).map_err(database)?;
        found.map(|sealed| open(key, &sealed)).transpose()
    }

    fn put_snapshot(&mut self, snapshot: &SnapshotRef<'_>, out: &mut WriteBatch) {
        let index = snapshot.index.0;
        out.delete_range(piece_key(0, 0), piece_key(index, 0));
        for (piece, bytes) in (0..).zip(snapshot.data.chunks(PIECE_BYTES)) {
            let key = piece_key(index, piece);
            seal_bytes(&key, bytes, &mut self.value);
            out.put(key, &self.value);
        }
        let record = SnapshotRecord {
            index,
            term: snapshot.term.0,
            group: Some(GroupRecord::from(snapshot.members)),
            bytes: snapshot.data.len() as u64,
        };
        seal(SNAPSHOT_KEY, &record, &mut self.value);
        out.put(SNAPSHOT_KEY, &self.value);
    }

    fn load_snapshot(&self) -> Result<Option<StoredSnapshot>, StoreError> {
        let Some(record) = self.get::<SnapshotRecord>(SNAPSHOT_KEY)? else { return Ok(None) };
        let mut data = Vec::new();
        let mut piece = 0;
        while (data.len() as u64) < record.bytes {
            let key = piece_key(record.index, piece);
            let sealed = self.db.get_pinned(key).map_err(database)?;
            let sealed = sealed.ok_or_else(|| corrupt(&key, "it is missing"))?;
            let bytes = open_bytes(&key, &sealed)?;
            if bytes.is_empty() {
                return Err(corrupt(&key, "it is empty"));
            }
            data.extend_from_slice(bytes);
            piece += 1;
        }
        let group = MembersRecord::from(record.group.unwrap_or_default());
        Ok(Some(StoredSnapshot {
            index: LogIndex(record.index),
            term: Term(record.term),
            members: group.members,
            data,
        }))
    }

    fn load_entries(&self) -> Result<(LogIndex, Vec<StoredEntry>), StoreError> {
        let mut first = None;
        let mut entries = Vec::new();
        let forwards = self.db.iterator(IteratorMode::From(&entry_key(0), Direction::Forward));
        for found in forwards {
            let (key, sealed) = found.map_err(database)?;
            let Some(index) = index_of(&key) else { break };
            let expected = *first.get_or_insert(index) + entries.len() as u64;
            if index != expected {
                return Err(corrupt(&entry_key(expected), "it is missing"));
            }
            entries.push(open::<EntryRecord>(&key, &sealed)?.into());
        }
        Ok((LogIndex(first.unwrap_or(0)), entries))
    }
}

fn index_of(key: &[u8]) -> Option<u64> {
    let (tag, index) = key.split_first()?;
    (*tag == b'e').then(|| index.try_into().ok().map(u64::from_be_bytes))?
}

/// A database of a few megabytes of memory and two background threads.
fn small() -> Options {
    let mut table = rocksdb::BlockBasedOptions::default();
    // The log is read once, in order, after a restart: nothing to cache.
    table.disable_cache();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_background_jobs(2);
    options.set_max_open_files(64);
    // There are few files. More threads would open them no sooner, and the stacks of
    // those that RocksDB starts by itself count for as much as a small store's memory.
    options.set_max_file_opening_threads(1);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options.set_keep_log_file_num(1);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // What was acknowledged must come back, or be missed loudly; a half-written
    // last record was never acknowledged.
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

impl LogStore for RocksStore {
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let mut out = WriteBatch::default();
        if self.is_new {
            seal(FORMAT_KEY, &Format { version: FORMAT_VERSION }, &mut self.value);
            out.put(FORMAT_KEY, &self.value);
        }
        if let Some(hard_state) = batch.hard_state {
            seal(HARD_KEY, &HardStateRecord::from(hard_state), &mut self.value);
            out.put(HARD_KEY, &self.value);
        }
        if let Some(members) = batch.members {
            seal(MEMBERS_KEY, &GroupRecord::from(members), &mut self.value);
            out.put(MEMBERS_KEY, &self.value);
        }
        if let Some(snapshot) = &batch.snapshot {
            self.put_snapshot(snapshot, &mut out);
        }
        let mut last = self.last;
        if batch.drop_log {
            out.delete_range(entry_key(0), entry_key(last + 1));
            last = 0;
        }
        let before = last;
        for entry in batch.entries.iter() {
            let key = entry_key(entry.index.0);
            let record = EntryRecord::new(entry.term, entry.kind, entry.data);
            seal(&key, &record, &mut self.value);
            out.put(key, &self.value);
            last = entry.index.0;
        }
        for cut in last + 1..=before {
            out.delete(entry_key(cut));
        }
        if let Some(through) = batch.compact_to {
            out.delete_range(entry_key(0), entry_key(through.0 + 1));
        }
        self.db.write_opt(out, &self.options).map_err(database)?;
        self.last = last;
        self.is_new = false;
        Ok(())
    }

    fn load(&mut self) -> Result<Option<LogState>, StoreError> {
        if self.is_new {
            return Ok(None);
        }
        let hard = self.get::<HardStateRecord>(HARD_KEY)?;
        let members = self.get::<GroupRecord>(MEMBERS_KEY)?;
        let snapshot = self.load_snapshot()?;
        let (first_index, entries) = self.load_entries()?;
        Ok(Some(LogState {
            hard_state: hard.unwrap_or_default().into(),
            members: members.unwrap_or_default().into(),
            snapshot,
            first_index,
            entries,
        }))
    }

    fn is_durable(&self) -> bool {
        true
    }
}
