//! The intake ring: numbered records that one writer keeps until it frees them
//! and several readers read at their own pace.
//!
//! ```text
//! header line (writer's):  head | oldest position | last number
//! record:                  length, check (8 bytes) | number (8 bytes) | bytes
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;

use super::{Circle, LINE_BYTES, RecordHead, record_bytes};
use crate::memory::{View, ViewMut, WORD_BYTES};

const HEAD: usize = 0;
const OLDEST: usize = 8;
const LAST_NO: usize = 16;

/// Why an input was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IntakePushError {
    /// Older inputs have to be freed first.
    #[error("the intake is full")]
    Full,
    /// The input would not even fit into the empty ring.
    #[error("an input of {len} bytes never fits")]
    TooLarge {
        /// The input's length in bytes.
        len: usize,
    },
    /// Numbers must follow each other.
    #[error("input {found} after {last}")]
    OutOfOrder {
        /// The number given.
        found: u64,
        /// The number of the last input.
        last: u64,
    },
}

/// Why an input could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IntakeError {
    /// The writer freed what was to be read. [`IntakeReader::seek_oldest`] helps.
    #[error("the writer freed the next input")]
    Overtaken,
    /// The content of the ring is impossible.
    #[error("the intake is corrupt: {0}")]
    Corrupt(&'static str),
}

/// The writing end of the intake.
#[derive(Debug)]
pub struct IntakeWriter {
    header: ViewMut,
    data: Circle<ViewMut>,
    head: u64,
    oldest: u64,
    last_no: u64,
    /// Ends of the records kept, oldest first. Their numbers are consecutive and
    /// end with `last_no`.
    ends: VecDeque<u64>,
}

impl IntakeWriter {
    /// The writer of an intake whose memory is still zero.
    #[must_use]
    pub fn new(header: ViewMut, data: ViewMut) -> Self {
        assert!(header.len() >= LINE_BYTES, "a line is whole");
        let len = data.len();
        Self {
            header,
            data: Circle::new(data, len),
            head: 0,
            oldest: 0,
            last_no: 0,
            ends: VecDeque::new(),
        }
    }

    /// The writer of an intake that another one has written before, and that readers
    /// may be reading: goes on where that one ended, wherever it was interrupted.
    ///
    /// # Errors
    /// [`IntakeError::Corrupt`] when there is no such intake.
    pub fn resume(header: ViewMut, data: ViewMut) -> Result<Self, IntakeError> {
        let mut writer = Self::new(header, data);
        let mut reader = IntakeReader::new(writer.header.read_only(), writer.data.view.read_only());
        writer.oldest = reader.at;
        let mut input = Vec::new();
        while let Some(no) = reader.next(&mut input)? {
            writer.last_no = no;
            writer.ends.push_back(reader.at);
        }
        writer.head = reader.at;
        if writer.ends.is_empty() {
            // The last number is shown after the input that bears it.
            writer.last_no = writer.header.load(LAST_NO);
        } else {
            writer.header.store(LAST_NO, writer.last_no);
        }
        Ok(writer)
    }

    /// Appends input `no` and shows it to the readers. The first one may bear any
    /// number but 0, each later one the next.
    ///
    /// # Errors
    /// When there is no room, or the number is not the next. Nothing was written
    /// then.
    pub fn push(&mut self, no: u64, bytes: &[u8]) -> Result<(), IntakePushError> {
        if no == 0 || (self.last_no != 0 && no - 1 != self.last_no) {
            return Err(IntakePushError::OutOfOrder { found: no, last: self.last_no });
        }
        let need = (record_bytes(bytes.len()) + WORD_BYTES) as u64;
        if need > self.data.capacity() || u32::try_from(bytes.len()).is_err() {
            return Err(IntakePushError::TooLarge { len: bytes.len() });
        }
        if need > self.data.capacity() - (self.head - self.oldest) {
            return Err(IntakePushError::Full);
        }
        let head = RecordHead { len: bytes.len() as u32, flags: 0 };
        self.data.set_word(self.head, head.encode(no, bytes));
        self.data.set_word(self.head + WORD_BYTES as u64, no);
        self.data.write(self.head + 2 * WORD_BYTES as u64, bytes);
        self.head += need;
        self.last_no = no;
        self.ends.push_back(self.head);
        self.header.store_release(HEAD, self.head);
        self.header.store(LAST_NO, no);
        Ok(())
    }

