//! Deaths and changes of members, one crash point at a time.

use consensus::{
    AckPolicy, CampaignError, Change, ChangeError, FenceEpoch, FenceError, LogIndex, PeerId, Role,
    StepError,
};

use crate::world::World;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);

/// A group that is led by [`A`] and at rest.
fn led(policy: AckPolicy, voters: u64) -> World {
    let mut world = World::new(policy, voters);
    world.elect(A);
    world.announce();
    world
}

/// Adds a learner and lets it catch up.
fn with_learner(world: &mut World) -> PeerId {
    let id = world.join();
    assert!(world.change(Change::AddLearner(id)));
    for _ in 0..4 {
        world.settle();
        world.announce();
    }
    id
}

fn down_to_one(voters: u64) {
    let mut world = led(AckPolicy::AllLive, voters);
    for number in 1..=voters {
        let id = PeerId(number);
        if !world.peer(id).is_leader() {
            world.elect(id);
        }
        world.propose(&[number as u8]).unwrap();
        world.settle();
        assert_eq!(world.applied(id).len() as u64, number);
        if number < voters {
            world.kill(id);
            world.tell_all();
        }
    }
    let last = PeerId(voters);
    world.settle();
    assert_eq!(world.peer(last).status().members.voters, [last]);
}

#[test]
fn three_die_down_to_one() {
    down_to_one(3);
}

#[test]
fn seven_die_down_to_one() {
    down_to_one(7);
}

#[test]
fn all_but_one_die_at_once() {
    let mut world = led(AckPolicy::AllLive, 7);
    world.propose(b"kept");
    world.settle();
    for number in [1, 2, 3, 4, 6, 7] {
        world.kill(PeerId(number));
    }
    world.tell_all();
    world.elect(PeerId(5));
    assert_eq!(world.applied(PeerId(5)), [b"kept"]);
}

#[test]
fn a_learner_joins_by_the_log() {
    let mut world = led(AckPolicy::AllLive, 2);
    world.propose(b"before");
    world.settle();
    let learner = with_learner(&mut world);
    assert_eq!(world.peer(learner).role(), Role::Learner);
    assert_eq!(world.applied(learner), [b"before"]);
    assert!(world.nodes[&learner].store.snapshot.is_none());

    assert!(world.change(Change::PromoteToVoter(learner)));
    world.settle();
    world.announce();
    assert_eq!(world.peer(learner).role(), Role::Follower);
    assert!(world.peer(A).progress(learner).unwrap().is_settled);
    world.kill(A);
    world.kill(B);
    world.tell_all();
    world.elect(learner);
    assert_eq!(world.applied(learner), [b"before"]);
}

#[test]
fn a_learner_joins_by_a_snapshot() {
    let mut world = led(AckPolicy::AllLive, 2);
    for number in 0..20 {
        world.propose(&[number]);
    }
    world.settle();
    let (applied, state) = (world.nodes[&A].machine.applied, world.nodes[&A].machine.encode());
    world.peer(A).offer_snapshot(LogIndex(applied), state).unwrap();
    world.settle();
    assert!(world.peer(A).status().first_index > LogIndex(1));
    let learner = with_learner(&mut world);
    assert!(world.nodes[&learner].store.snapshot.is_some());
    assert_eq!(world.applied(learner), world.applied(A));
    world.propose(b"after");
    world.settle();
    world.announce();
    assert_eq!(world.applied(learner).last(), Some(&b"after".as_slice()));
    assert!(world.change(Change::PromoteToVoter(learner)));
    world.settle();
    assert_eq!(world.peer(A).status().members.voters, [A, B, learner]);
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let mut world = led(AckPolicy::AllLive, 1);
    world.propose(b"x");
    world.settle();
    let (applied, state) = (world.nodes[&A].machine.applied, world.nodes[&A].machine.encode());
    world.peer(A).offer_snapshot(LogIndex(applied), state).unwrap();
    world.settle();
    let learner = world.join();
    world.change(Change::AddLearner(learner));
    let awaits = |world: &mut World| {
        world.peer(A).progress(learner).is_some_and(|progress| progress.awaits_snapshot)
    };
    while !awaits(&mut world) {
        world.poll(A);
        world.poll(learner);
        world.deliver(0);
        world.peer(A).tick();
    }
    world.poll(A);
    world.net.clear();
    for _ in 0..20 {
        world.peer(A).tick();
        world.settle();
    }
    assert!(awaits(&mut world), "it is given time to answer");
    for _ in 0..400 {
        world.peer(A).tick();
        world.settle();
    }
    assert_eq!(world.applied(learner), [b"x"]);
}

