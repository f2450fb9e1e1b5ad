//! `rvmm chaos run`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use chaos::campaign::{self, Finished, Live, Options, Profile, ProfileError, Stop};
use chaos::report::HTML_NAME;
use chaos::report::record::RunOutcome;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

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
    /// Where to write the history and the report [default: chaos-PROFILE-SEED]
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
    let out = out.unwrap_or_else(|| format!("chaos-{}-{seed}", profile.name).into());
    let run_dir = args.run_dir.as_ref().map(std::path::absolute).transpose()?;
    let stop = Stop::default();
    stop_on_signals(stop.clone())?;
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
    let line = Line::new(duration);
    let finished = campaign::run(&options, Box::new(move |live| line.show(live)))?;
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

/// From the first signal on, everything is taken back and judged; it takes a
/// moment, in which further signals change nothing.
fn stop_on_signals(stop: Stop) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            stop.set();
            let said = "\nstopping: everything is taken back, then judged\n";
            let _ = std::io::stderr().write_all(said.as_bytes());
            // The handlers stay, so that nobody ends us half-way.
            std::future::pending::<()>().await;
        });
    })?;
    Ok(())
}

/// The line that shows how it goes: drawn in place on a terminal, now and then
/// elsewhere.
struct Line {
    bar: ProgressBar,
    on_terminal: bool,
    said: Mutex<Option<Instant>>,
}

/// So often without a terminal.
const SAY_EVERY: Duration = Duration::from_secs(5);

impl Line {
    fn new(duration: Duration) -> Self {
        let bar = ProgressBar::new(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {wide_msg}") {
            bar.set_style(style.progress_chars("##."));
        }
        let on_terminal = std::io::stderr().is_terminal();
        Self { bar, on_terminal, said: Mutex::new(None) }
    }

    fn show(&self, live: &Live) {
        let text = describe(live);
        if self.on_terminal {
            self.bar.set_position(u64::try_from(live.elapsed.as_millis()).unwrap_or(u64::MAX));
            self.bar.set_message(text);
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.is_none_or(|then| then.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            // That progress cannot be shown must not end the campaign.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
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
