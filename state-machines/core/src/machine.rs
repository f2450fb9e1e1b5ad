//! The trait that a component implements.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{Class, CodecError, ConnId, Digest, Input, InputNo};

/// State that is not what the machine itself put there: memory was changed
/// behind its back. A replica that sees this must stop at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt state: {what}")]
pub struct Corruption {
    /// What was found, and where.
    pub what: String,
}

/// A snapshot that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The framing is broken.
    #[error("snapshot framing: {0}")]
    Codec(#[from] CodecError),
    /// The framing is sound, but the content contradicts itself.
    #[error("snapshot content: {0}")]
    Content(String),
}

/// Where a slice of scrubbing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubProgress {
    /// More is left of this pass.
    Within,
    /// The whole state has been checked; the next slice starts over.
    PassDone,
}

/// Takes the outputs of the input that is being applied, in their order.
pub trait Outputs {
    /// Answers the current input on `conn` with a whole protocol frame. An input
    /// is answered at most once.
    fn reply(&mut self, conn: ConnId, frame: &[u8]);
    /// Tells `conn` something unasked, in a whole protocol frame.
    fn event(&mut self, conn: ConnId, frame: &[u8]);
    /// Has the host do something; `bytes` is the component's own encoding.
    fn effect(&mut self, bytes: &[u8]);
}

/// A deterministic component.
///
/// Two machines that were given the same inputs under the same numbers are
/// equal, have given the same outputs, and have the same [`Self::digest`]. No
/// input, however malformed, makes a machine panic.
pub trait StateMachine: Sized + Default {
    /// A frozen copy of the state, cheap to take and readable in another thread.
    type Snapshot: Send + 'static;

    /// Where the encoding of a snapshot has got to; at first, at its beginning.
    type Cursor: Default;

    /// What `input` may change. Depends on the input alone.
    fn classify(input: &Input<'_>) -> Class;

    /// Applies a logged input.
    ///
    /// # Errors
    /// [`Corruption`] when the state that it reads is not what was written.
    fn apply(
        &mut self,
        no: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption>;

    /// Answers an input of class [`Class::Query`] without changing anything.
    ///
    /// # Errors
    /// [`Corruption`] when the state that it reads is not what was written.
    fn query(
        &self,
        no: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption>;

    /// Answers an input with an error, without executing it: it has killed a
    /// primary before.
    fn quarantine(&mut self, no: InputNo, input: &Input<'_>, out: &mut dyn Outputs);

    /// Whether `frame` has the form of an answer to `input`: what can be told from
    /// these two alone. Replicas use it on themselves, for what their own memory's
    /// damage makes of an answer.
    fn can_answer(input: &Input<'_>, frame: &[u8]) -> bool;

    /// Whether `frame` has the form of an event.
    fn can_be_event(frame: &[u8]) -> bool;

    /// The digest of the whole state, kept up incrementally.
    fn digest(&self) -> Digest;

    /// Freezes the state for a snapshot; O(1), or close to it.
    fn freeze(&self) -> Self::Snapshot;

    /// Appends the next part of a frozen state in a portable form, and moves the
    /// cursor behind it. Returns whether it was the last part; then there is no
    /// other to be asked for. A part takes at most about as long as a few hundred
    /// inputs: whoever has other things to do can do them between two parts.
    fn encode_part(snapshot: &Self::Snapshot, cursor: &mut Self::Cursor, out: &mut Vec<u8>)
    -> bool;

    /// Writes a frozen state in a portable form: all parts, one after the other.
    fn encode(snapshot: &Self::Snapshot, out: &mut Vec<u8>) {
        let mut cursor = Self::Cursor::default();
        while !Self::encode_part(snapshot, &mut cursor, out) {}
    }

    /// The state that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RestoreError`] when `bytes` are not such a state.
    fn restore(bytes: &[u8]) -> Result<Self, RestoreError>;

    /// Checks about `budget` items of the state against the digests they were
    /// stored with, from where the last slice ended.
    ///
    /// # Errors
    /// [`Corruption`] when an item is not what was written.
    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Corruption>;

    /// Fault injection: changes a stored item behind the machine's back, as a
    /// flipped memory bit would. Its digests stay as they were.
    fn flip_bit(&mut self, seed: u64);
}
