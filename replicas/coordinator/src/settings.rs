//! What the configuration means for a component's group.

use std::path::PathBuf;
use std::time::Duration;

use hypervisor::decision::{AckPolicy, Loss, Policy};
use hypervisor::fabric::FabricConfig;
use hypervisor::monitor::MonitorConfig;
use replica::spec::{Ack, LogLimits};

use crate::front::FrontLimits;

/// What survives the death of all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing.
    Volatile,
    /// What is on the replicas' disks.
    Durable,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The decision maker's policy.
    pub policy: Policy,
    /// What survives the death of all replicas.
    pub durability: Durability,
    /// The sizes of the shared memory.
    pub fabric: FabricConfig,
    /// The bounds of the front door.
    pub front: FrontLimits,
    /// Where clients find their sockets.
    pub sockets: PathBuf,
    /// Where messages are traced, if they are.
    pub trace_file: Option<PathBuf>,
    /// Whether each guest is offered a socket of its own.
    pub guest_sockets: bool,
    /// The hard quotas, by Xen's names; `store-kib`, the limit on the whole store.
    pub quotas: Vec<(&'static str, u32)>,
    /// Whether replicas execute each input twice.
    pub lockstep: bool,
    /// How hangs are judged.
    pub monitor: MonitorConfig,
    /// How often the coordinator looks at the replicas.
    pub look_period: Duration,
    /// How often while there is nothing to do.
    pub idle_look_period: Duration,
    /// How often a replica beats, milliseconds.
    pub beat_ms: u64,
    /// How often while there is nothing to do, milliseconds.
    pub idle_beat_ms: u64,
    /// Raft's own timeout, in case that the host is silent, milliseconds.
    pub election_ms: u64,
    /// How long the replicas' logs get.
    pub log: LogLimits,
    /// How long an idle replica looks around before it sleeps, microseconds.
    pub replica_spin_us: u32,
    /// The same while a batch of its own waits for others, microseconds.
    pub commit_spin_us: u32,
    /// A replica that has not come up by then is given up.
    pub start_limit: Duration,
}

impl Settings {
    /// Whether the state outlives the replicas.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durability == Durability::Durable
    }

    /// The acknowledgement policy as replicas know it.
    pub(crate) fn ack(&self) -> Ack {
        match self.policy.ack {
            AckPolicy::AllLive => Ack::AllLive,
            AckPolicy::Quorum => Ack::Quorum,
        }
    }

    /// A loss in the log.
    pub(crate) fn describe_loss(&self, why: Loss) -> String {
        match (why, self.is_durable()) {
            (Loss::AllReplicas, true) => {
                "all replicas are dead: coming back from the longest log on disk".into()
            }
            (Loss::AllReplicas, false) => "all replicas are dead and durability is \"volatile\": \
                                           THE STATE IS GONE; clients are disconnected, nothing \
                                           is served any more"
                .into(),
            (Loss::Majority, true) => {
                "less than a majority is alive (ack = \"quorum\"): coming back from disk".into()
            }
            (Loss::Majority, false) => "less than a majority is alive (ack = \"quorum\") and \
                                        durability is \"volatile\": what was acknowledged cannot \
                                        be told for certain; nothing is served any more"
                .into(),
        }
    }
}
