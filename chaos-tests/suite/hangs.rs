//! A primary that stands still is noticed, fenced and replaced; one that only
//! gets little time to run is not. On the only core, the daemon lets clients go first as
//! long as that costs it nothing.
//!
//! `RVMM_HANGS` and `RVMM_CALM_S` make it a campaign; `RVMM_STRICT=1` holds the
//! pauses to what is promised on a quiet machine.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chaos::client::{Client, Tx};
use chaos::harness::{FailoverLog, Host, HostOptions, Signal, knob, percentile, signal, wait_for};
use chaos::rng::Rng;
use chaos::soak::{Soak, SoakConfig};
use hypervisor::waiting::{allowed_cores, pin_current_thread};

const PATIENCE: Duration = Duration::from_secs(20);

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

#[test]
fn stopped_primaries_are_replaced() {
    let hangs = knob("RVMM_HANGS", 50);
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

/// The scheduling policy of a process (proc_pid_stat(5), field 41).
fn policy_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(38)?.parse().ok()
}

#[test]
fn on_the_only_core_the_daemon_is_polite_to_clients_alone() {
    const SCHED_OTHER: u32 = 0;
    const SCHED_BATCH: u32 = 3;
    let core = allowed_cores().expect("are told")[0];
    // Whom this thread starts stays on that core as well.
    pin_current_thread(&[core]).expect("is allowed");
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let pid = host.status().expect("tells").pid;
    let becomes = |policy| {
        wait_for("another policy", PATIENCE, || Ok((policy_of(pid) == Some(policy)).then_some(())))
    };
    becomes(SCHED_BATCH).expect("it is polite");
    // Who never waits keeps it from the core.
    let stop = AtomicBool::new(false);
    let is_eager = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let is_eager = becomes(SCHED_OTHER);
        stop.store(true, Ordering::Relaxed);
        is_eager
    });
    is_eager.expect("it is eager");
    becomes(SCHED_BATCH).expect("it is polite again");
    let mut client = Client::connect(host.socket()).expect("connects");
    client.write(Tx::NONE, "/a", b"1").expect("is served");
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

/// How often a process has gone to sleep since it started.
fn sleeps(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a count")
}

#[test]
fn an_idle_daemon_is_seldom_awake() {
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let status = host.wait_complete(PATIENCE).expect("all run");
    let pids = status
        .replicas
        .iter()
        .map(|replica| replica.pid)
        .chain([host.daemon_pid().expect("it tells")]);
    // Attention fades a second after the last piece of work.
    std::thread::sleep(Duration::from_secs(2));
    let before: Vec<_> = pids.map(|pid| (pid, sleeps(pid))).collect();
    std::thread::sleep(Duration::from_secs(2));
    for (pid, sleeps_before) in before {
        let awake = sleeps(pid) - sleeps_before;
        assert!(awake < 60, "process {pid} was awake {awake} times in 2 s\n{}", host.log());
    }
}

#[test]
fn a_replica_that_stops_while_idle_is_replaced_when_it_is_needed() {
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let mut client = Client::connect(host.socket()).expect("connects");
    client.set_timeout(PATIENCE);
    for of_primary in [true, false] {
        let status = host.wait_complete(PATIENCE).expect("all run");
        std::thread::sleep(Duration::from_secs(2));
        let primary = status.primary().expect("a primary");
        let replica = if of_primary { Some(primary) } else { status.standbys().next() };
        signal(replica.expect("there is one").pid, Signal::STOP).expect("it lives");
        std::thread::sleep(Duration::from_millis(100));
        client.write(Tx::NONE, "/t/idle", b"woken").expect("is answered");
        let after = host.xenstore().expect("a status");
        assert_eq!(after.generation > status.generation, of_primary, "{}", host.log());
    }
}

/// To give it up would be to lose the state.
#[test]
fn the_only_one_that_has_the_state_is_waited_for() {
    let options = HostOptions::default().set("xenstore.replicas", 1);
    let host = Host::start(rvmm(), &options).expect("starts");
    let mut client = Client::connect(host.socket()).expect("connects");
    client.set_timeout(PATIENCE);
    client.write(Tx::NONE, "/t/only", b"kept").expect("is answered");
    let replica = host.xenstore().expect("a status").primary().expect("a primary").pid;
    signal(replica, Signal::STOP).expect("it lives");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            signal(replica, Signal::CONT).expect("it lives");
        });
        assert_eq!(client.read(Tx::NONE, "/t/only").expect("is answered"), b"kept");
    });
    assert!(host.log().contains("nobody else has the state"), "{}", host.log());
    assert_eq!(host.xenstore().expect("a status").primary().expect("a primary").pid, replica);
}
