//! The durable store on a real directory.

use std::path::Path;

use consensus::{
    Change, LogIndex, LogState, LogStore, MemoryStore, Peer, PeerConfig, PeerId, RecoverError,
    RocksStore, StoreError, Term,
};
use rocksdb::{DB, IteratorMode, Options};

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

/// Copies a store's directory as it is on disk at this moment: what a process
/// leaves behind that is killed now.
fn killed(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// A group of one on `store` that has committed `count` proposals.
fn alone(store: &mut RocksStore, count: u8) -> Peer {
    let mut peer = Peer::bootstrap(PeerConfig::new(A), &[A]).unwrap();
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    peer.campaign().unwrap();
    peer.poll(store, &mut out).unwrap();
    for number in 0..count {
        peer.propose(vec![number; 100]).unwrap();
        let actions = peer.poll(store, &mut out).unwrap();
        peer.applied(actions.committed.last().unwrap().index);
    }
    peer
}

#[test]
fn a_new_store_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(dir.path(), false).unwrap();
    assert_eq!(store.load(), Ok(None));
    assert!(store.is_durable());
}

#[test]
fn what_was_stored_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    for sync in [false, true] {
        let mut store = RocksStore::open(&before, sync).unwrap();
        let peer = alone(&mut store, 20);
        killed(&before, &after);
        let mut copy = RocksStore::open(&after, sync).unwrap();
        let state = copy.load().unwrap().unwrap();
        assert_eq!(state.first_index, LogIndex(1));
        let data: Vec<_> = state.entries.iter().filter(|entry| entry.data.len() == 100).collect();
        assert_eq!(data.len(), 20);
        assert_eq!(state.members.members.voters, [A]);
        let mut back = Peer::recover(PeerConfig::new(A), state).unwrap();
        assert!(back.term() >= peer.term());
        let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
        back.campaign().unwrap();
        let actions = back.poll(&mut copy, &mut out).unwrap();
        assert_eq!(actions.committed.iter().filter(|entry| entry.data.len() == 100).count(), 20);
        drop((store, copy));
        std::fs::remove_dir_all(&before).unwrap();
        std::fs::remove_dir_all(&after).unwrap();
    }
}

#[test]
fn a_snapshot_takes_the_place_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(dir.path(), false).unwrap();
    let mut peer = alone(&mut store, 20);
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    // More than one piece, and the last one odd.
    let data: Vec<u8> = (0..2_500_001_u32).map(|number| number as u8).collect();
    let applied = peer.status().applied;
    peer.offer_snapshot(applied, data.clone()).unwrap();
    peer.poll(&mut store, &mut out).unwrap();
    peer.propose(vec![1; 100]).unwrap();
    peer.poll(&mut store, &mut out).unwrap();
    drop(store);

    let mut store = RocksStore::open(dir.path(), false).unwrap();
    let state = store.load().unwrap().unwrap();
    assert_eq!(state.snapshot.as_ref().unwrap().data, data);
    assert_eq!(state.first_index, LogIndex(applied.0 + 1));
    assert_eq!(state.entries.len(), 1);
    // A second one replaces the first.
    let mut peer = Peer::recover(PeerConfig::new(A), state).unwrap();
    peer.campaign().unwrap();
    let actions = peer.poll(&mut store, &mut out).unwrap();
    assert_eq!(actions.install.unwrap().data, data);
    let last = actions.committed.last().unwrap().index;
    peer.applied(last);
    peer.offer_snapshot(last, b"small".to_vec()).unwrap();
    peer.poll(&mut store, &mut out).unwrap();
    drop(store);
    let mut store = RocksStore::open(dir.path(), false).unwrap();
    let state = store.load().unwrap().unwrap();
    assert_eq!(state.snapshot.unwrap().data, b"small");
    assert!(state.entries.is_empty());
}

