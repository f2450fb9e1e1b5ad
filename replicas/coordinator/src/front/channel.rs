//! What a client's connection goes over: a socket, or the ring of a domain.

use super::ring::Ring;
use super::socket::Socket;

/// See the module.
#[derive(Debug)]
pub(super) enum Channel {
    /// A process of this host.
    Socket(Socket),
    /// A domain's kernel.
    Ring(Ring),
}

impl Channel {
    pub(super) fn is_ring(&self) -> bool {
        matches!(self, Self::Ring(_))
    }

    pub(super) fn ring(&self) -> Option<&Ring> {
        match self {
            Self::Socket(_) => None,
            Self::Ring(ring) => Some(ring),
        }
    }

    pub(super) fn ring_mut(&mut self) -> Option<&mut Ring> {
        match self {
            Self::Socket(_) => None,
            Self::Ring(ring) => Some(ring),
        }
    }

    /// The connection ends; what it came over is left, if it was a ring.
    pub(super) fn end(self) -> Option<Ring> {
        match self {
            Self::Socket(socket) => {
                socket.shut_down();
                None
            }
            Self::Ring(ring) => Some(ring),
        }
    }

    /// Whether the other end has been closed. A ring has none that could.
    pub(super) fn has_hung_up(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.has_hung_up(),
            Self::Ring(_) => false,
        }
    }

    /// Notes that there is something to read.
    pub(super) fn is_readable(&mut self) {
        match self {
            Self::Socket(socket) => socket.is_readable(),
            Self::Ring(ring) => ring.is_readable(),
        }
    }

    /// Whether there may be something to read.
    pub(super) fn may_have_more(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.may_have_more(),
            Self::Ring(ring) => ring.may_have_more(),
        }
    }
}
