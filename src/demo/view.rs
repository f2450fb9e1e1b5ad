//! The live view: redrawn in place on a terminal, a line a second elsewhere.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use chaos::soak::SoakCounts;

use super::{DemoOptions, Injected};
use crate::cli::print;
use crate::status::{Component, Failover};

/// Goes to the top of the screen.
const HOME: &str = "\x1b[H";
/// Clears the screen and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Clears the rest of the line, and the rest of the screen.
const CLEAR_LINE: &str = "\x1b[K\n";
const CLEAR_REST: &str = "\x1b[J";
/// Cells of the bar that shows how far it is.
const BAR: usize = 40;
/// Failovers listed.
const LISTED: usize = 8;

/// See the module.
pub(super) struct View {
    total: Duration,
    live: bool,
    redraw: bool,
    drawn: bool,
    last: Option<(Duration, u64)>,
    longest_us: u64,
    said_faults: usize,
}

impl View {
    pub(super) fn new(options: &DemoOptions) -> Self {
        Self {
            total: options.duration,
            live: options.live,
            redraw: std::io::stdout().is_terminal(),
            drawn: false,
            last: None,
            longest_us: 0,
            said_faults: 0,
        }
    }

    /// Says what comes next.
    pub(super) fn say(&self, text: &str) -> std::io::Result<()> {
        if self.live { print(format!("{text}\n")) } else { Ok(()) }
    }

    /// Shows how it goes.
    pub(super) fn show(
        &mut self,
        now: Duration,
        component: Option<&Component>,
        counts: &SoakCounts,
        injected: &[Injected],
        failovers: &[Failover],
    ) -> std::io::Result<()> {
        if !self.live {
            return Ok(());
        }
        self.longest_us = self.longest_us.max(counts.longest_us);
        let (then, answered) = self.last.unwrap_or_default();
        if !self.redraw && self.last.is_some() && now - then < Duration::from_secs(1) {
            return Ok(());
        }
        let rate = rate(counts.answered.saturating_sub(answered), now.saturating_sub(then));
        let text = if self.redraw {
            self.screen(now, rate, component, counts, injected, failovers)
        } else {
            self.line(now, rate, component, counts, injected)
        };
        self.last = Some((now, counts.answered));
        self.said_faults = injected.len();
        self.longest_us = 0;
        print(text)
    }

    /// Leaves the last picture standing.
    pub(super) fn end(&self) -> std::io::Result<()> {
        if self.drawn { print("\n") } else { Ok(()) }
    }

    fn line(
        &self,
        now: Duration,
        rate: f64,
        component: Option<&Component>,
        counts: &SoakCounts,
        injected: &[Injected],
    ) -> String {
        let mut line = format!(
            "{:>3} s  {:>8} answered ({rate:5.1} k/s), {} errors, longest {:>6.1} ms, {}",
            now.as_secs(),
            counts.answered,
            counts.errors,
            millis(self.longest_us),
            group(component)
        );
        for fault in &injected[self.said_faults..] {
            let _ = write!(line, "; {} of the primary", fault.kind);
        }
        line + "\n"
    }

    fn screen(
        &mut self,
        now: Duration,
        rate: f64,
        component: Option<&Component>,
        counts: &SoakCounts,
        injected: &[Injected],
        failovers: &[Failover],
    ) -> String {
        let mut text = String::from(if self.drawn { HOME } else { CLEAR });
        self.drawn = true;
        let mut line = |line: String| text += &(line + CLEAR_LINE);
        let done = (now.as_secs_f64() / self.total.as_secs_f64()).min(1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 40")]
        let cells = (done * BAR as f64) as usize;
        line(format!(
            "R-VMM: xenstore under fire   [{}{}] {:4.1} s of {} s",
            "#".repeat(cells),
            ".".repeat(BAR - cells),
            now.as_secs_f64(),
            self.total.as_secs()
        ));
        line(String::new());
        match component {
            Some(component) => {
                line(group(Some(component)));
                for replica in &component.replicas {
                    line(format!("  {replica}"));
                }
            }
            None => line(group(None)),
        }
        line(String::new());
        line(format!(
            "{} requests answered ({rate:.1} k/s), {} watch events, {} errors, {} disconnects",
            counts.answered, counts.events, counts.errors, counts.disconnects
        ));
        line(format!("longest wait for an answer just now: {:.1} ms", millis(self.longest_us)));
        line(String::new());
        let kinds: Vec<_> = injected.iter().map(|fault| fault.kind.to_string()).collect();
        line(format!("faults so far: {}", kinds.join(" ")));
        for failover in &failovers[failovers.len().saturating_sub(LISTED)..] {
            line(format!(
                "  {:<10} {} -> {}  answering again after {:6.2} ms \
                 (detect {:.2}, fence {:.2}, promote {:.2}, replay {:.2})",
                failover.cause,
                failover.from,
                failover.to,
                millis(failover.total_us),
                millis(failover.detect_us),
                millis(failover.fence_us),
                millis(failover.promote_us),
                millis(failover.replay_us)
            ));
        }
        text + CLEAR_REST
    }
}

fn group(component: Option<&Component>) -> String {
    let Some(component) = component else { return "no status just now".into() };
    let primary = component.primary().map_or("none".into(), |replica| replica.id.to_string());
    format!("primary {primary}, generation {}, {}", component.generation, component.health)
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// Thousands a second.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(0.001) / 1000.0
}
