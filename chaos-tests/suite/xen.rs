//! Guests on a real Xen go through their life cycle with one xenstore daemon as with
//! another, and leave the same store behind.
//!
//! Takes minutes, so it runs only with `RVMM_XEN=1`, which `make test-xen` sets. What the
//! machines say is kept in `target/chaos/xen`.

use std::time::Duration;

use chaos::harness::knob;
use chaos::skip::skip;
use chaos::xen::{Lab, Report, Scenario, table};

/// A life cycle takes a sixth of that where nothing else runs.
const LIMIT: Duration = Duration::from_secs(600);
const TREES: [&str; 2] = ["both", "end"];

/// What oxenstored has otherwise than the C daemon: its special watches are nodes, and
/// it says which program it is.
const OF_OCAML: [&str; 6] = [
    "both: /@introduceDomain: none | \"\" (n0)",
    "both: /@releaseDomain: none | \"\" (n0)",
    "both: /tool/xenstored: \"\" (n0) | \"/usr/lib/xen-4.17/bin/oxenstored\" (n0)",
    "end: /@introduceDomain: none | \"\" (n0)",
    "end: /@releaseDomain: none | \"\" (n0)",
    "end: /tool/xenstored: \"\" (n0) | \"/usr/lib/xen-4.17/bin/oxenstored\" (n0)",
];

/// Boots a machine for each of the daemons, or says why there can be none.
fn life_cycles<const N: usize>(test: &str, daemons: [&str; N]) -> Option<[Report; N]> {
    if knob("RVMM_XEN", 0) != 1 {
        skip(test, &"takes minutes; make test-xen runs it");
        return None;
    }
    let lab = match Lab::prepare() {
        Ok(lab) => lab,
        Err(error) => {
            skip(test, &error);
            return None;
        }
    };
    Some(daemons.map(|name| lab.run(&Scenario::of_daemon(name), LIMIT).expect("boots")))
}

/// What the trees of two runs do not have alike, a line each.
fn differences(left: &Report, right: &Report) -> Vec<String> {
    let of_tree = |name: &str| {
        let (left, right) = (left.trees[name].normalized(), right.trees[name].normalized());
        let differences = left.differences(&right);
        differences.into_iter().map(|one| format!("{name}: {one}")).collect::<Vec<_>>()
    };
    TREES.into_iter().flat_map(of_tree).collect()
}

#[test]
fn guests_live_alike_with_either_of_xens_daemons() {
    let daemons = ["xenstored", "oxenstored"];
    let test = "guests_live_alike_with_either_of_xens_daemons";
    let Some(reports) = life_cycles(test, daemons) else { return };
    let [c, ocaml] = &reports;
    println!("{}", table(&[(daemons[0], c), (daemons[1], ocaml)]));
    for (name, report) in daemons.iter().zip(&reports) {
        let out = Lab::out(&Scenario::of_daemon(name));
        assert_eq!(report.failures(), [""; 0], "{name}; see {}", out.display());
    }
    assert_eq!(differences(c, ocaml), OF_OCAML);
}
