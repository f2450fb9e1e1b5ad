//! `rvmm chaos report`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use chaos::report::summary::Summary;
use chaos::report::{HTML_NAME, SUMMARY_NAME, render, write_summary};
use clap::Args;

use crate::cli::{Format, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The directory of a run, with its history.jsonl; several are added up
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Where to write what several runs add up to: summary.json and junit.xml
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let mut sum: Option<Summary> = None;
    let mut places = String::new();
    for dir in &args.dirs {
        let summary = render(dir)?;
        match &mut sum {
            Some(sum) => sum.merge(&summary),
            None => sum = Some(summary),
        }
        places += &format!("the report is in {}\n", dir.join(HTML_NAME).display());
    }
    let sum = sum.context("no run is named")?;
    if let Some(into) = &args.into {
        std::fs::create_dir_all(into).with_context(|| into.display().to_string())?;
        write_summary(into, &sum)?;
        places += &format!("the sum is in {}\n", into.join(SUMMARY_NAME).display());
    }
    match args.output {
        Format::Text => print(format!("{sum}{places}"))?,
        Format::Json => print_json(&sum)?,
    }
    // As when it was run: also one that is cut off, or empty, has not passed.
    Ok(if sum.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
