//! The comparison itself: a daemon equals itself, and Xen's two differ.

use chaos::differential::{Failure, LiveEndpoint, Report, minimize, random_run, replay};
use chaos::harness::knob;
use chaos::peers::{Kit, KitPart, Peer, PeerError, PeerKind};
use chaos::skip::skip;

struct Pair {
    peers: [Peer; 2],
    _dirs: [tempfile::TempDir; 2],
}

fn pair(kit: &Kit, kinds: [PeerKind; 2]) -> Result<Pair, PeerError> {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let first = Peer::start(kit, kinds[0], dirs[0].path())?;
    let second = Peer::start(kit, kinds[1], dirs[1].path())?;
    Ok(Pair { peers: [first, second], _dirs: dirs })
}

fn compare(pair: &Pair, seed: u64, steps: u64) -> Result<Report, Box<Failure>> {
    let [ours, theirs] = &pair.peers;
    let mut ours = LiveEndpoint::of_peer(ours).expect("connects");
    let mut theirs = LiveEndpoint::of_peer(theirs).expect("connects");
    random_run(&mut ours, &mut theirs, seed, steps)
}

fn fetch(test: &str) -> Option<Kit> {
    Kit::fetch(KitPart::Daemons).map_err(|error| skip(test, &error)).ok()
}

#[test]
fn a_daemon_equals_itself() {
    let Some(kit) = fetch("a_daemon_equals_itself") else { return };
    let pair = pair(&kit, [PeerKind::C, PeerKind::C]).expect("both start");
    let report = compare(&pair, knob("RVMM_SEED", 1), 5_000).unwrap_or_else(|f| panic!("{f}"));
    // Its errors of malformed requests are chance.
    assert!(report.rules.keys().all(|rule| *rule == "malformed-arguments"), "{report}");
    assert!(report.granted > 1500 && report.events > 1000 && report.commits > 30, "{report}");
}

#[test]
fn different_daemons_differ_and_the_steps_are_shortened() {
    let Some(kit) = fetch("different_daemons_differ") else { return };
    let kinds = [PeerKind::C, PeerKind::Ocaml];
    let failure = compare(&pair(&kit, kinds).expect("both start"), 1, 5_000);
    let failure = *failure.expect_err("they differ in many ways");
    let before = failure.ops.len();
    let shortened = minimize(failure, &mut |ops| {
        let pair = pair(&kit, kinds).expect("both start");
        let mut ours = LiveEndpoint::of_peer(&pair.peers[0]).expect("connects");
        let mut theirs = LiveEndpoint::of_peer(&pair.peers[1]).expect("connects");
        replay(&mut ours, &mut theirs, ops).err().map(|failure| *failure)
    });
    assert!(shortened.ops.len() <= before && shortened.ops.len() < 10, "{shortened}");
}
