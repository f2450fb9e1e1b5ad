//! What a machine's dom0 tells through its serial port, as `dom0/main` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Tree, TreeError};

/// The name of the mark that ends a whole run.
const END: &str = "end";

/// Why a report cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A line is no mark, no tree and no figure.
    #[error("line {number}: no mark, tree or figure: {line}")]
    Line {
        /// Which line, from 1.
        number: usize,
        /// The line.
        line: String,
    },
    /// A tree is none.
    #[error("tree {name}: {source}")]
    Tree {
        /// Which tree.
        name: String,
        /// Why not.
        source: TreeError,
    },
}

/// One step of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// What was done.
    pub name: String,
    /// The exit status: 0 is good, 124 is too late.
    pub status: u32,
    /// How long the machine had been running when the step ended, in seconds.
    pub uptime_s: f64,
}

/// A run, or as much of it as there was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The steps in the order in which they ended.
    pub marks: Vec<Mark>,
    /// The store at the moments that have a name.
    pub trees: BTreeMap<String, Tree>,
    /// What was counted and measured, by name, in the order in which it was told.
    pub figures: Vec<(String, u64)>,
}

impl Report {
    /// Reads what came through the serial port. A tree that is cut off, because
    /// the machine ended in the middle, is left out.
    ///
    /// # Errors
    /// [`ReportError`] when something else came as well.
    pub fn parse(text: &str) -> Result<Self, ReportError> {
        let mut report = Self::default();
        let mut lines = text.lines().map(str::trim_end).enumerate();
        while let Some((at, line)) = lines.next() {
            let words: Vec<&str> = line.split(' ').collect();
            let other = || ReportError::Line { number: at + 1, line: line.to_owned() };
            match words[..] {
                ["###", "mark", name, status, uptime] => report.marks.push(Mark {
                    name: name.to_owned(),
                    status: status.parse().map_err(|_| other())?,
                    uptime_s: uptime.parse().map_err(|_| other())?,
                }),
                ["###", "figure", name, value] => {
                    report.figures.push((name.to_owned(), value.parse().map_err(|_| other())?));
                }
                ["###", "tree", name] => {
                    let mut shown = Vec::new();
                    let mut is_whole = false;
                    for (_, line) in lines.by_ref() {
                        is_whole = line == "### end";
                        if is_whole {
                            break;
                        }
                        shown.push(line);
                    }
                    if is_whole {
                        let tree = Tree::parse(&shown).map_err(|source| ReportError::Tree {
                            name: name.to_owned(),
                            source,
                        })?;
                        report.trees.insert(name.to_owned(), tree);
                    }
                }
                _ => return Err(other()),
            }
        }
        Ok(report)
    }

    /// What did not go well: steps that failed, and an end that never came.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let failed = self.marks.iter().filter(|mark| mark.status != 0);
        let mut failures: Vec<String> =
            failed.map(|mark| format!("{} ended with {}", mark.name, mark.status)).collect();
        let last = self.marks.last().map_or("the start", |mark| &mark.name);
        if last != END {
            failures.push(format!("the run did not get beyond {last}"));
        }
        failures
    }

    /// The median of the figures of this name (the lower one of two), if there are any.
    #[must_use]
    pub fn median(&self, name: &str) -> Option<u64> {
        let named = self.figures.iter().filter(|(figure, _)| figure == name);
        let mut values: Vec<u64> = named.map(|&(_, value)| value).collect();
        values.sort_unstable();
        values.get(values.len().saturating_sub(1) / 2).copied()
    }

    /// How long the step before the mark at `index` took, in seconds.
    fn took_s(&self, index: usize) -> f64 {
        let before = index.checked_sub(1).map_or(0.0, |before| self.marks[before].uptime_s);
        self.marks[index].uptime_s - before
    }
}

/// The names in several lists, each once, in the order in which they come up.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}

