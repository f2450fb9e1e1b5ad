//! The inputs that travel as one log entry.

use state_machine::{CodecError, Input, InputNo, Reader};

use crate::outbox::BatchNo;

/// An input whose execution killed primaries: answered with an error.
const QUARANTINED: u8 = 1;

/// What a request takes of the intake beside its frame, about.
const REQUEST_OVERHEAD_BYTES: usize = 40;

/// A batch that is being filled.
#[derive(Debug, Default)]
pub struct Batch {
    no: BatchNo,
    entry: Vec<u8>,
    has_command: bool,
    held_up_bytes: usize,
}

impl Batch {
    /// The first batch of a promotion.
    #[must_use]
    pub fn first() -> Self {
        Self { no: BatchNo(1), ..Self::default() }
    }

    /// Its number.
    #[must_use]
    pub fn no(&self) -> BatchNo {
        self.no
    }

    /// Bytes of the log entry so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entry.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry.is_empty()
    }

    /// Whether somebody waits for it to be logged. A batch of tentative inputs
    /// alone may wait for company.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.has_command
    }

    /// Notes that this query, too, cannot leave the intake before this batch is
    /// logged.
    pub fn hold_up(&mut self, query: &Input<'_>) {
        if let (Input::Request { frame, .. }, false) = (query, self.is_empty()) {
            self.held_up_bytes += frame.len() + REQUEST_OVERHEAD_BYTES;
        }
    }

    /// Bytes of the intake that it takes until it is logged, at least.
    #[must_use]
    pub fn intake_bytes(&self) -> usize {
        self.entry.len() + self.held_up_bytes
    }

    /// Adds an applied input.
    pub fn push(&mut self, no: InputNo, input: &Input<'_>, quarantined: bool, command: bool) {
        self.entry.push(if quarantined { QUARANTINED } else { 0 });
        input.encode(no, &mut self.entry);
        self.has_command |= command;
    }

    /// Closes the batch and begins the next one; returns its number and entry.
    pub fn take(&mut self) -> (BatchNo, Vec<u8>) {
        let next = Self { no: BatchNo(self.no.0 + 1), ..Self::default() };
        let full = std::mem::replace(self, next);
        (full.no, full.entry)
    }
}

/// One input out of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged<'a> {
    /// Its number.
    pub no: InputNo,
    /// What it is.
    pub input: Input<'a>,
    /// Whether it is answered with an error instead of being executed.
    pub quarantined: bool,
}

/// Reads the inputs of a log entry, in order.
pub fn inputs(entry: &[u8]) -> impl Iterator<Item = Result<Logged<'_>, CodecError>> {
    let mut reader = Reader::new(entry);
    std::iter::from_fn(move || {
        if reader.is_empty() {
            return None;
        }
        let logged = (|| {
            let quarantined = reader.u8()? == QUARANTINED;
            let (no, input) = Input::decode(&mut reader)?;
            Ok(Logged { no, input, quarantined })
        })();
        if logged.is_err() {
            reader = Reader::new(&[]);
        }
        Some(logged)
    })
}

#[cfg(test)]
mod tests {
    use quickcheck::QuickCheck;
    use state_machine::ConnId;

    use super::*;

    fn holds(frames: Vec<(u64, Vec<u8>, bool)>) -> bool {
        let mut batch = Batch::first();
        let request = |conn, frame| Input::Request { conn: ConnId(conn), frame };
        for ((conn, frame, quarantined), no) in frames.iter().zip(1..) {
            batch.push(InputNo(no), &request(*conn, frame), *quarantined, false);
        }
        assert!(!batch.is_urgent());
        assert_eq!(batch.is_empty(), frames.is_empty());
        let (no, entry) = batch.take();
        assert_eq!((no, batch.no(), batch.len()), (BatchNo(1), BatchNo(2), 0));
        let read: Vec<Logged<'_>> = inputs(&entry).collect::<Result<_, _>>().unwrap();
        let pushed = frames.iter().zip(1..).map(|((conn, frame, quarantined), no)| Logged {
            no: InputNo(no),
            input: request(*conn, frame),
            quarantined: *quarantined,
        });
        read == pushed.collect::<Vec<_>>()
    }

    #[test]
    fn what_was_pushed_comes_out_in_order() {
        QuickCheck::new().quickcheck(holds as fn(Vec<(u64, Vec<u8>, bool)>) -> bool);
    }

    #[test]
    fn a_command_makes_a_batch_urgent_and_the_next_is_not() {
        let mut batch = Batch::first();
        batch.push(InputNo(1), &Input::Boot, false, true);
        assert!(batch.is_urgent());
        batch.take();
        assert!(!batch.is_urgent());
    }

    #[test]
    fn any_bytes_end_with_at_most_one_error() {
        fn survives(entry: Vec<u8>) -> bool {
            let read: Vec<_> = inputs(&entry).collect();
            read.iter().rev().skip(1).all(Result::is_ok)
        }
        QuickCheck::new().tests(2000).quickcheck(survives as fn(Vec<u8>) -> bool);
        let mut batch = Batch::first();
        batch.push(InputNo(1), &Input::Boot, false, true);
        let (_, mut entry) = batch.take();
        entry.push(0);
        assert!(inputs(&entry).last().unwrap().is_err(), "an entry that is cut off");
    }
}
