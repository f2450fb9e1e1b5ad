//! The monitor's view of real hangs.

use std::time::{Duration, Instant};

use hypervisor::domain::ProcessDomain;
use hypervisor::fabric::HostFabric;
use hypervisor::monitor::{HangReason, Monitor, MonitorConfig, Observation, Verdict};

use super::{PATIENCE, host_with, slot};

pub(super) const TESTS: &[(&str, fn())] = &[
    ("hangs::a_beating_replica_is_alive", a_beating_replica_is_alive),
    ("hangs::a_stopped_replica_hangs", a_stopped_replica_hangs),
    ("hangs::a_busy_loop_hangs", a_busy_loop_hangs),
    ("hangs::a_sleeper_hangs", a_sleeper_hangs),
];

/// Watches until the verdict is a hang or the time is over.
fn watch(host: &HostFabric, domain: &ProcessDomain, limit: Duration) -> Option<HangReason> {
    let config = MonitorConfig::default();
    let mut monitor = Monitor::new(config);
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let now = Observation {
            at_us: begin.elapsed().as_micros() as u64,
            beats: host.replica_page(slot()).beats(),
            idle: false,
            work_waiting: false,
            progress: 0,
            times: domain.cpu_times().expect("schedstat"),
        };
        let verdict = monitor.observe(now, || domain.state().ok());
        if let Verdict::Hung(reason) = verdict {
            eprintln!("{reason} after {:?}", begin.elapsed());
            return Some(reason);
        }
        std::thread::sleep(Duration::from_millis(config.period_ms.into()));
    }
    None
}

fn a_beating_replica_is_alive() {
    let (host, domain) = host_with("beat");
    assert_eq!(watch(&host, &domain, Duration::from_millis(300)), None);
}

fn a_stopped_replica_hangs() {
    let (host, domain) = host_with("beat");
    domain.stop().expect("stop");
    assert_eq!(watch(&host, &domain, PATIENCE), Some(HangReason::Stopped));
}

fn a_busy_loop_hangs() {
    let (host, domain) = host_with("spin");
    assert_eq!(watch(&host, &domain, PATIENCE), Some(HangReason::BusyLoop));
}

fn a_sleeper_hangs() {
    let (host, domain) = host_with("wait");
    assert_eq!(watch(&host, &domain, PATIENCE), Some(HangReason::Asleep));
}
