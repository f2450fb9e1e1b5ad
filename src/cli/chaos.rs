//! `rvmm chaos`: attack a host, and see that it bears it.

mod case;
mod list;
mod replay;
mod report;
mod run;
mod shrink;
mod sim;
mod terminal;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum ChaosCommand {
    /// Show the profiles that come with the program, and what can be done to a
    /// host
    List(list::ListArgs),
    /// Run whole hosts in a simulator, each with the faults of another seed; exits
    /// with 0 only if every promise was kept
    Sim(sim::SimArgs),
    /// Run one seed of the simulator again, and show what happens
    Replay(replay::ReplayArgs),
    /// Make a failing run of the simulator smaller, and print the line that runs
    /// it
    Shrink(shrink::ShrinkArgs),
    /// Break a host by a profile while clients work, and judge what they saw;
    /// exits with 0 only if everything held
    Run(run::RunArgs),
    /// Make the report of a run anew from its history, and print the summary
    Report(report::ReportArgs),
}

impl ChaosCommand {
    /// Whether replicas run in this process.
    pub(super) fn simulates(&self) -> bool {
        matches!(self, Self::Sim(_) | Self::Replay(_) | Self::Shrink(_))
    }
}

pub(super) fn chaos(command: ChaosCommand) -> anyhow::Result<ExitCode> {
    match command {
        ChaosCommand::List(args) => list::list(&args),
        ChaosCommand::Sim(args) => sim::sim(&args),
        ChaosCommand::Replay(args) => replay::replay(&args),
        ChaosCommand::Shrink(args) => shrink::shrink(&args),
        ChaosCommand::Run(args) => run::run(args),
        ChaosCommand::Report(args) => report::report(&args),
    }
}
