//! The comparison itself: a daemon equals itself, and Xen's two differ.

use std::collections::BTreeMap;

use chaos::differential::{
    Failure, LiveEndpoint, MachineEndpoint, Op, Report, minimize, random_run, replay,
};
use chaos::harness::knob;
use chaos::peers::{Kit, KitPart, Peer, PeerError, PeerKind};
use chaos::skip::skip;
use xenstore::Xenstore;

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
    // The one rule that applies whether or not there is a difference.
    assert!(report.rules.keys().all(|rule| *rule == "met-changes"), "{report}");
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

fn replay_machine(kit: &Kit, ops: &[Op]) -> Option<Failure> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let peer = Peer::start(kit, PeerKind::C, dir.path()).expect("starts");
    let mut ours = MachineEndpoint::<Xenstore>::new().expect("introduces the guests");
    let mut theirs = LiveEndpoint::of_peer(&peer).expect("connects");
    replay(&mut ours, &mut theirs, ops).err().map(|failure| *failure)
}

/// `RVMM_SEED` chooses the first run, `RVMM_DIFFERENTIAL_SEEDS` how many there
/// are, `RVMM_DIFFERENTIAL_STEPS` their length. Each kind of failure is shown
/// once, shortened.
#[test]
fn the_state_machine_equals_the_c_daemon() {
    let Some(kit) = fetch("the_state_machine_equals_the_c_daemon") else { return };
    let steps = knob("RVMM_DIFFERENTIAL_STEPS", 20_000);
    let first = knob("RVMM_SEED", 1);
    let mut failures: BTreeMap<String, Failure> = BTreeMap::new();
    for seed in first..first + knob("RVMM_DIFFERENTIAL_SEEDS", 1) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let peer = Peer::start(&kit, PeerKind::C, dir.path()).expect("starts");
        let mut ours = MachineEndpoint::<Xenstore>::new().expect("introduces the guests");
        let mut theirs = LiveEndpoint::of_peer(&peer).expect("connects");
        match random_run(&mut ours, &mut theirs, seed, steps) {
            Ok(report) => println!("{report}"),
            Err(failure) if failures.contains_key(&failure.class) => {}
            Err(failure) => {
                let shortened = minimize(*failure, &mut |ops| replay_machine(&kit, ops));
                failures.insert(shortened.class.clone(), shortened);
            }
        }
    }
    let shown: Vec<_> = failures.values().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}
