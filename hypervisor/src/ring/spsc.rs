//! One producer, one consumer.

use std::sync::atomic::{Ordering, fence};

use thiserror::Error;

use super::{Circle, LINE_BYTES, PartyId, RecordHead, RingError, record_bytes};
use crate::memory::{View, ViewMut, WORD_BYTES};

// The header line.
const CONSUMER: usize = 0;
const START: usize = 8;
const HEAD: usize = 16;
const WANTS_ROOM: usize = 24;
// The position line.
const PRODUCER: usize = 0;
const POSITION: usize = 8;

/// Flags of a record that is a whole message.
pub(super) const FIRST: u8 = 1;
pub(super) const LAST: u8 = 2;

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// No room: the consumer has to take something first. It will be told that
    /// the producer waits (see [`Consumer::release`]).
    #[error("the ring is full")]
    Full,
    /// The record would not even fit into the empty ring.
    #[error("a record of {len} bytes never fits")]
    TooLarge {
        /// The record's length in bytes.
        len: usize,
    },
    /// There is no consumer (see [`Producer::bind`]).
    #[error("the ring has no consumer")]
    Unbound,
}

/// The memory that a producer works on.
#[derive(Debug)]
pub struct ProducerParts {
    /// The producer's header line, [`LINE_BYTES`] long.
    pub header: ViewMut,
    /// The data; a power of two long.
    pub data: ViewMut,
    /// The consumer's position line.
    pub position: View,
}

/// The writing end of a ring.
#[derive(Debug)]
pub struct Producer {
    header: ViewMut,
    data: Circle<ViewMut>,
    position: View,
    me: PartyId,
    consumer: Option<PartyId>,
    /// Where the ring began for its consumer.
    start: u64,
    head: u64,
    published: u64,
    /// What the consumer was last seen to have taken.
    taken: u64,
    waiting: bool,
}

impl Producer {
    /// The producer `me` of a ring whose header is still zero.
    #[must_use]
    pub fn new(parts: ProducerParts, me: PartyId) -> Self {
        let ProducerParts { header, data, position } = parts;
        assert!(header.len() >= LINE_BYTES && position.len() >= LINE_BYTES, "lines are whole");
        let len = data.len();
        Self {
            header,
            data: Circle::new(data, len),
            position,
            me,
            consumer: None,
            start: 0,
            head: 0,
            published: 0,
            taken: 0,
            waiting: false,
        }
    }

    /// The producer `me` of a ring that `consumer` reads, and that another process
    /// has written as the same party: goes on behind what that one has shown.
    #[must_use]
    pub fn resume(parts: ProducerParts, me: PartyId, consumer: PartyId) -> Self {
        let mut ring = Self::new(parts, me);
        ring.published = ring.header.load(HEAD);
        ring.head = ring.published;
        if ring.header.load(CONSUMER) == consumer.0 {
            ring.start = ring.header.load(START);
            // Nothing older than this is in the ring. A consumer that does not tell what it
            // has taken gets no more before it does.
            let oldest = ring.head.saturating_sub(ring.data.capacity());
            ring.taken = ring.start.max(oldest);
            ring.look_at_consumer();
            ring.consumer = Some(consumer);
            // It may have been told so, and is told again when there is no room.
            ring.header.store(WANTS_ROOM, 0);
        } else {
            ring.bind(consumer);
        }
        ring
    }

    /// Takes the ring from its consumer: what it did not take is dropped.
    pub fn unbind(&mut self) {
        self.header.store_release(CONSUMER, 0);
        self.consumer = None;
    }

    /// Dedicates the ring to a consumer. It begins with the next record; what its
    /// predecessor did not take is dropped. Binding the same consumer again
    /// changes nothing.
    pub fn bind(&mut self, consumer: PartyId) {
        if self.consumer == Some(consumer) {
            return;
        }
        self.header.store_release(CONSUMER, 0);
        self.head = self.published;
        self.taken = self.published;
        self.start = self.published;
        self.header.store(START, self.start);
        self.header.store(HEAD, self.published);
        self.header.store_release(CONSUMER, consumer.0);
        self.consumer = Some(consumer);
        self.clear_waiting();
    }

