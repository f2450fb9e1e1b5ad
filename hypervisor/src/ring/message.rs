//! Messages of any size, split into the records of a ring.

use std::collections::VecDeque;

use thiserror::Error;

use super::spsc::{Consumer, FIRST, LAST, Producer, PushError};
use super::{PartyId, RingError};

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The ring and the backlog are full.
    #[error("the backlog is full")]
    BacklogFull,
    /// There is no receiver.
    #[error("nobody receives")]
    Unbound,
}

/// Weight of a waiting message in the backlog beside its bytes, so that very
/// many empty messages are bounded too.
const MESSAGE_WEIGHT: usize = 32;

/// The sending end: messages of any size, in order. What the ring cannot take
/// waits in a backlog bounded in bytes.
#[derive(Debug)]
pub struct Sender {
    ring: Producer,
    backlog: VecDeque<Box<[u8]>>,
    backlog_bytes: usize,
    backlog_max: usize,
    /// Bytes of the backlog's first message that are in the ring already.
    sent_of_first: usize,
    max_fragment: usize,
}

impl Sender {
    /// A sender with a backlog of at most `backlog_max` bytes.
    #[must_use]
    pub fn new(ring: Producer, backlog_max: usize) -> Self {
        let max_fragment = ring.max_record() / 4;
        Self {
            ring,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            backlog_max,
            sent_of_first: 0,
            max_fragment,
        }
    }

    /// Dedicates the ring to a receiver. What was meant for its predecessor is
    /// dropped.
    pub fn bind(&mut self, receiver: PartyId) {
        self.discard_backlog();
        self.ring.bind(receiver);
    }

    /// Takes the ring from its receiver, and drops what was meant for it.
    pub fn unbind(&mut self) {
        self.discard_backlog();
        self.ring.unbind();
    }

    /// Drops what has not reached the ring yet. A receiver discards a message of
    /// which it got the beginning only.
    pub fn discard_backlog(&mut self) {
        self.backlog.clear();
        self.backlog_bytes = 0;
        self.sent_of_first = 0;
    }

    /// Takes a message. The receiver sees it after [`Sender::flush`].
    ///
    /// # Errors
    /// When ring and backlog are full; the message was not taken then.
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        if self.backlog.is_empty() && message.len() <= self.max_fragment {
            match self.ring.push(message) {
                Ok(()) => return Ok(()),
                Err(PushError::Unbound) => return Err(SendError::Unbound),
                Err(PushError::Full | PushError::TooLarge { .. }) => {}
            }
        }
        if self.ring.consumer().is_none() {
            return Err(SendError::Unbound);
        }
        let weight = message.len() + MESSAGE_WEIGHT;
        if weight > self.backlog_max.saturating_sub(self.backlog_bytes) {
            return Err(SendError::BacklogFull);
        }
        self.backlog_bytes += weight;
        self.backlog.push_back(message.into());
        Ok(())
    }

    /// Moves as much of the backlog into the ring as fits and shows it to the
    /// receiver. Says whether there was anything new, that is, whether the receiver
    /// may have to be woken.
    pub fn flush(&mut self) -> bool {
        while let Some(first) = self.backlog.front() {
            let rest = &first[self.sent_of_first..];
            let fragment = &rest[..rest.len().min(self.max_fragment)];
            let mut flags = 0;
            if self.sent_of_first == 0 {
                flags |= FIRST;
            }
            if fragment.len() == rest.len() {
                flags |= LAST;
            }
            if self.ring.push_flagged(fragment, flags).is_err() {
                break;
            }
            self.sent_of_first += fragment.len();
            if flags & LAST != 0 {
                self.backlog_bytes -= first.len() + MESSAGE_WEIGHT;
                self.backlog.pop_front();
                self.sent_of_first = 0;
            }
        }
        self.ring.publish()
    }

    /// Whether messages wait for room in the ring. They go out with a later
    /// [`Sender::flush`]; a party with a backlog must flush once more between saying
    /// that it sleeps and sleeping, or room that came meanwhile is not noticed.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Bytes waiting for room in the ring.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }
}

/// The receiving end: puts messages together again.
#[derive(Debug)]
pub struct Receiver {
    ring: Consumer,
    partial: Vec<u8>,
    assembling: bool,
    /// It may begin in the middle of a message.
    follows: bool,
    message_max: usize,
}

impl Receiver {
    /// A receiver of messages of at most `message_max` bytes.
    #[must_use]
    pub fn new(ring: Consumer, message_max: usize) -> Self {
        Self { ring, partial: Vec::new(), assembling: false, follows: false, message_max }
    }

    /// One that comes after another receiver: the rest of a message of which that one
    /// has taken the beginning is left out.
    #[must_use]
    pub fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    /// Replaces the content of `out` by the next message. `Ok(false)` when no whole
    /// message is there. The work of one call is bounded by the ring's size.
    ///
    /// A message is done with when the next one is asked for: another receiver that
    /// comes after this one begins with it at the latest, unless it fills the ring.
    ///
    /// # Errors
    /// When the ring's content is impossible or a message too large; then for ever.
    pub fn receive(&mut self, out: &mut Vec<u8>) -> Result<bool, RingError> {
        if !self.ring.has_more() && !self.ring.look_at_producer()? {
            return Ok(false);
        }
        if !self.assembling {
            self.ring.done_with_all();
        }
        while self.ring.has_more() {
            if self.is_large() {
                self.ring.done_with_all();
            }
            out.clear();
            let flags = self.ring.append_next(out)?;
            if flags & FIRST != 0 {
                // The sender dropped the rest of a message that it had begun.
                self.partial.clear();
                self.assembling = true;
                self.follows = false;
            } else if self.follows {
                continue;
            } else if !self.assembling {
                return Err(self.ring.fail("a message without a beginning"));
            }
            if out.len() > self.message_max - self.partial.len() {
                return Err(self
                    .ring
                    .fail_with(RingError::MessageTooLarge { max: self.message_max }));
            }
            if flags & LAST == 0 {
                self.partial.extend_from_slice(out);
                continue;
            }
            self.assembling = false;
            if flags & FIRST == 0 {
                self.partial.extend_from_slice(out);
                std::mem::swap(out, &mut self.partial);
                // Room for one large message is not kept for ever.
                self.partial = Vec::new();
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether something is there to be received: a message, a part of one, or
    /// an error.
    pub fn has_more(&mut self) -> bool {
        self.ring.has_more() || self.ring.look_at_producer().unwrap_or(true)
    }

    /// Gives the room of what was received back. To be called after each round, when
    /// all of it is done with. Says whether the sender waits for room, that is, has to be
    /// woken.
    pub fn release(&mut self) -> bool {
        if !self.assembling || self.is_large() {
            self.ring.done_with_all();
        }
        self.ring.release_done()
    }

    /// Whether the message that is being put together needs the room of its beginning.
    fn is_large(&self) -> bool {
        self.partial.len() > self.ring.capacity() / 2
    }
}

#[cfg(test)]
mod tests;
