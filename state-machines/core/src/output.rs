//! Outputs: what applying inputs yields.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::codec::put_block;
use crate::{CodecError, ConnId, InputNo, OutputNo, Reader};

/// One output of a component.
///
/// A reply is told apart from its repetition by the input it answers; events
/// and effects by their own number. Both are the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer to an input.
    Reply {
        /// The input it answers.
        input: InputNo,
        /// Where it goes.
        conn: ConnId,
        /// A whole frame of the component's protocol.
        frame: Box<[u8]>,
    },
    /// Something a client is told unasked, such as a fired watch.
    Event {
        /// Its place in the output order.
        no: OutputNo,
        /// Where it goes.
        conn: ConnId,
        /// A whole frame of the component's protocol.
        frame: Box<[u8]>,
    },
    /// Something for the host to do, in the component's own encoding.
    Effect {
        /// Its place in the output order.
        no: OutputNo,
        /// The component's encoding of what is to be done.
        bytes: Box<[u8]>,
    },
}

impl Output {
    /// Appends the output, self-delimiting.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Reply { input, conn, frame } => {
                out.push(0);
                out.extend_from_slice(&input.0.to_le_bytes());
                out.extend_from_slice(&conn.0.to_le_bytes());
                put_block(out, frame);
            }
            Self::Event { no, conn, frame } => {
                out.push(1);
                out.extend_from_slice(&no.0.to_le_bytes());
                out.extend_from_slice(&conn.0.to_le_bytes());
                put_block(out, frame);
            }
            Self::Effect { no, bytes } => {
                out.push(2);
                out.extend_from_slice(&no.0.to_le_bytes());
                put_block(out, bytes);
            }
        }
    }

    /// Takes one output off the front of `reader`.
    ///
    /// # Errors
    /// Any [`CodecError`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match reader.u8()? {
            0 => Self::Reply {
                input: InputNo(reader.u64()?),
                conn: ConnId(reader.u64()?),
                frame: reader.block()?.into(),
            },
            1 => Self::Event {
                no: OutputNo(reader.u64()?),
                conn: ConnId(reader.u64()?),
                frame: reader.block()?.into(),
            },
            2 => Self::Effect { no: OutputNo(reader.u64()?), bytes: reader.block()?.into() },
            tag => return Err(CodecError::UnknownTag(tag)),
        })
    }

    /// Bytes of memory its payload takes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Reply { frame, .. } | Self::Event { frame, .. } => frame.len(),
            Self::Effect { bytes, .. } => bytes.len(),
        }
    }
}