#[test]
fn a_snapshot_bears_the_members_of_its_time() {
    let mut world = led(AckPolicy::AllLive, 2);
    world.propose(b"x");
    world.settle();
    let (applied, state) = (world.nodes[&A].machine.applied, world.nodes[&A].machine.encode());
    let learner = world.join();
    world.change(Change::AddLearner(learner));
    world.settle_without(&[learner]);
    world.peer(A).offer_snapshot(LogIndex(applied), state).unwrap();
    world.poll(A);
    let snapshot = world.nodes[&A].store.snapshot.as_ref().unwrap();
    assert_eq!(snapshot.index, LogIndex(applied));
    assert!(!snapshot.members.contains(learner));
    // It does not help the learner, which gets a later one.
    for _ in 0..8 {
        world.peer(A).tick();
        world.settle();
    }
    assert_eq!(world.applied(learner), [b"x"]);
}

#[test]
fn a_voter_is_demoted_and_removed() {
    let mut world = led(AckPolicy::AllLive, 3);
    assert!(world.change(Change::AddLearner(C)));
    world.settle();
    world.announce();
    assert_eq!(world.peer(C).role(), Role::Learner);
    // Nobody waits for a learner.
    let index = world.propose(b"x").unwrap();
    world.settle_without(&[C]);
    assert_eq!(world.peer(A).released(), LogIndex(index));
    assert!(world.change(Change::Remove(C)));
    world.settle();
    world.announce();
    assert!(!world.peer(B).status().members.contains(C));
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let mut world = led(AckPolicy::AllLive, 3);
    let stranger = PeerId(9);
    let leader = world.peer(A);
    assert_eq!(leader.change(Change::Remove(A)), Err(ChangeError::Itself));
    assert_eq!(leader.change(Change::AddLearner(A)), Err(ChangeError::Itself));
    assert_eq!(leader.change(Change::Remove(stranger)), Err(ChangeError::WrongRole(stranger)));
    assert_eq!(leader.change(Change::PromoteToVoter(B)), Err(ChangeError::WrongRole(B)));
    let zero = PeerId(0);
    assert_eq!(leader.change(Change::AddLearner(zero)), Err(ChangeError::WrongRole(zero)));
    assert!(leader.change(Change::AddLearner(stranger)).is_ok());
    assert_eq!(leader.change(Change::AddLearner(PeerId(8))), Err(ChangeError::InFlight));
    let follower = world.peer(B).change(Change::Remove(C));
    assert_eq!(follower, Err(ChangeError::NotLeader { leader: Some(A) }));
    world.settle();
    let behind = world.peer(A).change(Change::PromoteToVoter(stranger));
    assert!(matches!(behind, Err(ChangeError::Behind { .. })), "it was never heard of");
    world.kill(C);
    world.tell_all();
    assert_eq!(world.peer(A).change(Change::AddLearner(C)), Err(ChangeError::Fenced(C)));
}

#[test]
fn certificates_that_make_no_sense_are_refused() {
    let mut world = led(AckPolicy::AllLive, 3);
    let peer = world.peer(A);
    assert_eq!(peer.fence(FenceEpoch(1), &[A]), Err(FenceError::Itself));
    peer.fence(FenceEpoch(5), &[B]).unwrap();
    peer.fence(FenceEpoch(5), &[B]).unwrap();
    let known = FenceEpoch(5);
    let given = FenceEpoch(4);
    assert_eq!(peer.fence(given, &[B, C]), Err(FenceError::OldEpoch { given, known }));
    assert_eq!(peer.fence(known, &[B, C]), Err(FenceError::OldEpoch { given: known, known }));
}

