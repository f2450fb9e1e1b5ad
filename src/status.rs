//! What `rvmm status` tells: the types that travel as JSON, and their text.

mod text;

pub use coordinator::{Failover, MAX_FAILOVERS};
use serde::{Deserialize, Serialize};

use crate::config::{AckPolicy, Durability};
use crate::holder::Cause;

/// The state of the whole daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The worst of the components'.
    pub health: Health,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// The process that holds the daemon.
    pub holder: HolderStatus,
    /// Time since the daemon started, milliseconds.
    pub uptime_ms: u64,
    /// The run directory that it serves.
    pub run_dir: String,
    /// Its components.
    pub components: Vec<Component>,
}

impl Status {
    /// The status of a daemon with these components.
    #[must_use]
    pub fn new(
        run_dir: &std::path::Path,
        uptime_ms: u64,
        holder: HolderStatus,
        components: Vec<Component>,
    ) -> Self {
        let health = components.iter().map(|component| component.health).max();
        Self {
            health: health.unwrap_or(Health::NotServing),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            holder,
            uptime_ms,
            run_dir: run_dir.display().to_string(),
            components,
        }
    }
}

/// The process that starts daemons, and is to be told to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// Its process.
    pub pid: u32,
    /// How many daemons it has started after the first one.
    pub restarts: u64,
    /// Why, the last time.
    pub last_restart: Option<LastRestart>,
}

/// Why there is another daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRestart {
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
    /// The version that served before.
    pub from_version: String,
    /// For how long nobody served, milliseconds; none until somebody does.
    pub pause_ms: Option<u64>,
}

/// How well something does, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// As configured.
    Healthy,
    /// Serves, with fewer replicas than configured.
    Degraded,
    /// Has no primary.
    NotServing,
}

impl Health {
    /// The exit code of `rvmm status`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Degraded => 1,
            Self::NotServing => 2,
        }
    }
}

/// One component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Its name, such as `xenstore`.
    pub name: String,
    /// How well it does.
    pub health: Health,
    /// The number of its current primary's reign; each failover raises it.
    pub generation: u64,
    /// When a client is answered.
    pub ack_policy: AckPolicy,
    /// What survives the death of all replicas.
    pub durability: Durability,
    /// Where state machines are executed: `process`, `kvm` or `mixed`.
    pub backend: String,
    /// Why it is that.
    pub backend_reason: String,
    /// Whether each input is executed twice, and what comes of it compared.
    pub lockstep: bool,
    /// How many replicas there are to be.
    pub replication_factor: u8,
    /// How long a replica may stand still before it is taken for hung,
    /// milliseconds.
    pub detect_ms: u64,
    /// The same for one that the kernel gives no time to run.
    pub starved_limit_ms: u64,
    /// The replicas that there are, by id.
    pub replicas: Vec<Replica>,
    /// The last failovers, oldest first; at most [`MAX_FAILOVERS`].
    pub failovers: Vec<Failover>,
    /// All failovers since the daemon started.
    pub failovers_total: u64,
    /// What it has done so far.
    pub counters: Counters,
}

impl Component {
    /// How well a component of `replication_factor` does with `replicas`.
    #[must_use]
    pub fn health_of(replication_factor: u8, replicas: &[Replica]) -> Health {
        let running = replicas.iter().filter(|replica| replica.state == ReplicaState::Running);
        let serving = running.clone().any(|replica| replica.role == Role::Primary);
        let voting = running.filter(|replica| replica.role != Role::Learner).count();
        match (serving, voting >= usize::from(replication_factor)) {
            (false, _) => Health::NotServing,
            (true, false) => Health::Degraded,
            (true, true) => Health::Healthy,
        }
    }

    /// The replica that serves.
    #[must_use]
    pub fn primary(&self) -> Option<&Replica> {
        self.replicas
            .iter()
            .find(|replica| replica.role == Role::Primary && replica.state == ReplicaState::Running)
    }
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// Its id, never used again.
    pub id: u64,
    /// Its place among the component's shared memory regions.
    pub slot: u8,
    /// Where its state machine is executed: `process` or `kvm`.
    pub backend: String,
    /// Its process; 0 when it has none.
    pub pid: u32,
    /// What it is for.
    pub role: Role,
    /// How it is.
    pub state: ReplicaState,
    /// The last input that it applied.
    pub last_input: u64,
    /// The last log entry that it knows to be committed.
    pub commit_index: u64,
    /// The digest of its state, when it last said.
    pub digest: Option<StateDigest>,
}

/// The digest of a state after a log entry, in hexadecimal. Replicas differ when
/// theirs differ after the same entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The log entry after which it was taken.
    pub log_index: u64,
    /// 16 hexadecimal digits.
    pub digest: String,
}

