//! The hash behind state digests: small, seedless, the same on every machine.
//!
//! It is meant to notice faults (a flipped bit, a diverged replica), not to
//! resist somebody who looks for collisions.

/// Scrambles one word (the finalizer of `SplitMix64`); a bijection.
#[must_use]
#[inline]
pub const fn mix64(mut word: u64) -> u64 {
    word ^= word >> 30;
    word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^= word >> 27;
    word = word.wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Digests a sequence of words and byte strings, order-sensitive and
/// length-delimited.
#[derive(Clone, Copy, Debug)]
pub struct Mixer(u64);

impl Default for Mixer {
    fn default() -> Self {
        Self::new()
    }
}

impl Mixer {
    /// Starts an empty digest.
    #[must_use]
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Adds a word.
    #[must_use]
    #[inline]
    pub const fn word(self, word: u64) -> Self {
        Self(mix64(self.0.rotate_left(5) ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15))
    }

    /// Adds a byte string and its length.
    #[must_use]
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut state = self.word(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            state = state.word(u64::from_le_bytes(word));
        }
        let tail = chunks.remainder();
        if !tail.is_empty() {
            let mut word = [0; 8];
            word[..tail.len()].copy_from_slice(tail);
            state = state.word(u64::from_le_bytes(word));
        }
        state
    }

    /// The digest so far.
    #[must_use]
    #[inline]
    pub const fn finish(self) -> u64 {
        self.0
    }
}
