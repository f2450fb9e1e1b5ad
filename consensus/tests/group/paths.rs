//! The ordinary paths: commit, acknowledgement, batching, limits, compaction.

use consensus::{
    AckPolicy, Batch, Change, LogIndex, LogState, LogStore, MemoryStore, Outbox, Peer, PeerConfig,
    PeerId, ProposeError, Role, StoreError,
};

use crate::world::World;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);

#[test]
fn a_group_commits_and_tells_when_idle() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    world.announce();
    let index = world.propose(b"hello").unwrap();
    world.settle();
    assert_eq!(world.peer(A).released(), LogIndex(index));
    assert_eq!(world.applied(A), [b"hello"]);
    assert!(world.applied(B).is_empty(), "the commit travels with the next message");
    world.announce();
    assert_eq!(world.applied(B), [b"hello"]);
    assert_eq!(world.applied(C), [b"hello"]);
}

#[test]
fn a_single_peer_leads_and_commits_at_once() {
    let mut world = World::new(AckPolicy::AllLive, 1);
    world.elect(A);
    world.propose(b"alone");
    world.poll(A);
    assert_eq!(world.applied(A), [b"alone"]);
}

#[test]
fn all_live_waits_for_a_hung_voter_until_it_is_fenced() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    let index = world.propose(b"x").unwrap();
    world.settle_without(&[C]);
    assert!(world.peer(A).released() < LogIndex(index));
    let term = world.peer(A).term();
    world.kill(C);
    world.tell(A);
    world.poll(A);
    assert_eq!(world.peer(A).released(), LogIndex(index));
    assert_eq!(world.peer(A).term(), term, "a living leader stays");
    world.tell(B);
    world.settle();
    assert_eq!(world.peer(A).status().members.voters, [A, B], "the log tells of the death");
    assert!(world.peer(A).status().fenced.is_empty());
}

#[test]
fn who_resigned_logs_nothing_until_elected_again() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    world.propose(b"x");
    world.settle();
    let (end, term) = (world.peer(A).log_end(), world.peer(A).term());
    world.peer(A).resign();
    world.kill(C);
    world.tell_all();
    world.settle();
    assert!(!world.peer(A).is_leader());
    assert_eq!(world.peer(A).log_end(), end, "not even the removal of the dead");
    world.elect(A);
    world.settle();
    assert!(world.peer(A).term() > term, "what others have voted for meanwhile is void");
    assert_eq!(world.peer(A).status().members.voters, [A, B]);
}

#[test]
fn a_quorum_does_not_wait() {
    let mut world = World::new(AckPolicy::Quorum, 3);
    world.elect(A);
    let index = world.propose(b"x").unwrap();
    world.settle_without(&[C]);
    assert_eq!(world.peer(A).released(), LogIndex(index));
}

#[test]
fn proposals_between_polls_travel_together() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    let first = world.propose(b"0").unwrap();
    for number in 1..10_u8 {
        let index = world.propose(&[b'0' + number]);
        assert_eq!(index, Some(first + u64::from(number)));
    }
    world.poll(A);
    assert_eq!(world.net.len(), 2, "one message to each follower");
    world.settle();
    assert_eq!(world.applied(A).len(), 10);
}

#[test]
fn no_message_exceeds_its_bound() {
    let bound = 4096;
    let mut world = World::tuned(AckPolicy::AllLive, 3, |config| {
        config.max_message_bytes = 4096;
        config.max_inflight = 1000;
    });
    world.elect(A);
    world.announce();
    let largest =
        PeerConfig { max_message_bytes: bound, ..PeerConfig::new(A) }.max_proposal_bytes();
    for len in (0..3000).map(|number| number % 7).chain([largest, 2000, 2000, 1, largest]) {
        world.propose(&vec![b'x'; len]).unwrap();
    }
    world.poll(A);
    assert!(world.net.len() > 10, "what does not fit is sent without waiting");
    let longest = world.net.iter().map(|packet| packet.frame.len()).max().unwrap();
    assert!(longest <= bound, "{longest} bytes");
    world.settle();
    world.announce();
    assert_eq!(world.applied(C), world.applied(A));
    assert_eq!(world.peer(A).released().0, world.nodes[&C].store.last());
}

#[test]
fn limits_are_told() {
    let mut world = World::tuned(AckPolicy::AllLive, 2, |config| {
        config.max_message_bytes = 1024;
        config.max_uncommitted_bytes = 2048;
    });
    let refused = world.peer(B).propose(vec![0]);
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    world.elect(A);
    let refused = world.peer(B).propose(vec![0]);
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(A) }));
    let limit = world.peer(A).propose(vec![0; 2000]);
    assert_eq!(limit, Err(ProposeError::TooLarge { len: 2000, limit: 768 }));
    for _ in 0..2 {
        world.peer(A).propose(vec![0; 700]).unwrap();
        world.poll(A);
    }
    assert_eq!(world.peer(A).propose(vec![0; 700]), Err(ProposeError::Full));
    world.settle();
    world.peer(A).propose(vec![0; 700]).unwrap();
}

#[test]
fn a_campaign_does_not_wait_for_the_leader_to_fall_silent() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    world.propose(b"x");
    world.settle();
    world.elect(B);
    assert_eq!(world.peer(A).role(), Role::Follower);
    // The leader of before does not get its leftovers in.
    assert!(world.peer(A).propose(vec![1]).is_err());
}

