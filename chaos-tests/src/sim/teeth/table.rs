//! The table of what was caught.

use std::fmt::Write as _;
use std::time::Duration;

use ::teeth::Bug;

use super::{Caught, Hint};

/// What came of a hunt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The bug.
    pub bug: Bug,
    /// How it was caught, if it was.
    pub caught: Option<Caught>,
}

/// A table in Markdown: each bug, what it breaks, and how it was caught.
#[must_use]
pub fn table(rows: &[Row], took: Duration) -> String {
    let caught = rows.iter().filter(|row| row.caught.is_some()).count();
    let mut text = format!(
        "# Deliberate bugs\n\n{caught} of {} were caught by the simulator in {:.1} s.\n\n\
         | Bug | What is wrong | Seed | Checker | Seen after | Seeds tried | Hunt |\n\
         |---|---|---:|---|---:|---:|---:|\n",
        rows.len(),
        took.as_secs_f64(),
    );
    for Row { bug, caught } in rows {
        let _ = match (caught, Hint::of(*bug).elsewhere) {
            (Some(caught), _) => writeln!(
                text,
                "| {bug} | {} | {} | {} | {:.2} s | {} | {} ms |",
                bug.about(),
                caught.seed,
                caught.checker,
                Duration::from_micros(caught.at_us).as_secs_f64(),
                caught.seeds_tried,
                caught.took.as_millis(),
            ),
            (None, Some(test)) => {
                writeln!(text, "| {bug} | {} | | {test} (runs separately) | | | |", bug.about())
            }
            (None, None) => writeln!(text, "| {bug} | {} | | NOT CAUGHT | | | |", bug.about()),
        };
    }
    text
}
