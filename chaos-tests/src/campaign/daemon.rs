//! The control socket, as any program can talk to it: a JSON object a line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{ComponentStatus, HostStatus};

/// Whatever is ordered is answered within this; the longest is a scaling.
const PATIENCE: Duration = Duration::from_secs(60);
/// A promotion that another failover overtook is answered late; nobody waits.
const PROMOTE_PATIENCE: Duration = Duration::from_secs(2);
/// How it is, a daemon tells at once or not at all.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// An answer beyond this is none.
const MAX_ANSWER: u64 = 16 << 20;
const VERSION: u32 = 1;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It cannot be reached, or the connection broke.
    #[error("no rvmm daemon at {}: {source}", path.display())]
    Unreachable {
        /// Its control socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It declined.
    #[error("{0}")]
    Refused(String),
    /// It said something else than was asked for.
    #[error("the daemon's answer is not understood: {0}")]
    Strange(String),
}

impl DaemonError {
    /// Whether it took the question and has not answered: that says nothing about
    /// how it serves its clients.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        matches!(self, Self::Unreachable { source, .. }
            if matches!(source.kind(), TimedOut | WouldBlock))
    }
}

/// A daemon, asked anew for each thing: one that dies in between is noticed.
#[derive(Clone, Debug)]
pub struct Daemon {
    control: PathBuf,
}

#[derive(Deserialize)]
struct Envelope {
    message: Answer,
}

#[derive(Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum Answer {
    Done { text: String },
    Refused { why: String },
    Status(Box<HostStatus>),
    Events { events: Vec<LogLine> },
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogLine {
    /// Its place in the log, from 1.
    pub seq: u64,
    /// What happened.
    pub text: String,
}

impl Daemon {
    /// The daemon that serves `run_dir`.
    #[must_use]
    pub fn at(run_dir: &Path) -> Self {
        Self { control: run_dir.join("control.sock") }
    }

    fn ask(&self, message: &Value, patience: Duration) -> Result<Answer, DaemonError> {
        self.receive(&mut self.send(message, patience)?)
    }

    fn unreachable(&self, source: std::io::Error) -> DaemonError {
        DaemonError::Unreachable { path: self.control.clone(), source }
    }

    fn send(
        &self,
        message: &Value,
        patience: Duration,
    ) -> Result<BufReader<UnixStream>, DaemonError> {
        let unreachable = |source| self.unreachable(source);
        let stream = UnixStream::connect(&self.control).map_err(unreachable)?;
        stream.set_read_timeout(Some(patience)).map_err(unreachable)?;
        let line = json!({ "version": VERSION, "attached": 0, "message": message });
        (&stream).write_all(format!("{line}\n").as_bytes()).map_err(unreachable)?;
        Ok(BufReader::new(stream))
    }

    fn receive(&self, reader: &mut BufReader<UnixStream>) -> Result<Answer, DaemonError> {
        let mut answer = Vec::new();
        let read = reader.take(MAX_ANSWER).read_until(b'\n', &mut answer);
        read.map_err(|source| self.unreachable(source))?;
        if answer.is_empty() {
            return Err(self.unreachable(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let envelope: Envelope = serde_json::from_slice(&answer)
            .map_err(|error| DaemonError::Strange(error.to_string()))?;
        match envelope.message {
            Answer::Refused { why } => Err(DaemonError::Refused(why)),
            answer => Ok(answer),
        }
    }

    fn order(&self, message: &Value, patience: Duration) -> Result<String, DaemonError> {
        match self.ask(message, patience)? {
            Answer::Done { text } => Ok(text),
            _ => Err(DaemonError::Strange("a status".into())),
        }
    }

    /// How it is.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    pub fn status(&self) -> Result<HostStatus, DaemonError> {
        match self.ask(&json!({ "do": "status" }), STATUS_PATIENCE)? {
            Answer::Status(status) => Ok(*status),
            _ => Err(DaemonError::Strange("no status".into())),
        }
    }

    /// How xenstore is.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    pub fn xenstore(&self) -> Result<ComponentStatus, DaemonError> {
        let status = self.status()?;
        let xenstore = status.xenstore().cloned();
        xenstore.ok_or_else(|| DaemonError::Strange("no component is called xenstore".into()))
    }

    /// The lines of the log after the one with that number, as far as they are kept.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    pub fn log_after(&self, after: u64) -> Result<Vec<LogLine>, DaemonError> {
        let message = json!({ "do": "dmesg", "after": after });
        let mut reader = self.send(&message, STATUS_PATIENCE)?;
        let mut lines = Vec::new();
        while let Answer::Events { events } = self.receive(&mut reader)? {
            lines.extend(events);
        }
        Ok(lines)
    }

    /// Injects a fault into the replica `target`: `primary`, `standby` or an id.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    pub fn fault(
        &self,
        kind: &str,
        target: &str,
        hold: Option<Duration>,
        slow_percent: Option<u64>,
    ) -> Result<String, DaemonError> {
        self.order(
            &json!({
                "do": "fault",
                "kind": kind,
                "component": "xenstore",
                "replica": target,
                "duration_ms": hold.map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
                "slow_percent": slow_percent,
            }),
            PATIENCE,
        )
    }

    /// Makes a replica the primary.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    pub fn promote(&self, id: u64) -> Result<String, DaemonError> {
        self.order(&json!({ "do": "promote", "component": "xenstore", "id": id }), PROMOTE_PATIENCE)
    }

    /// Changes the number of replicas.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    pub fn scale(&self, replicas: u64) -> Result<String, DaemonError> {
        self.order(
            &json!({ "do": "scale", "component": "xenstore", "replicas": replicas }),
            PATIENCE,
        )
    }
}
