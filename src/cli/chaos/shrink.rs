//! `rvmm chaos shrink`.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chaos::campaign::Stop;
use chaos::sim::many::guarded;
use chaos::sim::{Case, TraceMode, shrink as make_smaller};
use clap::Args;

use super::case::CaseArgs;
use super::replay::describe;
use super::terminal::stop_on_signals;
use crate::cli::print;

#[derive(Debug, Args)]
pub(crate) struct ShrinkArgs {
    #[command(flatten)]
    case: CaseArgs,
    /// How long to try
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5m")]
    budget: Duration,
}

pub(crate) fn shrink(args: &ShrinkArgs) -> anyhow::Result<ExitCode> {
    let case = args.case.case();
    let stop = Stop::default();
    stop_on_signals(stop.clone(), "stopping: this is how small it is by now")?;
    let began = Instant::now();
    let run = |case: &Case| guarded(case, |case| case.run(TraceMode::Digest));
    let shrunk = make_smaller(&case, run, |attempt| {
        let verdict = if attempt.kept { "fails" } else { "does not" };
        // That progress cannot be shown must not end it.
        let _ = writeln!(std::io::stderr(), "{:>4} {verdict:<8} {}", attempt.runs, attempt.case);
        !stop.is_set() && began.elapsed() < args.budget
    });
    let shrunk = match shrunk {
        Ok(shrunk) => shrunk,
        Err(error) => anyhow::bail!("seed {}: {error}", case.seed),
    };
    let mut text = describe(&shrunk.verdict);
    text += "the faults that remain:\n";
    for due in &shrunk.verdict.due {
        text += &format!("  {due}\n");
    }
    if !shrunk.settled {
        text += "more may be left out: the time was over\n";
    }
    text += &format!("again: {}\n", shrunk.case.reproduce());
    print(text)?;
    Ok(ExitCode::SUCCESS)
}
