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
mod waker;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::Config;
use crate::control::Listener;
use coordinator::events::{Events, Tag};

/// What the daemon is started with, besides its configuration.
pub struct HostStart {
    /// Where it logs.
    pub events: Arc<Events>,
    /// The bound control socket.
    pub control: Listener,
    /// Called once, when the component serves.
    pub ready: Box<dyn FnOnce()>,
}

/// The whole life of a replica's process, as [`machine`] started it.
#[must_use]
pub fn replica(args: Vec<OsString>) -> ExitCode {
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

/// Runs the daemon until it is told to end.
///
/// # Errors
/// When it cannot start; nothing of it is left running then.
pub fn run(config: Config, start: HostStart) -> anyhow::Result<ExitCode> {
    let events = Arc::clone(&start.events);
    let mut host = looping::Host::new(config, start)?;
    let outcome = host.run();
    host.shut_down();
    events.info(&[Tag::Host], "the daemon has ended");
    outcome
}