#[test]
fn a_log_that_is_cut_is_cut_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let ids = [A, B, PeerId(3)];
    let mut store = RocksStore::open(dir.path(), false).unwrap();
    let mut a = Peer::bootstrap(PeerConfig::new(A), &ids).unwrap();
    let mut b = Peer::bootstrap(PeerConfig::new(B), &ids).unwrap();
    let mut c = Peer::bootstrap(PeerConfig::new(PeerId(3)), &ids).unwrap();
    let elect = |winner: &mut Peer,
                 voter: &mut Peer,
                 winner_store: &mut dyn LogStore,
                 voter_store: &mut dyn LogStore| {
        let (from, to) = (winner.status().id, voter.status().id);
        let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
        winner.campaign().unwrap();
        winner.poll(winner_store, &mut out).unwrap();
        let request = out.iter().find(|(id, _)| *id == to).unwrap().1.clone();
        voter.step(from, &request).unwrap();
        out.clear();
        voter.poll(voter_store, &mut out).unwrap();
        winner.step(to, &out.last().unwrap().1).unwrap();
        out.clear();
        winner.poll(winner_store, &mut out).unwrap();
        assert!(winner.is_leader());
        out
    };
    // A leads and stores five entries that nobody else hears of.
    elect(&mut a, &mut b, &mut store, &mut MemoryStore);
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    for _ in 0..4 {
        a.propose(b"never".to_vec()).unwrap();
        a.poll(&mut store, &mut out).unwrap();
    }
    assert_eq!(store.load().unwrap().unwrap().entries.len(), 6);
    // B is elected without A, and its log takes the place of A's.
    let mut appends = elect(&mut b, &mut c, &mut MemoryStore, &mut MemoryStore);
    for _ in 0..4 {
        for (_, frame) in appends.drain(..).filter(|(to, _)| *to == A) {
            a.step(B, &frame).unwrap();
        }
        out.clear();
        a.poll(&mut store, &mut out).unwrap();
        out.iter().filter(|(to, _)| *to == B).for_each(|(_, frame)| b.step(A, frame).unwrap());
        b.poll(&mut MemoryStore, &mut appends).unwrap();
    }
    let entries = store.load().unwrap().unwrap().entries;
    assert_eq!(entries.len(), 2, "the founding entry, and B's first");
    assert_eq!(entries[1].term, b.term());
}

fn damage(path: &Path, wanted: &[u8], how: fn(&mut Vec<u8>)) {
    let db = DB::open(&Options::default(), path).unwrap();
    let found = db
        .iterator(IteratorMode::Start)
        .map(Result::unwrap)
        .find(|(key, _)| key.starts_with(wanted))
        .expect("such a record");
    let mut value = found.1.to_vec();
    how(&mut value);
    db.put(&found.0, value).unwrap();
}

fn refused(wanted: &[u8], how: fn(&mut Vec<u8>)) -> StoreError {
    let dir = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(dir.path(), false).unwrap();
    let mut peer = alone(&mut store, 3);
    let applied = peer.status().applied;
    peer.offer_snapshot(applied, b"state".to_vec()).unwrap();
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    peer.poll(&mut store, &mut out).unwrap();
    peer.change(Change::AddLearner(B)).unwrap();
    peer.poll(&mut store, &mut out).unwrap();
    drop(store);
    damage(dir.path(), wanted, how);
    match RocksStore::open(dir.path(), false) {
        Ok(mut store) => store.load().expect_err("a damaged record"),
        Err(error) => error,
    }
}

#[test]
fn damaged_records_are_refused() {
    for wanted in [&b"e"[..], b"hard", b"members", b"snapshot", b"s\0", b"format"] {
        let flipped = refused(wanted, |value| *value.last_mut().unwrap() ^= 1);
        assert!(matches!(flipped, StoreError::Corrupt { .. }), "{flipped}");
        let torn = refused(wanted, |value| value.truncate(3));
        assert!(matches!(torn, StoreError::Corrupt { .. }), "{torn}");
    }
    assert!(refused(b"hard", |value| value[5] ^= 4).to_string().contains("hard"));
}

#[test]
fn missing_entries_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(alone(&mut RocksStore::open(dir.path(), false).unwrap(), 5));
    {
        let db = DB::open(&Options::default(), dir.path()).unwrap();
        let mut key = [b'e', 0, 0, 0, 0, 0, 0, 0, 0];
        key[8] = 4;
        db.delete(key).unwrap();
    }
    let missing = RocksStore::open(dir.path(), false).unwrap().load();
    assert!(matches!(missing, Err(StoreError::Corrupt { what: "it is missing", .. })));
}

#[test]
fn states_that_nobody_wrote_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(dir.path(), false).unwrap();
    drop(alone(&mut store, 3));
    let sound = store.load().unwrap().unwrap();
    let refuse = |spoil: fn(&mut LogState)| {
        let mut state = sound.clone();
        spoil(&mut state);
        Peer::recover(PeerConfig::new(A), state).expect_err("a spoilt state")
    };
    let gap = refuse(|state| state.first_index.0 += 1);
    assert!(matches!(gap, RecoverError::Gap { .. }));
    let commit = refuse(|state| state.hard_state.commit = LogIndex(99));
    assert!(matches!(commit, RecoverError::Commit { .. }));
    let terms = refuse(|state| state.entries[1].term = Term(9));
    assert!(matches!(terms, RecoverError::Terms(LogIndex(2))));
    let members = refuse(|state| state.members.members.voters = vec![A, A]);
    assert_eq!(members, RecoverError::Members);
}
