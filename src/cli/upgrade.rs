//! `rvmm upgrade`: another program goes on as the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use super::status::fetch;
use super::{Which, print};
use crate::control::{ControlError, Request, Response};
use crate::holder::Cause;
use crate::status::{LastRestart, Status};

/// How long the new daemon may take to serve, and then the old one again.
const PATIENCE: Duration = Duration::from_secs(150);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// The program [default: what is now where the daemon's program was]
    #[arg(long, value_name = "PATH")]
    exe: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

pub(super) fn upgrade(args: Upgrade) -> anyhow::Result<ExitCode> {
    let exe = args.exe.map(std::path::absolute).transpose().context("--exe")?;
    let before = fetch(&args.which)?;
    match args.which.connect()?.call(&Request::Upgrade { exe }, &[]) {
        Ok(reply) => match reply.response {
            Response::Done { .. } => {}
            Response::Refused { why } => bail!("{why}"),
            other => bail!(ControlError::NotUnderstood(format!("{other:?}"))),
        },
        // It has made way before it could answer.
        Err(ControlError::Closed) => {}
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // In between there is nobody, or one that ends before it answers.
        if let Ok(Status { version, holder, .. }) = fetch(&args.which)
            && holder.restarts > before.holder.restarts
            && let Some(LastRestart { cause, pause_ms: Some(pause_ms), .. }) = holder.last_restart
        {
            let versions = format!("from rvmm {} to rvmm {version}", before.version);
            match cause {
                Cause::Upgrade { program } => {
                    let program = program.display();
                    print(format!("{versions} ({program}), served again after {pause_ms} ms\n"))?;
                    return Ok(ExitCode::SUCCESS);
                }
                Cause::UpgradeFailed { .. } => {
                    bail!("{cause}; rvmm {version} serves again after {pause_ms} ms")
                }
                Cause::Died { .. } => bail!("{cause}; {versions}, after {pause_ms} ms"),
            }
        }
        std::thread::sleep(LOOK);
    }
    bail!("no daemon has served within {} s; see its log", PATIENCE.as_secs())
}