    /// Writes a record of at most [`Producer::max_record`] bytes. The consumer
    /// sees it after [`Producer::publish`].
    ///
    /// # Errors
    /// When it does not fit now, or never, or there is nobody to take it. Nothing
    /// was written then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PushError> {
        self.push_flagged(bytes, FIRST | LAST)
    }

    pub(super) fn push_flagged(&mut self, bytes: &[u8], flags: u8) -> Result<(), PushError> {
        if self.consumer.is_none() {
            return Err(PushError::Unbound);
        }
        if bytes.len() > self.max_record() {
            return Err(PushError::TooLarge { len: bytes.len() });
        }
        let need = record_bytes(bytes.len()) as u64;
        if self.room() < need {
            self.look_at_consumer();
            if self.room() < need {
                self.ask_for_room();
                if self.room() < need {
                    return Err(PushError::Full);
                }
            }
            self.clear_waiting();
        }
        let head = RecordHead { len: bytes.len() as u32, flags };
        self.data.set_word(self.head, head.encode(self.head, bytes));
        self.data.write(self.head + WORD_BYTES as u64, bytes);
        self.head += need;
        Ok(())
    }

    /// Shows the records written so far to the consumer. Says whether there were
    /// any, that is, whether the consumer may have to be woken.
    pub fn publish(&mut self) -> bool {
        let news = self.published != self.head;
        if news {
            // The whole line, though most of it has not changed: memory that was
            // spoiled must not silence the ring for good.
            self.header.store(START, self.start);
            self.header.store_release(HEAD, self.head);
            self.header.store_release(CONSUMER, self.consumer.map_or(0, |consumer| consumer.0));
            self.published = self.head;
        }
        news
    }

    /// The longest record in bytes.
    #[must_use]
    pub fn max_record(&self) -> usize {
        (self.data.capacity() as usize - WORD_BYTES).min(u32::MAX as usize - WORD_BYTES)
    }

    /// Bytes written that the consumer has not been seen to take.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.head - self.taken
    }

    /// The consumer the ring is dedicated to.
    #[must_use]
    pub fn consumer(&self) -> Option<PartyId> {
        self.consumer
    }

    fn room(&self) -> u64 {
        self.data.capacity() - (self.head - self.taken)
    }

    fn look_at_consumer(&mut self) {
        if self.position.load_acquire(PRODUCER) != self.me.0 {
            return;
        }
        let position = self.position.load_acquire(POSITION);
        // A position that goes back, or beyond what was shown, is a lie; whoever
        // tells it gets no more room.
        if position >= self.taken && position <= self.published {
            self.taken = position;
        }
    }

    fn ask_for_room(&mut self) {
        if !self.waiting {
            self.header.store(WANTS_ROOM, 1);
            self.waiting = true;
        }
        // Either the consumer sees the wish after it moved on, or we see its move.
        fence(Ordering::SeqCst);
        self.look_at_consumer();
    }

    fn clear_waiting(&mut self) {
        if self.waiting {
            self.header.store(WANTS_ROOM, 0);
            self.waiting = false;
        }
    }
}

/// The memory that a consumer works on.
#[derive(Debug)]
pub struct ConsumerParts {
    /// The producer's header line, [`LINE_BYTES`] long.
    pub header: View,
    /// The data; a power of two long.
    pub data: View,
    /// The consumer's own position line.
    pub position: ViewMut,
}

impl ConsumerParts {
    /// Forgets how far the producer's last life was read. Where a producer comes
    /// back under its id, with its memory emptied, that place means nothing.
    #[must_use]
    pub fn forgetful(self) -> Self {
        self.position.store(PRODUCER, 0);
        self.position.store(POSITION, 0);
        self
    }
}

/// The reading end of a ring.
#[derive(Debug)]
pub struct Consumer {
    header: View,
    data: Circle<Box<View>>,
    position: ViewMut,
    me: PartyId,
    producer: PartyId,
    bound: bool,
    at: u64,
    head: u64,
    /// Up to here, nobody who comes after this consumer needs anything.
    done: u64,
    /// The position that the producer knows.
    released: u64,
    /// The position at the last look whether the producer waits.
    looked: u64,
    failed: Option<RingError>,
}

impl Consumer {
    /// The consumer `me` of what `producer` writes. Begins as soon as the producer
    /// has dedicated the ring to it.
    #[must_use]
    pub fn new(parts: ConsumerParts, me: PartyId, producer: PartyId) -> Self {
        let ConsumerParts { header, data, position } = parts;
        assert!(header.len() >= LINE_BYTES && position.len() >= LINE_BYTES, "lines are whole");
        let len = data.len();
        Self {
            header,
            data: Circle::new(Box::new(data), len),
            position,
            me,
            producer,
            bound: false,
            at: 0,
            head: 0,
            done: 0,
            released: 0,
            looked: 0,
            failed: None,
        }
    }

