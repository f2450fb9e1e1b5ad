//! The figures, as data and as a table.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::row::{Sample, Unit};
use super::{BenchConfig, Machine, Target};

/// What a measurement showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchReport {
    /// The daemons; the first one is what the others are compared with.
    pub targets: Vec<Target>,
    /// What was asked for.
    pub config: BenchConfig,
    /// Whether the machine was quiet.
    pub machine: Machine,
    /// The figures, for each number of nodes.
    pub populations: Vec<Population>,
}

/// The figures with one number of nodes in the stores.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Population {
    /// The nodes.
    pub nodes: u32,
    /// The rows.
    pub rows: Vec<RowReport>,
}

/// One row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowReport {
    /// What was done.
    pub name: String,
    /// What the figures count.
    pub unit: Unit,
    /// Each daemon's figures, in the order of the targets.
    pub measured: Vec<Measured>,
}

/// One daemon's figures in one row.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Median over the rounds.
    pub median: f64,
    /// Least over the rounds.
    pub min: f64,
    /// Greatest over the rounds.
    pub max: f64,
    /// Median over the rounds of what 99 of 100 took at most, microseconds.
    pub p99_us: Option<f64>,
    /// The first daemon's median divided by this one's; below 1 is good for us
    /// where times are measured, above 1 where rates are.
    pub ratio: f64,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

impl RowReport {
    pub(super) fn of(name: &str, unit: Unit, samples: &[Vec<Sample>]) -> Self {
        let mut measured: Vec<Measured> = samples
            .iter()
            .map(|samples| {
                let values = || samples.iter().map(|sample| sample.value);
                Measured {
                    median: median(values().collect()).unwrap_or(f64::NAN),
                    min: values().fold(f64::INFINITY, f64::min),
                    max: values().fold(f64::NEG_INFINITY, f64::max),
                    p99_us: median(samples.iter().filter_map(|s| s.p99_us).collect()),
                    ratio: 1.0,
                }
            })
            .collect();
        let first = measured.first().map_or(f64::NAN, |m| m.median);
        for measured in &mut measured {
            measured.ratio = first / measured.median;
        }
        Self { name: name.to_owned(), unit, measured }
    }
}

impl BenchReport {
    /// The row of that name with so many nodes.
    #[must_use]
    pub fn row(&self, nodes: u32, name: &str) -> Option<&RowReport> {
        let population = self.populations.iter().find(|p| p.nodes == nodes)?;
        population.rows.iter().find(|row| row.name == name)
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} cores, {} ({:.0} % busy before, {:.0} % after); medians of {} rounds of {} ms",
            machine.cores,
            if machine.quiet { "quiet" } else { "NOT QUIET" },
            machine.busy_before_percent,
            machine.busy_after_percent,
            self.config.rounds,
            self.config.slice_ms
        )?;
        for population in &self.populations {
            writeln!(f, "\n{:<26}", format!("{} nodes", population.nodes))?;
            write!(f, "{:<26}", "")?;
            for (at, target) in self.targets.iter().enumerate() {
                write!(f, " {:>16}", target.name)?;
                if at > 0 {
                    write!(f, " {:>7}", "ratio")?;
                }
            }
            writeln!(f)?;
            for row in &population.rows {
                write!(f, "{:<26}", row.name)?;
                for (at, measured) in row.measured.iter().enumerate() {
                    write!(f, " {:>16}", figure(row.unit, measured.median))?;
                    if at > 0 {
                        write!(f, " {:>6.2}x", measured.ratio)?;
                    }
                }
                writeln!(f)?;
            }
        }
        let first = self.targets.first().map_or("", |target| &target.name);
        writeln!(f, "\nratio: {first} divided by the other; below 1 is better in us, above 1 in /s")
    }
}

fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Micros if value < 100.0 => format!("{value:.1} us"),
        Unit::Micros => format!("{value:.0} us"),
        Unit::PerSecond => format!("{:.1}k/s", value / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64) -> Sample {
        Sample { value, p99_us: None }
    }

    #[test]
    fn ratios_are_those_of_the_medians() {
        let ours = [10.0, 1000.0, 12.0].map(sample).to_vec();
        let theirs = [24.0, 20.0].map(sample).to_vec();
        let row = RowReport::of("x", Unit::Micros, &[ours, theirs]);
        assert_eq!(row.measured[0].median.to_string(), "12");
        assert_eq!(row.measured[1].median.to_string(), "22");
        assert!((row.measured[1].ratio - 12.0 / 22.0).abs() < 1e-9);
        assert_eq!(row.measured[0].max.to_string(), "1000");
    }
}
