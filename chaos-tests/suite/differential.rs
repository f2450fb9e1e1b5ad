//! The running, replicated daemon and Xen's C daemon get the same random
//! requests; every answer and every watch event is compared.
//!
//! `RVMM_DIFFERENTIAL_STEPS` and `RVMM_SEED` make it a campaign; with
//! `RVMM_DIFFERENTIAL_KILLS` primaries are killed meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chaos::differential::{Failure, LiveEndpoint, Op, minimize, random_run, replay};
use chaos::harness::{Host, HostOptions, Signal, knob, signal};
use chaos::peers::{Kit, KitPart, Peer, PeerKind};
use chaos::skip::skip;

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

fn ours(host: &Host) -> LiveEndpoint<'static> {
    let domains = host.run_dir().join("xenstored/domains");
    LiveEndpoint::of_sockets(&host.socket(), &domains).expect("connects")
}

fn repeat(kit: &Kit, host: &Host, ops: &[Op]) -> Option<Failure> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let peer = Peer::start(kit, PeerKind::C, dir.path()).expect("starts");
    let mut theirs = LiveEndpoint::of_peer(&peer).expect("connects");
    replay(&mut ours(host), &mut theirs, ops).err().map(|failure| *failure)
}

fn compare(test: &str, kills: bool) {
    let kit = match Kit::fetch(KitPart::Daemons) {
        Ok(kit) => kit,
        Err(error) => return skip(test, &error),
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let peer = Peer::start(&kit, PeerKind::C, dir.path()).expect("starts");
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let steps = knob("RVMM_DIFFERENTIAL_STEPS", 10_000);
    let done = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let killer = kills.then(|| scope.spawn(|| kill_until(&host, &done)));
        let mut theirs = LiveEndpoint::of_peer(&peer).expect("connects");
        let outcome = random_run(&mut ours(&host), &mut theirs, knob("RVMM_SEED", 1), steps);
        done.store(true, Ordering::Relaxed);
        if let Some(killer) = killer {
            let killed = killer.join().expect("the killer lives");
            println!("{killed} primaries killed meanwhile");
            assert!(killed > 0, "nothing was tried");
        }
        outcome
    });
    match outcome {
        Ok(report) => println!("{report}"),
        Err(failure) if kills => panic!("{failure}\n{}", host.log()),
        Err(failure) => {
            let shortened = minimize(*failure, &mut |ops| repeat(&kit, &host, ops));
            panic!("{shortened}\n{}", host.log());
        }
    }
}

/// Kills primaries until `done`; how many.
fn kill_until(host: &Host, done: &AtomicBool) -> u64 {
    let mut killed = 0;
    while !done.load(Ordering::Relaxed) {
        let status = host.wait_complete(Duration::from_secs(20)).expect("all run");
        signal(status.primary().expect("a primary").pid, Signal::KILL).expect("it lives");
        killed += 1;
        std::thread::sleep(Duration::from_millis(150));
    }
    killed
}

#[test]
fn equals_the_c_daemon() {
    compare("equals_the_c_daemon", false);
}

#[test]
fn equals_the_c_daemon_while_primaries_die() {
    compare("equals_the_c_daemon_while_primaries_die", true);
}