#[test]
fn a_quorum_cannot_be_bypassed() {
    let mut world = led(AckPolicy::Quorum, 5);
    for id in [PeerId(5), PeerId(4)] {
        world.kill(id);
    }
    world.tell_all();
    world.settle();
    world.announce();
    assert_eq!(world.peer(B).status().members.voters, [A, B, C], "removed one by one");
    world.kill(C);
    let dead = [C, PeerId(4), PeerId(5)];
    assert!(world.peer(A).fence(FenceEpoch(3), &dead).is_ok());
    let lost = world.peer(A).fence(FenceEpoch(4), &[B, C, PeerId(4), PeerId(5)]);
    assert_eq!(lost, Err(FenceError::QuorumLost { alive: 1, voters: 3 }));
    assert!(world.peer(A).misses_quorum());
    let index = world.propose(b"x").unwrap();
    world.poll(A);
    assert!(world.peer(A).released() < LogIndex(index));
}

/// A voter that has not heard of a removal counts the dead, and cannot be elected
/// by those that are a majority without them.
#[test]
fn a_removal_is_known_only_once_the_slowest_voter_has_heard_of_it() {
    let mut world = led(AckPolicy::Quorum, 5);
    assert!(world.peer(A).members_are_known());
    world.kill(PeerId(5));
    world.tell_all();
    world.settle_without(&[C]);
    let members = [A, B, C, PeerId(4)];
    assert_eq!(world.peer(A).status().members.voters, members);
    assert!(!world.peer(A).members_are_known());
    for _ in 0..4 {
        world.announce();
        world.settle();
    }
    assert_eq!(world.peer(C).status().members.voters, members);
    assert!(world.peer(A).members_are_known());
    assert!(!world.peer(B).members_are_known(), "it is the leader that knows who knows");
}

#[test]
fn a_promotion_is_carried_out_by_the_next_leader() {
    let mut world = led(AckPolicy::AllLive, 2);
    let learner = with_learner(&mut world);
    assert!(world.change(Change::PromoteToVoter(learner)));
    world.poll(A);
    // B gets the entry; A dies before anybody hears that.
    world.deliver_some(|packet| packet.to == B);
    world.poll(B);
    world.net.clear();
    world.kill(A);
    world.tell_all();

    world.peer(B).campaign().unwrap();
    world.settle_without(&[learner]);
    assert_eq!(world.peer(B).role(), Role::Leader, "the learner has no say in the election");
    let (end, _) = world.peer(B).log_end();
    assert!(
        world.peer(B).released().0 + 1 < end.0,
        "but nothing behind its promotion is committed without it"
    );
    for _ in 0..4 {
        world.peer(B).tick();
        world.settle();
    }
    assert_eq!(world.peer(B).status().members.voters, [B, learner]);
    world.announce();
    world.kill(B);
    world.tell_all();
    world.elect(learner);
}

#[test]
fn a_promotion_that_nobody_has_never_happened() {
    let mut world = led(AckPolicy::AllLive, 2);
    let learner = with_learner(&mut world);
    assert!(world.change(Change::PromoteToVoter(learner)));
    world.poll(A);
    world.net.clear();
    world.kill(A);
    world.tell_all();
    world.elect(B);
    assert_eq!(world.peer(B).status().members.voters, [B]);
    assert_eq!(world.peer(B).status().members.learners, [learner]);
}

