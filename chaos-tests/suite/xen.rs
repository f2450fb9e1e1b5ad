//! Guests on a real Xen live with our xenstore as with Xen's own, and leave the same store
//! behind, also while primaries are killed and hung, and while the daemon itself is killed
//! and replaced; a hostile guest hurts nobody else.
//!
//! Takes minutes, so each test runs only with a value of `RVMM_XEN` of its own, which
//! `make test-xen`, `test-xen-linux` and `bench-xen` set. What the machines say is kept in
//! `target/chaos/xen`.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chaos::skip::skip;
use chaos::xen::{Clock, Lab, Machine, Report, table};

/// No run takes half of that where nothing else runs.
const LIMIT: Duration = Duration::from_secs(1800);

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

/// A bound for failovers while guests live under fire.
const FAILOVERS_MIN: u64 = 100;
/// The same for daemons that are killed and replaced.
const RESTARTS_MIN: u64 = 10;
/// How much more memory the daemon's processes may take after a hostile guest's attack
/// than before it: its share of the store in each of three replicas, and buffers.
const GROWTH_KIB_MAX: u64 = 32 * 1024;

/// What the scenario `times` measures.
const TIMED: [&str; 11] = [
    "create-first-small_us",
    "destroy-first-small_us",
    "create-small_us",
    "destroy-small_us",
    "create-bare-pv_us",
    "destroy-bare-pv_us",
    "create-bare-pvh_us",
    "destroy-bare-pvh_us",
    "process-of-one-read_us",
    "read_us",
    "write_us",
];

/// With the program that `RVMM_XEN_PROGRAM` names, as a file called `rvmm`, if it does: the
/// one that needs no library, which is what a Xen host is given.
fn ours(how: &str, scenarios: &[&'static str]) -> Machine {
    let named = std::env::var_os("RVMM_XEN_PROGRAM").map(PathBuf::from);
    let program = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rvmm")));
    Machine::of_daemon(how, scenarios).with(&program)
}

/// Guests' life with one of Xen's own.
fn of_xen(daemon: &str) -> Machine {
    Machine::of_daemon(daemon, &["life-cycle"])
}

fn ours_under_fire(scenarios: &[&'static str]) -> Machine {
    ours("rvmm", scenarios).named("rvmm-primaries").under("primaries").expect("a script")
}

/// Boots the machines and demands that each step of theirs went well, if it is the target
/// `make` that was called; or says why there can be none.
fn run<const N: usize>(
    test: &str,
    make: &str,
    machines: impl FnOnce() -> [Machine; N],
) -> Option<[Report; N]> {
    if std::env::var("RVMM_XEN").as_deref() != Ok(make) {
        skip(test, &format!("takes minutes; make {make} runs it"));
        return None;
    }
    let lab = match Lab::prepare() {
        Ok(lab) => lab,
        Err(error) => {
            skip(test, &error);
            return None;
        }
    };
    let machines = machines();
    let next = AtomicUsize::new(0);
    let reports = [const { OnceLock::new() }; N];
    // An emulated processor takes a real one.
    let side_by_side = std::thread::available_parallelism().map_or(1, |count| count.get().min(2));
    std::thread::scope(|scope| {
        for _ in 0..side_by_side {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(machine) = machines.get(at) else { break };
                    reports[at].set(lab.run(machine, LIMIT).expect("boots")).expect("ran once");
                }
            });
        }
    });
    let reports = reports.map(|report| report.into_inner().expect("ran"));
    let named: Vec<_> = machines.iter().map(|machine| &*machine.name).zip(&reports).collect();
    println!("{}", table(&named));
    for (machine, report) in machines.iter().zip(&reports) {
        let out = Lab::out(machine);
        assert_eq!(report.failures(), [""; 0], "{}; see {}", machine.name, out.display());
    }
    Some(reports)
}

/// What trees of two runs do not have alike, a line each.
fn differences(left: &Report, right: &Report) -> Vec<String> {
    let of_tree = |name: &str| {
        let (left, right) = (left.trees[name].normalized(), right.trees[name].normalized());
        let differences = left.differences(&right);
        differences.into_iter().map(|one| format!("{name}: {one}")).collect::<Vec<_>>()
    };
    ["both", "end"].into_iter().flat_map(of_tree).collect()
}

/// Demands that twenty guests left nothing behind, neither those who came one after the
/// other nor those who came at once.
fn crowds_left_nothing(report: &Report) {
    for way in ["each", "at_once"] {
        let after = &report.trees[&format!("crowd-{way}")];
        assert_eq!(report.trees["crowd-before"].differences(after), [], "{way}");
    }
}

#[test]
fn guests_live_alike_with_ours_and_with_xens_daemon() {
    let test = "guests_live_alike_with_ours_and_with_xens_daemon";
    let machines = || {
        [
            ours_under_fire(&["life-cycle", "crowd"]),
            ours("rvmm-debian", &["life-cycle", "hostile"]),
            ours("rvmm", &["life-cycle"]).named("rvmm-daemons").under("daemons").expect("a script"),
            of_xen("xenstored"),
        ]
    };
    let Some([under_fire, ours, restarted, c]) = run(test, "test-xen", machines) else {
        return;
    };
    assert_eq!(differences(&c, &ours), OF_OURS);
    assert_eq!(differences(&c, &under_fire), OF_OURS);
    assert_eq!(differences(&c, &restarted), OF_OURS);
    crowds_left_nothing(&under_fire);
    let failovers = under_fire.median("failovers").expect("a figure");
    assert!(failovers >= FAILOVERS_MIN, "{failovers} failovers");
    let restarts = restarted.median("restarts").expect("a figure");
    assert!(restarts >= RESTARTS_MIN, "{restarts} restarts");
    let [before, after] = ["before-memory_kib", "beside_hostile-memory_kib"]
        .map(|name| ours.median(name).expect("a figure"));
    assert!(after <= before + GROWTH_KIB_MAX, "from {before} to {after} KiB");
}

#[test]
fn a_crowd_of_linux_guests_under_fire_and_life_with_xens_other_daemon() {
    let test = "a_crowd_of_linux_guests_under_fire_and_life_with_xens_other_daemon";
    let machines = || {
        let under_fire = ours_under_fire(&["crowd-linux"]).named("rvmm-primaries-linux");
        [under_fire, of_xen("xenstored"), of_xen("oxenstored")]
    };
    let Some([under_fire, c, ocaml]) = run(test, "test-xen-linux", machines) else { return };
    crowds_left_nothing(&under_fire);
    assert_eq!(differences(&c, &ocaml), OF_OCAML);
}

/// Measures only: what a machine that is emulated takes is no promise.
#[test]
fn times_are_told() {
    let machines = || {
        [
            ours("rvmm", &["times"]).named("times"),
            ours("rvmm-patient", &["times-passing"]).named("times-passing").on(Clock::Passing),
        ]
    };
    let Some(reports) = run("times_are_told", "bench-xen", machines) else { return };
    for (report, clock) in reports.iter().zip([Clock::Counted, Clock::Passing]) {
        let medians = format!("medians, clock {clock:?}");
        println!("{medians:<26} {:>14} {:>14} {:>6}", "xenstored", "rvmm", "ratio");
        for what in TIMED {
            let [theirs, ours] = ["xenstored", "rvmm"]
                .map(|daemon| report.median(&format!("{daemon}-{what}")).expect("was measured"));
            println!("{what:<26} {theirs:>14} {ours:>14} {:>6.3}", ours as f64 / theirs as f64);
        }
    }
}
