//! What the configuration means for the replicas of the component.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Context;
use coordinator::FrontLimits;
use hypervisor::ReplicaId;
use hypervisor::decision::{self, Policy};
use hypervisor::fabric::FabricConfig;
use hypervisor::kvm::Availability;
use hypervisor::monitor::MonitorConfig;
use hypervisor::waiting::{Core, CoreChooser, pin_current_thread};
use replica::spec::{LogLimits, Storage};
use std::time::Duration;

use super::backend::Backends;
use crate::config::{AckPolicy, Affinity, Config, Durability, MemoryShares};

/// The name of the component, and of its directory below the state directory.
pub(crate) const COMPONENT: &str = "xenstore";

/// A snapshot of a store may be this large.
const MESSAGE_BYTES: usize = 1 << 30;
/// What may wait for room in a ring to a replica: a snapshot and the messages
/// behind it.
const BACKLOG_BYTES: usize = (1 << 30) + (64 << 20);
/// Rings between replicas; a batch is at most 64 KiB.
const PEER_RING_BYTES: usize = 512 * 1024;
const CONTROL_RING_BYTES: usize = 64 * 1024;
/// Raft's own timeout, in case that the host is silent: it decides long before.
const ELECTION_MS: u64 = 10_000;
/// A replica that has not come up by then is given up.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often the monitor looks, at most.
const MONITOR_PERIOD_MS: u32 = 10;
pub(crate) const MONITOR_PERIOD: Duration = Duration::from_millis(MONITOR_PERIOD_MS as u64);
/// How often it looks while there is nothing to do.
pub(crate) const IDLE_MONITOR_PERIOD: Duration = Duration::from_millis(100);
/// How often replicas beat while there is nothing to do, milliseconds.
const IDLE_BEAT_MS: u32 = 100;

/// See the module.
pub(crate) struct Settings {
    /// Where the replicas' state machines are executed.
    pub(crate) backends: Backends,
    /// The configuration as it was loaded.
    pub(crate) config: Config,
    /// The core that the component's threads share just now.
    core: Mutex<Option<Core>>,
}

impl Settings {
    /// Settings by `config`.
    ///
    /// # Errors
    /// When it asks for what this machine does not have.
    pub(crate) fn new(config: Config) -> anyhow::Result<Self> {
        let backends = Backends::choose(
            config.xenstore.backend,
            &Availability::probe(),
            unikernel_image::IS_BUILT,
            MemoryShares::of(&config).guest,
        );
        let backends = backends.map_err(|why| {
            anyhow::anyhow!("xenstore.backend \"{}\": {why}", config.xenstore.backend)
        })?;
        let core = match config.xenstore.affinity {
            Affinity::Off => None,
            Affinity::Core(core) => Some(Core(u16::try_from(core).context("xenstore.affinity")?)),
            Affinity::Auto => {
                let mut chooser = CoreChooser::new().context("looking at the cores")?;
                chooser.look().context("looking at the cores")?;
                chooser.least_busy()
            }
        };
        Ok(Self { backends, config, core: Mutex::new(core) })
    }

    /// The core that the component's threads share.
    pub(crate) fn core(&self) -> Option<Core> {
        *self.core.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Another core is better now.
    pub(crate) fn set_core(&self, core: Core) {
        *self.core.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(core);
    }

    /// Whether the core is chosen, and may be chosen anew.
    pub(crate) fn chooses_core(&self) -> bool {
        self.config.xenstore.affinity == Affinity::Auto
    }

    /// Moves the calling thread to the component's core.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn pin_this_thread(&self) -> std::io::Result<()> {
        match self.core() {
            Some(core) => pin_current_thread(&[core]),
            None => Ok(()),
        }
    }

