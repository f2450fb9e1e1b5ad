//! Identifiers of this crate. Each is a newtype, so that a slot can never be
//! taken for a replica or a generation.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many replicas of one component can exist at the same time.
pub const SLOTS: usize = 8;

/// A place for a replica in the fabric, `0..SLOTS`. A slot is used again after
/// its occupant is confirmed gone; a [`ReplicaId`] never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct SlotId(u8);

impl SlotId {
    /// The slot with this index, or `None` when there is no such slot.
    #[must_use]
    pub fn new(index: u8) -> Option<Self> {
        (usize::from(index) < SLOTS).then_some(Self(index))
    }

    /// All slots, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS as u8).map(Self)
    }

    /// The slot's index, below [`SLOTS`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The slot's index as it is written into messages and arguments.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for SlotId {
    type Error = &'static str;

    fn try_from(index: u8) -> Result<Self, Self::Error> {
        Self::new(index).ok_or("there is no such slot")
    }
}

impl From<SlotId> for u8 {
    fn from(slot: SlotId) -> Self {
        slot.0
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One incarnation of a replica. Given by the host, never used again; 0 stands
/// for "none".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// No replica.
    pub const NONE: Self = Self(0);

    /// Whether this names a replica at all.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reign of a primary, raised by the host with every change. Whatever bears an
/// older generation is void.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
