//! Identifiers of a replica group.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One member of a replica group. Given by the host, never 0, never used
    /// again after its owner was certified dead.
    PeerId(u64)
}

id! {
    /// Place of an entry in the replicated log. The first entry is 1; 0 stands
    /// for "none".
    LogIndex(u64)
}

id! {
    /// A period with at most one leader. The upper half is the [`FenceEpoch`]
    /// in which its election was held.
    Term(u64)
}

id! {
    /// Number of the host's latest certificate of deaths. Grows with every
    /// certificate; 0 stands for "nobody was ever certified dead".
    FenceEpoch(u32)
}

impl FenceEpoch {
    /// The first term in which a peer that knows this certificate may stand for
    /// election or vote.
    pub(crate) fn first_term(self) -> u64 {
        u64::from(self.0) << 32
    }

    /// The epoch in which the election of `term` was held.
    pub(crate) fn of_term(term: u64) -> Self {
        Self((term >> 32) as u32)
    }
}
