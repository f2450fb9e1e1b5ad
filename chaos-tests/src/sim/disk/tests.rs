//! The disk is what RocksDB is, and loses what power and death take.

use consensus::{Peer, PeerConfig, PeerId, RocksStore};
use quickcheck::QuickCheck;

use super::*;

/// Writes to both, and so shows that both hold the same.
struct Pair {
    sim: SimDisk,
    rocks: RocksStore,
}

impl LogStore for Pair {
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.rocks.write(batch)?;
        self.sim.write(batch)
    }

    fn load(&mut self) -> Result<Option<LogState>, StoreError> {
        let (rocks, sim) = (self.rocks.load(), self.sim.load());
        assert_eq!(rocks, sim);
        sim
    }

    fn is_durable(&self) -> bool {
        true
    }
}

/// Messages between peers, from whom and to whom.
type Wire = Vec<(PeerId, PeerId, Vec<u8>)>;

struct Out<'a>(PeerId, &'a mut Wire);

impl consensus::Outbox for Out<'_> {
    fn send(&mut self, to: PeerId, message: &[u8]) -> bool {
        self.1.push((self.0, to, message.to_vec()));
        true
    }
}

fn config(id: PeerId) -> PeerConfig {
    PeerConfig { ack: consensus::AckPolicy::Quorum, ..PeerConfig::new(id) }
}

/// Three peers that lose messages and change leaders, so that logs are cut,
/// compacted and replaced.
#[test]
fn it_holds_what_rocksdb_holds() {
    fn property(seed: u64) {
        let mut rng = Rng::new(seed);
        let dir = tempfile::tempdir().expect("a directory");
        let ids = [PeerId(1), PeerId(2), PeerId(3)];
        let mut peers: Vec<Peer> =
            ids.map(|id| Peer::bootstrap(config(id), &ids).expect("sound")).into();
        let mut stores: Vec<Pair> = ids
            .iter()
            .map(|id| Pair {
                sim: SimDisk::new(rng.percent(50)),
                rocks: RocksStore::open(&dir.path().join(id.to_string()), false).expect("opens"),
            })
            .collect();
        let mut wire = Wire::new();
        let mut cut_off = None;
        for step in 0..600u64 {
            if step % 60 == 0 {
                cut_off = rng.percent(60).then(|| ids[rng.below(3)]);
                peers[rng.below(3)].campaign().ok();
            }
            let at = rng.below(3);
            peers[at].tick();
            if peers[at].is_leader() && rng.percent(60) {
                let data = vec![step as u8; 1 + rng.below(300)];
                peers[at].propose(data).ok();
            }
            for (at, peer) in peers.iter_mut().enumerate() {
                let actions =
                    peer.poll(&mut stores[at], &mut Out(ids[at], &mut wire)).expect("writes");
                if let Some(install) = actions.install {
                    peer.applied(install.index);
                }
                let mut last = None;
                for entry in actions.committed {
                    last = Some(entry.index);
                }
                if let Some(last) = last {
                    peer.applied(last);
                    if rng.percent(20) {
                        peer.offer_snapshot(last, vec![7; rng.below(5000)]).ok();
                        peer.compact(LogIndex(last.0.saturating_sub(rng.below(4) as u64)));
                    }
                }
            }
            for (from, to, message) in std::mem::take(&mut wire) {
                if Some(from) != cut_off && Some(to) != cut_off && !rng.percent(5) {
                    peers[to.0 as usize - 1].step(from, &message).ok();
                }
            }
            if step % 50 == 0 {
                stores[rng.below(3)].load().expect("loads");
            }
        }
        for store in &mut stores {
            let state = store.load().expect("loads").expect("was written");
            assert!(state.hard_state.term.0 > 0);
        }
    }
    QuickCheck::new().tests(12).quickcheck(property as fn(u64));
}