    /// Frees all inputs up to `no`. They must not be needed by any reader.
    pub fn free_through(&mut self, no: u64) {
        let before = self.oldest;
        while let Some(oldest_no) = self.oldest()
            && oldest_no <= no
            && let Some(end) = self.ends.pop_front()
        {
            self.oldest = end;
        }
        if self.oldest != before {
            self.header.store_release(OLDEST, self.oldest);
            // A reader that gets bytes of a later record must find that it was
            // overtaken: the new oldest position goes out before these bytes.
            fence(Ordering::Release);
        }
    }

    /// The number of the oldest input kept.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        let kept = self.ends.len() as u64;
        (kept > 0).then(|| self.last_no + 1 - kept)
    }

    /// The number of the last input; 0 when there was none yet.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last_no
    }

    /// How many inputs are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.ends.len()
    }

    /// Bytes free for new inputs.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.data.capacity() - (self.head - self.oldest)
    }
}

/// A reading end of the intake.
#[derive(Debug)]
pub struct IntakeReader {
    header: View,
    data: Circle<Box<View>>,
    at: u64,
    head: u64,
    /// The number that must come next; 0 when any may.
    expected: u64,
}

impl IntakeReader {
    /// A reader that begins with the oldest input.
    #[must_use]
    pub fn new(header: View, data: View) -> Self {
        assert!(header.len() >= LINE_BYTES, "a line is whole");
        let len = data.len();
        let data = Circle::new(Box::new(data), len);
        let mut reader = Self { header, data, at: 0, head: 0, expected: 0 };
        reader.seek_oldest();
        reader
    }

    /// Goes back (or ahead) to the oldest input that is kept.
    pub fn seek_oldest(&mut self) {
        self.at = self.header.load_acquire(OLDEST);
        self.head = self.at;
        self.expected = 0;
    }

    /// Replaces the content of `out` by the next input and tells its number.
    /// `None` when there is none yet.
    ///
    /// # Errors
    /// When the writer freed the input, or the ring's content is impossible. The
    /// reader stays where it is.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<u64>, IntakeError> {
        if self.at == self.head {
            let head = self.header.load_acquire(HEAD);
            if head == self.at {
                return Ok(None);
            }
            let aligned = (head | self.at).is_multiple_of(WORD_BYTES as u64);
            if head < self.at || head - self.at > self.data.capacity() || !aligned {
                return self.overtaken_or("impossible positions");
            }
            self.head = head;
        }
        let outcome = self.read(out);
        // What was read counts only if the writer had not freed it by then.
        fence(Ordering::Acquire);
        if self.header.load(OLDEST) > self.at {
            self.head = self.at;
            return Err(IntakeError::Overtaken);
        }
        let (no, size) = outcome?;
        self.at += size;
        self.expected = no + 1;
        Ok(Some(no))
    }

    /// Positions that do not fit together may only mean that the writer moved on
    /// between two looks.
    fn overtaken_or(&self, what: &'static str) -> Result<Option<u64>, IntakeError> {
        if self.header.load_acquire(OLDEST) > self.at {
            return Err(IntakeError::Overtaken);
        }
        Err(IntakeError::Corrupt(what))
    }

    fn read(&self, out: &mut Vec<u8>) -> Result<(u64, u64), IntakeError> {
        let word = self.data.word(self.at);
        let head = RecordHead::decode(word);
        let len = head.len as usize;
        let size = (record_bytes(len) + WORD_BYTES) as u64;
        if size > self.head - self.at {
            return Err(IntakeError::Corrupt("a record longer than what was shown"));
        }
        let no = self.data.word(self.at + WORD_BYTES as u64);
        if no == 0 || no == u64::MAX || (self.expected != 0 && no != self.expected) {
            return Err(IntakeError::Corrupt("numbers do not follow each other"));
        }
        out.clear();
        self.data.append_to(self.at + 2 * WORD_BYTES as u64, len, out);
        if !head.fits(word, no, out) {
            return Err(IntakeError::Corrupt("no record where one should begin"));
        }
        Ok((no, size))
    }

    /// The number of the last input written; 0 when there was none yet.
    #[must_use]
    pub fn last_no(&self) -> u64 {
        self.header.load_acquire(LAST_NO)
    }

    /// Whether an input is there to be read.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.at != self.head || self.header.load_acquire(HEAD) != self.at
    }
}

#[cfg(test)]
mod tests;
