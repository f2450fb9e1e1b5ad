//! The monitor's side of the exchange. Every word of the guest's is loaded once,
//! and what was loaded is what is checked and used.

use guest::layout::{self, FailureKind, word};

use super::KvmError;
use super::failure::{BadAnswer, Failure, LastWords};
use super::memory::Region;

/// How an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// There is more.
    More,
    /// That was all.
    Last,
}

/// The memory that a guest shares with its monitor.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) region: Region,
}

impl Exchange {
    pub(super) fn new() -> Result<Self, KvmError> {
        let region = Region::new(layout::EXCHANGE_BYTES)?;
        region.store(word::MAGIC, layout::MAGIC)?;
        region.store(word::VERSION, layout::VERSION)?;
        Ok(Self { region })
    }

    /// Puts a request there, and takes away what told of the last answer: a guest
    /// that yields without having answered shall not seem to repeat itself. Without
    /// bytes, it asks for the rest of an answer to the request before.
    pub(super) fn put_request(&self, request: &[u8]) -> Result<(), KvmError> {
        if request.len() > layout::REQUEST_MAX {
            return Err(KvmError::RequestTooLong { bytes: request.len() });
        }
        self.region.write(layout::REQUEST_OFFSET, request)?;
        self.region.store(word::REQUEST_LEN, request.len() as u64)?;
        if !request.is_empty() {
            self.region.store(word::COMMAND, 0)?;
        }
        self.region.store(word::ANSWER_LEN, 0)?;
        self.region.store(word::MORE, 0)
    }

    /// Appends the part of an answer that is there to `answer`, which must not grow
    /// beyond `end` bytes.
    pub(super) fn take_answer(
        &self,
        answer: &mut Vec<u8>,
        end: usize,
    ) -> Result<Result<Part, BadAnswer>, KvmError> {
        let bytes = self.region.load(word::ANSWER_LEN)?;
        let part = match self.region.load(word::MORE)? {
            0 => Part::Last,
            1 if bytes == 0 => return Ok(Err(BadAnswer::EmptyPart)),
            1 => Part::More,
            word => return Ok(Err(BadAnswer::MoreWord { word })),
        };
        let len = usize::try_from(bytes).ok().filter(|len| *len <= layout::ANSWER_MAX);
        let Some(len) = len else { return Ok(Err(BadAnswer::TooLong { bytes })) };
        let begin = answer.len();
        if len > end.saturating_sub(begin) {
            return Ok(Err(BadAnswer::OverLimit));
        }
        answer.resize(begin + len, 0);
        self.region.read(layout::ANSWER_OFFSET, &mut answer[begin..])?;
        Ok(Ok(part))
    }

    /// The command that the guest says it has come to.
    pub(super) fn command(&self) -> Result<u64, KvmError> {
        self.region.load(word::COMMAND)
    }

    /// Why the guest says that it will not go on.
    pub(super) fn failure(&self) -> Result<Failure, KvmError> {
        let kind = self.region.load(word::FAILURE)?;
        Ok(match FailureKind::from_word(kind) {
            Some(FailureKind::Exception) => Failure::Exception {
                vector: self.region.load(word::VECTOR)?,
                error_code: self.region.load(word::ERROR_CODE)?,
                rip: self.region.load(word::RIP)?,
                rsp: self.region.load(word::RSP)?,
                cr2: self.region.load(word::CR2)?,
            },
            Some(FailureKind::Panic) => Failure::Panic { words: self.last_words()? },
            Some(FailureKind::OutOfMemory) => Failure::OutOfMemory { words: self.last_words()? },
            Some(FailureKind::BadExchange) => Failure::BadExchange { words: self.last_words()? },
            None => Failure::Unexplained { kind, words: self.last_words()? },
        })
    }

