//! Identifiers. Every one is a newtype, so that an input number can never be
//! taken for an output number.

use core::fmt;

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

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// Place of an input in its component's intake. The first input is 1; 0
    /// stands for "none yet".
    InputNo(u64)
}

id! {
    /// Place of an event or effect in its component's output order. The first
    /// is 1; 0 stands for "none yet". Replies bear the number of the input they
    /// answer instead.
    OutputNo(u64)
}

id! {
    /// A client's connection. Given by the host, never used again.
    ConnId(u64)
}

id! {
    /// A Xen domain id. 0 is the control domain.
    DomId(u16)
}

id! {
    /// A digest of a whole state. Two replicas that applied the same inputs have
    /// the same digest.
    Digest(u64)
}

impl InputNo {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl OutputNo {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ConnId {
    /// The host itself: the "connection" on which it asks for things that no
    /// client asked for, such as an operator's injected fault.
    pub const HOST: Self = Self(0);
}
