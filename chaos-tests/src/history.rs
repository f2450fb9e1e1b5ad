//! What clients did and saw, with the times at which they asked and were told.

use std::time::Instant;

/// Nanoseconds since the start of a run; 0 lies before everything that happened
/// in it.
pub type Nanos = u64;

/// The clock of a run, shared by all of its clients.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::start()
    }
}

impl Clock {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time now; at least 1.
    #[must_use]
    pub fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX - 1).saturating_add(1)
    }
}

/// When a request was sent, and when its answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Just before the request was sent.
    pub invoked: Nanos,
    /// Just after the answer was there; `None` when none came, so that nobody
    /// knows whether the request took effect.
    pub returned: Option<Nanos>,
}

impl Span {
    /// Whether the one request was answered before the other was sent.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        self.returned.is_some_and(|returned| returned < other.invoked)
    }
}

/// What a request on a register did. Values written to one register are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote the value.
    Write(u64),
    /// Read the value; `None` is a register never written.
    Read(Option<u64>),
}

/// One request on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterOp {
    /// The register.
    pub key: u32,
    /// What was done.
    pub action: Action,
    /// When.
    pub span: Span,
}

/// One request that fires watches. Each path belongs to one writer, which
/// touches it with one request at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventOp {
    /// The path, by a number.
    pub path: u64,
    /// When.
    pub span: Span,
}
