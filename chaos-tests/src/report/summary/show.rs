//! The summary as text for a terminal.

use std::fmt;

use super::super::record::{Micros, RunOutcome};
use super::{Method, Summary};

/// A duration for people.
#[must_use]
pub fn duration(us: Micros) -> String {
    let units = [(3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1000, "ms")];
    for (size, unit) in units {
        if us >= size {
            let tenths = us / (size / 10);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{us} us")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |names: &std::collections::BTreeSet<String>| {
            names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        let outcome = match self.outcome {
            RunOutcome::Passed => "passed",
            RunOutcome::Aborted => "ABORTED",
            RunOutcome::Failed => "FAILED",
        };
        let (profiles, targets) = (joined(&self.profiles), joined(&self.targets));
        writeln!(f, "{outcome}: {profiles} against {targets}, {}", duration(self.duration_us))?;
        for reason in &self.reasons {
            writeln!(f, "  {reason}")?;
        }
        if self.seeds > 0 {
            let simulated = duration(self.simulated_us);
            writeln!(f, "seeds       {} ({simulated} simulated)", self.seeds)?;
        }
        writeln!(f, "operations  {}", self.operations)?;
        writeln!(f, "faults      {}", self.faults_total())?;
        if self.unjudged > 0 {
            writeln!(f, "            of which {} were not judged", self.unjudged)?;
        }
        let counts = &self.counts;
        writeln!(
            f,
            "clients     {} lost, {} doubled, {} events out of order, {} errors, {} disconnects",
            counts.lost,
            counts.doubled + counts.events_doubled,
            counts.events_reordered,
            counts.errors,
            counts.disconnects
        )?;
        if let Some(longest) = self.pauses.longest {
            let count = self.pauses.spread.count();
            writeln!(f, "pauses      {count}, at most {}", duration(longest.duration_us))?;
        }
        if self.retired > 0 {
            writeln!(f, "retired     {} damaged replicas that nobody had noticed", self.retired)?;
        }
        if self.stalls.count() > 0 {
            writeln!(
                f,
                "stalls      {} of the run itself, at most {}; {} pauses excused",
                self.stalls.count(),
                duration(self.stalls.max_us()),
                counts.pauses_excused
            )?;
        }
        let total = &self.failovers.total;
        if total.count() > 0 {
            writeln!(f, "failovers   {}: median, 99 %, longest", total.count())?;
            for (name, spread) in self.failovers.all() {
                let (p50, p99) = (spread.quantile_us(0.5), spread.quantile_us(0.99));
                let all = [p50, p99, spread.max_us()].map(duration);
                writeln!(f, "  {name:<9} {:>10} {:>10} {:>10}", all[0], all[1], all[2])?;
            }
        }
        if !self.matrix.is_empty() {
            let heads = ["trials", "FAILED", "rate below"];
            writeln!(
                f,
                "{:<24} {:<10} {:>10} {:>7} {:>11}",
                "fault", "component", heads[0], heads[1], heads[2]
            )?;
        }
        for row in self.matrix.rows() {
            let rate = row.failure_rate.map_or_else(String::new, |rate| {
                let sign = if rate.method == Method::RuleOfThree { "3/n" } else { "" };
                format!("{sign:>3} {:.1e}", rate.upper)
            });
            let (class, component) = (row.class, row.component);
            let (trials, failures) = (row.trials, row.failures);
            writeln!(f, "{class:<24} {component:<10} {trials:>10} {failures:>7} {rate:>11}")?;
        }
        for end in self.ends.rows() {
            writeln!(f, "{end}")?;
        }
        for (name, checker) in &self.checkers {
            let (verdict, checked) = (checker.verdict(), checker.checked);
            writeln!(f, "checker {name:<24} {verdict} ({checked} looked at)")?;
        }
        if self.outcome != RunOutcome::Passed
            && let Some(line) = self.reproduce.first()
        {
            writeln!(f, "again: {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_a_fitting_unit() {
        let shown = [999, 1000, 1_250_000, 90_000_000, 5_400_000_000].map(duration);
        assert_eq!(shown, ["999 us", "1.0 ms", "1.2 s", "1.5 min", "1.5 h"]);
    }
}
