//! Dying replicas: how soon it is noticed, and what they leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hypervisor::death::DeathWatch;
use hypervisor::domain::Exit;

use super::{PATIENCE, host_with, slot, until};

pub(super) const TESTS: &[(&str, fn())] = &[
    ("crash::death_is_noticed_at_once", death_is_noticed_at_once),
    ("crash::an_orderly_end_is_noticed_too", an_orderly_end_is_noticed_too),
    ("crash::a_watch_ends_when_told", a_watch_ends_when_told),
    ("crash::crashes_leave_a_reason", crashes_leave_a_reason),
];

fn death_is_noticed_at_once() {
    for mebibytes in [0, 200] {
        let (host, mut domain) = host_with(&format!("wait:{mebibytes}"));
        let (notice, noticed) = mpsc::channel();
        let watch = DeathWatch::start(host.replica_page(slot()), move || {
            let _ = notice.send(Instant::now());
        });
        let _watch = watch.expect("a watch");
        assert!(noticed.recv_timeout(Duration::from_millis(20)).is_err(), "it lives");
        let begin = Instant::now();
        domain.kill().expect("kill");
        let noticed = noticed.recv_timeout(PATIENCE).expect("a notice");
        assert_eq!(domain.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
        let gone = Instant::now();
        eprintln!(
            "{mebibytes} MiB: noticed {:?}, gone {:?} after the kill",
            noticed - begin,
            gone - begin
        );
        assert!(host.replica_page(slot()).crash_reason().is_none());
    }
}

fn an_orderly_end_is_noticed_too() {
    let (host, mut domain) = host_with("panic");
    let died = Arc::new(AtomicBool::new(false));
    // Also when the replica is gone before the watch begins.
    domain.wait(PATIENCE).expect("wait");
    let watch = DeathWatch::start(host.replica_page(slot()), {
        let died = Arc::clone(&died);
        move || died.store(true, Ordering::SeqCst)
    });
    let _watch = watch.expect("a watch");
    until("the end is noticed", || died.load(Ordering::SeqCst));
}

fn a_watch_ends_when_told() {
    let (host, _domain) = host_with("wait");
    for pause_us in [0, 0, 0, 50, 200, 1000] {
        let died = Arc::new(AtomicBool::new(false));
        let watch = DeathWatch::start(host.replica_page(slot()), {
            let died = Arc::clone(&died);
            move || died.store(true, Ordering::SeqCst)
        });
        std::thread::sleep(Duration::from_micros(pause_us));
        watch.expect("a watch").stop();
        assert!(!died.load(Ordering::SeqCst));
    }
}

fn crashes_leave_a_reason() {
    for (role, exit, reason) in [
        ("panic", None, "the replica had enough"),
        ("abort", Some(Exit::Signal(6)), "signal 6"),
        ("segfault", Some(Exit::Signal(11)), "signal 11 at address 0x8"),
        ("overflow", Some(Exit::Signal(11)), "signal 11 at address 0x"),
    ] {
        let (host, mut domain) = host_with(role);
        let found = domain.wait(PATIENCE).expect("wait").expect("an end");
        // Whether a panic aborts depends on the profile.
        assert_eq!(found, exit.unwrap_or(found), "{role}");
        let left = host.replica_page(slot()).crash_reason().expect(role);
        assert!(left.contains(reason), "{role}: {left}");
    }
}
