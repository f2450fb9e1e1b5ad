//! One step of a differential run, independent of who executes it.

use std::fmt;

use xenstore::wire::MessageType;

/// A connection of a run, by its place in [`super::CONNECTIONS`].
pub type ConnAt = usize;

/// Names an open transaction in both daemons, which give it different ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TxHandle(pub u32);

/// The transaction that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxRef {
    /// None.
    None,
    /// An open one; or, when it is not open (any more), [`TxRef::Bogus`].
    Open(TxHandle),
    /// An id that no transaction has.
    Bogus,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends a request.
    Request {
        /// The type of the message, also one that does not exist.
        kind: u32,
        /// The transaction it names.
        tx: TxRef,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Opens a transaction and calls it so.
    Start(TxHandle),
    /// Closes the connection and opens a new one.
    Reconnect,
}

/// A step: who does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The connection.
    pub conn: ConnAt,
    /// What it does.
    pub act: Act,
}

impl Op {
    /// The message type of a request, if it is one that exists.
    #[must_use]
    pub fn kind(&self) -> Option<MessageType> {
        match &self.act {
            Act::Request { kind, .. } => MessageType::from_u32(*kind),
            Act::Start(_) => Some(MessageType::TransactionStart),
            Act::Reconnect => None,
        }
    }

    /// The payload of a request.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.act {
            Act::Request { payload, .. } => payload,
            Act::Start(_) | Act::Reconnect => b"",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", super::CONNECTIONS[self.conn])?;
        match &self.act {
            Act::Reconnect => write!(f, "reconnects"),
            Act::Start(handle) => write!(f, "TransactionStart -> tx{}", handle.0),
            Act::Request { kind, tx, payload } => {
                match MessageType::from_u32(*kind) {
                    Some(kind) => write!(f, "{kind:?}")?,
                    None => write!(f, "type {kind}")?,
                }
                match tx {
                    TxRef::None => {}
                    TxRef::Open(handle) => write!(f, " in tx{}", handle.0)?,
                    TxRef::Bogus => write!(f, " in no tx")?,
                }
                if payload.len() > 200 {
                    let start = payload[..60].escape_ascii();
                    write!(f, " \"{start}...\" ({} bytes)", payload.len())
                } else {
                    write!(f, " \"{}\"", payload.escape_ascii())
                }
            }
        }
    }
}
