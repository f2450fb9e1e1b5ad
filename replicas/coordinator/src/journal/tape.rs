//! A stretch of a stream that must not be lost.

use hypervisor::memory::{ViewMut, WORD_BYTES};

/// What a tape holds makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is kept of a stream is damaged")]
pub(crate) struct TapeError;

/// Bytes of a stream from a certain place on. They are appended to one half of the
/// tape; when that is full, or nothing of it matters any more, the tape goes on in the
/// other half, with what still matters.
///
/// ```text
/// half:  place of the first byte in the stream | length | bytes, filled up | ...
/// ```
#[derive(Debug)]
pub(super) struct Tape {
    /// Which half, and up to where it counts.
    end: ViewMut,
    halves: [ViewMut; 2],
    half: usize,
    len: usize,
}

/// The bit of the end that says which half.
const HALF: u64 = 1 << 63;
/// Where records begin.
const BEGIN: usize = WORD_BYTES;

/// Up to where a tape is to count.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    word: u64,
    len: usize,
}

impl End {
    /// As it is written down.
    pub(super) fn word(self) -> u64 {
        self.word
    }
}

impl Tape {
    /// A tape without bytes, of a stream that begins.
    pub(super) fn new(end: ViewMut, halves: [ViewMut; 2]) -> Self {
        let tape = Self { end, halves, half: 0, len: BEGIN };
        tape.halves[0].store_release(0, 0);
        tape.end.store_release(0, BEGIN as u64);
        tape
    }

    /// A tape that another host has written.
    pub(super) fn found(end: ViewMut, halves: [ViewMut; 2]) -> Self {
        let word = end.load(0);
        let mut tape = Self { end, halves, half: 0, len: BEGIN };
        tape.settle(word);
        tape
    }

    /// It counts up to here: the word of an [`End`].
    pub(super) fn settle(&mut self, word: u64) {
        self.half = usize::from(word & HALF != 0);
        self.len = usize::try_from(word & !HALF).unwrap_or(usize::MAX);
        self.end.store_release(0, word);
    }

    fn end(&self, len: usize) -> End {
        let half = if self.half == 1 { HALF } else { 0 };
        End { word: half | len as u64, len }
    }

    /// Writes bytes behind those that count; they do once [`Self::set_end`] says so.
    /// `None` when there is no room.
    pub(super) fn write(&self, bytes: &[u8]) -> Option<End> {
        let half = &self.halves[self.half];
        let len = self.len + WORD_BYTES + bytes.len().next_multiple_of(WORD_BYTES);
        if len > half.len() {
            return None;
        }
        half.store_release(self.len, bytes.len() as u64);
        half.write(self.len + WORD_BYTES, bytes);
        Some(self.end(len))
    }

    pub(super) fn set_end(&mut self, end: End) {
        self.len = end.len;
        self.end.store_release(0, end.word);
    }

    /// Goes on in the other half, with these bytes of the stream from `place` on;
    /// whether there is room.
    pub(super) fn restart(&mut self, place: u64, bytes: &[u8]) -> bool {
        let (before, len) = (self.half, self.len);
        self.half = 1 - self.half;
        self.len = BEGIN;
        self.halves[self.half].store_release(0, place);
        let end = if bytes.is_empty() { Some(self.end(BEGIN)) } else { self.write(bytes) };
        match end {
            Some(end) => {
                self.set_end(end);
                true
            }
            None => {
                (self.half, self.len) = (before, len);
                false
            }
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The place of the first byte, and all of them.
    pub(super) fn read(&self) -> Result<(u64, Vec<u8>), TapeError> {
        let half = &self.halves[self.half];
        if self.len > half.len() || self.len < BEGIN {
            return Err(TapeError);
        }
        let (mut at, mut bytes) = (BEGIN, Vec::new());
        while at < self.len {
            let len = usize::try_from(half.load(at)).map_err(|_| TapeError)?;
            let room = self.len - at - WORD_BYTES;
            if len > room {
                return Err(TapeError);
            }
            if len > 0 {
                half.append_to(at + WORD_BYTES, len, &mut bytes);
            }
            at += WORD_BYTES + len.next_multiple_of(WORD_BYTES);
        }
        if at != self.len {
            return Err(TapeError);
        }
        Ok((half.load(0), bytes))
    }
}
