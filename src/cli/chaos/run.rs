//! `rvmm chaos run`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use chaos::campaign::{self, Finished, Live, Options, Profile, ProfileError, Stop};
use chaos::report::HTML_NAME;
use chaos::report::record::RunOutcome;
use clap::Args;

use super::terminal::{Line, millis, stop_on_signals};
use crate::cli::print;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A built-in profile (see `rvmm chaos list`) or a file
    profile: String,
    /// Break the host that serves this run directory, not one of its own
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// How long to inject faults, such as 10m [default: the profile's]
    #[arg(long, value_parser = humantime::parse_duration)]
    budget: Option<Duration>,
    /// What all choices derive from [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Where to write the history and the report, no run being there [default:
    /// chaos-PROFILE-SEED, or that with -2, -3 and so on]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let profile = match Profile::load(&args.profile) {
        Ok(profile) => profile,
        Err(error) => return refuse(&error),
    };
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| free_dir(&format!("chaos-{}-{seed}", profile.name)));
    let run_dir = args.run_dir.as_ref().map(std::path::absolute).transpose()?;
    let stop = Stop::default();
    stop_on_signals(stop.clone(), "stopping: everything is taken back, then judged")?;
    let duration = args.budget.unwrap_or(profile.file.schedule.duration.0);
    let options = Options {
        reproduce: reproduce(&args, seed),
        run_dir,
        budget: args.budget,
        seed,
        binary: std::env::current_exe().context("finding this program")?,
        out,
        stop,
        profile,
    };
    let name = &options.profile.name;
    print(format!("chaos {name}: seed {seed}, {}\n", humantime::format_duration(duration)))?;
    let line = Line::new(millis(duration));
    let finished = campaign::run(
        &options,
        Box::new(move |live| line.show(millis(live.elapsed), describe(live))),
    )?;
    tell(&options, &finished)?;
    let passed = finished.outcome == RunOutcome::Passed;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As a wrong configuration is refused: each problem a line that begins with its
/// place.
fn refuse(error: &ProfileError) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stderr(), "{error}\nrvmm: the profile is refused")?;
    Ok(ExitCode::FAILURE)
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed again.
    u64::from(now.subsec_nanos()) ^ (now.as_secs() & 0xffff)
}

/// The directory of that name, or with the first number that is free: a run that
/// is there stays.
fn free_dir(name: &str) -> PathBuf {
    let numbered = (2_u32..).map(|number| PathBuf::from(format!("{name}-{number}")));
    let mut names = std::iter::once(PathBuf::from(name)).chain(numbered);
    names.find(|dir| !dir.exists()).unwrap_or_else(|| name.into())
}

/// The line that runs the same again.
fn reproduce(args: &RunArgs, seed: u64) -> String {
    let mut line = format!("rvmm chaos run {} --seed {seed}", quote(&args.profile));
    if let Some(budget) = args.budget {
        line += &format!(" --budget {}", quote(&humantime::format_duration(budget).to_string()));
    }
    if let Some(run_dir) = &args.run_dir {
        line += &format!(" --run-dir {}", quote(&run_dir.to_string_lossy()));
    }
    line
}

/// A word as a shell takes it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn describe(live: &Live) -> String {
    format!(
        "{:>4} s  {} faults, {} failovers, {} requests, {} errors, longest pause {:.1} ms; {}",
        live.elapsed.as_secs(),
        live.faults,
        live.failovers,
        live.answered,
        live.errors,
        live.longest_us as f64 / 1000.0,
        live.doing
    )
}

fn tell(options: &Options, finished: &Finished) -> anyhow::Result<()> {
    let mut text = finished.summary.to_string();
    for skipped in &finished.skipped {
        text += &format!("SKIPPED {skipped}\n");
    }
    for failure in &finished.failures {
        text += &format!("FAILED {failure}\n");
    }
    text += &format!("the report is in {}\n", options.out.join(HTML_NAME).display());
    print(text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_there_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = dir.path().join("chaos-ci-7");
        let name = name.to_str().expect("is text");
        assert_eq!(free_dir(name), PathBuf::from(name));
        std::fs::create_dir(name).expect("is made");
        std::fs::create_dir(format!("{name}-2")).expect("is made");
        assert_eq!(free_dir(name), PathBuf::from(format!("{name}-3")));
    }

    #[test]
    fn what_is_to_be_copied_survives_a_shell() {
        let args = RunArgs {
            profile: "my profile's.toml".into(),
            run_dir: None,
            budget: Some(Duration::from_secs(90)),
            seed: None,
            out: None,
        };
        assert_eq!(
            reproduce(&args, 7),
            r"rvmm chaos run 'my profile'\''s.toml' --seed 7 --budget '1m 30s'"
        );
        assert_eq!(quote("configs/chaos/ci.toml"), "configs/chaos/ci.toml");
    }
}
