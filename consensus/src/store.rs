//! Where a peer keeps what must outlive its process.

#[cfg(feature = "rocksdb")]
mod record;
#[cfg(feature = "rocksdb")]
mod rocks;

use std::path::Path;

use raft::eraftpb::{Entry, EntryType};

#[cfg(feature = "rocksdb")]
pub use rocks::RocksStore;

use crate::members::{Step, steps_of};
use crate::{FenceEpoch, LogIndex, Members, PeerId, Term};

/// What a peer promised to others; must be on disk before the promise leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term the peer has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<PeerId>,
    /// The commit index it knew when this was written.
    pub commit: LogIndex,
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A proposal, or the empty entry of a new leader.
    Normal,
    /// A change of members.
    Change,
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// Its place.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: Term,
    /// What it is for.
    pub kind: EntryKind,
    /// What was proposed.
    pub data: &'a [u8],
}

/// Consecutive entries to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entries<'a>(pub(crate) &'a [Entry]);

impl<'a> Entries<'a> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries, ascending.
    pub fn iter(&self) -> impl Iterator<Item = LogEntry<'a>> + use<'a> {
        self.0.iter().map(|entry| LogEntry {
            index: LogIndex(entry.index),
            term: Term(entry.term),
            kind: if entry.entry_type == EntryType::EntryNormal as i32 {
                EntryKind::Normal
            } else {
                EntryKind::Change
            },
            data: &entry.data,
        })
    }
}

/// Who belongs to the group, and who was certified dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersRecord {
    /// As the log says.
    pub members: Members,
    /// The entry that says so.
    pub changed_at: LogIndex,
    /// Certified dead and not yet removed by the log.
    pub fenced: Vec<PeerId>,
    /// The latest certificate.
    pub epoch: FenceEpoch,
}

/// The state of the state machine that takes the place of the log up to an index.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotRef<'a> {
    /// The last entry it includes.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// The members at that entry.
    pub members: &'a Members,
    /// The state, opaque here.
    pub data: &'a [u8],
}

/// Changes to write in one atomic step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Replaces the stored one.
    pub hard_state: Option<HardState>,
    /// Replaces the stored one.
    pub members: Option<&'a MembersRecord>,
    /// Replaces the stored snapshot.
    pub snapshot: Option<SnapshotRef<'a>>,
    /// A snapshot of another peer does not continue the stored log: drop all of
    /// that before writing `entries`.
    pub drop_log: bool,
    /// Replace the stored log from the first of them on, to its end.
    pub entries: Entries<'a>,
    /// Entries up to here, inclusive, may be dropped.
    pub compact_to: Option<LogIndex>,
}

/// An entry read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The term it was proposed in.
    pub term: Term,
    /// What it is for.
    pub kind: EntryKind,
    /// What was proposed.
    pub data: Vec<u8>,
}

/// A snapshot read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The last entry it includes.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// The members at that entry.
    pub members: Members,
    /// The state, opaque here.
    pub data: Vec<u8>,
}

/// Everything a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// What the peer promised.
    pub hard_state: HardState,
    /// Who belongs to the group.
    pub members: MembersRecord,
    /// The latest snapshot.
    pub snapshot: Option<StoredSnapshot>,
    /// Index of the first of `entries`.
    pub first_index: LogIndex,
    /// The log, without gaps.
    pub entries: Vec<StoredEntry>,
}

impl LogState {
    /// Everybody who is or may become a member by what is stored here: also by
    /// changes at the log's end that were perhaps never committed. Whoever comes
    /// back from this state alone may yet commit them. Those who are more likely to
    /// matter come later.
    #[must_use]
    pub fn known_peers(&self) -> Vec<PeerId> {
        let MembersRecord { members, fenced, .. } = &self.members;
        let named = self.steps_to_come().map(Step::peer);
        let members = members.voters.iter().chain(&members.learners).copied();
        let mut known: Vec<PeerId> = Vec::new();
        for peer in fenced.iter().copied().chain(members).chain(named) {
            known.retain(|other| *other != peer);
            known.push(peer);
        }
        known
    }

    /// Whether this one has a vote, and will have when the log's end is applied.
    /// Whoever is on its way out cannot come back from what is stored here.
    #[must_use]
    pub fn is_voter_to_the_end(&self, id: PeerId) -> bool {
        let of_this_one = self.steps_to_come().filter(|step| step.peer() == id);
        self.members.members.voters.contains(&id)
            && of_this_one.last().is_none_or(|step| matches!(step, Step::Voter(_)))
    }