    /// What the coordinator needs to know.
    pub(crate) fn coordinator(&self) -> coordinator::Settings {
        let (xenstore, monitor) = (&self.config.xenstore, &self.config.monitor);
        let shares = MemoryShares::of(&self.config);
        let mut quotas = xenstore.quotas.by_name().to_vec();
        quotas.push(("store-kib", shares.store_kib()));
        // The longest time without a beat when there is nothing to do.
        let idle_beat_ms = IDLE_BEAT_MS.max(monitor.beat_ms);
        // Twice a beat; who beats seldom wants few wake-ups.
        let look_ms = MONITOR_PERIOD_MS.max(monitor.beat_ms / 2);
        let look_period = Duration::from_millis(look_ms.into());
        coordinator::Settings {
            policy: Policy {
                ack: match xenstore.ack {
                    AckPolicy::AllLive => decision::AckPolicy::AllLive,
                    AckPolicy::Quorum => decision::AckPolicy::Quorum,
                },
                rebuild: xenstore.rebuild,
                replication_factor: xenstore.replicas,
            },
            durability: match xenstore.durability {
                Durability::Volatile => coordinator::Durability::Volatile,
                Durability::Process | Durability::Power => coordinator::Durability::Durable,
            },
            fabric: FabricConfig {
                intake_bytes: kib(xenstore.intake_kib),
                output_bytes: kib(xenstore.output_kib),
                peer_ring_bytes: PEER_RING_BYTES,
                control_bytes: CONTROL_RING_BYTES,
                backlog_bytes: BACKLOG_BYTES,
                message_bytes: MESSAGE_BYTES,
            },
            front: FrontLimits {
                max_connections: xenstore.max_connections as usize,
                backlog_bytes: kib(xenstore.client_backlog_kib),
                outstanding: 256,
                guest_outstanding: match xenstore.quotas.outstanding {
                    0 => u32::MAX,
                    limited => limited,
                },
            },
            sockets: self.config.socket_dir(),
            trace_file: xenstore.trace_file.clone(),
            guest_sockets: xenstore.guest_sockets,
            quotas,
            lockstep: xenstore.lockstep,
            monitor: MonitorConfig {
                period_ms: look_ms,
                // One look may be missed; what lies between two others is not counted in
                // full, for the monitor itself was held up then.
                late_ms: look_ms * 5 / 2,
                detect_ms: monitor.detect_ms,
                idle_ms: idle_beat_ms,
                starved_ms: monitor.starved_limit_ms,
                ..MonitorConfig::default()
            },
            look_period,
            idle_look_period: IDLE_MONITOR_PERIOD.max(look_period),
            beat_ms: monitor.beat_ms.into(),
            idle_beat_ms: idle_beat_ms.into(),
            election_ms: ELECTION_MS,
            log: LogLimits::default().within(shares.log),
            replica_spin_us: xenstore.replica_spin_us,
            commit_spin_us: xenstore.commit_spin_us,
            start_limit: START_LIMIT,
        }
    }

    /// Whether the state outlives the replicas.
    pub(crate) fn is_durable(&self) -> bool {
        self.config.xenstore.durability != Durability::Volatile
    }

    /// Where the replicas' disks are.
    pub(crate) fn disks(&self) -> Option<PathBuf> {
        let durable = self.is_durable();
        self.config.state_dir.as_ref().filter(|_| durable).map(|dir| dir.join(COMPONENT))
    }

    /// The disk of one replica.
    pub(crate) fn disk(&self, id: ReplicaId) -> Option<PathBuf> {
        self.disks().map(|disks| disks.join(format!("replica-{id}")))
    }

    /// Where a replica's log is.
    pub(crate) fn storage(&self, id: ReplicaId) -> Storage {
        match (self.config.xenstore.durability, self.disk(id)) {
            (Durability::Process, Some(directory)) => Storage::Process { directory },
            (Durability::Power, Some(directory)) => Storage::Power { directory },
            _ => Storage::Volatile,
        }
    }

    /// The most memory of one replica.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        Some(MemoryShares::of(&self.config).whole)
    }
}

fn kib(kib: u32) -> usize {
    kib as usize * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples that come when they should count in full: else all hangs are noticed later.
    #[test]
    fn looks_come_twice_a_beat_and_are_not_late() {
        for (beat_ms, look_ms, late_ms) in
            [(1, 10, 25), (20, 10, 25), (50, 25, 62), (200, 100, 250)]
        {
            let mut config = Config::default();
            config.monitor.beat_ms = beat_ms;
            config.monitor.detect_ms = 2 * beat_ms;
            let settings = Settings::new(config).unwrap().coordinator();
            assert_eq!(settings.look_period, Duration::from_millis(look_ms.into()));
            assert_eq!((settings.monitor.period_ms, settings.monitor.late_ms), (look_ms, late_ms));
            assert!(settings.idle_look_period >= settings.look_period);
        }
    }
}