/// A peer alone, which writes a batch with each proposal.
fn alone(disk: &mut SimDisk) -> (Peer, Wire) {
    let mut peer = Peer::bootstrap(config(PeerId(1)), &[PeerId(1)]).expect("sound");
    let mut wire = Wire::new();
    peer.campaign().expect("may");
    for _ in 0..3 {
        peer.poll(disk, &mut Out(PeerId(1), &mut wire)).expect("writes");
    }
    (peer, wire)
}

fn propose(peer: &mut Peer, disk: &mut SimDisk) -> Result<(), StoreError> {
    let before = disk.writes();
    peer.propose(b"data".to_vec()).expect("leads");
    while disk.writes() == before {
        peer.poll(disk, &mut Out(PeerId(1), &mut Wire::new())).map(drop)?;
    }
    Ok(())
}

fn entries(disk: &SimDisk) -> usize {
    disk.look().expect("sound").map_or(0, |state| state.entries.len())
}

#[test]
fn power_takes_the_last_batches_and_never_what_was_synced() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..40 {
        for sync in [false, true] {
            let mut disk = SimDisk::new(sync);
            let (mut peer, _) = alone(&mut disk);
            for _ in 0..20 {
                propose(&mut peer, &mut disk).expect("writes");
            }
            let before = entries(&disk);
            let loss = disk.lose_power(&mut Rng::new(seed));
            let after = disk.look().expect("no gap");
            let left = after.map_or(0, |state| state.entries.len());
            if sync {
                assert_eq!((left, loss), (before, PowerLoss::default()));
            } else {
                assert!(left <= before);
                lost += loss.lost;
                kept += loss.kept;
            }
            assert!(propose(&mut peer, &mut disk).is_err(), "its owner is dead");
        }
    }
    assert!(lost > 100 && kept > 100, "{lost} lost, {kept} kept");
}

#[test]
fn a_process_that_dies_loses_nothing_and_writes_nothing_more() {
    let disk = SimDisk::new(false);
    let alive = Alive::default();
    let mut handle = disk.handle(&alive);
    let (mut peer, _) = alone(&mut handle);
    propose(&mut peer, &mut handle).expect("writes");
    let before = disk.look();
    alive.end();
    assert!(propose(&mut peer, &mut handle).is_err());
    assert_eq!(disk.look(), before);
    let mut next = disk.handle(&Alive::default());
    let state = next.load().expect("loads").expect("was written");
    assert!(Peer::recover(config(PeerId(1)), state).is_ok());
}

#[test]
fn faults_hit_where_they_were_put() {
    let faults = [
        (DiskFault::FailWrite { nth: 3, reached: false }, false),
        (DiskFault::FailWrite { nth: 3, reached: true }, true),
        (DiskFault::Crash { nth: 3, reached: false }, false),
        (DiskFault::Crash { nth: 3, reached: true }, true),
        (DiskFault::Full { nth: 3 }, false),
    ];
    for (fault, reached) in faults {
        let mut disk = SimDisk::new(true);
        let (mut peer, _) = alone(&mut disk);
        disk.inject(fault);
        for _ in 0..2 {
            propose(&mut peer, &mut disk).expect("not yet");
        }
        let before = entries(&disk);
        assert!(propose(&mut peer, &mut disk).is_err(), "{fault:?}");
        assert_eq!(entries(&disk), before + usize::from(reached), "{fault:?}");
        assert_eq!(disk.faults_hit(), 1);
        let survivor = disk.handle(&Alive::default());
        let mut other = survivor.clone();
        let batch = Batch { hard_state: Some(HardState::default()), ..Batch::default() };
        let full = matches!(fault, DiskFault::Full { .. });
        assert_eq!(other.write(&batch).is_err(), full, "{fault:?}");
        survivor.heal();
        assert!(other.write(&batch).is_ok());
    }
    let mut disk = SimDisk::new(true);
    alone(&mut disk);
    disk.inject(DiskFault::FailLoad);
    assert!(disk.load().is_err());
    assert!(disk.load().expect("once only").is_some());
    assert_eq!(SimDisk::new(true).load(), Ok(None));
}
