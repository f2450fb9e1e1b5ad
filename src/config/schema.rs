//! Every key: its name, what it may be, what it means, and its field.

use super::value::{Allowed, Field, Value};
use super::{AckPolicy, BackendChoice, Config, Durability, LogLevel};

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its full name, such as `xenstore.replicas`.
    pub name: &'static str,
    /// What it may be.
    pub allowed: Allowed,
    /// What it means.
    pub doc: &'static str,
    pub(super) get: fn(&Config) -> Value,
    /// False when the value does not fit the field.
    pub(super) set: fn(&mut Config, &Value) -> bool,
}

impl Key {
    /// The key with this full name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn env(&self) -> String {
        let name = self.name.replace(['.', '-'], "_");
        format!("RVMM_{}", name.to_ascii_uppercase())
    }

    /// Its value in `config`.
    #[must_use]
    pub fn get(&self, config: &Config) -> Value {
        (self.get)(config)
    }
}

const fn whole(min: u64, max: u64) -> Allowed {
    Allowed::Whole { min, max }
}

macro_rules! keys {
    ($($name:literal => $($field:ident).+, $allowed:expr, $doc:literal;)*) => {
        &[$(Key {
            name: $name,
            allowed: $allowed,
            doc: $doc,
            get: |config| Field::to_value(&config.$($field).+),
            set: |config, value| match Field::from_value(value) {
                Some(value) => {
                    config.$($field).+ = value;
                    true
                }
                None => false,
            },
        }),*]
    };
}

const QUOTA: Allowed = whole(0, 0x7fff_ffff);

/// Every key, in the order in which they are shown.
pub const KEYS: &[Key] = keys! {
    "run_dir" => run_dir, Allowed::Path,
        "where sockets and the lock file live (xenstore's socket is xenstored/socket)";
    "state_dir" => state_dir, Allowed::Path,
        "where state that must survive lives; needed for durability process and power";
    "log" => log, Allowed::OneOf(LogLevel::NAMES),
        "what the log on standard error shows";
    "xenstore.replicas" => xenstore.replicas, whole(1, 7),
        "how many replicas there are";
    "xenstore.ack" => xenstore.ack, Allowed::OneOf(AckPolicy::NAMES),
        "a client is answered once all replicas that live, or a majority of all, have the request";
    "xenstore.durability" => xenstore.durability, Allowed::OneOf(Durability::NAMES),
        "what survives the death of all replicas: nothing, or what was answered (power: synced)";
    "xenstore.rebuild" => xenstore.rebuild, Allowed::Switch,
        "whether a lost replica is replaced";
    "xenstore.backend" => xenstore.backend, Allowed::OneOf(BackendChoice::NAMES),
        "whether replicas' state machines run in virtual machines, in processes, or by turns";
    "xenstore.lockstep" => xenstore.lockstep, Allowed::Switch,
        "whether each replica executes every request twice, and stops where that makes a difference";
    "xenstore.affinity" => xenstore.affinity, Allowed::Core,
        "the core that the component's threads share: chosen, left to the kernel, or this one";
    "xenstore.front_spin_us" => xenstore.front_spin_us, whole(0, 10_000),
        "how long the front door looks for requests before it sleeps, microseconds";
    "xenstore.commit_spin_us" => xenstore.commit_spin_us, whole(0, 10_000),
        "the same while requests are with the replicas; 0 where they share a core, microseconds";
    "xenstore.replica_spin_us" => xenstore.replica_spin_us, whole(0, 10_000),
        "how long a replica looks for work before it sleeps; 0 where they share a core, microseconds";
    "xenstore.intake_kib" => xenstore.intake_kib, Allowed::PowerOfTwo { min: 64, max: 65_536 },
        "size of the intake ring, KiB; clients wait when it is full";
    "xenstore.output_kib" => xenstore.output_kib, Allowed::PowerOfTwo { min: 64, max: 65_536 },
        "size of each replica's output ring, KiB; the replica waits when it is full";
    "xenstore.guest_sockets" => xenstore.guest_sockets, Allowed::Switch,
        "whether each guest is offered a socket of its own";
    "xenstore.max_connections" => xenstore.max_connections, whole(1, 65_536),
        "how many clients may be connected at once; more are turned away";
    "xenstore.client_backlog_kib" => xenstore.client_backlog_kib, whole(16, 65_536),
        "how much may wait for a client that does not read, KiB; beyond, it is disconnected";
    "xenstore.rings" => xenstore.rings, Allowed::Switch,
        "whether the rings of Xen's domains are served; needs Xen's control domain, without another xenstored";
    "xenstore.socket_dir" => xenstore.socket_dir, Allowed::Path,
        "where xenstore's sockets live, if not in the run directory's xenstored";
    "xenstore.trace_file" => xenstore.trace_file, Allowed::Path,
        "where every message of every client is appended, as Xen's C daemon has it with -T; SIGHUP opens it anew";
    "xenstore.quotas.nodes" => xenstore.quotas.nodes, QUOTA,
        "nodes that a guest may own (0 in any quota: no limit)";
    "xenstore.quotas.node-size" => xenstore.quotas.node_size, QUOTA,
        "size of a guest's node, bytes";
    "xenstore.quotas.node-permissions" => xenstore.quotas.node_permissions, QUOTA,
        "permission entries of a guest's node";
    "xenstore.quotas.watches" => xenstore.quotas.watches, QUOTA,
        "watches that a guest may set";
    "xenstore.quotas.transactions" => xenstore.quotas.transactions, QUOTA,
        "transactions that a guest may have open";
    "xenstore.quotas.transaction-nodes" => xenstore.quotas.transaction_nodes, QUOTA,
        "nodes that a guest's transaction may touch";
    "xenstore.quotas.outstanding" => xenstore.quotas.outstanding, QUOTA,
        "requests and events that a guest may have outstanding";
    "xenstore.quotas.memory" => xenstore.quotas.memory, QUOTA,
        "memory that a guest may use, bytes";
    "xenstore.quotas.path-max" => xenstore.quotas.path_max, QUOTA,
        "length of a guest's absolute path, bytes";
    "monitor.beat_ms" => monitor.beat_ms, whole(1, 10_000),
        "how often a replica beats, milliseconds";
    "monitor.detect_ms" => monitor.detect_ms, whole(10, 60_000),
        "how long a replica may stand still before it is taken for hung, milliseconds";
    "monitor.starved_limit_ms" => monitor.starved_limit_ms, whole(100, 600_000),
        "the same for a replica that the kernel gives no time to run, milliseconds";
    "limits.memory_mib" => limits.memory_mib, whole(64, 1_048_576),
        "memory that one replica may use, MiB";
    "limits.store_mib" => limits.store_mib, whole(0, 1_048_576),
        "what the whole store may take of it, MiB; 0: as much as there is room for";
    "limits.events" => limits.events, whole(64, 1_000_000),
        "events kept for `rvmm dmesg`";
};
