//! `rvmm chaos`: attack a host, and see that it bears it.

mod list;
mod report;
mod run;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum ChaosCommand {
    /// Show the profiles that come with the program, and what can be done to a
    /// host
    List(list::ListArgs),
    /// Break a host by a profile while clients work, and judge what they saw;
    /// exits with 0 only if everything held
    Run(run::RunArgs),
    /// Make the report of a run anew from its history, and print the summary
    Report(report::ReportArgs),
}

pub(super) fn chaos(command: ChaosCommand) -> anyhow::Result<ExitCode> {
    match command {
        ChaosCommand::List(args) => list::list(&args),
        ChaosCommand::Run(args) => run::run(args),
        ChaosCommand::Report(args) => report::report(&args),
    }
}
