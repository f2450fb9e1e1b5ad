//! Every deliberate bug that is the simulator's to catch is caught by it.
//!
//! The table comes out of the run, and of those of the other hunters:
//! `target/chaos/teeth/teeth.md`. `RVMM_TEETH_SEEDS` is the number of seeds that a
//! bug may survive.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use chaos::harness::knob;
use chaos::sim::teeth::hunt;
use teeth::table::{Catch, directory, publish};
use teeth::{Bug, Hunter};

/// At once: as many as the machines have cores that tests are timed for.
const JOBS: usize = 2;

#[test]
fn deliberate_bugs_are_caught() {
    if !teeth::ARMED {
        println!("skipped: this build has no deliberate bugs");
        return;
    }
    let seeds = knob("RVMM_TEETH_SEEDS", 20);
    let prey: Vec<Bug> = Hunter::Host.prey().collect();
    let next = AtomicUsize::new(0);
    let catches = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(&bug) = prey.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = hunt(bug, seeds);
                    catches.lock().expect("no hunt panics").extend(caught);
                }
            });
        }
    });
    let catches = catches.into_inner().expect("no hunt panics");
    let survived: Vec<_> = prey
        .iter()
        .filter(|bug| catches.iter().all(|caught| caught.bug != **bug))
        .map(|bug| bug.name())
        .collect();
    let rows: Vec<_> = catches
        .into_iter()
        .map(|caught| Catch {
            bug: caught.bug,
            seed: caught.seed,
            seeds_tried: caught.seeds_tried,
            checker: format!("{} after {} ms", caught.checker, caught.at_us / 1000),
            took_ms: caught.took.as_millis(),
        })
        .collect();
    let place = directory(env!("CARGO_TARGET_TMPDIR"));
    println!("{}", publish(&place, Hunter::Host, &rows).expect("a place for the table"));
    assert!(survived.is_empty(), "not caught in {seeds} seeds: {survived:?}");
}
