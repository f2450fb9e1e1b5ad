//! Deliberate bugs are caught by the simulator of a whole host, or by the test
//! that their row in the table names; the table also names those that were not.
//!
//! The table comes out of the run: `target/chaos/teeth.md`. `RVMM_TEETH_SEEDS` is
//! the number of seeds that a bug may survive.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use chaos::harness::knob;
use chaos::sim::teeth::{Row, hunt, table};
use chaos::skip::target_dir;
use teeth::Bug;

/// At once: as many as the machines have cores that tests are timed for.
const JOBS: usize = 2;
/// So many have to be caught here, wherever else others are.
const CAUGHT_MIN: usize = 38;
/// Slips that the simulator does not show in a time that a test has, with a test
/// elsewhere that shows them or without. Every other has to be caught here.
const UNSHOWN: &[Bug] = &[
    Bug::CampaignNotRepeated,
    Bug::CertificateNotInTerm,
    Bug::DirtyRead,
    Bug::DrainedTooEarly,
    Bug::FirstDiskRecovered,
    Bug::MembershipToldEarly,
    Bug::ProgressIgnored,
    Bug::SnapshotAheadOfCommit,
    Bug::VoteTwice,
    Bug::WatermarkOffByOne,
];

#[test]
fn deliberate_bugs_are_caught() {
    if !teeth::ARMED {
        println!("skipped: this build has no deliberate bugs");
        return;
    }
    let seeds = knob("RVMM_TEETH_SEEDS", 20);
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let seeds = if UNSHOWN.contains(&bug) { 1 } else { seeds };
                    let caught = hunt(bug, seeds);
                    rows.lock().expect("no hunt panics").push(Row { bug, caught });
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no hunt panics");
    rows.sort_by_key(|row| row.bug);
    let text = table(&rows, began.elapsed());
    println!("{text}");
    let directory = target_dir().join("chaos");
    std::fs::create_dir_all(&directory).expect("a place for the table");
    std::fs::write(directory.join("teeth.md"), text).expect("the table");

    let survived: Vec<_> = rows
        .iter()
        .filter(|row| row.caught.is_none() && !UNSHOWN.contains(&row.bug))
        .map(|row| row.bug.name())
        .collect();
    assert!(survived.is_empty(), "not caught in {seeds} seeds: {survived:?}");
    let caught = rows.iter().filter(|row| row.caught.is_some()).count();
    assert!(caught >= CAUGHT_MIN, "only {caught} were caught by the simulator");
}
