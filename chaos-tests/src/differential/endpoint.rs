//! What a differential run needs of a daemon, or of the bare state machine.

use xenstore::wire::{Header, MessageType};

use super::op::ConnAt;
use crate::client::{ClientError, Event};

/// How a request was answered.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// The payload of the answer.
    Ok(Vec<u8>),
    /// The name of the error, without its NUL.
    Error(Vec<u8>),
    /// The connection was closed, or there was no answer in time.
    Dead(String),
}

impl Answer {
    /// Reads a reply frame.
    #[must_use]
    pub fn of_frame(header: &Header, payload: &[u8]) -> Self {
        if header.kind == MessageType::Error.to_u32() {
            Self::Error(payload.strip_suffix(b"\0").unwrap_or(payload).to_vec())
        } else {
            Self::Ok(payload.to_vec())
        }
    }

    /// Whether the request succeeded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok(_))
    }

    /// Whether the answer is this error.
    #[must_use]
    pub fn is_error(&self, name: &str) -> bool {
        matches!(self, Self::Error(error) if error == name.as_bytes())
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok(payload) if payload.len() > 300 => {
                let start = payload[..200].escape_ascii();
                write!(f, "\"{start}...\" ({} bytes)", payload.len())
            }
            Self::Ok(payload) => write!(f, "\"{}\"", payload.escape_ascii()),
            Self::Error(name) => write!(f, "{}", name.escape_ascii()),
            Self::Dead(why) => write!(f, "({why})"),
        }
    }
}

/// Why an endpoint cannot go on at all.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A connection could not be opened, or events could not be collected.
    #[error("{what}: {source}")]
    Client {
        /// What was tried.
        what: String,
        /// How it failed.
        source: ClientError,
    },
    /// A guest could not be made.
    #[error("making a guest: {0}")]
    Guest(#[from] crate::peers::PeerError),
    /// The state machine found itself inconsistent.
    #[error("the state machine: {0}")]
    Machine(String),
}

/// One side of a differential run, with a connection for each of
/// [`super::CONNECTIONS`]. Guests are introduced already.
pub trait Endpoint {
    /// Makes a request and waits for its answer.
    fn request(&mut self, conn: ConnAt, kind: u32, tx_id: u32, payload: &[u8]) -> Answer;

    /// The watch events of each connection since the last call; complete, as
    /// far as finished requests caused them.
    ///
    /// # Errors
    /// [`EndpointError`] when a connection is broken.
    fn events(&mut self) -> Result<Vec<Vec<Event>>, EndpointError>;

    /// Closes a connection, so that what it held is released, and opens a new
    /// one.
    ///
    /// # Errors
    /// [`EndpointError`] when there is no new one to be had.
    fn reconnect(&mut self, conn: ConnAt) -> Result<(), EndpointError>;
}
