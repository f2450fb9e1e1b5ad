//! Determinism, digests, snapshots, corruption, garbage.
