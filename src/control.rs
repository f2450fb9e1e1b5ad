//! The control socket: how the command line and other programs talk to the
//! daemon.
//!
//! One JSON object a line, both ways, each in an envelope that names the
//! version of the protocol. Where a message brings bytes (an exported store),
//! the envelope says how many, and they follow the line.

mod client;
mod server;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use client::Client;
pub use server::{Hangup, HostCall, Listener, Reply, Server};

use crate::status::Status;
use coordinator::events::Event;

/// The version of the protocol. A peer of another one is turned away.
pub const VERSION: u32 = 1;
/// A line beyond this many bytes is refused.
pub const MAX_LINE: usize = 1 << 20;
/// More attached bytes than this are refused.
pub const MAX_ATTACHED: u64 = 256 << 20;

/// What wraps each message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`VERSION`].
    pub version: u32,
    /// Bytes that follow the line.
    #[serde(default)]
    pub attached: u64,
    /// The message.
    pub message: T,
}

/// What can be asked of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How everything is. Answered with [`Response::Status`].
    Status,
    /// The log. Answered with [`Response::Events`], repeatedly, and at the end
    /// of the log with [`Response::Done`] unless it is followed.
    Dmesg {
        /// Whether to wait for more.
        #[serde(default)]
        follow: bool,
        /// Only events after this number.
        #[serde(default)]
        after: u64,
    },
    /// Stop the daemon. Answered once the replicas are stopped.
    Down,
    /// Have another program go on as the daemon. Answered before this one makes way;
    /// who serves after that, and why, is told by [`Request::Status`].
    Upgrade {
        /// Its absolute path; none: what is now where this daemon's program was.
        #[serde(default)]
        exe: Option<PathBuf>,
    },
    /// Inject a fault.
    Fault(Fault),
    /// Make a replica the primary.
    Promote {
        /// The component.
        component: String,
        /// The replica.
        id: u64,
    },
    /// Change the number of replicas.
    Scale {
        /// The component.
        component: String,
        /// How many there are to be, 1 to 7.
        replicas: u8,
    },
    /// The component's state, attached to [`Response::Done`].
    Export {
        /// The component.
        component: String,
        /// In which form.
        format: ExportFormat,
    },
    /// Replace the component's state by what is attached.
    Import {
        /// The component.
        component: String,
    },
}

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The component.
    pub component: String,
    /// Which of its replicas.
    pub replica: Target,
    /// How long a hang or slowness lasts, milliseconds; none: until the replica
    /// is fenced.
    #[serde(default)]
    pub duration_ms: Option<u64>,
    /// For slowness: the share of time in which the replica stands still,
    /// percent.
    #[serde(default)]
    pub slow_percent: Option<u8>,
}

/// What goes wrong in an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The replica's process is killed.
    Kill,
    /// It is stopped, as if it hung.
    Hang,
    /// It is stopped and continued again and again.
    Slow,
    /// A bit of its state is flipped.
    Corrupt,
    /// A request arrives that kills whoever applies it.
    Poison,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::Slow => "slow",
            Self::Corrupt => "corrupt",
            Self::Poison => "poison",
        })
    }
}

/// A replica, by role or by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// The primary.
    Primary,
    /// Some standby.
    Standby,
    /// The one with this id.
    Id(u64),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Standby => f.write_str("standby"),
            Self::Id(id) => id.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "standby" => Ok(Self::Standby),
            text => text.parse().map(Self::Id).map_err(|_| {
                format!("no replica is called {text:?}; allowed: primary, standby or an id")
            }),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

/// In which form a store is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ExportFormat {
    /// Xen's migration stream with this project's own records: everything.
    Full,
    /// Version 1 of Xen's stream alone, for C xenstored since 4.15.
    XenV1,
    /// Version 2 of Xen's stream alone, for C xenstored since 4.21.
    XenV2,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Response {
    /// It is done.
    Done {
        /// What was done, one line.
        text: String,
    },
    /// It is not done.
    Refused {
        /// Why not, one line.
        why: String,
    },
    /// How everything is.
    Status(Box<Status>),
    /// A piece of the log, oldest first.
    Events {
        /// The events.
        events: Vec<Event>,
    },
}

/// What goes wrong between the daemon and a client.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon answers at the socket.
    #[error("no rvmm daemon at {}: {why}", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// Why it cannot be reached.
        why: std::io::Error,
    },
    /// The socket cannot be made.
    #[error("control socket {}: {why}", path.display())]
    NoSocket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
    /// The connection broke.
    #[error("the control connection broke: {0}")]
    Broken(std::io::Error),
    /// The daemon ended before it answered.
    #[error("the daemon closed the connection without an answer")]
    Closed,
    /// The peer says what this side does not understand.
    #[error("not understood: {0}")]
    NotUnderstood(String),
}

// Not derived: the cause stands in the text, and must not be told twice.
impl From<std::io::Error> for ControlError {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error)
    }
}

/// The message in `line`.
///
/// # Errors
/// A sentence for the peer: JSON that is broken, of another version, or not a
/// message.
fn open<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<Envelope<T>, String> {
    /// The version stands before everything else: what a message of another
    /// version looks like is not known.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }

    let Versioned { version } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version {version} of the control protocol; here is {VERSION}"));
    }
    let envelope: Envelope<T> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if envelope.attached > MAX_ATTACHED {
        return Err(format!(
            "{} bytes attached; at most {MAX_ATTACHED} are taken",
            envelope.attached
        ));
    }
    Ok(envelope)
}

/// The line that carries `message`, newline included.
fn seal<T: Serialize>(message: &T, attached: usize) -> Result<Vec<u8>, ControlError> {
    let envelope = Envelope { version: VERSION, attached: attached as u64, message };
    let mut line = serde_json::to_vec(&envelope)
        .map_err(|error| ControlError::NotUnderstood(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}
