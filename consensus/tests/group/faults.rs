//! Random trouble, from a seed: whatever happens, what must always hold holds,
//! and the group works once the trouble is over.

use consensus::{AckPolicy, Change, PeerConfig, PeerId};
use quickcheck::QuickCheck;
use teeth::{Bug, Hunter, table};

use crate::world::World;

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn pick(&mut self, ids: &[PeerId]) -> Option<PeerId> {
        (!ids.is_empty()).then(|| ids[self.below(ids.len())])
    }
}

/// What kinds of trouble there are.
#[derive(Clone, Copy)]
struct Trouble {
    policy: AckPolicy,
    voters: u64,
    /// Deaths that the host certifies.
    deaths: usize,
    /// Restarts from disk.
    restarts: bool,
    /// Members come and go.
    changes: bool,
    steps: usize,
}

fn tight(config: &mut PeerConfig) {
    config.election_ticks = 5;
    config.max_message_bytes = 1024;
    config.max_inflight = 4;
    config.max_uncommitted_bytes = 16 << 10;
    config.max_log_bytes = 4 << 10;
    config.snapshot_after_bytes = 2 << 10;
}

fn run(seed: u64, trouble: Trouble) {
    let mut chance = Chance(seed);
    let mut world = World::tuned(trouble.policy, trouble.voters, tight);
    let mut deaths = 0;
    let mut number = 0_u64;
    for step in 0..trouble.steps {
        let alive = world.alive();
        let Some(id) = chance.pick(&alive) else {
            let all: Vec<PeerId> = world.nodes.keys().copied().collect();
            all.into_iter().for_each(|id| world.start(id));
            continue;
        };
        match chance.below(100) {
            0..40 => {
                let place = if chance.one_in(4) { chance.below(world.net.len()) } else { 0 };
                if chance.one_in(20)
                    && let Some(packet) = world.net.get(place).cloned()
                {
                    world.net.push_back(packet);
                }
                if chance.one_in(20) {
                    world.net.remove(place);
                } else {
                    world.deliver(place);
                }
            }
            40..65 => {
                world.poll(id);
            }
            65..80 => {
                for _ in 0..=chance.below(3) {
                    number += 1;
                    let mut data = number.to_le_bytes().to_vec();
                    data.resize(8 + chance.below(200), 0);
                    // Any leader, not only the latest: a deposed one must not
                    // get anything committed.
                    let _ = world.peer(id).propose(data);
                }
            }
            80..86 => world.peer(id).tick(),
            86 => {
                let _ = world.peer(id).campaign();
            }
            87 => {
                if world.leader().is_none() {
                    world.tell_all();
                    world.campaign_longest(0);
                }
            }
            88..90 => world.peer(id).announce_commit(),
            90..93 => world.tell(id),
            93..95 if deaths < trouble.deaths && may_die(&world, id) => {
                deaths += 1;
                world.kill(id);
            }
            95 if trouble.restarts => {
                world.stop(id);
                if chance.one_in(2) {
                    world.start(id);
                }
            }
            96 if trouble.restarts => {
                let all: Vec<PeerId> = world.nodes.keys().copied().collect();
                all.into_iter().for_each(|id| world.start(id));
            }
            97..99 if trouble.changes => change_members(&mut world, &mut chance),
            _ => {
                let applied = world.nodes[&id].machine.applied;
                let through = applied.saturating_sub(chance.next() % 8);
                world.peer(id).compact(consensus::LogIndex(through));
            }
        }
        if step % 64 == 0 {
            world.judge_logs();
        }
    }
    world.judge_logs();
    world.heal();
}

/// One replica that the host relies on must live (all-live); the tests with a
/// quorum bound the number of deaths.
fn may_die(world: &World, id: PeerId) -> bool {
    world.counted.iter().any(|&other| other != id && !world.is_dead(other))
}

fn change_members(world: &mut World, chance: &mut Chance) {
    let Some(leader) = world.leader() else { return };
    let status = world.peer(leader).status();
    let others: Vec<PeerId> =
        status.members.voters.iter().copied().filter(|&id| id != leader).collect();
    match chance.below(6) {
        0 | 1 if world.nodes.len() < 12 => {
            let id = world.join();
            world.change(Change::AddLearner(id));
        }
        2 | 3 => {
            if let Some(id) = chance.pick(&status.members.learners) {
                world.change(Change::PromoteToVoter(id));
            }
        }
        // The host takes out nobody that it could not do without.
        4 | 5 => {
            if let Some(id) = chance.pick(&others)
                && may_die(world, id)
            {
                let demote = chance.one_in(2);
                world.change(if demote { Change::AddLearner(id) } else { Change::Remove(id) });
            }
        }
        _ => {}
    }
}

/// Runs the property from random seeds; a failure tells the seed.
fn check(tests: u64, property: fn(u64)) {
    QuickCheck::new().tests(tests).quickcheck(property);
}

const DEATHS: Trouble = Trouble {
    policy: AckPolicy::AllLive,
    voters: 3,
    deaths: 2,
    restarts: false,
    changes: false,
    steps: 600,
};
const MANY_DEATHS: Trouble = Trouble { voters: 7, deaths: 6, steps: 1200, ..DEATHS };
const RESTARTS: Trouble = Trouble { voters: 4, deaths: 3, restarts: true, ..DEATHS };
const CHANGES: Trouble = Trouble { deaths: 8, changes: true, steps: 1500, ..DEATHS };
const EVERYTHING: Trouble = Trouble { restarts: true, ..CHANGES };
const QUORUM: Trouble = Trouble { policy: AckPolicy::Quorum, voters: 5, restarts: true, ..DEATHS };

#[test]
fn all_live_survives_all_deaths_but_one() {
    check(300, |seed| run(seed, DEATHS));
}

#[test]
fn all_live_of_seven_survives_six_deaths() {
    check(300, |seed| run(seed, MANY_DEATHS));
}

#[test]
fn all_live_with_restarts() {
    check(300, |seed| run(seed, RESTARTS));
}

#[test]
fn all_live_with_members_coming_and_going() {
    check(500, |seed| run(seed, CHANGES));
}

#[test]
fn all_live_with_everything() {
    check(500, |seed| run(seed, EVERYTHING));
}

#[test]
fn quorum_survives_a_minority_of_deaths() {
    check(300, |seed| run(seed, QUORUM));
}

/// Those that this test has to catch, and others that it does.
#[test]
fn deliberate_bugs_are_caught() {
    let others = [
        Bug::AllLiveAtMajority,
        Bug::DeadVoterAwaited,
        Bug::DeadNeverRemoved,
        Bug::EntriesNotStored,
    ];
    let trouble = |bug| match bug {
        Bug::CertificateNotInTerm | Bug::EntriesNotStored => RESTARTS,
        Bug::VoteTwice => MANY_DEATHS,
        _ => DEATHS,
    };
    let bugs = Hunter::Consensus.prey().chain(others);
    let place = env!("CARGO_TARGET_TMPDIR");
    let run = |bug, seed| run(seed, trouble(bug));
    let table = table::hunt(Hunter::Consensus, bugs, 2000, place, run);
    println!("{}", table.expect("a place for the table"));
}
