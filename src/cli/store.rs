//! `rvmm xenstore`: a store on its way from or to another xenstored.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{Which, control::report};
use crate::control::{ExportFormat, MAX_ATTACHED, Request, Response};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Write the store to a file, in Xen's migration stream format
    Export(Export),
    /// Bring in the domains and nodes of a file in Xen's migration stream format; what the
    /// store has beside them stays
    Import(Import),
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// File to write; - for standard output
    file: PathBuf,
    /// Everything, or only what C xenstored reads
    #[arg(long, value_enum, default_value = "full")]
    format: ExportFormat,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// File to read; - for standard input
    file: PathBuf,
    #[command(flatten)]
    which: Which,
}

/// The one component that has a store.
const COMPONENT: &str = "xenstore";

pub(super) fn store(command: StoreCommand) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Export(args) => export(&args),
        StoreCommand::Import(args) => import(&args),
    }
}

fn export(args: &Export) -> anyhow::Result<ExitCode> {
    let request = Request::Export { component: COMPONENT.into(), format: args.format };
    let reply = args.which.connect()?.call(&request, &[])?;
    if let Response::Refused { why } = reply.response {
        bail!("{why}");
    }
    if is_dash(&args.file) {
        // Standard output is the store's alone.
        io::stdout().write_all(&reply.attached)?;
        return Ok(ExitCode::SUCCESS);
    }
    write_whole(&args.file, &reply.attached)
        .with_context(|| format!("writing {}", args.file.display()))?;
    report(reply.response)
}

fn import(args: &Import) -> anyhow::Result<ExitCode> {
    let stream =
        read_whole(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let request = Request::Import { component: COMPONENT.into() };
    report(args.which.connect()?.call(&request, &stream)?.response)
}

fn is_dash(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Writes beside the file first, so that no half store ever bears its name.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

fn read_whole(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut stream = Vec::new();
    let limit = MAX_ATTACHED + 1;
    if is_dash(path) {
        io::stdin().lock().take(limit).read_to_end(&mut stream)?;
    } else {
        File::open(path)?.take(limit).read_to_end(&mut stream)?;
    }
    if stream.len() as u64 > MAX_ATTACHED {
        bail!("more than {MAX_ATTACHED} bytes");
    }
    Ok(stream)
}
