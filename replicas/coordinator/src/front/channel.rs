//! What a client's connection goes over: a socket, or the ring of a domain.

use std::io;
use std::os::fd::OwnedFd;

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

    pub(super) fn into_ring(self) -> Option<Ring> {
        match self {
            Self::Socket(_) => None,
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

    /// Takes what was only looked at.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.settle(),
            Self::Ring(_) => Ok(()),
        }
    }

    /// Sends as much as there is room for; what is left is asked for when there
    /// is more.
    pub(super) fn send(&mut self, bytes: &[u8], epoll: &OwnedFd) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.send(bytes, epoll),
            Self::Ring(ring) => ring.send(bytes),
        }
    }
}
