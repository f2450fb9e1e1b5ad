//! The configuration: one struct, four layers (defaults, file, environment,
//! flags), and for every value the place that it came from.

mod check;
mod layers;
mod memory;
mod schema;
mod value;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use layers::{CONFIG_ENV, ConfigError, Loaded, Origin, Override, Problem, Sources};
pub(crate) use memory::MemoryShares;
pub use schema::{KEYS, Key};
pub use value::{Affinity, Allowed, Value};

use value::choices;

/// Everything that can be configured. [`KEYS`] tells the meaning, the range and
/// the default of each value.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where sockets and the lock file live.
    pub run_dir: PathBuf,
    /// Where state that must survive lives; needed unless durability is
    /// `volatile`.
    pub state_dir: Option<PathBuf>,
    /// What the log on standard error shows.
    pub log: LogLevel,
    /// The xenstore component.
    pub xenstore: XenstoreConfig,
    /// How failures are noticed.
    pub monitor: MonitorConfig,
    /// Bounds on what the daemon and its replicas may take.
    pub limits: LimitsConfig,
}

impl Config {
    /// The directory of xenstore's sockets.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        let of_its_own = self.xenstore.socket_dir.clone();
        of_its_own.unwrap_or_else(|| self.run_dir.join("xenstored"))
    }

    /// Where xenstore is served.
    #[must_use]
    pub fn xenstore_socket(&self) -> PathBuf {
        self.socket_dir().join("socket")
    }
}

/// The xenstore component's part of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct XenstoreConfig {
    /// How many replicas there are.
    pub replicas: u8,
    /// When a client is answered.
    pub ack: AckPolicy,
    /// What survives the death of all replicas.
    pub durability: Durability,
    /// Whether a lost replica is replaced.
    pub rebuild: bool,
    /// Whether each input is executed twice, and what comes of it compared.
    pub lockstep: bool,
    /// Where the replicas' state machines are executed.
    pub backend: BackendChoice,
    /// Which core the component's threads share.
    pub affinity: Affinity,
    /// How long the front door looks for requests before it sleeps, microseconds.
    pub front_spin_us: u32,
    /// The same while a command waits for its acknowledgement, microseconds.
    pub commit_spin_us: u32,
    /// How long a replica looks for work before it sleeps, microseconds.
    pub replica_spin_us: u32,
    /// Size of the intake ring, KiB.
    pub intake_kib: u32,
    /// Size of each replica's output ring, KiB.
    pub output_kib: u32,
    /// Whether each guest is offered a socket of its own.
    pub guest_sockets: bool,
    /// How many clients may be connected at once.
    pub max_connections: u32,
    /// How much may wait for a client that does not read, KiB.
    pub client_backlog_kib: u32,
    /// Whether the rings of Xen's domains are served.
    pub rings: bool,
    /// Where clients find their sockets; in the run directory if it is not set.
    pub socket_dir: Option<PathBuf>,
    /// Where the messages of all clients are traced, if they are.
    pub trace_file: Option<PathBuf>,
    /// What a guest may use.
    pub quotas: Quotas,
}

/// The hard quotas of an unprivileged domain, by Xen's names; 0 is no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Quotas {
    /// Nodes owned.
    pub nodes: u32,
    /// Size of one node, bytes.
    pub node_size: u32,
    /// Permission entries of one node.
    pub node_permissions: u32,
    /// Watches set.
    pub watches: u32,
    /// Transactions open at once.
    pub transactions: u32,
    /// Nodes touched by one transaction.
    pub transaction_nodes: u32,
    /// Requests and events outstanding.
    pub outstanding: u32,
    /// Memory used, bytes.
    pub memory: u32,
    /// Length of a path, without `/local/domain/N/`, bytes.
    pub path_max: u32,
}

