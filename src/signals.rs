//! The signals that tell a process to end in an orderly way.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// From when this is made on, they end the process only as whoever has it sees fit.
#[derive(Debug)]
pub(crate) struct EndSignals {
    term: Stream,
    int: Stream,
    hup: Stream,
}

impl EndSignals {
    /// To be called where there is an event loop.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one, and its name. Nothing is lost when this is dropped before it came.
    pub(crate) async fn next(&mut self) -> (Signal, &'static str) {
        tokio::select! {
            _ = self.term.recv() => (Signal::TERM, "SIGTERM"),
            _ = self.int.recv() => (Signal::INT, "SIGINT"),
            _ = self.hup.recv() => (Signal::HUP, "SIGHUP"),
        }
    }
}
