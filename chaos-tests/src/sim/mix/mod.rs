//! What real programs have said to a xenstore daemon, recorded once and replayed
//! in every simulation.
//!
//! A recording holds, for each connection, the requests in their order, the
//! pauses between them, and how many earlier ones were unanswered when each was
//! sent. Transactions are named by the request that began them, for a daemon
//! gives other numbers the next time. Tokens of watches are the clients' own and
//! stay. To record again, see `chaos-tests/examples/record.rs`.

mod format;
mod recorder;

use std::rc::Rc;

pub use format::MixError;
pub use recorder::Recorder;

/// The transaction of a recorded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxOf {
    /// None.
    None,
    /// The one that the connection's begin of this number, from 0, has begun.
    Start(u32),
    /// A number that the daemon never gave to this connection.
    Raw(u32),
}

/// A recorded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Since the request before, or since the connection began, microseconds.
    pub pause_us: u32,
    /// Earlier requests that were unanswered when it was sent.
    pub due: u32,
    /// The message type as it was sent.
    pub kind: u32,
    /// The transaction it named.
    pub tx: TxOf,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A recording; a copy costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    name: Rc<str>,
    talks: Rc<[Vec<Said>]>,
}

impl Mix {
    /// A recording of these connections.
    #[must_use]
    pub fn new(name: &str, talks: Vec<Vec<Said>>) -> Self {
        Self { name: name.into(), talks: talks.into() }
    }

    /// Whose recording it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The requests of each connection, in their order.
    #[must_use]
    pub fn talks(&self) -> &[Vec<Said>] {
        &self.talks
    }

    /// Requests in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.talks.iter().map(Vec::len).sum()
    }

    /// Whether nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The recording that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`MixError`] when `bytes` are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, MixError> {
        format::decode(bytes)
    }

    /// The recording as a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        format::encode(self)
    }

    /// The recordings in `chaos-tests/mixes`.
    ///
    /// # Panics
    /// When one of them is damaged.
    #[must_use]
    pub fn committed() -> Vec<Self> {
        FILES.iter().map(|file| Self::decode(file).expect("a recording")).collect()
    }
}

const FILES: [&[u8]; 4] = [
    include_bytes!("../../../mixes/load.mix"),
    include_bytes!("../../../mixes/pyxs.mix"),
    include_bytes!("../../../mixes/shell.mix"),
    include_bytes!("../../../mixes/test-xenstore.mix"),
];

#[cfg(test)]
mod tests;
