//! How the memory of a replica is shared out.
//!
//! All replicas hold the same store, so none may come near its limit by it. A store
//! is there more than once: what was frozen stays while the store is changed, and a
//! snapshot is bytes on its way and a store again where it is checked and restored.

use super::Config;

/// What a replica takes that does not go by the size of a store: stacks of its
/// threads, the database's buffers, outputs that wait.
const FIXED_BYTES: u64 = 32 << 20;
/// The log gets this part.
const LOG_SHARE: u64 = 16;
/// The store may take the first of these parts. In a virtual machine that is restored,
/// there are the bytes of a snapshot, not yet at their place, and two stores. The
/// machine gets the second part: its monitor has the log beside it, and snapshots on
/// their way.
const STORE_AND_GUEST_SHARES: (u64, u64) = (10, 2);
/// The same in lockstep, where one store more is in the replica's process.
const LOCKSTEP_SHARES: (u64, u64) = (12, 3);
/// No store is larger. A third of it is the longest snapshot, which a primary has to
/// hand to a new replica sooner than it is taken for hung.
const STORE_MAX_BYTES: u64 = 64 << 20;

/// See the module; all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryShares {
    /// What a replica may take.
    pub(crate) whole: u64,
    /// What a virtual machine gets, if it can have that.
    pub(crate) guest: u64,
    /// What a log may take.
    pub(crate) log: u64,
    /// What the store may take at most.
    pub(crate) store_max: u64,
    /// What the store may take, as configured.
    pub(crate) store: u64,
}

impl MemoryShares {
    /// The shares by the configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let limits = &config.limits;
        let lockstep = config.xenstore.lockstep;
        let (of_store, of_guest) = if lockstep { LOCKSTEP_SHARES } else { STORE_AND_GUEST_SHARES };
        let whole = u64::from(limits.memory_mib) << 20;
        let rest = whole.saturating_sub(FIXED_BYTES);
        let store_max = (rest / of_store).min(STORE_MAX_BYTES);
        let store = match limits.store_mib {
            0 => store_max,
            mib => u64::from(mib) << 20,
        };
        Self { whole, guest: rest / of_guest, log: rest / LOG_SHARE, store_max, store }
    }

    /// What the store may take, KiB.
    pub(crate) fn store_kib(&self) -> u32 {
        u32::try_from(self.store / 1024).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::LimitsConfig;
    use super::*;

    fn shares(memory_mib: u32, store_mib: u32, lockstep: bool) -> MemoryShares {
        let limits = LimitsConfig { memory_mib, store_mib, events: 64 };
        let mut config = Config { limits, ..Config::default() };
        config.xenstore.lockstep = lockstep;
        MemoryShares::of(&config)
    }

    #[test]
    fn the_store_follows_the_memory_unless_it_is_set() {
        for (memory_mib, kib) in
            [(64, 3276), (256, 22_937), (1024, 64 * 1024), (1_048_576, 64 * 1024)]
        {
            assert_eq!(shares(memory_mib, 0, false).store_kib(), kib, "{memory_mib} MiB");
        }
        assert_eq!(shares(1024, 7, false).store_kib(), 7 * 1024);
    }

    /// What is needed at once, from the smallest memory to the largest.
    #[test]
    fn a_store_at_its_limit_has_room_for_what_it_needs_for_a_while() {
        for (bits, lockstep) in (6..=20).flat_map(|bits| [(bits, false), (bits, true)]) {
            let MemoryShares { whole, guest, log, store, .. } = shares(1 << bits, 0, lockstep);
            // Frozen and changed; or restored from bytes that were moved as they grew.
            assert!(guest >= 4 * store);
            // And both stores once more, where the process has them too.
            let beside = if lockstep { 2 * store } else { 0 };
            let snapshots = 4 * store;
            let monitor = FIXED_BYTES + log + snapshots + beside;
            assert!(whole - guest >= monitor, "2^{bits} MiB");
            assert!(whole >= monitor + 2 * store, "2^{bits} MiB");
        }
    }
}
