//! A primary that stands still is noticed, fenced and replaced; one that only
//! gets little time to run is not.
//!
//! `RVMM_HANGS` and `RVMM_CALM_S` make it a campaign; `RVMM_STRICT=1` holds the
//! pauses to what is promised on a quiet machine.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chaos::harness::{FailoverLog, Host, HostOptions, Signal, knob, percentile, signal};
use chaos::rng::Rng;
use chaos::soak::{Soak, SoakConfig};

const PATIENCE: Duration = Duration::from_secs(20);

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

#[test]
fn stopped_primaries_are_replaced() {
    let hangs = knob("RVMM_HANGS", 5);
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let soak = Soak::start(&host.socket(), SoakConfig::default()).expect("starts");
    let (mut rng, mut log) = (Rng::new(knob("RVMM_SEED", 1)), FailoverLog::default());
    let mut pauses_us = Vec::new();
    for _ in 0..hangs {
        let status = host.wait_complete(PATIENCE).expect("all run");
        std::thread::sleep(Duration::from_micros(100_000 + rng.next_u64() % 100_000));
        let _ = soak.counts();
        signal(status.primary().expect("a primary").pid, Signal::STOP).expect("it lives");
        let next = host
            .wait_until("a new primary", PATIENCE, |now| {
                now.generation > status.generation && now.primary().is_some()
            })
            .expect("one is promoted");
        log.add(&next);
        std::thread::sleep(Duration::from_millis(50));
        pauses_us.push(soak.counts().longest_us);
    }
    log.add(&host.wait_complete(PATIENCE).expect("all are rebuilt"));
    let verdict = soak.finish().expect("is judged");
    let pause_us = percentile(pauses_us.clone(), 99);
    println!("{hangs} hangs\n{verdict}\n{log}longest pause of a client {pause_us} us");
    assert!(verdict.is_clean(), "{verdict}\n{}", host.log());
    assert_eq!(log.len() as u64, hangs, "one failover for each hang\n{log}\n{}", host.log());
    let limit_us = if knob("RVMM_STRICT", 0) == 1 { 150_000 } else { 3_000_000 };
    assert!(pause_us <= limit_us, "{pauses_us:?}");
}

#[test]
fn a_busy_machine_is_no_hang() {
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let soak = Soak::start(&host.socket(), SoakConfig::default()).expect("starts");
    let before = host.xenstore().expect("a status");
    let stop = AtomicBool::new(false);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores * 2 {
            scope.spawn(|| {
                let mut rng = Rng::new(1);
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box(rng.next_u64());
                }
            });
        }
        std::thread::sleep(Duration::from_secs(knob("RVMM_CALM_S", 5)));
        stop.store(true, Ordering::Relaxed);
    });
    let verdict = soak.finish().expect("is judged");
    let after = host.xenstore().expect("a status");
    assert!(verdict.is_clean(), "{verdict}\n{}", host.log());
    let ids = |status: &chaos::harness::ComponentStatus| {
        status.replicas.iter().map(|replica| replica.id).collect::<Vec<_>>()
    };
    assert_eq!((after.generation, ids(&after)), (before.generation, ids(&before)));
}
