//! What outlives the daemon: descriptors that somebody else holds for the next one.

use std::os::fd::BorrowedFd;

use hypervisor::ReplicaId;
use state_machine::{ConnId, DomId};

/// The version of all that one daemon leaves to the next: the names here, what the
/// journal and the fabric look like, and how a holder hands them down. Whoever changes
/// any of it counts on: a daemon is never handed what it does not understand.
pub const HANDOVER_FORMAT: u32 = 4;

/// What is held, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// The regions and doorbells that the host shares with replicas.
    Fabric,
    /// What the host writes down for its successor.
    Journal,
    /// Where operators' calls come in.
    Control,
    /// Where connections that speak for a domain come in.
    Listener(DomId),
    /// A client's connection.
    Conn(ConnId),
    /// What a replica runs in.
    Replica(ReplicaId),
}

impl Held {
    /// Bytes of a name on its way.
    pub const BYTES: usize = 9;

    /// The name on its way.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let (kind, number) = match self {
            Self::Fabric => (1, 0),
            Self::Journal => (2, 0),
            Self::Control => (3, 0),
            Self::Listener(domid) => (4, u64::from(domid.0)),
            Self::Conn(conn) => (5, conn.0),
            Self::Replica(id) => (6, id.0),
        };
        let mut bytes = [kind; Self::BYTES];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// The name that [`Self::encode`] has put there, if it is one.
    #[must_use]
    pub fn decode(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [kind, number @ ..] = bytes;
        let number = u64::from_le_bytes(number);
        match (kind, number) {
            (1, 0) => Some(Self::Fabric),
            (2, 0) => Some(Self::Journal),
            (3, 0) => Some(Self::Control),
            (4, _) => Some(Self::Listener(DomId(u16::try_from(number).ok()?))),
            (5, _) => Some(Self::Conn(ConnId(number))),
            (6, _) => Some(Self::Replica(ReplicaId(number))),
            _ => None,
        }
    }
}

/// Whoever holds descriptors for the next daemon. What is told here counts even if
/// this process ends right after.
pub trait Holder {
    /// Holds these under a name; what was held under it before is let go of. What
    /// cannot be held is lost with this process, and the holder says so in the log.
    fn hold(&self, name: Held, descriptors: &[BorrowedFd<'_>]);

    /// Lets go of what is held under a name, if anything is.
    fn let_go(&self, name: Held);
}

/// Nobody: with this process, all ends.
#[derive(Clone, Copy, Debug)]
pub struct NoHolder;

impl Holder for NoHolder {
    fn hold(&self, _: Held, _: &[BorrowedFd<'_>]) {}

    fn let_go(&self, _: Held) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for name in [
            Held::Fabric,
            Held::Journal,
            Held::Control,
            Held::Listener(DomId(7)),
            Held::Conn(ConnId(1 << 40)),
            Held::Replica(ReplicaId(3)),
        ] {
            assert_eq!(Held::decode(name.encode()), Some(name));
        }
        assert_eq!(Held::decode([9; Held::BYTES]), None);
    }
}
