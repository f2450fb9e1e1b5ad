//! What `rvmm status -o json` says, as its users know it: the fields that it
//! promises, read without the daemon's own types.

use serde::{Deserialize, Serialize};

/// The whole daemon.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HostStatus {
    /// `healthy`, `degraded` or `not-serving`.
    pub health: String,
    /// The daemon's version.
    #[serde(default)]
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Whoever holds it.
    pub holder: HolderStatus,
    /// Its components.
    pub components: Vec<ComponentStatus>,
}

/// The process that starts another daemon when one has died.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HolderStatus {
    /// Its process, which is to be told to end.
    pub pid: u32,
    /// How many daemons it has started after the first one.
    pub restarts: u64,
    /// Why, the last time.
    pub last_restart: Option<LastRestart>,
}

/// Why there is another daemon.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LastRestart {
    /// `died`, `upgrade` or `upgrade-failed`.
    pub cause: String,
    /// How the one before ended, if it was not to.
    pub how: Option<String>,
    /// For how long nobody served, milliseconds; none until somebody does.
    pub pause_ms: Option<u64>,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ComponentStatus {
    /// Its name.
    pub name: String,
    /// Raised by each failover.
    pub generation: u64,
    /// `all-live` or `quorum`.
    pub ack_policy: String,
    /// `volatile`, `process` or `power`.
    pub durability: String,
    /// Where state machines are executed: `process`, `kvm` or `mixed`; empty when the
    /// daemon does not say.
    #[serde(default)]
    pub backend: String,
    /// Why it is that.
    #[serde(default)]
    pub backend_reason: String,
    /// How many replicas there are to be.
    pub replication_factor: u8,
    /// How long a replica may stand still before it is taken for hung,
    /// milliseconds; none when the daemon does not say.
    #[serde(default)]
    pub detect_ms: Option<u64>,
    /// The same for one that the kernel gives no time to run.
    #[serde(default)]
    pub starved_limit_ms: Option<u64>,
    /// The replicas that there are.
    pub replicas: Vec<ReplicaStatus>,
    /// The last failovers, oldest first.
    pub failovers: Vec<FailoverStatus>,
    /// All failovers so far.
    #[serde(default)]
    pub failovers_total: u64,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ReplicaStatus {
    /// Its id.
    pub id: u64,
    /// Its process.
    pub pid: u32,
    /// What its state machine runs in: `process` or `kvm`; empty when the daemon
    /// does not say.
    #[serde(default)]
    pub backend: String,
    /// `primary`, `standby` or `learner`.
    pub role: String,
    /// `starting`, `running`, `fencing` or `dead`.
    pub state: String,
    /// The last input that it applied.
    pub last_input: u64,
    /// The last log entry that it knows to be committed.
    pub commit_index: u64,
    /// The digest of its state, when it last said.
    #[serde(default)]
    pub digest: Option<StateDigest>,
}

/// The digest of a state after a log entry; equal after equal entries.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StateDigest {
    /// The log entry after which it was taken.
    pub log_index: u64,
    /// 16 hexadecimal digits.
    pub digest: String,
}

/// One failover; times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// When it was noticed, milliseconds since the Unix epoch.
    #[serde(default)]
    pub at_unix_ms: u64,
    /// The old primary; 0 when it is not told.
    #[serde(default)]
    pub from: u64,
    /// The new primary; 0 when it is not told.
    #[serde(default)]
    pub to: u64,
    /// What was wrong with the old primary.
    pub cause: String,
    /// The new primary's generation.
    pub generation: u64,
    /// From the fault to the notice.
    pub detect_us: u64,
    /// From the notice to the certainty that the old primary is stopped.
    pub fence_us: u64,
    /// From there to the new primary's election.
    pub promote_us: u64,
    /// From there to its first reply.
    pub replay_us: u64,
    /// From the fault to the first reply.
    pub total_us: u64,
}

impl HostStatus {
    /// The xenstore component.
    #[must_use]
    pub fn xenstore(&self) -> Option<&ComponentStatus> {
        self.components.iter().find(|c| c.name == "xenstore")
    }
}

impl ComponentStatus {
    /// Whether there is a replica of that id, however it is.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.replicas.iter().any(|replica| replica.id == id)
    }

    /// The replica that serves.
    #[must_use]
    pub fn primary(&self) -> Option<&ReplicaStatus> {
        let mut running = self.running();
        running.find(|replica| replica.role == "primary")
    }

    /// The replicas that can be promoted.
    pub fn standbys(&self) -> impl Iterator<Item = &ReplicaStatus> {
        self.running().filter(|replica| replica.role == "standby")
    }

    /// The replicas that work.
    pub fn running(&self) -> impl Iterator<Item = &ReplicaStatus> {
        self.replicas.iter().filter(|r| r.state == "running")
    }

    /// Whether a primary and all standbys that there are to be are running.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.primary().is_some()
            && self.standbys().count() + 1 == usize::from(self.replication_factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_do_not_matter() {
        let json = r#"{"health":"healthy","pid":7,"holder":{"pid":6,"restarts":0,"last_restart":null},
            "version":"x","components":[{"name":"xenstore",
            "generation":3,"ack_policy":"all-live","durability":"volatile","replication_factor":2,
            "replicas":[{"id":1,"pid":8,"role":"primary","state":"running","last_input":5,
            "commit_index":4,"digest":null},{"id":2,"pid":9,"role":"standby","state":"running",
            "last_input":5,"commit_index":4}],"failovers":[]}]}"#;
        let status: HostStatus = serde_json::from_str(json).expect("is a status");
        let xenstore = status.xenstore().expect("is there");
        assert_eq!(xenstore.primary().expect("is there").pid, 8);
        assert!(xenstore.is_complete());
    }
}
