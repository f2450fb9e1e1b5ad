//! `rvmm demo`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Format;
use crate::demo::{self, DemoOptions};

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How long to break primaries
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Clients that work meanwhile
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: u16,
    /// Replicas
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=7))]
    replicas: u8,
    /// What the clients' choices derive from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let json = args.output == Format::Json;
    let options = DemoOptions {
        duration: Duration::from_secs(args.seconds),
        clients: args.clients,
        replicas: args.replicas,
        seed: args.seed,
        live: !json,
    };
    demo::run(&options, json)
}
