//! Bytes from a process that is not to be trusted: they are refused, or taken
//! for what they say, but nobody panics.

use consensus::{AckPolicy, MemoryStore, Peer, PeerConfig, PeerId, StepError};
use prost_raft::Message as _;
use quickcheck::{Arbitrary, Gen, QuickCheck};
use raft::eraftpb::{ConfState, Entry, Message, Snapshot, SnapshotMetadata};

use crate::world::World;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);

fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = match &message.snapshot {
        None => vec![0],
        Some(_) => {
            let mut bytes = vec![1];
            bytes.extend_from_slice(&(message.encoded_len() as u32).to_le_bytes());
            bytes
        }
    };
    bytes.extend_from_slice(&message.encode_to_vec());
    if message.snapshot.is_some() {
        bytes.extend_from_slice(b"state");
    }
    bytes
}

/// A message that raft might have sent, or almost.
#[derive(Clone, Debug)]
struct Odd(Message);

/// Numbers around those that matter, and some far away.
fn number(g: &mut Gen) -> u64 {
    let near: Vec<u64> = (0..12).collect();
    let far = [u64::MAX, u64::MAX - 1, 1 << 60, (1 << 60) - 1, 1 << 32, (1 << 32) + 1, 1 << 33];
    if u8::arbitrary(g) < 230 { *g.choose(&near).unwrap() } else { *g.choose(&far).unwrap() }
}

fn peer_number(g: &mut Gen) -> u64 {
    *g.choose(&[1, 2, 2, 2, 3, 0, 9]).unwrap()
}

fn ids(g: &mut Gen) -> Vec<u64> {
    (0..u8::arbitrary(g) % 4).map(|_| peer_number(g)).collect()
}

fn entry(g: &mut Gen, index: u64, term: u64) -> Entry {
    let is_odd = u8::arbitrary(g) < 10;
    Entry {
        entry_type: *g.choose(&[0, 0, 0, 1, 2, 2, if is_odd { 7 } else { 0 }]).unwrap(),
        term: if is_odd { number(g) } else { term },
        index: if is_odd { number(g) } else { index },
        // Often the encoding of a change of members.
        data: if bool::arbitrary(g) {
            vec![0x12, 0x04, 0x08, u8::arbitrary(g) % 4, 0x10, u8::arbitrary(g) % 4]
        } else {
            Vec::arbitrary(g)
        },
        ..Entry::default()
    }
}

impl Arbitrary for Odd {
    fn arbitrary(g: &mut Gen) -> Self {
        let (index, term) = (number(g), number(g));
        let log_term = if u8::arbitrary(g) < 200 { number(g).min(term) } else { number(g) };
        let is_odd = u8::arbitrary(g) < 20;
        let ordinary = *g.choose(&[3, 3, 4, 5, 6, 7, 7, 8, 9, 17, 18]).unwrap();
        let msg_type = if is_odd { i32::from(u8::arbitrary(g) % 21) } else { ordinary };
        let is_append = msg_type == 3 || is_odd;
        let count = if is_append { u64::from(u8::arbitrary(g) % 4) } else { 0 };
        let entries = (1..=count).map(|n| entry(g, index.wrapping_add(n), log_term)).collect();
        let snapshot = (msg_type == 7 || is_odd).then(|| Snapshot {
            data: Vec::new(),
            metadata: Some(SnapshotMetadata {
                index: number(g),
                term: log_term,
                conf_state: Some(ConfState {
                    voters: if is_odd { ids(g) } else { vec![2, 3] },
                    learners: if is_odd { ids(g) } else { vec![1] },
                    voters_outgoing: if is_odd { ids(g) } else { vec![] },
                    learners_next: if is_odd { ids(g) } else { vec![] },
                    auto_leave: is_odd,
                }),
            }),
        });
        Self(Message {
            msg_type,
            to: if u8::arbitrary(g) < 250 { 1 } else { number(g) },
            from: if u8::arbitrary(g) < 250 { 2 } else { number(g) },
            term,
            log_term,
            index,
            entries,
            commit: number(g),
            commit_term: number(g),
            snapshot,
            request_snapshot: if is_odd { number(g) } else { 0 },
            reject: bool::arbitrary(g),
            reject_hint: number(g),
            context: if bool::arbitrary(g) { b"CampaignTransfer".to_vec() } else { vec![] },
            deprecated_priority: 0,
            priority: i64::from(is_odd) * i64::arbitrary(g),
        })
    }
}

