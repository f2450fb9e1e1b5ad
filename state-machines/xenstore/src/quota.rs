//! Quotas: what one domain may use of the store. The control domain is exempt.

use state_machine::Mixer;

use crate::wire::{Errno, REL_PATH_MAX};

macro_rules! quotas {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $value:expr, $description:literal;)*) => {
        /// A quota.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Quota { $($(#[$doc])* $variant,)* }

        impl Quota {
            /// Every quota, in the order in which Xen's daemon lists them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Xen's name for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it limits, in the words of `xenstore-control quota`.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }

            /// The value that a new store has.
            #[must_use]
            pub const fn default_value(self) -> u32 {
                match self { $(Self::$variant => $value,)* }
            }
        }
    };
}

quotas! {
    /// Nodes that a domain owns.
    Nodes = "nodes", 1000, "Nodes per domain";
    /// Watches of a domain.
    Watches = "watches", 128, "Watches per domain";
    /// Open transactions of a domain.
    Transactions = "transactions", 10, "Transactions per domain";
    /// Requests of a domain that wait for their answer to be taken; enforced by
    /// the front doors.
    Outstanding = "outstanding", 20, "Outstanding requests per domain";
    /// Paths that a transaction refers to.
    TransactionNodes = "transaction-nodes", 1024,
        "Max. number of accessed nodes per transaction";
    /// Bytes of a domain's nodes, watches and transactions.
    Memory = "memory", 2 * 1024 * 1024 + 512 * 1024,
        "Total Xenstore memory per domain (error level)";
    /// Bytes of a node: header, permissions, value and the names of its children;
    /// a node has to be smaller.
    NodeSize = "node-size", 2048, "Max. size of a node";
    /// Bytes of a path, without `/local/domain/N/`.
    PathMax = "path-max", REL_PATH_MAX as u32, "Max. length of a node path";
    /// Entries of a node's permissions.
    Permissions = "permissions", 5, "Max. number of permissions per node";
}

/// The name by which the limit on the whole store is asked for and set, KiB. It is
/// nobody's quota and holds for everybody, see [`crate::size`].
pub(crate) const STORE_LIMIT: &[u8] = b"store-kib";

/// How many quotas there are.
pub(crate) const QUOTAS: usize = Quota::ALL.len();

/// The name that later versions of Xen have for [`Quota::Permissions`].
const PERMISSIONS_ALIAS: &[u8] = b"node-permissions";
/// The soft memory quota of a new store, bytes.
const SOFT_MEMORY: u32 = 2 * 1024 * 1024;

/// Which value a request names: a hard quota, or the one soft quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Hard(Quota),
    SoftMemory,
}

impl Named {
    /// The quota of this name; soft ones begin with `soft-`.
    ///
    /// # Errors
    /// `EINVAL` for a name that no quota has.
    pub(crate) fn parse(name: &[u8]) -> Result<Self, Errno> {
        if name == b"soft-memory" {
            return Ok(Self::SoftMemory);
        }
        Ok(Self::Hard(hard(name)?))
    }
}

/// The hard quota of this name.
///
/// # Errors
/// `EINVAL` for a name that no quota has.
pub(crate) fn hard(name: &[u8]) -> Result<Quota, Errno> {
    if name == PERMISSIONS_ALIAS {
        return Ok(Quota::Permissions);
    }
    let mut all = Quota::ALL.iter().copied();
    all.find(|quota| quota.name().as_bytes() == name).ok_or(Errno::EINVAL)
}

/// The values of all quotas; 0 stands for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quotas {
    hard: [u32; QUOTAS],
    soft_memory: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        let mut hard = [0; QUOTAS];
        for quota in Quota::ALL {
            hard[*quota as usize] = quota.default_value();
        }
        Self { hard, soft_memory: SOFT_MEMORY }
    }
}

impl Quotas {
    pub(crate) fn value(&self, named: Named) -> u32 {
        match named {
            Named::Hard(quota) => self.hard[quota as usize],
            Named::SoftMemory => self.soft_memory,
        }
    }

    pub(crate) fn set(&mut self, named: Named, value: u32) {
        match named {
            Named::Hard(quota) => self.hard[quota as usize] = value,
            Named::SoftMemory => self.soft_memory = value,
        }
    }

    pub(crate) fn mix(&self, mixer: Mixer) -> Mixer {
        self.hard
            .iter()
            .fold(mixer, |mixer, value| mixer.word(u64::from(*value)))
            .word(u64::from(self.soft_memory))
    }
}

/// The hard quotas that hold for a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits(Option<Quotas>);

impl Limits {
    /// The limits of a guest.
    pub(crate) fn of_guest(quotas: Quotas) -> Self {
        Self(Some(quotas))
    }

    /// The limits of the control domain: none.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The most that is allowed, if there is a limit.
    pub(crate) fn get(&self, quota: Quota) -> Option<u32> {
        self.0.as_ref().map(|quotas| quotas.hard[quota as usize]).filter(|value| *value > 0)
    }

    /// Whether `amount` is more than allowed.
    pub(crate) fn exceeded(&self, quota: Quota, amount: u64) -> bool {
        self.get(quota).is_some_and(|max| amount > u64::from(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_defaults_are_those_of_xen() {
        let quotas = Quotas::default();
        for (name, value) in [
            ("nodes", 1000),
            ("watches", 128),
            ("transactions", 10),
            ("outstanding", 20),
            ("transaction-nodes", 1024),
            ("memory", 2_621_440),
            ("node-size", 2048),
            ("path-max", 2048),
            ("permissions", 5),
            ("node-permissions", 5),
            ("soft-memory", 2_097_152),
        ] {
            let named = Named::parse(name.as_bytes()).expect("known");
            assert_eq!(quotas.value(named), value, "{name}");
        }
        assert_eq!(Named::parse(b"soft-nodes"), Err(Errno::EINVAL));
        assert_eq!(hard(b"soft-memory"), Err(Errno::EINVAL));
    }

    #[test]
    fn zero_is_no_limit() {
        let mut quotas = Quotas::default();
        quotas.set(Named::Hard(Quota::Nodes), 0);
        let limits = Limits::of_guest(quotas);
        assert!(!limits.exceeded(Quota::Nodes, u64::MAX));
        assert!(limits.exceeded(Quota::Watches, 129) && !limits.exceeded(Quota::Watches, 128));
        assert!(!Limits::none().exceeded(Quota::Watches, 129));
    }
}