#[test]
fn the_longer_log_is_elected_and_the_shorter_is_not() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    world.propose(b"only on two");
    world.settle_without(&[C]);
    world.net.clear();
    world.kill(A);
    world.tell_all();
    world.peer(C).campaign().unwrap();
    world.settle();
    assert_eq!(world.peer(C).role(), Role::Follower, "its log is shorter");
    world.elect(B);
    world.announce();
    assert_eq!(world.applied(C), [b"only on two"]);
}

#[test]
fn a_silent_host_is_replaced_by_timeouts() {
    let mut world = World::new(AckPolicy::Quorum, 3);
    world.elect(A);
    world.announce();
    world.stop(A);
    for _ in 0..200 {
        for id in world.alive() {
            world.peer(id).tick();
        }
        world.settle();
    }
    let leader = world.leader().expect("one of the two");
    world.propose(b"on its own");
    world.settle();
    assert_eq!(world.applied(leader), [b"on its own"]);
}

#[test]
fn a_leader_that_hears_nobody_steps_down() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.elect(A);
    for _ in 0..60 {
        world.peer(A).tick();
        world.poll(A);
    }
    assert_eq!(world.peer(A).role(), Role::Follower);
}

/// Takes nothing.
struct Full;

impl Outbox for Full {
    fn send(&mut self, _: PeerId, _: &[u8]) -> bool {
        false
    }
}

#[test]
fn what_the_outbox_drops_is_sent_again() {
    let mut world = World::new(AckPolicy::AllLive, 2);
    world.elect(A);
    let index = world.propose(b"x").unwrap();
    let node = world.nodes.get_mut(&A).unwrap();
    node.peer.as_mut().unwrap().poll(&mut node.store, &mut Full).unwrap();
    for _ in 0..4 {
        world.peer(A).tick();
        world.settle();
    }
    assert_eq!(world.peer(A).released(), LogIndex(index));
}

#[test]
fn the_log_is_compacted_to_what_is_needed() {
    let mut world = World::new(AckPolicy::AllLive, 2);
    world.elect(A);
    for _ in 0..50 {
        world.propose(&[7; 100]);
        world.settle();
    }
    // The store is durable: without a snapshot in it nothing may go.
    world.peer(A).compact(LogIndex(40));
    world.poll(A);
    assert_eq!(world.peer(A).log_len(), 52);
    let (applied, state) = (world.nodes[&A].machine.applied, world.nodes[&A].machine.encode());
    world.peer(A).offer_snapshot(LogIndex(applied), state).unwrap();
    world.poll(A);
    assert_eq!(world.peer(A).log_len(), 52 - applied);
    assert_eq!(world.nodes[&A].store.entries.len() as u64, 52 - applied);
    world.stop(A);
    world.start(A);
    assert_eq!(world.nodes[&A].machine.entries.len(), 50);
}

#[test]
fn without_a_disk_the_applied_log_may_go() {
    let mut peer = Peer::bootstrap(PeerConfig::new(A), &[A]).unwrap();
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    peer.campaign().unwrap();
    for _ in 0..100 {
        let actions = peer.poll(&mut MemoryStore, &mut out).unwrap();
        assert!(!actions.snapshot_wanted);
        if let Some(last) = actions.committed.last() {
            peer.applied(last.index);
            peer.compact(last.index);
        }
        peer.propose(vec![1; 1000]).unwrap();
    }
    assert!(peer.log_len() < 4, "{} entries", peer.log_len());
}

/// Fails on demand.
#[derive(Default)]
struct Brittle {
    is_broken: bool,
}

impl LogStore for Brittle {
    fn write(&mut self, _: &Batch<'_>) -> Result<(), StoreError> {
        if self.is_broken { Err(StoreError::Database("disk full".into())) } else { Ok(()) }
    }

    fn load(&mut self) -> Result<Option<LogState>, StoreError> {
        Ok(None)
    }

    fn is_durable(&self) -> bool {
        true
    }
}

#[test]
fn nothing_is_promised_that_is_not_stored() {
    let ids = [A, B];
    let mut leader = Peer::bootstrap(PeerConfig::new(A), &ids).unwrap();
    let mut follower = Peer::bootstrap(PeerConfig::new(B), &ids).unwrap();
    let (mut good, mut brittle) = (Brittle::default(), Brittle::default());
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    follower.poll(&mut brittle, &mut out).unwrap();
    leader.campaign().unwrap();
    leader.poll(&mut good, &mut out).unwrap();
    follower.step(A, &out.pop().unwrap().1).unwrap();
    brittle.is_broken = true;
    let failed = follower.poll(&mut brittle, &mut out);
    assert_eq!(failed, Err(StoreError::Database("disk full".into())));
    assert!(out.is_empty(), "no vote without a record of it");
    brittle.is_broken = false;
    assert_eq!(follower.poll(&mut brittle, &mut out), Err(StoreError::Poisoned));
}

#[test]
fn a_leader_alone_sends_nothing_before_its_election_is_stored() {
    let mut world = World::new(AckPolicy::AllLive, 1);
    world.elect(A);
    let learner = world.join();
    world.change(Change::AddLearner(learner));
    world.settle();
    world.stop(A);
    world.start(A);
    let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
    let mut brittle = Brittle { is_broken: true };
    world.peer(A).campaign().unwrap();
    assert!(world.peer(A).poll(&mut brittle, &mut out).is_err());
    assert!(out.is_empty(), "another election in the same term would be possible");
}
