//! Whether the machine was quiet: figures taken on a busy one tell little.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Busier than this, percent of all cores, is not quiet.
const QUIET_PERCENT: f64 = 5.0;
const LOOK: Duration = Duration::from_millis(300);

/// What else the machine did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its cores.
    pub cores: usize,
    /// How busy it was before the measurement, percent of all cores.
    pub busy_before_percent: f64,
    /// How busy it was afterwards.
    pub busy_after_percent: f64,
    /// Whether it was quiet both times.
    pub quiet: bool,
}

/// Ticks of work and of everything since the machine started.
fn ticks() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().next()?.strip_prefix("cpu")?;
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let all: u64 = ticks.iter().sum();
    Some((all - idle, all))
}

#[allow(clippy::cast_precision_loss, reason = "ticks of 300 ms")]
fn busy_percent() -> f64 {
    let before = ticks();
    std::thread::sleep(LOOK);
    match (before, ticks()) {
        (Some((busy, all)), Some((busy_now, all_now))) if all_now > all => {
            100.0 * (busy_now - busy) as f64 / (all_now - all) as f64
        }
        // Unknown is not quiet.
        _ => 100.0,
    }
}

impl Machine {
    pub(super) fn look() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            busy_before_percent: busy_percent(),
            ..Self::default()
        }
    }

    pub(super) fn look_again(&mut self) {
        self.busy_after_percent = busy_percent();
        let busiest = self.busy_before_percent.max(self.busy_after_percent);
        self.quiet = busiest < QUIET_PERCENT;
    }
}
