//! Records on disk: protobuf messages behind a checksum that covers their key,
//! so that neither a torn nor a misplaced record passes for a good one.

use prost::Message;

use super::{EntryKind, HardState, MembersRecord, StoreError, StoredEntry};
use crate::{FenceEpoch, LogIndex, Members, PeerId, Term};

/// Bytes of checksum before each record.
const SEAL_BYTES: usize = 4;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Format {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HardStateRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    vote: u64,
    #[prost(uint64, tag = "3")]
    commit: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupRecord {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    learners: Vec<u64>,
    #[prost(uint64, tag = "3")]
    changed_at: u64,
    #[prost(uint64, repeated, tag = "4")]
    fenced: Vec<u64>,
    #[prost(uint32, tag = "5")]
    epoch: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EntryRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(bool, tag = "2")]
    is_change: bool,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

/// Announces a snapshot, the state of which is kept in pieces.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SnapshotRecord {
    #[prost(uint64, tag = "1")]
    pub(super) index: u64,
    #[prost(uint64, tag = "2")]
    pub(super) term: u64,
    #[prost(message, optional, tag = "3")]
    pub(super) group: Option<GroupRecord>,
    #[prost(uint64, tag = "4")]
    pub(super) bytes: u64,
}

impl From<HardState> for HardStateRecord {
    fn from(state: HardState) -> Self {
        let vote = state.vote.map_or(0, |id| id.0);
        Self { term: state.term.0, vote, commit: state.commit.0 }
    }
}

impl From<HardStateRecord> for HardState {
    fn from(record: HardStateRecord) -> Self {
        let vote = (record.vote != 0).then_some(PeerId(record.vote));
        Self { term: Term(record.term), vote, commit: LogIndex(record.commit) }
    }
}

fn raw(ids: &[PeerId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

fn ids(raw: Vec<u64>) -> Vec<PeerId> {
    raw.into_iter().map(PeerId).collect()
}

impl From<&MembersRecord> for GroupRecord {
    fn from(record: &MembersRecord) -> Self {
        Self {
            changed_at: record.changed_at.0,
            fenced: raw(&record.fenced),
            epoch: record.epoch.0,
            ..Self::from(&record.members)
        }
    }
}

impl From<&Members> for GroupRecord {
    fn from(members: &Members) -> Self {
        Self { voters: raw(&members.voters), learners: raw(&members.learners), ..Self::default() }
    }
}

impl From<GroupRecord> for MembersRecord {
    fn from(record: GroupRecord) -> Self {
        Self {
            members: Members { voters: ids(record.voters), learners: ids(record.learners) },
            changed_at: LogIndex(record.changed_at),
            fenced: ids(record.fenced),
            epoch: FenceEpoch(record.epoch),
        }
    }
}

impl EntryRecord {
    pub(super) fn new(term: Term, kind: EntryKind, data: &[u8]) -> Self {
        Self { term: term.0, is_change: kind == EntryKind::Change, data: data.to_vec() }
    }
}

impl From<EntryRecord> for StoredEntry {
    fn from(record: EntryRecord) -> Self {
        let kind = if record.is_change { EntryKind::Change } else { EntryKind::Normal };
        Self { term: Term(record.term), kind, data: record.data }
    }
}

fn checksum(key: &[u8], body: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

/// Writes the record that belongs under `key` into `out`, which is cleared first.
pub(super) fn seal(key: &[u8], record: &impl Message, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; SEAL_BYTES]);
    record.encode_raw(out);
    let sum = checksum(key, &out[SEAL_BYTES..]);
    out[..SEAL_BYTES].copy_from_slice(&sum);
}

/// As [`seal`], for bytes that are no message.
pub(super) fn seal_bytes(key: &[u8], bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&checksum(key, bytes));
    out.extend_from_slice(bytes);
}

/// The bytes that were stored under `key`.
pub(super) fn open_bytes<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match sealed.split_at_checked(SEAL_BYTES) {
        Some((sum, body)) if sum == checksum(key, body) => Ok(body),
        Some(_) => Err(corrupt(key, "its checksum does not match")),
        None => Err(corrupt(key, "it is cut short")),
    }
}

/// The record that was stored under `key`.
pub(super) fn open<R: Message + Default>(key: &[u8], sealed: &[u8]) -> Result<R, StoreError> {
    R::decode(open_bytes(key, sealed)?).map_err(|_| corrupt(key, "it does not decode"))
}

pub(super) fn corrupt(key: &[u8], what: &'static str) -> StoreError {
    StoreError::Corrupt { key: key.escape_ascii().to_string(), what }
}
