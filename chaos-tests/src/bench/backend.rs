//! One host whose state machines are executed in virtual machines, and one where
//! they are in processes: how they start, answer, fail over, and what they take.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use hypervisor::kvm::Availability;
use serde::{Deserialize, Serialize};

use super::profile::{Profile, ProfileError, profile};
use super::{BenchConfig, BenchError, BenchReport, Progress, Target};
use crate::harness::{
    ComponentStatus, FailoverLog, FailoverStatus, HarnessError, Host, HostOptions, percentile,
};

/// The backends, the one that is compared first.
const BACKENDS: [&str; 2] = ["kvm", "process"];
/// How long idle hosts are watched.
const IDLE: Duration = Duration::from_secs(5);
/// Until hosts that have just worked are idle.
const SETTLE: Duration = Duration::from_secs(2);
const COMPLETE: Duration = Duration::from_secs(30);

/// Why the backends could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A host failed.
    #[error("backend {backend}: {source}")]
    Host {
        /// Which.
        backend: &'static str,
        /// How.
        source: HarnessError,
    },
    /// The measurement of a daemon failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The executors could not be measured.
    #[error("the executors alone: {0}")]
    Profile(#[from] ProfileError),
}

/// What the measurement showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendReport {
    /// What KVM is here, in words.
    pub kvm: String,
    /// Where the time of a request goes.
    pub profile: Profile,
    /// How fast requests are answered.
    pub rates: BenchReport,
    /// How the hosts live, in the order of the targets.
    pub lives: Vec<Life>,
}

/// How a host lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Life {
    /// Its backend.
    pub backend: String,
    /// From the order to the first beat of each replica that was started,
    /// microseconds.
    pub starts_us: Vec<u64>,
    /// Memory that each replica has, KiB, with the nodes of the measurement.
    pub resident_kib: Vec<u64>,
    /// What daemon and replicas take of one core while nothing is asked.
    pub idle_percent: f64,
    /// The failovers from primaries that were killed.
    pub failovers: Vec<FailoverStatus>,
}

/// Measures this program, `binary`, which boots `image`, with each backend: the
/// executors alone, the rows of `config`, then what idle hosts take, then `kills` of the
/// primary.
///
/// # Errors
/// The first failure; among them that there is no KVM.
pub fn run_backends(
    binary: &Path,
    image: &[u8],
    replicas: u8,
    kills: u32,
    config: &BenchConfig,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<BackendReport, BackendError> {
    let nodes = config.populations.iter().copied().max().unwrap_or(0);
    // Before there are hosts: even idle ones wake up now and then.
    let profile = profile(image, nodes, config.rounds)?;
    let mut hosts = Vec::new();
    for backend in BACKENDS {
        let options = HostOptions::default();
        let options = options.set("xenstore.replicas", replicas).set("xenstore.backend", backend);
        let host = Host::start(binary, &options);
        hosts.push((backend, host.map_err(|source| BackendError::Host { backend, source })?));
    }
    let target =
        |(name, host): &(&str, Host)| Target { name: (*name).to_owned(), socket: host.socket() };
    let targets: Vec<_> = hosts.iter().map(target).collect();
    let rates = super::run(&targets, config, progress)?;
    let mut lives = Vec::new();
    for (backend, host) in &hosts {
        let life = live(backend, host, nodes, kills);
        lives.push(life.map_err(|source| BackendError::Host { backend, source })?);
    }
    Ok(BackendReport { kvm: Availability::probe().to_string(), profile, rates, lives })
}

fn live(backend: &str, host: &Host, nodes: u32, kills: u32) -> Result<Life, HarnessError> {
    // That the store is as large is of no matter to the failovers' being measured.
    let _ = super::fill(&host.socket(), nodes);
    let status = host.wait_complete(COMPLETE)?;
    let daemon = host.daemon_pid()?;
    let resident_kib = status.replicas.iter().filter_map(|r| resident_kib(r.pid)).collect();
    std::thread::sleep(SETTLE);
    let parties = |status: &ComponentStatus| {
        let replicas = status.replicas.iter().map(|replica| replica.pid);
        replicas.chain([daemon]).filter_map(cpu_time).sum::<Duration>()
    };
    let (begin, before) = (Instant::now(), parties(&status));
    std::thread::sleep(IDLE);
    let taken = parties(&status).saturating_sub(before);
    let idle_percent = 100.0 * taken.as_secs_f64() / begin.elapsed().as_secs_f64();
    let mut log = FailoverLog::default();
    for _ in 0..kills {
        host.fault("kill", "primary")?;
        host.wait_complete(COMPLETE)?;
        log.add(&host.xenstore()?);
    }
    Ok(Life {
        backend: backend.to_owned(),
        starts_us: starts_us(&std::fs::read_to_string(host.log_file()).unwrap_or_default()),
        resident_kib,
        idle_percent,
        failovers: log.into_failovers(),
    })
}

/// What the log tells of replicas that came up.
fn starts_us(log: &str) -> Vec<u64> {
    let took = |line: &str| line.split("is up after ").nth(1)?.split(' ').next()?.parse().ok();
    log.lines().filter_map(took).collect()
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// CPU time of all threads of a process so far.
fn cpu_time(pid: u32) -> Option<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let times = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(times.sum()))
}

impl fmt::Display for BackendReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n{}\n{}", self.kvm, self.profile, self.rates)?;
        for Life { backend, starts_us, resident_kib, idle_percent, failovers } in &self.lives {
            let starts = |percent| percentile(starts_us.clone(), percent);
            let least = resident_kib.iter().min().copied().unwrap_or(0);
            let most = resident_kib.iter().max().copied().unwrap_or(0);
            writeln!(f, "{backend}: idle {idle_percent:.2} % of a core, daemon and replicas")?;
            writeln!(f, "  memory of a replica {least} to {most} KiB")?;
            writeln!(
                f,
                "  {} starts until the first beat, microseconds: median {}, 99 % {}, longest {}",
                starts_us.len(),
                starts(50),
                starts(99),
                starts(100)
            )?;
            let mut log = FailoverLog::default();
            log.extend(failovers.iter().cloned());
            write!(f, "  {log}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_from_the_log() {
        let log = "x [SD_MON] replica 1 is up after 36326 us\nno\nreplica 2 is up after 9 us\n";
        assert_eq!(starts_us(log), [36326, 9]);
    }

    #[test]
    fn a_process_has_memory_and_takes_time() {
        let own = std::process::id();
        assert!(resident_kib(own).is_some_and(|kib| kib > 100));
        assert!(cpu_time(own).is_some_and(|time| time > Duration::ZERO));
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
