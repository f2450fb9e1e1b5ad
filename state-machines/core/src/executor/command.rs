//! What an executor can be told to do.

use alloc::vec::Vec;

use crate::codec::put_block;
use crate::{CodecError, Digest, Input, InputNo, Reader};

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// [`crate::Numbered::apply`]; answered with outputs.
    Apply {
        /// The number of the input.
        no: InputNo,
        /// Whether it is answered with an error instead of being executed.
        quarantined: bool,
        /// The input.
        input: Input<'a>,
    },
    /// [`crate::Numbered::query`]; answered with outputs.
    Query {
        /// The number of the input.
        no: InputNo,
        /// The input.
        input: Input<'a>,
    },
    /// [`crate::Numbered::refuse`]; answered with outputs.
    Refuse {
        /// The number of the input.
        no: InputNo,
        /// The input.
        input: Input<'a>,
    },
    /// The numbers and the digest; answered with them.
    State,
    /// [`crate::Numbered::freeze`], in place of what was frozen before; answered
    /// with the numbers and the digest.
    Freeze,
    /// [`crate::StateMachine::encode_part`] of what is frozen, which after the last
    /// part no longer is; answered with the part.
    EncodeSnapshot,
    /// The next bytes of a snapshot that is to be restored; answered with no more
    /// than that it is done.
    RestorePart {
        /// The bytes.
        bytes: &'a [u8],
    },
    /// [`crate::Numbered::restore`] of all parts; answered with the numbers and the
    /// digest. A machine that is not restored stays what it was.
    RestoreEnd {
        /// The digest of the state when it was frozen.
        digest: Digest,
    },
    /// [`crate::StateMachine::scrub`]; answered with how far it is.
    Scrub {
        /// Items to check.
        budget: u64,
    },
    /// [`crate::StateMachine::flip_bit`]; answered with no more than that it is done.
    FlipBit {
        /// Chooses the bit.
        seed: u64,
    },
}

impl<'a> Command<'a> {
    /// Appends the command, self-delimiting.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Apply { no, quarantined, input } => {
                out.push(u8::from(quarantined));
                input.encode(no, out);
            }
            Self::Query { no, input } => {
                out.push(2);
                input.encode(no, out);
            }
            Self::Refuse { no, input } => {
                out.push(3);
                input.encode(no, out);
            }
            Self::State => out.push(4),
            Self::Freeze => out.push(5),
            Self::EncodeSnapshot => out.push(6),
            Self::RestorePart { bytes } => {
                out.push(7);
                put_block(out, bytes);
            }
            Self::RestoreEnd { digest } => {
                out.push(8);
                out.extend_from_slice(&digest.0.to_le_bytes());
            }
            Self::Scrub { budget } => {
                out.push(9);
                out.extend_from_slice(&budget.to_le_bytes());
            }
            Self::FlipBit { seed } => {
                out.push(10);
                out.extend_from_slice(&seed.to_le_bytes());
            }
        }
    }

    /// Takes one command off the front of `reader`.
    ///
    /// # Errors
    /// Any [`CodecError`]; the reader is then left at an undefined place.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        Ok(match reader.u8()? {
            tag @ (0 | 1) => {
                let (no, input) = Input::decode(reader)?;
                Self::Apply { no, quarantined: tag == 1, input }
            }
            2 => {
                let (no, input) = Input::decode(reader)?;
                Self::Query { no, input }
            }
            3 => {
                let (no, input) = Input::decode(reader)?;
                Self::Refuse { no, input }
            }
            4 => Self::State,
            5 => Self::Freeze,
            6 => Self::EncodeSnapshot,
            7 => Self::RestorePart { bytes: reader.block()? },
            8 => Self::RestoreEnd { digest: Digest(reader.u64()?) },
            9 => Self::Scrub { budget: reader.u64()? },
            10 => Self::FlipBit { seed: reader.u64()? },
            tag => return Err(CodecError::UnknownTag(tag)),
        })
    }
}
