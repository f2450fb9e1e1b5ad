//! What an executor answers.

use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::put_block;
use crate::{
    CodecError, Corruption, Digest, InputNo, Numbered, Output, OutputNo, Reader, ScrubProgress,
    StateMachine,
};

/// The numbers of a machine, and its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The last input that was applied.
    pub last_input: InputNo,
    /// The last output that got a number.
    pub last_output: OutputNo,
    /// [`Numbered::digest`].
    pub digest: Digest,
}

impl State {
    /// Of this machine.
    pub fn of<M: StateMachine>(numbered: &Numbered<M>) -> Self {
        Self {
            last_input: numbered.last_input(),
            last_output: numbered.last_output(),
            digest: numbered.digest(),
        }
    }
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state is not what the machine has put there.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The snapshot cannot be restored.
    #[error("{0}")]
    Restore(String),
    /// The bytes are no command.
    #[error("no command: {0}")]
    NoCommand(String),
    /// There is nothing to encode: no state was frozen.
    #[error("nothing is frozen")]
    NothingFrozen,
    /// The snapshot that is to be restored has more bytes than are taken. Its parts
    /// are forgotten.
    #[error("a snapshot of more than {max_bytes} bytes")]
    TooLong {
        /// What is taken, in bytes.
        max_bytes: u64,
    },
}

impl Refusal {
    /// Whether nothing behind it in the same request is done.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::NoCommand(_))
    }
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What an input has yielded.
    Outputs {
        /// Whether the input was applied: not if it was before, or is a query.
        applied: bool,
        /// The outputs, in their order.
        outputs: Vec<Output>,
    },
    /// The numbers and the digest.
    State(State),
    /// The next part of a frozen state.
    Snapshot {
        /// Whether it was the last.
        last: bool,
        /// The machine's own encoding ([`StateMachine::encode_part`]); the numbers
        /// that belong to it are those of the answer to [`super::Command::Freeze`].
        bytes: Vec<u8>,
    },
    /// How far scrubbing is.
    Scrubbed(ScrubProgress),
    /// It is done.
    Done,
    /// It is not.
    Refused(Refusal),
}

fn put_u64(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

impl Answer {
    /// Appends the answer, self-delimiting.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        if let Self::Snapshot { bytes, .. } = self {
            out.extend_from_slice(bytes);
        }
    }

    /// As [`Self::encode`], but without the bytes of a snapshot, which come last.
    pub(super) fn encode_head(&self, out: &mut Vec<u8>) {
        match self {
            Self::Outputs { applied, outputs } => {
                out.push(u8::from(*applied));
                put_u64(out, &[outputs.len() as u64]);
                outputs.iter().for_each(|output| output.encode(out));
            }
            Self::State(State { last_input, last_output, digest }) => {
                out.push(2);
                put_u64(out, &[last_input.0, last_output.0, digest.0]);
            }
            Self::Snapshot { last, bytes } => {
                out.push(3 + u8::from(*last));
                put_u64(out, &[bytes.len() as u64]);
            }
            Self::Scrubbed(ScrubProgress::Within) => out.push(5),
            Self::Scrubbed(ScrubProgress::PassDone) => out.push(6),
            Self::Done => out.push(7),
            Self::Refused(Refusal::Corrupt(Corruption { what })) => {
                out.push(8);
                put_block(out, what.as_bytes());
            }
            Self::Refused(Refusal::Restore(why)) => {
                out.push(9);
                put_block(out, why.as_bytes());
            }
            Self::Refused(Refusal::NoCommand(why)) => {
                out.push(10);
                put_block(out, why.as_bytes());
            }
            Self::Refused(Refusal::NothingFrozen) => out.push(11),
            Self::Refused(Refusal::TooLong { max_bytes }) => {
                out.push(12);
                put_u64(out, &[*max_bytes]);
            }
        }
    }

    /// Takes one answer off the front of `reader`.
    ///
    /// # Errors
    /// Any [`CodecError`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match reader.u8()? {
            tag @ (0 | 1) => {
                let count = reader.u64()?;
                // Not to be believed before the outputs are there.
                let mut outputs = Vec::new();
                for _ in 0..count {
                    outputs.push(Output::decode(reader)?);
                }
                Self::Outputs { applied: tag == 1, outputs }
            }
            2 => Self::State(State {
                last_input: InputNo(reader.u64()?),
                last_output: OutputNo(reader.u64()?),
                digest: Digest(reader.u64()?),
            }),
            tag @ (3 | 4) => {
                let len = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
                Self::Snapshot { last: tag == 4, bytes: reader.bytes(len)?.to_vec() }
            }
            5 => Self::Scrubbed(ScrubProgress::Within),
            6 => Self::Scrubbed(ScrubProgress::PassDone),
            7 => Self::Done,
            8 => Self::Refused(Refusal::Corrupt(Corruption { what: reader.text()? })),
            9 => Self::Refused(Refusal::Restore(reader.text()?)),
            10 => Self::Refused(Refusal::NoCommand(reader.text()?)),
            11 => Self::Refused(Refusal::NothingFrozen),
            12 => Self::Refused(Refusal::TooLong { max_bytes: reader.u64()? }),
            tag => return Err(CodecError::UnknownTag(tag)),
        })
    }
}