    /// Replaces the content of `out` by the next record. `Ok(false)` when there is
    /// none.
    ///
    /// # Errors
    /// When the ring's content is impossible; then for ever.
    pub fn pop_into(&mut self, out: &mut Vec<u8>) -> Result<bool, RingError> {
        if self.at == self.head && !self.look_at_producer()? {
            return Ok(false);
        }
        self.done_with_all();
        out.clear();
        self.append_next(out).map(|_| true)
    }

    /// Looks for news of the producer. Says whether there is something to take.
    pub(super) fn look_at_producer(&mut self) -> Result<bool, RingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.header.load_acquire(CONSUMER) != self.me.0 {
            // Not dedicated to us (yet, or any more): what is shown is not for us.
            return Ok(false);
        }
        if !self.bound {
            self.begin()?;
        }
        let head = self.header.load_acquire(HEAD);
        if head < self.at {
            return Err(self.fail("the head went back"));
        }
        if head - self.at > self.data.capacity() {
            return Err(self.fail("more than the ring holds"));
        }
        if !head.is_multiple_of(WORD_BYTES as u64) {
            return Err(self.fail("the head is not aligned"));
        }
        self.head = head;
        Ok(self.at != head)
    }

    fn begin(&mut self) -> Result<(), RingError> {
        let start = self.header.load_acquire(START);
        if !start.is_multiple_of(WORD_BYTES as u64) {
            return Err(self.fail("the start is not aligned"));
        }
        // A consumer that comes back to the same producer goes on where it was.
        let known = self.position.load(PRODUCER) == self.producer.0;
        let position = self.position.load(POSITION);
        self.at = if known { position.max(start) } else { start };
        self.head = self.at;
        self.done = self.at;
        self.released = self.at;
        self.looked = self.at;
        // Whose place it is must not be in doubt for a moment, once something was taken:
        // the consumer that comes after this one could not go on.
        if !known {
            self.position.store_release(PRODUCER, 0);
        }
        self.position.store_release(POSITION, self.at);
        self.position.store_release(PRODUCER, self.producer.0);
        self.bound = true;
        Ok(())
    }

    /// Appends the next record to `out` and tells its flags. Only after
    /// [`Consumer::look_at_producer`] said there is one.
    pub(super) fn append_next(&mut self, out: &mut Vec<u8>) -> Result<u8, RingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let word = self.data.word(self.at);
        let head = RecordHead::decode(word);
        let len = head.len as usize;
        let size = record_bytes(len) as u64;
        if size > self.head - self.at {
            return Err(self.fail("a record longer than what was shown"));
        }
        let begin = out.len();
        self.data.append_to(self.at + WORD_BYTES as u64, len, out);
        if !head.fits(word, self.at, &out[begin..]) {
            out.truncate(begin);
            return Err(self.fail("no record where one should begin"));
        }
        self.at += size;
        Ok(head.flags)
    }

    /// Nobody who comes after this consumer needs what was taken so far. If that is
    /// much, the producer gets its room back.
    pub(super) fn done_with_all(&mut self) {
        self.done = self.at;
        if self.done - self.released > self.data.capacity() / 4 {
            self.show_position();
        }
    }

    /// Bytes that the ring holds.
    pub(super) fn capacity(&self) -> usize {
        self.data.capacity() as usize
    }

    /// Whether a record is at hand without looking at the producer again.
    pub(super) fn has_more(&self) -> bool {
        self.at != self.head
    }

    /// Gives the room of all records taken so far back. To be called after each
    /// round of taking. Says whether the producer waits for room, that is, has to
    /// be woken.
    pub fn release(&mut self) -> bool {
        self.done = self.at;
        self.release_done()
    }

    /// As [`Self::release`], for what it is [done with](Self::done_with_all).
    pub(super) fn release_done(&mut self) -> bool {
        // Without new room since the last look, a producer that waits for some found
        // none either, and will be seen when it has shown what fills the ring.
        if self.looked == self.done || self.failed.is_some() {
            return false;
        }
        self.looked = self.done;
        self.show_position();
        fence(Ordering::SeqCst);
        self.header.load(WANTS_ROOM) != 0
    }

    fn show_position(&mut self) {
        if self.released != self.done {
            self.position.store_release(POSITION, self.done);
            // Has not changed, but may have been spoiled (see `Producer::publish`).
            self.position.store_release(PRODUCER, self.producer.0);
            self.released = self.done;
        }
    }

    pub(super) fn fail(&mut self, what: &'static str) -> RingError {
        self.fail_with(RingError::Corrupt(what))
    }

    pub(super) fn fail_with(&mut self, error: RingError) -> RingError {
        self.failed = Some(error);
        error
    }
}

#[cfg(test)]
mod tests;
