//! The status as text.

use std::fmt;

use super::{Component, Health, Replica, ReplicaState, Role, Status};

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::NotServing => "not serving",
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Learner => "learner",
        })
    }
}

impl fmt::Display for ReplicaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Fencing => "fencing",
            Self::Dead => "dead",
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = humantime::format_duration(std::time::Duration::from_secs(self.uptime_ms / 1000));
        writeln!(
            f,
            "{}: rvmm {}, pid {} (holder {}), up {up}, {}",
            self.health, self.version, self.pid, self.holder.pid, self.run_dir
        )?;
        if let Some(last) = &self.holder.last_restart {
            write!(f, "  restarts of the daemon: {}; {}", self.holder.restarts, last.cause)?;
            match last.pause_ms {
                Some(pause_ms) => writeln!(f, "; served again after {pause_ms} ms")?,
                None => writeln!(f, "; does not serve yet")?,
            }
        }
        for component in &self.components {
            write!(f, "\n{component}")?;
        }
        Ok(())
    }
}

/// How many failovers the text lists.
const FAILOVERS_SHOWN: usize = 5;

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, health, generation, ack_policy, durability, .. } = self;
        let factor = self.replication_factor;
        writeln!(
            f,
            "{name}: {health}, generation {generation}, {factor} replicas, {ack_policy}, {durability}"
        )?;
        let lockstep = if self.lockstep { ", in lockstep" } else { "" };
        writeln!(f, "  backend {}{lockstep}: {}", self.backend, self.backend_reason)?;
        let counters = &self.counters;
        writeln!(
            f,
            "  {} clients; {} inputs, {} outputs, {} pending",
            counters.clients, counters.inputs, counters.outputs, counters.pending
        )?;
        if counters.outputs_dropped + counters.clients_refused + counters.quarantined > 0 {
            writeln!(
                f,
                "  {} repeated or fenced outputs dropped, {} clients refused, {} requests quarantined",
                counters.outputs_dropped, counters.clients_refused, counters.quarantined
            )?;
        }
        writeln!(
            f,
            "  {:>7} {:<8} {:<9} {:<7} {:>8} {:>12} {:>12}  digest",
            "replica", "role", "state", "backend", "pid", "last input", "commit"
        )?;
        for replica in &self.replicas {
            writeln!(f, "  {replica}")?;
        }
        if self.failovers_total > 0 {
            writeln!(
                f,
                "  failovers: {}; the last, in microseconds:\n  {:>7} {:<12} {:>8} {:>8} {:>8} {:>8} {:>8}",
                self.failovers_total,
                "from>to",
                "cause",
                "detect",
                "fence",
                "promote",
                "replay",
                "total"
            )?;
            let skip = self.failovers.len().saturating_sub(FAILOVERS_SHOWN);
            for failover in &self.failovers[skip..] {
                writeln!(
                    f,
                    "  {:>7} {:<12} {:>8} {:>8} {:>8} {:>8} {:>8}",
                    format!("{}>{}", failover.from, failover.to),
                    failover.cause,
                    failover.detect_us,
                    failover.fence_us,
                    failover.promote_us,
                    failover.replay_us,
                    failover.total_us
                )?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, role, state, backend, pid, last_input, commit_index, .. } = self;
        write!(
            f,
            "{id:>7} {role:<8} {state:<9} {backend:<7} {pid:>8} {last_input:>12} {commit_index:>12}  "
        )?;
        match &self.digest {
            Some(digest) => write!(f, "{}@{}", digest.digest, digest.log_index),
            None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_text_shows_what_the_json_has() {
        assert_eq!(
            crate::status::tests::sample().to_string(),
            "\
degraded: rvmm 0.1.0, pid 77 (holder 70), up 1m 1s, /run/rvmm
  restarts of the daemon: 2; the last daemon ended: signal 9; served again after 12 ms

xenstore: degraded, generation 2, 3 replicas, all-live, volatile
  backend kvm, in lockstep: KVM is usable, on Intel VMX
  8 clients; 1234 inputs, 1200 outputs, 0 pending
  replica role     state     backend      pid   last input       commit  digest
        2 primary  running   kvm         1002           42            7  00c0ffee00c0ffee@40
        3 standby  running   kvm         1003           43            7  00c0ffee00c0ffee@40
        4 learner  starting  kvm         1004           44            7  00c0ffee00c0ffee@40
  failovers: 1; the last, in microseconds:
  from>to cause          detect    fence  promote   replay    total
      1>2 died              110       40      200      150      500
"
        );
    }
}