#[test]
fn what_follows_a_promotion_waits_for_the_new_voter() {
    let mut world = led(AckPolicy::AllLive, 1);
    let learner = with_learner(&mut world);
    assert!(world.change(Change::PromoteToVoter(learner)));
    let index = world.propose(b"behind").unwrap();
    world.settle_without(&[learner]);
    assert!(world.peer(A).released().0 < index - 1, "not even the promotion itself");
    world.kill(learner);
    world.tell(A);
    world.settle();
    assert_eq!(world.peer(A).released(), world.peer(A).log_end().0, "until it is dead");
    assert_eq!(world.peer(A).status().members.voters, [A]);
}

#[test]
fn a_learner_alone_does_not_go_on() {
    let mut world = led(AckPolicy::AllLive, 1);
    let learner = with_learner(&mut world);
    world.propose(b"x");
    world.poll(A);
    world.net.clear();
    world.counted.clear();
    world.kill(A);
    world.tell(learner);
    assert_eq!(world.peer(learner).campaign(), Err(CampaignError::NoVoterLeft));
    for _ in 0..100 {
        world.peer(learner).tick();
        world.poll(learner);
    }
    assert_eq!(world.peer(learner).role(), Role::Learner);
}

#[test]
fn an_outsider_does_not_campaign() {
    let mut world = led(AckPolicy::AllLive, 1);
    let joined = world.join();
    assert_eq!(world.peer(joined).role(), Role::Outsider);
    assert_eq!(world.peer(joined).campaign(), Err(CampaignError::NotMember));
}

#[test]
fn a_learner_that_dies_before_it_is_added_is_removed_again() {
    let mut world = led(AckPolicy::AllLive, 2);
    let learner = world.join();
    assert!(world.change(Change::AddLearner(learner)));
    world.kill(learner);
    world.tell_all();
    world.settle();
    world.announce();
    for id in [A, B] {
        let status = world.peer(id).status();
        assert!(!status.members.contains(learner), "{id}");
        assert!(!status.effective.contains(learner), "{id}");
        assert!(status.fenced.is_empty(), "{id}");
    }
}

#[test]
fn a_snapshot_may_name_a_dead_member() {
    let mut world = led(AckPolicy::AllLive, 2);
    world.propose(b"x");
    world.settle();
    let learner = world.join();
    assert!(world.change(Change::AddLearner(learner)));
    world.settle_without(&[learner]);
    world.announce();
    let (applied, state) = (world.nodes[&A].machine.applied, world.nodes[&A].machine.encode());
    world.peer(A).offer_snapshot(LogIndex(applied), state).unwrap();
    world.poll(A);
    world.net.clear();
    // The snapshot at `applied` names B, which is dead by the time it is sent.
    world.kill(B);
    world.tell(learner);
    for _ in 0..8 {
        world.peer(A).tick();
        world.settle();
    }
    world.tell(A);
    for _ in 0..8 {
        world.peer(A).tick();
        world.settle();
    }
    assert_eq!(world.applied(learner), [b"x"]);
    let status = world.peer(learner).status();
    assert_eq!(status.members.voters, [A]);
    assert_eq!(status.members.learners, [learner]);
}

#[test]
fn a_leader_that_inherits_its_own_removal_hands_over() {
    let mut world = led(AckPolicy::AllLive, 3);
    assert!(world.change(Change::Remove(B)));
    world.poll(A);
    world.deliver_some(|packet| packet.to == B);
    world.poll(B);
    world.net.clear();
    world.counted.clear();
    world.kill(A);
    world.tell_all();
    // B has the longest log, though it is that of its own removal.
    world.peer(B).campaign().unwrap();
    world.settle();
    assert_eq!(world.peer(B).role(), Role::Outsider);
    for _ in 0..100 {
        world.peer(C).tick();
        world.settle();
    }
    world.elect(C);
    assert_eq!(world.peer(C).status().members.voters, [C]);
    world.propose(b"x");
    world.settle();
    assert_eq!(world.applied(C), [b"x"]);
}

