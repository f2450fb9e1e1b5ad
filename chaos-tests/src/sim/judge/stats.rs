//! What a judge is told and has seen, in small words.

/// Who closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The client did, or vanished.
    Client,
    /// The host did.
    Host {
        /// Whether the client gave it reason to: nonsense, or events it did not
        /// read.
        provoked: bool,
    },
}

/// What a judge has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JudgeStats {
    /// Inputs that the host numbered.
    pub inputs: u64,
    /// Answers that were delivered and right.
    pub replies: u64,
    /// Of those, answers to queries.
    pub answers: u64,
    /// Of those, answers that a later primary gave anew, from a later state.
    pub answers_anew: u64,
    /// Watch events that were delivered and right.
    pub events: u64,
    /// Effects that were carried out and right.
    pub effects: u64,
    /// Comparisons of a replica's digest.
    pub digests: u64,
    /// Inputs that were quarantined.
    pub quarantined: u64,
}
