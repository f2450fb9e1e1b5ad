//! What values must not be, or should not be, together.

use std::path::Path;

use super::layers::{Origins, Problem};
use super::{AckPolicy, Affinity, Config, Durability, Key, MemoryShares};

/// Adds what makes `config` impossible.
pub(super) fn cross(config: &Config, origins: &Origins, problems: &mut Vec<Problem>) {
    let mut refuse = |name: &str, why: String| problems.push(problem(config, origins, name, &why));
    let xenstore = &config.xenstore;
    if xenstore.durability != Durability::Volatile && !consensus::HAS_DURABLE_STORE {
        let why = "is not possible: this rvmm was built without RocksDB (feature \"rocksdb\"); \
                   allowed: \"volatile\"";
        refuse("xenstore.durability", why.into());
    } else if xenstore.durability != Durability::Volatile && config.state_dir.is_none() {
        refuse("xenstore.durability", "needs state_dir, which is not set".into());
    }
    if xenstore.durability != Durability::Volatile && xenstore.ack == AckPolicy::Quorum {
        let why = "with durability: one disk alone cannot tell what a majority had acknowledged; \
                   use \"all-live\", or durability \"volatile\"";
        refuse("xenstore.ack", why.into());
    }
    if config.state_dir.as_ref() == Some(&config.run_dir) {
        refuse("state_dir", "is the run_dir: that one is emptied at a reboot".into());
    }
    let monitor = &config.monitor;
    if monitor.beat_ms * 2 > monitor.detect_ms {
        let why = format!(
            "leaves no room for a late beat: at most half of monitor.detect_ms ({}) is allowed",
            monitor.detect_ms
        );
        refuse("monitor.beat_ms", why);
    }
    if monitor.starved_limit_ms < monitor.detect_ms {
        let why = format!("must not be below monitor.detect_ms ({})", monitor.detect_ms);
        refuse("monitor.starved_limit_ms", why);
    }
    let shares = MemoryShares::of(config);
    if shares.store > shares.store_max {
        let (most_mib, memory_mib) = (shares.store_max >> 20, config.limits.memory_mib);
        let why = format!(
            "is more than there is room for: at most {most_mib} is allowed where \
             limits.memory_mib is {memory_mib}"
        );
        refuse("limits.store_mib", why);
    }
    if let Affinity::Core(core) = xenstore.affinity
        && !Path::new(&format!("/sys/devices/system/cpu/cpu{core}")).exists()
    {
        refuse("xenstore.affinity", "this machine has no such core".into());
    }
    // sun_path holds 108 bytes, and the longest socket below is a guest's.
    let socket_len = config.socket_dir().as_os_str().len() + "/domains/65535.socket".len();
    if socket_len >= 108 {
        let key = if xenstore.socket_dir.is_some() { "xenstore.socket_dir" } else { "run_dir" };
        refuse(key, "is too long: a socket's path holds 107 bytes".into());
    }
}

/// Adds what is allowed, but probably not meant.
pub(super) fn doubtful(config: &Config, origins: &Origins, warnings: &mut Vec<Problem>) {
    let mut warn = |name: &str, why: &str| warnings.push(problem(config, origins, name, why));
    let xenstore = &config.xenstore;
    if xenstore.replicas == 1 {
        warn("xenstore.replicas", "leaves no standby: the death of the one replica is an outage");
    }
    if xenstore.ack == AckPolicy::Quorum && matches!(xenstore.replicas, 2) {
        warn("xenstore.ack", "of two replicas survives the loss of none; \"all-live\" would");
    }
    if config.state_dir.is_some() && xenstore.durability == Durability::Volatile {
        warn("state_dir", "is not used: xenstore.durability is \"volatile\"");
    }
}

fn problem(config: &Config, origins: &Origins, name: &str, why: &str) -> Problem {
    let value = Key::find(name).map(|key| key.get(config).to_string()).unwrap_or_default();
    Problem { origin: origins.of(name), what: format!("{name} = {value} {why}") }
}
