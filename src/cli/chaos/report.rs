//! `rvmm chaos report`.

use std::path::PathBuf;
use std::process::ExitCode;

use chaos::report::{HTML_NAME, render};
use clap::Args;

use crate::cli::{Format, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The directory of a run, with its history.jsonl
    dir: PathBuf,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let summary = render(&args.dir)?;
    match args.output {
        Format::Text => {
            let page = args.dir.join(HTML_NAME);
            print(format!("{summary}the report is in {}\n", page.display()))?;
        }
        Format::Json => print_json(&summary)?,
    }
    Ok(ExitCode::SUCCESS)
}
