//! Inputs: everything that can happen to a component.

use alloc::vec::Vec;

use crate::codec::put_block;
use crate::{CodecError, ConnId, DomId, InputNo, Reader};

/// What an input may change, and with that, what its answer must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Changes nothing: skips the log and is answered from the applied state.
    Query,
    /// Changes only what its own connection sees and promises nothing that
    /// outlives it (a request inside an open transaction, the end of a watch, the
    /// connection's own beginning and end). It is logged in its place, but answered
    /// as soon as the primary has applied it.
    Tentative,
    /// Begins what its own connection alone will see (a transaction), from the
    /// state as it stands. It is logged in its place, but answered as soon as all
    /// commands before it are released: then nothing that a client is shown can
    /// be taken back.
    Opening,
    /// Changes what others see: answered once the acknowledgement policy holds.
    Command,
}

/// One input of a component. The host numbers it and keeps it in the intake
/// until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// The host started (again): every connection of before is gone.
    Boot,
    /// A client connected on behalf of a domain.
    Open {
        /// The new connection.
        conn: ConnId,
        /// The domain that it speaks for; 0 for local sockets.
        domid: DomId,
    },
    /// A connection ended; what it held is released.
    Close {
        /// The ended connection.
        conn: ConnId,
    },
    /// One whole request frame of the component's protocol, header included.
    Request {
        /// The connection it came on.
        conn: ConnId,
        /// The frame.
        frame: &'a [u8],
    },
    /// The hypervisor says that a domain has died or is gone.
    DomainGone {
        /// The domain.
        domid: DomId,
    },
    /// The hypervisor says that a domain exists, which a request names that follows.
    DomainExists {
        /// The domain.
        domid: DomId,
    },
    /// The hypervisor says that some domain has shut down, and is still there. It
    /// does not say which.
    DomainShutDown,
    /// An operator's injected fault: kills whoever applies it. Answered on
    /// [`ConnId::HOST`] with an error once it is quarantined.
    Poison,
}

impl<'a> Input<'a> {
    /// The connection that waits for an answer to this input, if any does.
    #[must_use]
    pub fn conn(&self) -> Option<ConnId> {
        match *self {
            Self::Open { conn, .. } | Self::Close { conn } | Self::Request { conn, .. } => {
                Some(conn)
            }
            Self::Boot
            | Self::DomainGone { .. }
            | Self::DomainExists { .. }
            | Self::DomainShutDown
            | Self::Poison => None,
        }
    }

    /// Appends the number and the input, self-delimiting.
    pub fn encode(&self, no: InputNo, out: &mut Vec<u8>) {
        out.extend_from_slice(&no.0.to_le_bytes());
        match *self {
            Self::Boot => out.push(0),
            Self::Open { conn, domid } => {
                out.push(1);
                out.extend_from_slice(&conn.0.to_le_bytes());
                out.extend_from_slice(&domid.0.to_le_bytes());
            }
            Self::Close { conn } => {
                out.push(2);
                out.extend_from_slice(&conn.0.to_le_bytes());
            }
            Self::Request { conn, frame } => {
                out.push(3);
                out.extend_from_slice(&conn.0.to_le_bytes());
                put_block(out, frame);
            }
            Self::DomainGone { domid } => {
                out.push(4);
                out.extend_from_slice(&domid.0.to_le_bytes());
            }
            Self::Poison => out.push(5),
            Self::DomainShutDown => out.push(6),
            Self::DomainExists { domid } => {
                out.push(7);
                out.extend_from_slice(&domid.0.to_le_bytes());
            }
        }
    }

    /// Takes one numbered input off the front of `reader`.
    ///
    /// # Errors
    /// Any [`CodecError`]; the reader is then left at an undefined place.
    pub fn decode(reader: &mut Reader<'a>) -> Result<(InputNo, Self), CodecError> {
        let no = InputNo(reader.u64()?);
        let input = match reader.u8()? {
            0 => Self::Boot,
            1 => Self::Open { conn: ConnId(reader.u64()?), domid: DomId(reader.u16()?) },
            2 => Self::Close { conn: ConnId(reader.u64()?) },
            3 => Self::Request { conn: ConnId(reader.u64()?), frame: reader.block()? },
            4 => Self::DomainGone { domid: DomId(reader.u16()?) },
            5 => Self::Poison,
            6 => Self::DomainShutDown,
            7 => Self::DomainExists { domid: DomId(reader.u16()?) },
            tag => return Err(CodecError::UnknownTag(tag)),
        };
        Ok((no, input))
    }
}
