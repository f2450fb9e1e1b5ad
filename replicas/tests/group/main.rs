//! Groups of replicas without I/O, in an order that a seed chooses: primaries are
//! killed between any two calls, replicas join from snapshots, leave, hand over
//! and meet poisons, and messages wait. Every input is answered once and as by a
//! machine that never failed; events come in order and without gaps.

mod company;
mod host;
mod machine;
mod quarantine;
mod world;

use consensus::{AckPolicy, Peer, PeerConfig, PeerId};
use hypervisor::{Generation, ReplicaId};
use machine::Board;
use replica::core::Replica;
use replica::executor::Local;
use replica::protocol::ToReplica;
use teeth::{Bug, Hunter, table};
use world::{Desk, World};

/// What has happened, so that a test that tests nothing is noticed.
#[derive(Default)]
struct Happened {
    kills: usize,
    handovers: usize,
    installs: usize,
    stopgaps: usize,
}

fn run(seed: u64, ack: AckPolicy, replicas: u8, steps: usize, happened: &mut Happened) {
    let mut world = World::new(seed, ack, replicas);
    for _ in 0..steps {
        world.step();
    }
    world.heal();
    world.host.judge();
    happened.kills += world.kills;
    happened.handovers += world.handovers;
    happened.installs += world.installs;
    happened.stopgaps += world.stopgaps;
}

fn run_all(ack: AckPolicy, sizes: std::ops::RangeInclusive<u8>, seeds: u64) {
    let mut happened = Happened::default();
    let only = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in 0..seeds {
        if only.is_some_and(|only: u64| only != seed) {
            continue;
        }
        for replicas in sizes.clone() {
            println!("seed {seed}, {replicas} replicas");
            run(seed * 8 + u64::from(replicas), ack, replicas, 4_000, &mut happened);
        }
    }
    if only.is_none() {
        let least = usize::try_from(seeds).expect("small");
        assert!(happened.kills > least, "only {} kills", happened.kills);
        assert!(happened.handovers > least, "only {} handovers", happened.handovers);
        assert!(happened.installs > least, "only {} joins", happened.installs);
        let may_be_needed = ack == AckPolicy::Quorum;
        assert_eq!(happened.stopgaps > 0, may_be_needed, "{} stopgaps", happened.stopgaps);
    }
}

/// Those that this test has to catch, and others that it does.
#[test]
fn deliberate_bugs_are_caught() {
    use AckPolicy::{AllLive, Quorum};
    let others = [
        Bug::AllLiveAtMajority,
        Bug::DeadNeverRemoved,
        Bug::LearnerCounted,
        Bug::ReleasedMarkKept,
        Bug::StrikesForgotten,
        Bug::VoterToldUnsettled,
    ];
    let group = |bug| match bug {
        Bug::DeadNeverRemoved => (Quorum, 3),
        Bug::MembershipToldEarly => (Quorum, 4),
        Bug::StrikesForgotten => (AllLive, 4),
        Bug::VoterToldUnsettled => (AllLive, 2),
        _ => (AllLive, 3),
    };
    let bugs = Hunter::Replicas.prey().chain(others);
    let table =
        table::hunt(Hunter::Replicas, bugs, 1000, env!("CARGO_TARGET_TMPDIR"), |bug, seed| {
            let (ack, replicas) = group(bug);
            run(seed, ack, replicas, 4_000, &mut Happened::default());
        });
    println!("{}", table.expect("a place for the table"));
}

#[test]
fn all_live_groups_lose_nothing_and_repeat_nothing() {
    run_all(AckPolicy::AllLive, 1..=5, 80);
}

#[test]
fn quorum_groups_lose_nothing_and_repeat_nothing() {
    run_all(AckPolicy::Quorum, 3..=5, 80);
}

/// Consensus takes it for a wish to demote.
#[test]
fn asking_for_a_member_again_does_not_take_its_vote() {
    for seed in 0..10 {
        let mut world = World::new(seed, AckPolicy::AllLive, 3);
        world.heal();
        world.ask_again_for_members();
        while world.logged() == 0 {
            world.step();
        }
        world.heal();
        assert_eq!(world.logged(), 3);
    }
}

/// It may lack the entries that made the dead members of the past.
#[test]
fn a_replica_that_misses_a_quorum_leaves_the_judgement_to_the_host() {
    let config = PeerConfig { ack: AckPolicy::Quorum, ..PeerConfig::new(PeerId(1)) };
    let peer = Peer::bootstrap(config, &[PeerId(1), PeerId(2), PeerId(3)]).expect("sound");
    let executor = Local::<Board>::new(Box::new(Desk::default()));
    let mut replica = Replica::new(ReplicaId(1), peer, executor);
    let isolate = ToReplica::Isolate {
        generation: Generation(2),
        certificate: 2,
        fenced: vec![ReplicaId(2), ReplicaId(3)],
    };
    replica.on_control(isolate).expect("it goes on");
    assert_eq!(replica.progress().generation, Generation(2));
}
