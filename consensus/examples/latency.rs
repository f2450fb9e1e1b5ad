//! Measures the crate alone: three peers in one thread, messages handed over in
//! memory. `cargo run --release -p consensus --example latency [DIRECTORY]`; with
//! a directory, each peer stores its log there.

use std::path::Path;
use std::time::Instant;

use consensus::{LogStore, MemoryStore, Outbox, Peer, PeerConfig, PeerId, RocksStore};

const PEERS: u64 = 3;

/// Frames by receiver, in buffers that are used again.
#[derive(Default)]
struct Mail {
    frames: Vec<(PeerId, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Outbox for Mail {
    fn send(&mut self, to: PeerId, message: &[u8]) -> bool {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(message);
        self.frames.push((to, frame));
        true
    }
}

struct Group {
    peers: Vec<(Peer, Box<dyn LogStore>)>,
    mail: Vec<Mail>,
    committed: usize,
}

impl Group {
    fn new(directory: Option<&Path>, sync: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let ids: Vec<PeerId> = (1..=PEERS).map(PeerId).collect();
        let mut peers = Vec::new();
        for &id in &ids {
            let store: Box<dyn LogStore> = match directory {
                Some(path) => Box::new(RocksStore::open(&path.join(id.to_string()), sync)?),
                None => Box::new(MemoryStore),
            };
            peers.push((Peer::bootstrap(PeerConfig::new(id), &ids)?, store));
        }
        let mail = ids.iter().map(|_| Mail::default()).collect();
        let mut group = Self { peers, mail, committed: 0 };
        group.peers[0].0.campaign()?;
        group.until_quiet()?;
        group.committed = 0;
        Ok(group)
    }

    fn poll(&mut self, place: usize) -> Result<(), Box<dyn std::error::Error>> {
        let (peer, store) = &mut self.peers[place];
        let actions = peer.poll(store.as_mut(), &mut self.mail[place])?;
        if let Some(last) = actions.committed.last() {
            peer.applied(last.index);
            if peer.log_len() > 4096 {
                peer.compact(last.index);
            }
        }
        if place == 0 {
            self.committed += actions.committed.len();
        }
        Ok(())
    }

    fn until_quiet(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        loop {
            for place in 0..self.peers.len() {
                self.poll(place)?;
            }
            let mut is_quiet = true;
            for place in 0..self.peers.len() {
                let from = PeerId(place as u64 + 1);
                for (to, frame) in std::mem::take(&mut self.mail[place].frames) {
                    is_quiet = false;
                    self.peers[to.0 as usize - 1].0.step(from, &frame)?;
                    self.mail[place].spare.push(frame);
                }
            }
            if is_quiet {
                return Ok(());
            }
        }
    }

    /// Commits `rounds` batches of `batch` separate entries.
    fn run(
        &mut self,
        name: &str,
        rounds: usize,
        batch: usize,
        bytes: usize,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let before = self.committed;
        let start = Instant::now();
        for _ in 0..rounds {
            for _ in 0..batch {
                self.peers[0].0.propose(vec![7; bytes])?;
            }
            self.until_quiet()?;
        }
        let elapsed = start.elapsed();
        let commits = self.committed - before;
        assert_eq!(commits, rounds * batch);
        let each_us = elapsed.as_secs_f64() * 1e6 / commits as f64;
        println!("{name:32} {bytes:5} bytes: {each_us:8.2} us a commit");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.as_deref().map(Path::new);
    let syncs: &[bool] = if directory.is_some() { &[false, true] } else { &[false] };
    for &sync in syncs {
        let place = directory.map(|path| path.join(if sync { "power" } else { "process" }));
        if let Some(place) = &place {
            std::fs::create_dir_all(place)?;
        }
        let kind = match (&place, sync) {
            (None, _) => "volatile",
            (Some(_), false) => "process",
            (Some(_), true) => "power",
        };
        let rounds = if sync { 200 } else { 20_000 };
        let mut group = Group::new(place.as_deref(), sync)?;
        for bytes in [100, 1000] {
            group.run(&format!("{kind}, one at a time"), rounds, 1, bytes)?;
            group.run(&format!("{kind}, 64 at a time"), rounds / 20, 64, bytes)?;
        }
    }
    Ok(())
}
