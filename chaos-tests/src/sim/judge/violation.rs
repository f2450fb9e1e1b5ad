//! What a judge objects to.

use std::fmt;

use state_machine::{ConnId, InputNo};
use xenstore::wire::{HEADER_LEN, Header, MessageType};

/// The promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViolationKind {
    /// A request of an open, healed connection was never answered.
    LostReply,
    /// A watch event never came.
    LostEvent,
    /// An effect was never carried out.
    LostEffect,
    /// An answer came again.
    DoubledReply,
    /// A watch event came again.
    DoubledEvent,
    /// An effect was carried out again.
    DoubledEffect,
    /// An output came before one that was made earlier.
    Reordered,
    /// The answer to a logged request is not what the inputs before it yield.
    WrongReply,
    /// The answer to a query is of no state that it may be answered from.
    StaleAnswer,
    /// A watch event is not what the inputs yield.
    WrongEvent,
    /// An effect is not what the inputs yield.
    WrongEffect,
    /// An answer to a connection that has asked nothing.
    UnaskedReply,
    /// What a client or the host was shown is not in the log that a later
    /// primary, or a later host, came back with.
    LostAcknowledged,
    /// An input was answered and later quarantined.
    AnsweredThenQuarantined,
    /// The host closed the connection of a client that gave no reason to.
    BrokenConnection,
    /// The bytes to a client are no frames.
    BrokenFrame,
    /// A replica's state is not that of the inputs it has applied.
    Diverged,
    /// Inputs were not numbered one after the other, or do not decode.
    BadInput,
    /// The host came back with a state so old that nobody can judge it.
    Unjudgeable,
}

impl ViolationKind {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LostReply => "lost-reply",
            Self::LostEvent => "lost-event",
            Self::LostEffect => "lost-effect",
            Self::DoubledReply => "doubled-reply",
            Self::DoubledEvent => "doubled-event",
            Self::DoubledEffect => "doubled-effect",
            Self::Reordered => "reordered",
            Self::WrongReply => "wrong-reply",
            Self::StaleAnswer => "stale-answer",
            Self::WrongEvent => "wrong-event",
            Self::WrongEffect => "wrong-effect",
            Self::UnaskedReply => "unasked-reply",
            Self::LostAcknowledged => "lost-acknowledged",
            Self::AnsweredThenQuarantined => "answered-then-quarantined",
            Self::BrokenConnection => "broken-connection",
            Self::BrokenFrame => "broken-frame",
            Self::Diverged => "diverged",
            Self::BadInput => "bad-input",
            Self::Unjudgeable => "unjudgeable",
        }
    }
}

/// A broken promise, with what it was noticed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub kind: ViolationKind,
    /// The input that it is about, if it is about one.
    pub input: Option<InputNo>,
    /// The connection that it was seen on, if on one.
    pub conn: Option<ConnId>,
    /// When it was noticed, simulated microseconds.
    pub at_us: u64,
    /// What should have come: one frame, or one of several divided by nothing;
    /// empty when nothing should have.
    pub expected: Vec<u8>,
    /// What came; empty when nothing did.
    pub found: Vec<u8>,
}

/// A frame for people.
pub(crate) fn show(frame: &[u8]) -> String {
    const SHOWN: usize = 96;
    let Some(header) = Header::decode(frame) else {
        return format!("\"{}\"", frame[..frame.len().min(SHOWN)].escape_ascii());
    };
    let payload = &frame[HEADER_LEN..];
    let kind = MessageType::from_u32(header.kind)
        .map_or_else(|| format!("type {}", header.kind), |kind| format!("{kind:?}"));
    let more = if payload.len() > SHOWN { "..." } else { "" };
    let payload = payload[..payload.len().min(SHOWN)].escape_ascii();
    format!("{kind} req {} tx {} \"{payload}\"{more}", header.req_id, header.tx_id)
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} us", self.kind.name(), self.at_us)?;
        if let Some(input) = self.input {
            write!(f, ", input {input}")?;
        }
        if let Some(conn) = self.conn {
            write!(f, ", connection {conn}")?;
        }
        if !self.expected.is_empty() {
            write!(f, ", expected {}", show(&self.expected))?;
        }
        if !self.found.is_empty() {
            write!(f, ", found {}", show(&self.found))?;
        }
        Ok(())
    }
}