    fn last_words(&self) -> Result<LastWords, KvmError> {
        let len = self.region.load(word::WORDS_LEN)?;
        let mut bytes = [0; layout::WORDS_MAX];
        let bytes = match usize::try_from(len) {
            Ok(len) if len <= layout::WORDS_MAX => &mut bytes[..len],
            // It lies about the length; the words may still tell something.
            _ => &mut bytes[..],
        };
        self.region.read(layout::WORDS_OFFSET, bytes)?;
        Ok(LastWords::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(words: &[(usize, u64)]) -> Exchange {
        let exchange = Exchange::new().unwrap();
        for (offset, value) in words {
            exchange.region.store(*offset, *value).unwrap();
        }
        exchange
    }

    #[test]
    fn a_request_leaves_nothing_of_the_last_answer() {
        let exchange = exchange(&[(word::ANSWER_LEN, 7), (word::MORE, 1)]);
        exchange.put_request(&vec![3; layout::REQUEST_MAX]).unwrap();
        assert_eq!(exchange.region.load(word::REQUEST_LEN).unwrap(), layout::REQUEST_MAX as u64);
        assert_eq!(exchange.region.load(layout::ANSWER_OFFSET - 8).unwrap() as u8, 3);
        assert_eq!(exchange.region.load(layout::ANSWER_OFFSET).unwrap(), 0);
        let mut answer = vec![1];
        assert_eq!(exchange.take_answer(&mut answer, 1).unwrap(), Ok(Part::Last));
        assert_eq!(answer, [1]);
        let long = exchange.put_request(&vec![0; layout::REQUEST_MAX + 1]);
        assert!(matches!(long, Err(KvmError::RequestTooLong { .. })));
    }

    #[test]
    fn a_command_is_one_of_the_last_request() {
        let exchange = exchange(&[]);
        assert_eq!(exchange.command().unwrap(), 0);
        exchange.region.store(word::COMMAND, 7).unwrap();
        exchange.put_request(&[]).unwrap();
        assert_eq!(exchange.command().unwrap(), 7, "more of the same answer");
        exchange.put_request(&[1]).unwrap();
        assert_eq!(exchange.command().unwrap(), 0);
    }

    #[test]
    fn an_answer_may_be_as_long_as_its_room_and_its_limit() {
        let max = layout::ANSWER_MAX as u64;
        let take = |bytes, more, end| {
            let mut answer = vec![5];
            let exchange = exchange(&[(word::ANSWER_LEN, bytes), (word::MORE, more)]);
            let part = exchange.take_answer(&mut answer, end).unwrap();
            (part, answer.len())
        };
        let room = 1 + layout::ANSWER_MAX;
        assert_eq!(take(max, 0, room), (Ok(Part::Last), room));
        assert_eq!(take(max, 1, usize::MAX), (Ok(Part::More), room));
        assert_eq!(take(max, 0, room - 1), (Err(BadAnswer::OverLimit), 1));
        assert_eq!(take(1, 0, 0), (Err(BadAnswer::OverLimit), 1));
        let long = |bytes| (Err(BadAnswer::TooLong { bytes }), 1);
        assert_eq!(take(max + 1, 0, usize::MAX), long(max + 1));
        assert_eq!(take(u64::MAX, 1, usize::MAX), long(u64::MAX));
        assert_eq!(take(0, 1, usize::MAX), (Err(BadAnswer::EmptyPart), 1));
        assert_eq!(take(1, 2, usize::MAX), (Err(BadAnswer::MoreWord { word: 2 }), 1));
    }

    #[test]
    fn what_a_guest_says_of_its_failure_is_understood() {
        let says = |words: &[(usize, u64)]| exchange(words).failure().unwrap();
        let exception = says(&[
            (word::FAILURE, 1),
            (word::VECTOR, 14),
            (word::ERROR_CODE, 2),
            (word::RIP, 3),
            (word::RSP, 4),
            (word::CR2, 5),
        ]);
        let expected = Failure::Exception { vector: 14, error_code: 2, rip: 3, rsp: 4, cr2: 5 };
        assert_eq!(exception, expected);
        let hello = (layout::WORDS_OFFSET, u64::from_le_bytes(*b"hello\n!!"));
        let words = says(&[(word::FAILURE, 2), (word::WORDS_LEN, 7), hello]);
        assert_eq!(words.to_string(), "panic: hello !");
        let nothing = LastWords::default();
        assert_eq!(says(&[(word::FAILURE, 3)]), Failure::OutOfMemory { words: nothing.clone() });
        let words = says(&[(word::FAILURE, 4), (word::WORDS_LEN, 7), hello]);
        assert_eq!(words.to_string(), "the exchange is not as agreed: hello !");
        assert_eq!(says(&[]), Failure::Unexplained { kind: 0, words: nothing });
        let Failure::Panic { words } = says(&[(word::FAILURE, 2), (word::WORDS_LEN, u64::MAX)])
        else {
            panic!("a panic was told of");
        };
        assert_eq!(words.as_str().chars().count(), layout::WORDS_MAX, "bounded");
    }
}
