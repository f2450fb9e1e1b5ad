//! The table of what was caught, out of the runs that did.
//!
//! Bugs are hunted in several tests, each a process of its own. Each leaves its
//! part as a file of tab-separated values; whoever comes last finds all parts, and
//! the table is made anew of those that are there.

use core::fmt::Write as _;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::time::Instant;
use std::vec::Vec;

use crate::ARMED;
use crate::bugs::{Bug, Hunter};

/// How a bug was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catch {
    /// Which.
    pub bug: Bug,
    /// The seed of the run that it did not survive.
    pub seed: u64,
    /// Seeds tried, this one included.
    pub seeds_tried: u64,
    /// Who noticed, and when in the run.
    pub checker: String,
    /// How long the hunt took, milliseconds.
    pub took_ms: u128,
}

const COLUMNS: usize = 6;
/// Of what a panic says, so many characters are kept.
const SAID_MAX: usize = 80;

/// Where the parts and the table go, given Cargo's directory for what tests leave
/// behind (`CARGO_TARGET_TMPDIR`): beside it.
#[must_use]
pub fn directory(target_tmpdir: &str) -> PathBuf {
    Path::new(target_tmpdir).with_file_name("chaos").join("teeth")
}

/// Hunts bugs with a property that panics where one shows: `run` is given the bug,
/// switched on, and one seed after the other from 0. Publishes what it caught, and
/// returns the table.
///
/// # Errors
/// As [`publish`].
///
/// # Panics
/// When a bug survives all seeds, or when a build without bugs seems to have one.
pub fn hunt(
    hunter: Hunter,
    bugs: impl IntoIterator<Item = Bug>,
    seeds: u64,
    target_tmpdir: &str,
    run: impl Fn(Bug, u64),
) -> io::Result<String> {
    let mut catches = Vec::new();
    for bug in bugs {
        let began = Instant::now();
        let caught = (0..seeds).find_map(|seed| {
            let survived = catch_unwind(AssertUnwindSafe(|| {
                crate::set(Some(bug));
                run(bug, seed);
            }));
            crate::set(None);
            survived.err().map(|panic| {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
                let line = said.and_then(|said| said.lines().next()).unwrap_or("a panic");
                (seed, line.chars().take(SAID_MAX).collect::<String>())
            })
        });
        assert_eq!(caught.is_some(), ARMED, "{bug}: {}", bug.about());
        catches.extend(caught.map(|(seed, checker)| Catch {
            bug,
            seed,
            seeds_tried: seed + 1,
            checker,
            took_ms: began.elapsed().as_millis(),
        }));
    }
    publish(&directory(target_tmpdir), hunter, &catches)
}

/// Writes the part of this hunter into `directory`, and the table of all parts
/// there into `teeth.md` beside them.
///
/// # Errors
/// When a file cannot be written or read.
pub fn publish(directory: &Path, hunter: Hunter, catches: &[Catch]) -> io::Result<String> {
    fs::create_dir_all(directory)?;
    let mut part = String::new();
    for Catch { bug, seed, seeds_tried, checker, took_ms } in catches {
        let checker = checker.replace(['\t', '\n', '|'], " ");
        let _ =
            writeln!(part, "{bug}\t{}\t{checker}\t{seed}\t{seeds_tried}\t{took_ms}", hunter.name());
    }
    fs::write(directory.join(hunter.name()).with_extension("tsv"), part)?;

    let mut rows = Vec::new();
    for hunter in Hunter::ALL {
        match fs::read_to_string(directory.join(hunter.name()).with_extension("tsv")) {
            Ok(part) => rows.extend(part.lines().map(ToString::to_string)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let table = table(&rows);
    fs::write(directory.join("teeth.md"), &table)?;
    Ok(table)
}

fn table(rows: &[String]) -> String {
    let rows: Vec<Vec<&str>> = rows
        .iter()
        .map(|row| row.split('\t').collect::<Vec<_>>())
        .filter(|row| row.len() == COLUMNS)
        .collect();
    let of = |bug: Bug| rows.iter().filter(move |row| row[0] == bug.name());
    let caught = Bug::ALL.iter().filter(|bug| of(**bug).next().is_some()).count();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "# Deliberate bugs\n\n{caught} of {} were caught.\n\n\
         | Bug | What is wrong | Caught by | Checker | Seed | Seeds tried | Hunt |\n\
         |---|---|---|---|---:|---:|---:|",
        Bug::ALL.len(),
    );
    for bug in Bug::ALL {
        let about = bug.about();
        if of(*bug).next().is_none() {
            let _ = writeln!(text, "| {bug} | {about} | not caught | | | | |");
        }
        for row in of(*bug) {
            let _ = writeln!(
                text,
                "| {bug} | {about} | {} | {} | {} | {} | {} ms |",
                row[1], row[2], row[3], row[4], row[5],
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catch(bug: Bug, checker: &str) -> Catch {
        Catch { bug, seed: 7, seeds_tried: 3, checker: checker.to_string(), took_ms: 12 }
    }

    #[test]
    fn parts_of_all_hunters_make_one_table() {
        let place = std::env::temp_dir().join(std::format!("teeth-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        publish(&place, Hunter::Consensus, &[catch(Bug::VoteTwice, "two | leaders\nof one")])
            .unwrap();
        let caught = [catch(Bug::DirtyRead, "reads"), catch(Bug::VoteTwice, "one-primary")];
        let text = publish(&place, Hunter::Host, &caught).unwrap();
        assert_eq!(fs::read_to_string(place.join("teeth.md")).unwrap(), text);
        assert!(text.contains(&std::format!("\n2 of {} were caught.\n", Bug::ALL.len())), "{text}");
        assert!(text.contains("| the simulated host | one-primary | 7 | 3 | 12 ms |\n"), "{text}");
        assert!(text.contains("| a group of consensus | two   leaders of one | 7 |"), "{text}");
        assert_eq!(text.matches("| not caught |").count(), Bug::ALL.len() - 2);
        // A second run takes the place of the first.
        let text = publish(&place, Hunter::Host, &[]).unwrap();
        assert_eq!(text.matches("| not caught |").count(), Bug::ALL.len() - 1);
        fs::remove_dir_all(&place).unwrap();
    }
}
