//! The host daemon: one loop that numbers inputs, delivers outputs, and keeps
//! the replica group alive.
//!
//! Everything on the way of a request happens in one thread: reading clients'
//! sockets, the intake, the output ring, writing to clients. Starting processes,
//! waiting for deaths and the control socket have threads of their own, which
//! wake the loop.

mod backend;
mod calls;
mod import;
mod launcher;
mod looping;
mod machine;
mod settings;
mod takeover;
mod waker;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::Config;
use crate::holder::Inheritance;
use coordinator::events::{Events, Tag};
use looping::Ending;

/// What the daemon is started with, besides its configuration.
pub struct HostStart {
    /// Where it logs.
    pub events: Arc<Events>,
    /// What it has from its holder.
    pub inheritance: Inheritance,
    /// What it serves, in one line, for whoever waits until it does.
    pub serves: String,
    /// Called once, when the component serves, before anybody is told. What it cannot
    /// do is only told.
    pub once_ready: Box<dyn FnOnce() -> anyhow::Result<()>>,
}

/// The whole life of a replica's process, as [`machine`] started it.
#[must_use]
pub fn replica(args: Vec<OsString>) -> ExitCode {
    name_process();
    let spec = args.first().and_then(|spec| spec.to_str());
    let spec = match spec.map(serde_json::from_str) {
        Some(Ok(spec)) => spec,
        Some(Err(error)) => {
            eprintln!("rvmm replica: {error}");
            return ExitCode::FAILURE;
        }
        None => {
            eprintln!("rvmm replica: the daemon starts replicas, nobody else");
            return ExitCode::FAILURE;
        }
    };
    let fatal = replica::start::<xenstore::Xenstore>(&spec, unikernel_image::IMAGE);
    eprintln!("rvmm replica {}: {fatal}", spec.id);
    ExitCode::FAILURE
}

/// A process that was executed by a descriptor is called by the descriptor's number,
/// where operators look for a program's name.
pub(crate) fn name_process() {
    // Only a name.
    let _ = rustix::thread::set_name(c"rvmm");
}

/// Runs the daemon until it is told to end, or to make way for another program.
///
/// # Errors
/// When it cannot start; nothing of it is left running then. Or when it cannot go on:
/// then all is left for the next one.
pub fn run(config: Config, start: HostStart) -> anyhow::Result<ExitCode> {
    let events = Arc::clone(&start.events);
    let mut host = looping::Host::new(config, start)?;
    match host.run() {
        Ok(Ending::Down) => {
            host.shut_down();
            events.info(&[Tag::Host], "the daemon has ended");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Ending::Upgrade(program)) => {
            host.make_way(program)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            host.leave();
            Err(error)
        }
    }
}