/// Peers in every state that a message can meet.
fn victims() -> Vec<Peer> {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    for number in 0..4 {
        world.propose(&[number]);
        world.settle();
    }
    world.propose(b"in flight");
    world.poll(A);
    let leader = world.nodes.get_mut(&A).and_then(|node| node.peer.take());

    let mut world = World::new(AckPolicy::Quorum, 3);
    world.elect(B);
    for number in 0..4 {
        world.propose(&[number]);
        world.settle();
    }
    let follower = world.nodes.get_mut(&A).and_then(|node| node.peer.take());

    let mut world = World::new(AckPolicy::AllLive, 3);
    world.peer(A).campaign().unwrap();
    world.poll(A);
    let candidate = world.nodes.get_mut(&A).and_then(|node| node.peer.take());

    let joiner = Peer::join(PeerConfig::new(A)).ok();
    let alone = Peer::bootstrap(PeerConfig::new(A), &[A]).ok();
    [leader, follower, candidate, joiner, alone].into_iter().flatten().collect()
}

fn endure(peer: &mut Peer, frames: impl Iterator<Item = Vec<u8>>) {
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    for (place, frame) in frames.enumerate() {
        let _ = peer.step(B, &frame);
        match place % 4 {
            0 => peer.tick(),
            1 => drop(peer.propose(vec![1, 2, 3])),
            2 => drop(peer.campaign()),
            _ => {}
        }
        if place % 3 != 0 {
            let actions = peer.poll(&mut MemoryStore, &mut out).unwrap();
            if let Some(last) = actions.committed.last() {
                peer.applied(last.index);
            }
            if actions.snapshot_wanted {
                let _ = peer.offer_snapshot(peer.status().applied, vec![7]);
            }
        }
        let _ = peer.status();
    }
}

#[test]
fn odd_messages_panic_nobody() {
    fn property(messages: Vec<Odd>) {
        for mut peer in victims() {
            endure(&mut peer, messages.iter().map(|odd| frame(&odd.0)));
        }
    }
    QuickCheck::new().tests(4000).quickcheck(property as fn(Vec<Odd>));
}

#[test]
fn random_bytes_panic_nobody() {
    fn property(frames: Vec<Vec<u8>>) {
        for mut peer in victims() {
            endure(&mut peer, frames.iter().cloned());
        }
    }
    QuickCheck::new().tests(300).quickcheck(property as fn(Vec<Vec<u8>>));
}

/// Everything that B sends to A while the group lives an ordinary life.
fn ordinary_frames() -> Vec<Vec<u8>> {
    let mut world = World::new(AckPolicy::AllLive, 3);
    let mut frames = Vec::new();
    for round in 0..16 {
        match round {
            0 => world.peer(A).campaign().unwrap(),
            8 => world.peer(B).campaign().unwrap(),
            4 | 11 | 12 => drop(world.propose(b"something")),
            _ => world.peer(B).announce_commit(),
        }
        for id in [A, B, C] {
            world.poll(id);
        }
        let sent = world.net.iter().filter(|packet| packet.from == B && packet.to == A);
        frames.extend(sent.map(|packet| packet.frame.clone()));
        world.deliver_some(|_| true);
    }
    frames
}

#[test]
fn flipped_bits_panic_nobody() {
    fn property(flips: Vec<(usize, u8)>, cut: usize) {
        for mut peer in victims() {
            let mut frames = ordinary_frames();
            for (place, bit) in &flips {
                let which = place % frames.len();
                let len = frames[which].len();
                frames[which][place / 64 % len] ^= 1 << (bit % 8);
            }
            let which = cut % frames.len();
            if cut.is_multiple_of(3) {
                let len = frames[which].len();
                frames[which].truncate(cut / 64 % len);
            }
            endure(&mut peer, frames.into_iter());
        }
    }
    assert!(ordinary_frames().len() > 8);
    QuickCheck::new().tests(500).quickcheck(property as fn(Vec<(usize, u8)>, usize));
}

#[test]
fn nonsense_is_called_so() {
    let mut peers = victims();
    let follower = &mut peers[1];
    let heartbeat = |commit| Message {
        msg_type: 8,
        to: 1,
        from: 2,
        term: follower.term().0,
        commit,
        ..Message::default()
    };
    let (beyond, good) = (heartbeat(1000), heartbeat(0));
    let forged = Message { from: 3, ..good.clone() };
    let unknown = Message { msg_type: 99, ..good.clone() };
    let far = Message { term: u64::MAX, ..good.clone() };
    assert!(matches!(follower.step(B, &frame(&beyond)), Err(StepError::Nonsense { .. })));
    assert!(matches!(follower.step(B, &frame(&forged)), Err(StepError::Nonsense { .. })));
    assert!(matches!(follower.step(B, &frame(&unknown)), Err(StepError::Malformed(_))));
    assert!(matches!(follower.step(B, &frame(&far)), Err(StepError::LaterEpoch(_))));
    assert!(matches!(follower.step(B, &[]), Err(StepError::Malformed(_))));
    assert_eq!(follower.step(B, &frame(&good)), Ok(()));
}
