//! The command line's end of the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{ControlError, MAX_LINE, Reply, Request, Response, open, seal};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A line from the daemon beyond this many bytes is refused: a status of seven
/// replicas and a piece of the log are far below.
const MAX_ANSWER: u64 = 16 * MAX_LINE as u64;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`ControlError::NoDaemon`].
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let no_daemon = |why| ControlError::NoDaemon { path: path.to_path_buf(), why };
        let stream = UnixStream::connect(path).map_err(no_daemon)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(no_daemon)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Asks, and waits for the one answer.
    ///
    /// # Errors
    /// [`ControlError`] when there is none. A refusal is an answer.
    pub fn call(&mut self, request: &Request, attached: &[u8]) -> Result<Reply, ControlError> {
        self.send(request, attached)?;
        self.receive()
    }

    /// The log after event `after`, piece by piece, until `take` returns false
    /// or the log ends.
    ///
    /// # Errors
    /// [`ControlError`] when the connection breaks; a followed log ends with
    /// [`ControlError::Closed`] when the daemon does.
    pub fn dmesg(
        &mut self,
        follow: bool,
        after: u64,
        mut take: impl FnMut(&[coordinator::events::Event]) -> bool,
    ) -> Result<(), ControlError> {
        if follow {
            self.reader.get_ref().set_read_timeout(None)?;
        }
        self.send(&Request::Dmesg { follow, after }, &[])?;
        loop {
            match self.receive()?.response {
                Response::Events { events } if take(&events) => {}
                Response::Refused { why } => return Err(ControlError::NotUnderstood(why)),
                _ => return Ok(()),
            }
        }
    }

    /// Waits until the daemon closes the connection, which it does at its end.
    pub fn wait_for_end(mut self) {
        let mut rest = [0; 64];
        while self.reader.read(&mut rest).is_ok_and(|read| read > 0) {}
    }

    fn send(&mut self, request: &Request, attached: &[u8]) -> Result<(), ControlError> {
        let stream = self.reader.get_mut();
        stream.write_all(&seal(request, attached.len())?)?;
        stream.write_all(attached)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<Reply, ControlError> {
        let mut line = Vec::new();
        self.reader.by_ref().take(MAX_ANSWER).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ControlError::Closed);
        }
        let envelope = open::<Response>(&line).map_err(ControlError::NotUnderstood)?;
        let mut attached = vec![0; usize::try_from(envelope.attached).unwrap_or(0)];
        self.reader.read_exact(&mut attached)?;
        Ok(Reply { response: envelope.message, attached })
    }
}