#[test]
fn the_dead_and_their_votes_are_not_heard() {
    let mut world = World::new(AckPolicy::AllLive, 5);
    let (d, e) = (PeerId(4), PeerId(5));
    // C and E stand in the same term. D hears only C; A and B hear only E.
    world.peer(C).campaign().unwrap();
    world.peer(e).campaign().unwrap();
    world.poll(C);
    world.poll(e);
    world.deliver_some(|packet| packet.from == C && packet.to == d);
    world.deliver_some(|packet| packet.from == e && (packet.to == A || packet.to == B));
    world.net.clear();
    for id in [A, B, d] {
        world.poll(id);
    }
    // The majority of five elects E.
    world.deliver_some(|packet| packet.to == e);
    assert_eq!(world.peer(e).role(), Role::Leader);
    // With A and B certified dead, C and D would be a majority as well, and in
    // the same term: C has to give up.
    world.kill(A);
    world.kill(B);
    world.tell(C);
    world.deliver_some(|packet| packet.to == C);
    assert_ne!(world.peer(C).role(), Role::Leader);
    assert_eq!(world.peer(C).step(A, &[]), Err(StepError::Fenced(A)));
    // Whoever is elected by the survivors is so in a later term.
    let term = world.peer(e).term();
    world.tell_all();
    world.elect(C);
    assert!(world.peer(C).term() > term);
    world.heal();
}

#[test]
fn survivors_never_elect_twice_in_a_term() {
    let mut world = World::new(AckPolicy::AllLive, 5);
    let (d, e) = (PeerId(4), PeerId(5));
    // A and B elect C, and nobody else hears of it.
    world.peer(C).campaign().unwrap();
    world.poll(C);
    world.deliver_some(|packet| packet.to == A || packet.to == B);
    world.poll(A);
    world.poll(B);
    world.deliver_some(|packet| packet.to == C);
    world.net.clear();
    assert_eq!(world.peer(C).role(), Role::Leader);
    // D and E, a majority of the three survivors, have not voted in C's term.
    world.kill(A);
    world.kill(B);
    world.tell_all();
    world.peer(d).campaign().unwrap();
    world.settle_without(&[C]);
    assert_eq!(world.peer(d).role(), Role::Leader);
    assert!(world.peer(d).term() > world.peer(C).term());
    // Who does not know of the deaths has no say in the survivors' elections.
    assert_eq!(world.peer(e).status().epoch, FenceEpoch(2));
    world.heal();
}

#[test]
fn votes_do_not_cross_certificates() {
    let mut world = World::new(AckPolicy::AllLive, 3);
    world.peer(A).campaign().unwrap();
    world.poll(A);
    let vote = world.net.iter().find(|packet| packet.to == B).cloned().unwrap();
    world.kill(C);
    world.tell(B);
    let early = world.peer(B).step(A, &vote.frame);
    assert!(matches!(early, Err(StepError::EarlierEpoch(_))), "{early:?}");
    world.net.clear();
    world.peer(B).campaign().unwrap();
    world.poll(B);
    let vote = world.net.iter().find(|packet| packet.to == A).cloned().unwrap();
    let late = world.peer(A).step(B, &vote.frame);
    assert!(matches!(late, Err(StepError::LaterEpoch(_))), "{late:?}");
}

#[test]
fn all_die_and_come_back_without_the_dead() {
    let mut world = led(AckPolicy::AllLive, 3);
    world.propose(b"first");
    world.settle();
    world.kill(C);
    world.tell_all();
    // The survivors have stored the certificate, but die before more happens.
    world.poll(A);
    world.poll(B);
    world.net.clear();
    world.stop(A);
    world.stop(B);
    world.start(A);
    world.start(B);
    assert_eq!(world.peer(A).status().epoch, FenceEpoch(1));
    assert_eq!(world.peer(B).status().effective.voters, [A, B]);
    // A has already logged the removal.
    world.elect(A);
    world.propose(b"second");
    world.settle();
    assert_eq!(world.applied(A), [b"first".as_slice(), b"second"]);
    assert_eq!(world.peer(A).status().members.voters, [A, B]);
}
