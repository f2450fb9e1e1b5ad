//! Guests on a real Xen go through their life cycle with our xenstore as with Xen's own,
//! and leave the same store behind; with ours also while primaries are killed and hung.
//!
//! Takes minutes, so it runs only with `RVMM_XEN=1`, which `make test-xen` sets. What the
//! machines say is kept in `target/chaos/xen`.

use std::path::Path;
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

/// What ours has otherwise than the C daemon.
const OF_OURS: [&str; 0] = [];

/// Boots a machine for each of them, or says why there can be none.
fn life_cycles<const N: usize>(
    test: &str,
    scenarios: impl FnOnce() -> [Scenario; N],
) -> Option<[(Scenario, Report); N]> {
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
    Some(scenarios().map(|scenario| {
        let report = lab.run(&scenario, LIMIT).expect("boots");
        (scenario, report)
    }))
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
fn guests_live_alike_with_ours_and_with_either_of_xens_daemons() {
    let test = "guests_live_alike_with_ours_and_with_either_of_xens_daemons";
    let ours = || Scenario::of_daemon("rvmm").with(Path::new(env!("CARGO_BIN_EXE_rvmm")));
    let scenarios = || {
        let xens = ["xenstored", "oxenstored"].map(Scenario::of_daemon);
        let [c, ocaml] = xens;
        [c, ocaml, ours(), ours().under("primaries").expect("a script")]
    };
    let Some(ran) = life_cycles(test, scenarios) else { return };
    let named: Vec<_> = ran.iter().map(|(scenario, report)| (&*scenario.name, report)).collect();
    println!("{}", table(&named));
    for (scenario, report) in &ran {
        let out = Lab::out(scenario);
        assert_eq!(report.failures(), [""; 0], "{}; see {}", scenario.name, out.display());
    }
    let [(_, c), (_, ocaml), (_, ours), (_, under_fire)] = &ran;
    assert_eq!(differences(c, ocaml), OF_OCAML);
    assert_eq!(differences(c, ours), OF_OURS);
    assert_eq!(differences(c, under_fire), OF_OURS);
}
