//! Which inputs wait for an answer, and up to where outputs were delivered: the
//! host's half of "exactly once".

use std::collections::VecDeque;

use state_machine::{ConnId, InputNo, OutputNo};
use teeth::Bug;

/// Something that a correct primary does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// An answer or a note about an input that was never given.
    #[error("input {0} was never given")]
    UnknownInput(InputNo),
    /// An input was declared done without its answer.
    #[error("input {0} was released unanswered")]
    Unanswered(InputNo),
    /// An output number was left out.
    #[error("output {got} came after output {last}")]
    OutputGap {
        /// The last one delivered.
        last: OutputNo,
        /// The one that came.
        got: OutputNo,
    },
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    conn: ConnId,
    query: bool,
    waiting: bool,
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The connection that asked.
    pub(crate) conn: ConnId,
    /// Whether it asked something that skips the log.
    pub(crate) query: bool,
}

/// Inputs given and not yet released, and the delivery watermark.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Number of the first pending input.
    first: InputNo,
    pending: VecDeque<Pending>,
    delivered: OutputNo,
    unanswered: usize,
}

impl Ledger {
    /// A ledger that gives `next` to the first input and has delivered outputs
    /// up to `delivered`.
    pub(crate) fn new(next: InputNo, delivered: OutputNo) -> Self {
        Self { first: next, pending: VecDeque::new(), delivered, unanswered: 0 }
    }

    /// The number that the next input gets.
    pub(crate) fn next_no(&self) -> InputNo {
        InputNo(self.first.0 + self.pending.len() as u64)
    }

    /// Inputs that are not released.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Inputs that still get an answer.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The first input that still gets an answer.
    pub(crate) fn oldest_unanswered(&self) -> Option<InputNo> {
        let at = self.pending.iter().position(|pending| pending.waiting)?;
        Some(InputNo(self.first.0 + at as u64))
    }

    /// Notes the next input; `answer` says whether it will get one.
    pub(crate) fn admit(&mut self, conn: ConnId, query: bool, answer: bool) -> InputNo {
        let no = self.next_no();
        self.unanswered += usize::from(answer);
        self.pending.push_back(Pending { conn, query, waiting: answer });
        no
    }

    /// An answer came. `None` when it was answered before: a repetition.
    ///
    /// # Errors
    /// [`LedgerError::UnknownInput`] when no such input was given.
    pub(crate) fn answer(&mut self, no: InputNo) -> Result<Option<Answered>, LedgerError> {
        if no < self.first {
            return Ok(None);
        }
        let at = (no.0 - self.first.0) as usize;
        let pending = self.pending.get_mut(at).ok_or(LedgerError::UnknownInput(no))?;
        let was_waiting = std::mem::replace(&mut pending.waiting, false);
        let repeated = !was_waiting && !teeth::bites(Bug::RepetitionDelivered);
        self.unanswered -= usize::from(was_waiting);
        Ok((!repeated).then_some(Answered { conn: pending.conn, query: pending.query }))
    }

    /// A numbered output came; whether it is new.
    ///
    /// # Errors
    /// [`LedgerError::OutputGap`] when its predecessor never came.
    pub(crate) fn deliver(&mut self, no: OutputNo) -> Result<bool, LedgerError> {
        if no <= self.delivered {
            let again = no == self.delivered && teeth::bites(Bug::WatermarkOffByOne);
            return Ok(again || teeth::bites(Bug::RepetitionDelivered));
        }
        if no != self.delivered.next() {
            return Err(LedgerError::OutputGap { last: self.delivered, got: no });
        }
        self.delivered = no;
        Ok(true)
    }

    /// The primary says that every input up to `no` is answered and logged.
    ///
    /// # Errors
    /// [`LedgerError`] when that cannot be.
    pub(crate) fn release(&mut self, no: InputNo) -> Result<(), LedgerError> {
        if no >= self.next_no() {
            return Err(LedgerError::UnknownInput(no));
        }
        while self.first <= no {
            match self.pending.front() {
                Some(pending) if pending.waiting => {
                    return Err(LedgerError::Unanswered(self.first));
                }
                Some(_) => {
                    self.pending.pop_front();
                    self.first = self.first.next();
                }
                None => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(InputNo(1), OutputNo(0))
    }

    #[test]
    fn an_answer_counts_once() {
        let mut ledger = ledger();
        assert_eq!(ledger.oldest_unanswered(), None);
        ledger.admit(ConnId(7), false, false);
        let no = ledger.admit(ConnId(7), true, true);
        assert_eq!(ledger.oldest_unanswered(), Some(no));
        let answered = Answered { conn: ConnId(7), query: true };
        assert_eq!(ledger.answer(no), Ok(Some(answered)));
        assert_eq!(ledger.answer(no), Ok(None));
        assert_eq!(ledger.oldest_unanswered(), None);
        ledger.release(no).unwrap();
        assert_eq!(ledger.answer(no), Ok(None), "a repetition after the release");
        assert_eq!(ledger.next_no(), InputNo(3));
    }

    #[test]
    fn what_a_correct_primary_never_says_is_refused() {
        let mut ledger = ledger();
        assert_eq!(ledger.answer(InputNo(1)), Err(LedgerError::UnknownInput(InputNo(1))));
        let no = ledger.admit(ConnId(7), false, true);
        assert_eq!(ledger.release(no), Err(LedgerError::Unanswered(no)));
        assert_eq!(ledger.release(no.next()), Err(LedgerError::UnknownInput(no.next())));
    }

    #[test]
    fn outputs_are_delivered_in_order_and_once() {
        let mut ledger = ledger();
        assert_eq!(ledger.deliver(OutputNo(1)), Ok(true));
        assert_eq!(ledger.deliver(OutputNo(1)), Ok(false));
        assert_eq!(
            ledger.deliver(OutputNo(3)),
            Err(LedgerError::OutputGap { last: OutputNo(1), got: OutputNo(3) })
        );
        assert_eq!(ledger.deliver(OutputNo(2)), Ok(true));
    }
}