/// The steps of several runs side by side, with the seconds that each took, and below
/// them the figures, medians where there are several.
#[must_use]
pub fn table(runs: &[(&str, &Report)]) -> String {
    let mut text = format!("{:<26}", "seconds");
    let row = |text: &mut String, name: &str, cell: &dyn Fn(&Report) -> Option<String>| {
        let _ = write!(text, "\n{name:<26}");
        for (_, report) in runs {
            let _ = write!(text, " {:>14}", cell(report).unwrap_or_else(|| "-".to_owned()));
        }
    };
    for (name, _) in runs {
        let _ = write!(text, " {name:>14}");
    }
    let steps = runs.iter().flat_map(|(_, run)| run.marks.iter().map(|mark| mark.name.as_str()));
    for step in in_order(steps) {
        row(&mut text, step, &|report| {
            let at = report.marks.iter().position(|mark| mark.name == step)?;
            let failed = if report.marks[at].status == 0 { "" } else { "FAILED " };
            Some(format!("{failed}{:.1}", report.took_s(at)))
        });
    }
    row(&mut text, "all", &|report| {
        Some(format!("{:.1}", report.marks.last().map_or(0.0, |mark| mark.uptime_s)))
    });
    let figures =
        runs.iter().flat_map(|(_, run)| run.figures.iter().map(|(name, _)| name.as_str()));
    for figure in in_order(figures) {
        row(&mut text, figure, &|report| report.median(figure).map(|value| value.to_string()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "### mark boot 0 5.50\r\n### tree both\r\n/tool = \"\"   (n0)\r\n### end\r\n\
                        ### mark pv-create 0 9.00\r\n### figure read_us 7\r\n### figure read_us 90\r\n\
                        ### figure read_us 8\r\n### mark end 0 9.25\r\n";

    #[test]
    fn marks_trees_and_figures_are_read() {
        let report = Report::parse(GOOD).expect("is a report");
        let names: Vec<&str> = report.marks.iter().map(|mark| mark.name.as_str()).collect();
        assert_eq!(names, ["boot", "pv-create", "end"]);
        assert_eq!(report.trees.keys().collect::<Vec<_>>(), ["both"]);
        assert_eq!(report.failures(), [""; 0]);
        assert_eq!(report.median("read_us"), Some(8));
        assert_eq!(report.median("write_us"), None);
    }

    #[test]
    fn failed_steps_and_a_missing_end_are_told() {
        let cut = "### mark boot 0 5.5\n### mark pv-create 124 65.5\n### tree end\n/tool = \"";
        let report = Report::parse(cut).expect("is a report");
        assert!(report.trees.is_empty());
        let failures = report.failures();
        assert_eq!(failures, ["pv-create ended with 124", "the run did not get beyond pv-create"]);
        let nothing = Report::parse("").expect("is a report").failures();
        assert_eq!(nothing, ["the run did not get beyond the start"]);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let error = Report::parse("### mark boot 0 5.5\n### mark pv-create").expect_err("is cut");
        assert_eq!(error.to_string(), "line 2: no mark, tree or figure: ### mark pv-create");
        assert!(Report::parse("(XEN) hello").is_err());
        assert!(Report::parse("### mark boot zero 5.5").is_err());
        assert!(Report::parse("### figure failovers many").is_err());
        assert!(Report::parse("### tree both\n/tool\n### end").is_err());
    }

    #[test]
    fn a_table_shows_what_each_step_took() {
        let good = Report::parse(GOOD).expect("is a report");
        let bad = Report::parse("### mark boot 0 6\n### mark pv-create 1 8\n### mark other 0 9");
        let bad = bad.expect("is a report");
        let expected = "\
seconds                                 a              b
boot                                  5.5            6.0
pv-create                             3.5     FAILED 2.0
end                                   0.2              -
other                                   -            1.0
all                                   9.2            9.0
read_us                                 8              -";
        assert_eq!(table(&[("a", &good), ("b", &bad)]), expected);
    }
}