impl Quotas {
    /// Each quota by the name that xenstore's CONTROL and SET_QUOTA know.
    #[must_use]
    pub fn by_name(&self) -> [(&'static str, u32); 9] {
        [
            ("nodes", self.nodes),
            ("node-size", self.node_size),
            ("node-permissions", self.node_permissions),
            ("watches", self.watches),
            ("transactions", self.transactions),
            ("transaction-nodes", self.transaction_nodes),
            ("outstanding", self.outstanding),
            ("memory", self.memory),
            ("path-max", self.path_max),
        ]
    }
}

/// The monitor's part of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct MonitorConfig {
    /// How often a replica beats, milliseconds.
    pub beat_ms: u32,
    /// How long a replica may stand still, in CPU time that it was really
    /// given, before it is taken for hung, milliseconds.
    pub detect_ms: u32,
    /// How long a replica may be given no CPU time before it is taken for hung
    /// all the same, milliseconds.
    pub starved_limit_ms: u32,
}

/// Bounds on what the daemon and its replicas may take.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Memory of one replica, MiB.
    pub memory_mib: u32,
    /// What the whole store may take of it, MiB; 0 for a share of it.
    pub store_mib: u32,
    /// Events kept for `rvmm dmesg`.
    pub events: u32,
}

choices! {
    /// When a client is answered.
    AckPolicy {
        /// Once every replica that is not fenced has the entry.
        AllLive = "all-live",
        /// Once a majority of the replicas has it.
        Quorum = "quorum",
    }
}

choices! {
    /// What survives the death of all replicas.
    Durability {
        /// Nothing: the state is in the replicas' memory.
        Volatile = "volatile",
        /// Every answered request, if the host's kernel lives.
        Process = "process",
        /// Every answered request, even through a loss of power.
        Power = "power",
    }
}

choices! {
    /// Where the replicas' state machines are executed.
    BackendChoice {
        /// In virtual machines where there is a KVM that the processor helps, else in
        /// processes.
        Auto = "auto",
        /// Each in a virtual machine of its own.
        Kvm = "kvm",
        /// Each in a process of its own.
        Process = "process",
        /// By turns in a virtual machine and in a process.
        Mixed = "mixed",
    }
}

choices! {
    /// What the log shows.
    LogLevel {
        /// Only what went wrong.
        Error = "error",
        /// Also what may go wrong.
        Warn = "warn",
        /// Also what happened.
        Info = "info",
        /// Also what helps to find a fault.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run_dir: default_run_dir(),
            state_dir: None,
            log: LogLevel::Info,
            xenstore: XenstoreConfig {
                replicas: 3,
                ack: AckPolicy::AllLive,
                durability: Durability::Volatile,
                rebuild: true,
                lockstep: false,
                backend: BackendChoice::Auto,
                affinity: Affinity::Auto,
                front_spin_us: 50,
                commit_spin_us: 0,
                replica_spin_us: 0,
                intake_kib: 1024,
                output_kib: 1024,
                guest_sockets: true,
                max_connections: 4096,
                client_backlog_kib: 1024,
                rings: false,
                socket_dir: None,
                trace_file: None,
                quotas: Quotas {
                    nodes: 1000,
                    node_size: 2048,
                    node_permissions: 5,
                    watches: 128,
                    transactions: 10,
                    transaction_nodes: 1024,
                    outstanding: 20,
                    memory: 2 * 1024 * 1024 + 512 * 1024,
                    path_max: 2048,
                },
            },
            monitor: MonitorConfig { beat_ms: 20, detect_ms: 50, starved_limit_ms: 5000 },
            limits: LimitsConfig { memory_mib: 1024, store_mib: 0, events: 4096 },
        }
    }
}

/// `/run/rvmm` for root; for others the session's run-time directory, and where
/// there is no session, a directory of their own in `/tmp`.
fn default_run_dir() -> PathBuf {
    let uid = rustix::process::getuid();
    if uid.is_root() {
        return PathBuf::from("/run/rvmm");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("rvmm"),
        _ => PathBuf::from(format!("/tmp/rvmm-{}", uid.as_raw())),
    }
}
