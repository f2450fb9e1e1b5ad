//! Any number of replicas from 1 to 7, changed while it works; and with
//! `all-live`, one of them is enough.

use std::path::Path;
use std::time::Duration;

use chaos::harness::{ComponentStatus, Host, HostOptions, Signal, knob, signal, wait_for};
use chaos::soak::{Soak, SoakConfig};

const PATIENCE: Duration = Duration::from_secs(20);

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

fn load(host: &Host) -> Soak {
    Soak::start(&host.socket(), SoakConfig::default()).expect("starts")
}

fn end(host: &Host, soak: Soak) {
    let verdict = soak.finish().expect("is judged");
    assert!(verdict.is_clean(), "{verdict}\n{}", host.log());
}

#[test]
fn every_factor_survives_all_but_one() {
    for factor in [1u8, 2, 3, 5, 7] {
        let options = HostOptions::default()
            .set("xenstore.replicas", factor)
            .set("xenstore.ack", "all-live")
            .set("xenstore.rebuild", false);
        let host = Host::start(rvmm(), &options).expect("starts");
        let soak = load(&host);
        for left in (1..factor).rev() {
            std::thread::sleep(Duration::from_millis(100));
            let status = host.xenstore().expect("a status");
            signal(status.primary().expect("a primary").pid, Signal::KILL).expect("it lives");
            let next = |now: &ComponentStatus| {
                now.generation > status.generation
                    && now.primary().is_some()
                    && now.standbys().count() + 1 == usize::from(left)
            };
            host.wait_until("the next primary", PATIENCE, next).expect("one is promoted");
        }
        std::thread::sleep(Duration::from_millis(100));
        end(&host, soak);
        let last = host.xenstore().expect("a status");
        assert_eq!(last.standbys().count(), 0, "{last:?}");
    }
}

#[test]
fn the_number_of_replicas_changes_under_load() {
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let soak = load(&host);
    for _ in 0..knob("RVMM_SCALE_ROUNDS", 1) {
        for factor in [5u8, 7, 2, 1, 3] {
            host.command(&["scale", "xenstore", &factor.to_string()]).expect("is scaled");
            let scaled = |status: &ComponentStatus| {
                status.replication_factor == factor && status.is_complete()
            };
            host.wait_until("the new number", PATIENCE, scaled).expect("they are there");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    end(&host, soak);
}

#[test]
fn a_quorum_is_enough() {
    let options = HostOptions::default().set("xenstore.ack", "quorum");
    let host = Host::start(rvmm(), &options).expect("starts");
    let soak = load(&host);
    for _ in 0..5 {
        let status = host.wait_complete(PATIENCE).expect("all run");
        signal(status.primary().expect("a primary").pid, Signal::KILL).expect("it lives");
        host.wait_until("a new primary", PATIENCE, |now| now.generation > status.generation)
            .expect("one is promoted");
    }
    host.wait_complete(PATIENCE).expect("all are rebuilt");
    end(&host, soak);
}

/// The cores that a thread may use, as in proc_pid_status(5).
fn cores(status: &Path) -> String {
    let status = std::fs::read_to_string(status).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a list").trim().to_owned()
}

/// A replica that is being taught inherits the launcher's cores; on the core that
/// answers clients it would stand in their way.
#[test]
fn only_those_who_answer_clients_are_bound_to_a_core() {
    let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
    let status = host.wait_complete(PATIENCE).expect("all run");
    let daemon = host.daemon_pid().expect("it tells");
    let tasks = format!("/proc/{daemon}/task");
    let named = |name: &str| {
        let tasks = std::fs::read_dir(&tasks).expect("it lives").map(|task| task.expect("a task"));
        let mut paths = tasks.map(|task| task.path());
        let found = paths.find(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        });
        cores(&found.expect("there is one").join("status"))
    };
    let core = cores(Path::new(&format!("/proc/{daemon}/status")));
    assert!(core.parse::<u32>().is_ok(), "{core} is not one core");
    for replica in &status.replicas {
        let path = format!("/proc/{}/status", replica.pid);
        let bound = || Ok((cores(Path::new(&path)) == core).then_some(()));
        wait_for("a voter is bound", PATIENCE, bound).expect("it moves");
    }
    let all = cores(Path::new("/proc/thread-self/status"));
    assert_eq!([named("launcher"), named("spawner")], [all.clone(), all]);
}
