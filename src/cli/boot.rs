//! `rvmm boot`: whose xenstored this host starts when it boots.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use hypervisor::xen::Hypercalls;

use super::{print, xenstored};
use crate::boot::Boot;

/// What the kernel says of the hypervisor below it.
const HYPERVISOR: &str = "/sys/hypervisor/type";

/// Commands of `rvmm boot`.
#[derive(Debug, Subcommand)]
pub(super) enum BootCommand {
    /// Have Xen's start scripts start this program in the place of xenstored or
    /// oxenstored, from the next boot on
    Enable(Change),
    /// Have them start what they started before
    Disable(Change),
    /// Tell whether they start this program; exits with 0 if so, else with 1
    Status(Where),
}

/// Which host is meant.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// The host whose files are below this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    place: Where,
    /// Also while guests run; they keep the daemon that runs until the host boots
    #[arg(long)]
    with_guests: bool,
}

impl Change {
    /// Refuses to go on while guests run on the host that is meant, if it is this one.
    fn guard(&self) -> anyhow::Result<()> {
        let on_xen = || std::fs::read_to_string(HYPERVISOR).is_ok_and(|kind| kind.trim() == "xen");
        if self.with_guests || self.place.root != Path::new("/") || !on_xen() {
            return Ok(());
        }
        let guests = Hypercalls::open().and_then(|mut xen| xen.guests());
        let guests = guests.context("asking Xen for guests (--with-guests does not ask)")?;
        if guests.is_empty() {
            return Ok(());
        }
        let guests: Vec<_> = guests.iter().map(ToString::to_string).collect();
        bail!(
            "guests run (domains {}): what a running xenstored knows of them cannot be taken over. \
             Shut them down first; or give --with-guests, if they may stay with it until the host \
             boots, and no start script is called before that",
            guests.join(", ")
        )
    }
}

pub(super) fn boot(command: BootCommand) -> anyhow::Result<ExitCode> {
    let (changes, after) = match command {
        BootCommand::Enable(change) => {
            change.guard()?;
            let boot = Boot::find(&change.place.root)?;
            let args = boot.settings()?.args;
            xenstored::check(&args).with_context(|| {
                format!("XENSTORED_ARGS=\"{}\": start scripts would fail", args.join(" "))
            })?;
            let changes = boot.enable(&std::env::current_exe()?)?;
            (changes, "this program is the host's xenstored from its next boot on")
        }
        BootCommand::Disable(change) => {
            change.guard()?;
            let changes = Boot::find(&change.place.root)?.disable()?;
            (changes, "the host has Xen's own xenstored from its next boot on")
        }
        BootCommand::Status(place) => {
            let enabled = Boot::find(&place.root)?.is_enabled()?;
            print(if enabled { "enabled\n" } else { "disabled\n" })?;
            return Ok(if enabled { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    };
    let nothing = changes.is_empty().then(|| "nothing to change".to_owned());
    let lines: Vec<_> = changes.into_iter().chain(nothing).chain([after.to_owned()]).collect();
    print(lines.join("\n") + "\n")?;
    Ok(ExitCode::SUCCESS)
}