/// What a replica is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves.
    Primary,
    /// Follows and can be promoted.
    Standby,
    /// Is being brought up to date.
    Learner,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Its process is being started.
    Starting,
    /// It works.
    Running,
    /// It was found dead, hung or wrong, and is being stopped.
    Fencing,
    /// It is stopped for certain.
    Dead,
}

/// What a component has done and holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Inputs numbered.
    pub inputs: u64,
    /// Outputs delivered.
    pub outputs: u64,
    /// Outputs dropped because they had been delivered before, or came from a
    /// fenced generation.
    pub outputs_dropped: u64,
    /// Inputs that wait for their answer.
    pub pending: u64,
    /// Clients connected.
    pub clients: u64,
    /// Clients disconnected for what they sent or did not read.
    pub clients_refused: u64,
    /// Requests answered with an error because they kill who applies them.
    pub quarantined: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn replica(id: u64, role: Role, state: ReplicaState) -> Replica {
        Replica {
            id,
            slot: id as u8,
            backend: "kvm".into(),
            pid: 1000 + id as u32,
            role,
            state,
            last_input: 40 + id,
            commit_index: 7,
            digest: Some(StateDigest { log_index: 40, digest: "00c0ffee00c0ffee".into() }),
        }
    }

    pub(crate) fn sample() -> Status {
        let replicas = vec![
            replica(2, Role::Primary, ReplicaState::Running),
            replica(3, Role::Standby, ReplicaState::Running),
            replica(4, Role::Learner, ReplicaState::Starting),
        ];
        let component = Component {
            name: "xenstore".into(),
            health: Component::health_of(3, &replicas),
            generation: 2,
            ack_policy: AckPolicy::AllLive,
            durability: Durability::Volatile,
            backend: "kvm".into(),
            backend_reason: "KVM is usable, on Intel VMX".into(),
            lockstep: true,
            replication_factor: 3,
            detect_ms: 50,
            starved_limit_ms: 5000,
            replicas,
            failovers: vec![Failover {
                at_unix_ms: 1_700_000_000_123,
                cause: "died".into(),
                from: 1,
                to: 2,
                generation: 2,
                detect_us: 110,
                fence_us: 40,
                promote_us: 200,
                replay_us: 150,
                total_us: 500,
            }],
            failovers_total: 1,
            counters: Counters { inputs: 1234, outputs: 1200, clients: 8, ..Counters::default() },
        };
        let cause = Cause::Died { how: "signal 9".into() };
        let from_version = "0.0.9".into();
        let last_restart = Some(LastRestart { cause, from_version, pause_ms: Some(12) });
        let holder = HolderStatus { pid: 70, restarts: 2, last_restart };
        let run_dir = std::path::Path::new("/run/rvmm");
        let status = Status::new(run_dir, 61_000, holder, vec![component]);
        Status { pid: 77, ..status }
    }

    #[test]
    fn health_follows_the_replicas() {
        use ReplicaState::{Dead, Fencing, Running};
        use Role::{Learner, Primary, Standby};
        let health = |replicas: &[(Role, ReplicaState)]| {
            let replicas: Vec<_> =
                replicas.iter().map(|&(role, state)| replica(1, role, state)).collect();
            Component::health_of(2, &replicas)
        };
        assert_eq!(health(&[(Primary, Running), (Standby, Running)]), Health::Healthy);
        assert_eq!(health(&[(Primary, Running), (Learner, Running)]), Health::Degraded);
        assert_eq!(health(&[(Primary, Running), (Standby, Dead)]), Health::Degraded);
        assert_eq!(health(&[(Primary, Fencing), (Standby, Running)]), Health::NotServing);
        assert_eq!(health(&[]), Health::NotServing);
        assert_eq!(sample().health, Health::Degraded);
    }

    #[test]
    fn json_has_the_promised_names() {
        let json = serde_json::to_value(sample()).unwrap();
        let component = &json["components"][0];
        assert_eq!(json["health"], "degraded");
        assert_eq!(json["holder"]["pid"], 70);
        assert_eq!(json["holder"]["restarts"], 2);
        assert_eq!(json["holder"]["last_restart"]["cause"], "died");
        assert_eq!(json["holder"]["last_restart"]["pause_ms"], 12);
        assert_eq!(component["ack_policy"], "all-live");
        assert_eq!(component["durability"], "volatile");
        assert_eq!(component["backend"], "kvm");
        assert_eq!(component["replicas"][0]["backend"], "kvm");
        assert_eq!(component["replication_factor"], 3);
        assert_eq!(component["detect_ms"], 50);
        assert_eq!(component["starved_limit_ms"], 5000);
        assert_eq!(component["replicas"][0]["role"], "primary");
        assert_eq!(component["replicas"][0]["last_input"], 42);
        assert_eq!(component["replicas"][0]["digest"]["digest"], "00c0ffee00c0ffee");
        assert_eq!(component["failovers"][0]["total_us"], 500);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), sample());
    }
}
