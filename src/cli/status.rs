//! `rvmm status`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::{Format, Which, print, print_json};
use crate::control::{ControlError, Request, Response};
use crate::status::{Health, Status};

/// Clears the screen and goes to its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Show it again and again
    #[arg(long, short)]
    watch: bool,
    /// How often, with --watch
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    every: Duration,
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    if args.watch {
        return watch(args);
    }
    let status = fetch(&args.which)?;
    match args.output {
        Format::Text => print(status.to_string())?,
        Format::Json => print_json(&status)?,
    }
    Ok(ExitCode::from(status.health.exit_code()))
}

/// The status of the daemon that is meant.
pub(super) fn fetch(which: &Which) -> anyhow::Result<Status> {
    match which.connect()?.call(&Request::Status, &[])?.response {
        Response::Status(status) => Ok(*status),
        Response::Refused { why } => bail!("{why}"),
        other => bail!(ControlError::NotUnderstood(format!("{other:?}"))),
    }
}

/// Shows the status until it is interrupted, also while there is no daemon.
fn watch(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        match (fetch(&args.which), args.output) {
            (Ok(status), Format::Text) => print(format!("{clear}{status}"))?,
            (Ok(status), Format::Json) => print(serde_json::to_string(&status)? + "\n")?,
            (Err(error), Format::Text) => {
                print(format!("{clear}{}: {error:#}\n", Health::NotServing))?;
            }
            (Err(error), Format::Json) => {
                let line = serde_json::json!({
                    "health": Health::NotServing,
                    "error": format!("{error:#}"),
                });
                print(format!("{line}\n"))?;
            }
        }
        std::thread::sleep(args.every);
    }
}