    /// The changes of members that are not in the record yet.
    fn steps_to_come(&self) -> impl Iterator<Item = Step> + '_ {
        let changed_at = self.members.changed_at;
        let tail = (self.first_index.0..)
            .zip(&self.entries)
            .filter(move |(index, entry)| *index > changed_at.0 && entry.kind == EntryKind::Change);
        tail.flat_map(|(_, entry)| steps_of(&entry.data))
    }
}

/// What goes wrong with a store. None of it can be repaired by trying again:
/// the peer that meets it must end, and a new one takes its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database refuses.
    #[error("log store: {0}")]
    Database(String),
    /// A record is not what was written.
    #[error("log store: record {key} is corrupt: {what}")]
    Corrupt {
        /// Which record.
        key: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An earlier write failed, so that the peer no longer knows what is stored.
    #[error("log store: an earlier write failed")]
    Poisoned,
    /// This program was built without such a store.
    #[error("log store {0}: this program was built without RocksDB (feature \"rocksdb\")")]
    NotBuiltIn(String),
}

/// A store. Writing is atomic, and returns once the configured durability is
/// reached.
pub trait LogStore {
    /// Writes a batch.
    ///
    /// # Errors
    /// Any [`StoreError`]; the peer is then of no further use.
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError>;

    /// Everything that was written; `None` if nothing was.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn load(&mut self) -> Result<Option<LogState>, StoreError>;

    /// Whether what is written outlives the process. If so, the log is only
    /// compacted up to a stored snapshot.
    fn is_durable(&self) -> bool;
}

/// Whether [`open_durable`] can have a store: the feature `rocksdb` brings it.
pub const HAS_DURABLE_STORE: bool = cfg!(feature = "rocksdb");

/// Opens the store in `path` that outlives its process, or makes it. With `sync`, it
/// outlives a loss of power as well.
///
/// # Errors
/// [`StoreError::NotBuiltIn`] without [`HAS_DURABLE_STORE`]; else what a `RocksStore`
/// finds wrong with the directory.
pub fn open_durable(path: &Path, sync: bool) -> Result<Box<dyn LogStore>, StoreError> {
    #[cfg(feature = "rocksdb")]
    return Ok(Box::new(RocksStore::open(path, sync)?));
    #[cfg(not(feature = "rocksdb"))]
    {
        let _ = sync;
        Err(StoreError::NotBuiltIn(path.display().to_string()))
    }
}

/// Durability `volatile`: keeps nothing beyond what the peer itself has in
/// memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryStore;

impl LogStore for MemoryStore {
    fn write(&mut self, _: &Batch<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn load(&mut self) -> Result<Option<LogState>, StoreError> {
        Ok(None)
    }

    fn is_durable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use prost_raft::Message;

    use super::*;

    /// 1 votes and 2 learns; the log's end gives 3 a vote, and dismisses 4 and 6.
    fn changing() -> LogState {
        let entry = |kind, data| StoredEntry { term: Term(1), kind, data };
        let joins = Step::Voter(PeerId(3)).to_raft().encode_to_vec();
        let leaves = Step::Remove(PeerId(4)).to_raft().encode_to_vec();
        let demoted = Step::Learner(PeerId(6)).to_raft().encode_to_vec();
        LogState {
            hard_state: HardState::default(),
            members: MembersRecord {
                members: Members {
                    voters: [1, 4, 6].map(PeerId).to_vec(),
                    learners: vec![PeerId(2)],
                },
                fenced: vec![PeerId(5), PeerId(1)],
                changed_at: LogIndex(10),
                ..MembersRecord::default()
            },
            snapshot: None,
            first_index: LogIndex(10),
            entries: vec![
                entry(EntryKind::Change, Step::Voter(PeerId(9)).to_raft().encode_to_vec()),
                entry(EntryKind::Change, joins),
                entry(EntryKind::Normal, vec![8, 9]),
                entry(EntryKind::Change, leaves),
                entry(EntryKind::Change, demoted),
            ],
        }
    }

    #[test]
    fn who_may_yet_become_a_member_is_known() {
        let known: Vec<u64> = changing().known_peers().into_iter().map(|peer| peer.0).collect();
        assert_eq!(known, [5, 1, 2, 3, 4, 6], "and nobody of long ago");
    }

    #[test]
    fn who_is_on_its_way_in_or_out_does_not_vote_to_the_end() {
        let state = changing();
        let voters: Vec<u64> =
            (1..=9).filter(|id| state.is_voter_to_the_end(PeerId(*id))).collect();
        assert_eq!(voters, [1]);
    }
}
