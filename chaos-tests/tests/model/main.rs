//! Exhaustive exploration of failover: every order in which replicas, their
//! links and the host may act, with failures at any moment. What is explored is
//! the production code of the decision maker, the replica and consensus, see
//! [`lab`]; how, and what is left out, see [`world`].

mod host;
mod lab;
mod machine;
mod rules;
mod steps;
mod world;

use std::time::{Duration, Instant};

use hypervisor::decision::AckPolicy;
use stateright::{Checker, Model};

use host::Bug;
use machine::Ask;
use world::{Scope, World};

const BASE: Scope = Scope {
    name: "",
    ack: AckPolicy::AllLive,
    replicas: 3,
    failures: 2,
    inputs: &[Ask::Put],
    rebuild: false,
    handovers: 0,
    early_beats: 0,
    poison: false,
    beats: 12,
};

#[test]
fn probe() {
    let scope = Scope {
        replicas: std::env::var("R").map_or(2, |r| r.parse().unwrap()),
        failures: std::env::var("F").map_or(1, |r| r.parse().unwrap()),
        ack: if std::env::var("Q").is_ok() { AckPolicy::Quorum } else { AckPolicy::AllLive },
        ..BASE
    };
    let world = World::new(scope, Bug::None);
    let (lab, seen) = (world.lab.clone(), world.seen.clone());
    let start = Instant::now();
    let checker = world.checker().threads(2).timeout(Duration::from_secs(100)).spawn_bfs().join();
    println!(
        "unique {} total {} depth {} {:?} done {} lab {:?} {seen:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        start.elapsed(),
        checker.is_done(),
        lab.figures(),
    );
    for (name, path) in checker.discoveries() {
        println!("{name}");
        for (state, action) in path.into_vec() {
            println!("   {action:?} <- {:?}", state.maker.phase());
            if state.flaw.is_some() {
                println!("{state:#?}");
            }
        }
    }
}
