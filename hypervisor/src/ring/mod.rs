//! Rings of byte records in shared memory, between parties that do not trust
//! each other and may die at any instruction.
//!
//! * [`Producer`] and [`Consumer`]: one writer, one reader.
//! * [`Sender`] and [`Receiver`]: on top of these, messages of any size.
//! * [`IntakeWriter`] and [`IntakeReader`]: one writer, several readers, numbered
//!   records that stay until the writer frees them.
//!
//! **Ownership.** Each party writes only its own memory. The producer's region
//! holds the data and the producer's header line; the consumer's region holds
//! the consumer's position line. Positions are bytes since the ring's first use
//! and never go back.
//!
//! ```text
//! header line   (producer's):  consumer id | start | head | wants room
//! position line (consumer's):  producer id | position
//! record:                      length, flags, check (8 bytes) | bytes, filled up to 8
//! ```
//!
//! **Death.** A record is written completely before the head that covers it is
//! published, so the consumer of a dead producer sees a prefix of whole records.
//! A position counts only when it bears the producer's id, a head only when it
//! bears the consumer's id, so nobody takes what a predecessor left behind for
//! something of its own.
//!
//! **Damage.** A record bears a check over its bytes and its place, so that bits
//! that changed by themselves, and what an earlier round left, are no record.
//!
//! **Hostility.** Whatever is read from the other side's memory is checked.
//! What cannot be true ends the ring with an error for good; a consumer that
//! lies about its position harms only itself.

mod intake;
mod message;
mod spsc;
#[cfg(test)]
mod testing;

pub use intake::{IntakeError, IntakePushError, IntakeReader, IntakeWriter};
pub use message::{Receiver, SendError, Sender};
pub use spsc::{Consumer, ConsumerParts, Producer, ProducerParts, PushError};

use thiserror::Error;

use crate::memory::{View, ViewMut, WORD_BYTES};

/// Bytes of a header or position line: a cache line, so that two parties do not
/// write the same one.
pub const LINE_BYTES: usize = 64;

/// Why a ring's content cannot be right. The ring is of no use afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// A position or length in shared memory is impossible.
    #[error("the ring is corrupt: {0}")]
    Corrupt(&'static str),
    /// A message is larger than agreed.
    #[error("a message exceeds {max} bytes")]
    MessageTooLarge {
        /// The agreed limit in bytes.
        max: usize,
    },
}

/// One of the two ends of a ring, as told in its lines: a replica, or the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartyId(pub u64);

impl PartyId {
    /// The host. Replicas are named by their [`crate::ReplicaId`].
    pub const HOST: Self = Self(u64::MAX);
}

impl From<crate::ReplicaId> for PartyId {
    fn from(replica: crate::ReplicaId) -> Self {
        Self(replica.0)
    }
}

/// What every record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RecordHead {
    len: u32,
    flags: u8,
}

/// Bits of a record's first word that its check takes.
const CHECK_SHIFT: u32 = 40;

impl RecordHead {
    /// The first word of a record of these bytes that begins at `position`.
    fn encode(self, position: u64, bytes: &[u8]) -> u64 {
        let head = (u64::from(self.flags) << 32) | u64::from(self.len);
        let mut check = crc32fast::Hasher::new();
        check.update(&head.to_le_bytes());
        check.update(&position.to_le_bytes());
        check.update(bytes);
        (u64::from(check.finalize()) << CHECK_SHIFT) | head
    }

    /// What the first word says, which holds only if [`Self::fits`].
    fn decode(word: u64) -> Self {
        Self { len: word as u32, flags: (word >> 32) as u8 }
    }

    /// Whether `word` is the first one of a record of these bytes, there.
    fn fits(self, word: u64, position: u64, bytes: &[u8]) -> bool {
        self.encode(position, bytes) == word
    }
}

/// Bytes that a record takes in the ring.
fn record_bytes(len: usize) -> usize {
    WORD_BYTES + len.next_multiple_of(WORD_BYTES)
}

/// The data of a ring: positions wrap around in it.
#[derive(Clone, Debug)]
struct Circle<V> {
    view: V,
    mask: u64,
}

impl<V: std::ops::Deref<Target = View>> Circle<V> {
    fn capacity(&self) -> u64 {
        self.mask + 1
    }

    fn place(&self, position: u64) -> usize {
        (position & self.mask) as usize
    }

    fn word(&self, position: u64) -> u64 {
        self.view.load(self.place(position))
    }

    fn append_to(&self, position: u64, len: usize, out: &mut Vec<u8>) {
        let place = self.place(position);
        let until_end = self.view.len() - place;
        self.view.append_to(place, len.min(until_end), out);
        if len > until_end {
            self.view.append_to(0, len - until_end, out);
        }
    }
}

impl<V> Circle<V> {
    /// `len` must be a power of two of at least one word.
    fn new(view: V, len: usize) -> Self {
        assert!(len.is_power_of_two() && len >= LINE_BYTES, "a ring's size is a power of two");
        Self { view, mask: len as u64 - 1 }
    }
}

impl Circle<ViewMut> {
    fn set_word(&self, position: u64, value: u64) {
        self.view.store((position & self.mask) as usize, value);
    }

    fn write(&self, position: u64, bytes: &[u8]) {
        let place = (position & self.mask) as usize;
        let until_end = self.view.len() - place;
        if bytes.len() <= until_end {
            self.view.write(place, bytes);
        } else {
            let (front, back) = bytes.split_at(until_end);
            self.view.write(place, front);
            self.view.write(0, back);
        }
    }
}
