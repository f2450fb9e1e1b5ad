//! What one connection is to get, and in which order.
//!
//! The outputs of logged inputs make one fixed sequence. An answer to a query
//! stands in it where the state stands that it was answered from: behind all
//! outputs of inputs up to there, and before all later ones.

use std::collections::VecDeque;

use state_machine::{DomId, InputNo, Mixer};
use xenstore::wire::{Errno, HEADER_LEN, Header, MAX_PAYLOAD, MessageType};

use super::violation::ViolationKind;

/// Delivered frames that are remembered, to tell a repetition.
const REMEMBERED: usize = 16;

/// An output of a logged input.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) input: InputNo,
    pub(super) is_reply: bool,
    pub(super) frame: Box<[u8]>,
}

/// A lawful answer to a query.
#[derive(Debug)]
struct Answer {
    /// It is of the state after this input.
    state: InputNo,
    frame: Box<[u8]>,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Pending {
    no: InputNo,
    query: bool,
    /// All inputs up to a query were applied.
    reached: bool,
    /// A query's lawful answers, as far as they are known.
    answers: Vec<Answer>,
    /// A query that may be answered once more by a later primary, encoded.
    question: Option<Box<[u8]>>,
    /// What a quarantined query is answered with.
    refusal: Option<Box<[u8]>>,
}

/// What a delivered frame was.
#[derive(Debug)]
pub(super) enum Taken {
    /// An output of this logged input.
    Logged { input: InputNo, is_reply: bool },
    /// An answer from the state after this input.
    Answer { no: InputNo, state: InputNo },
    /// The front door's own word: a frame was too long.
    TooLong,
    /// Unknown before more inputs are applied.
    TooEarly,
    /// Not what was due.
    Wrong { kind: ViolationKind, input: Option<InputNo>, expected: Vec<u8> },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) domid: DomId,
    /// The domain it speaks for was released: the host may close it.
    pub(super) released: bool,
    /// Judged no more after a violation.
    pub(super) broken: bool,
    items: VecDeque<Item>,
    pending: VecDeque<Pending>,
    /// The last input of which an output was delivered, and how many of it.
    last: (InputNo, u32),
    /// After going back: what is made again and was delivered before.
    skip: Option<(InputNo, u32)>,
    recent: VecDeque<u64>,
    partial: Vec<u8>,
}

fn hash(frame: &[u8]) -> u64 {
    Mixer::new().bytes(frame).finish()
}

fn is_event(frame: &[u8]) -> bool {
    Header::decode(frame).is_some_and(|header| header.kind == MessageType::WatchEvent.to_u32())
}

/// What an unanswered connection still was to get.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) kind: ViolationKind,
    pub(super) input: InputNo,
    pub(super) expected: Vec<u8>,
}

impl Stream {
    pub(super) fn new(domid: DomId) -> Self {
        Self {
            domid,
            released: false,
            broken: false,
            items: VecDeque::new(),
            pending: VecDeque::new(),
            last: (InputNo(0), 0),
            skip: None,
            recent: VecDeque::new(),
            partial: Vec::new(),
        }
    }

    /// Takes the frames off what has come; `None` when they are none.
    pub(super) fn frames(&mut self, bytes: &[u8], each: &mut Vec<Box<[u8]>>) -> Option<()> {
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(header) = Header::decode(&self.partial[at..]) {
            let len = header.len as usize;
            if len > MAX_PAYLOAD {
                return None;
            }
            let Some(frame) = self.partial.get(at..at + HEADER_LEN + len) else { break };
            each.push(frame.into());
            at += frame.len();
        }
        self.partial.drain(..at);
        Some(())
    }

    /// A request was admitted.
    pub(super) fn ask(&mut self, no: InputNo, query: bool) {
        self.pending.push_back(Pending {
            no,
            query,
            reached: false,
            answers: Vec::new(),
            question: None,
            refusal: None,
        });
    }

    /// Whether this request waits for its answer.
    pub(super) fn waits_for(&self, no: InputNo) -> bool {
        self.find(no).is_some()
    }

    fn find(&self, no: InputNo) -> Option<usize> {
        self.pending.binary_search_by_key(&no, |pending| pending.no).ok()
    }

    /// A logged input yields this.
    pub(super) fn push(&mut self, item: Item) {
        if let Some((input, count)) = &mut self.skip {
            if item.input < *input {
                return;
            }
            if item.input == *input && *count > 0 {
                *count -= 1;
                return;
            }
            self.skip = None;
        }
        self.items.push_back(item);
    }

    /// The turn of a query has come: from there, it is answered so.
    pub(super) fn answer_is(&mut self, no: InputNo, frame: Box<[u8]>) {
        self.may_answer(no, no, frame);
        if let Some(at) = self.find(no) {
            self.pending[at].reached = true;
        }
    }

    /// A query may be answered so, from the state after `state`.
    pub(super) fn may_answer(&mut self, no: InputNo, state: InputNo, frame: Box<[u8]>) {
        if let Some(at) = self.find(no)
            && !self.pending[at]
                .answers
                .iter()
                .any(|answer| answer.state == state && answer.frame == frame)
        {
            self.pending[at].answers.push(Answer { state, frame });
        }
    }

    /// Queries up to `no` that are not answered.
    pub(super) fn open_queries(&self, no: InputNo) -> impl Iterator<Item = InputNo> {
        let asked = self.pending.iter().take_while(move |pending| pending.no <= no);
        asked.filter(|pending| pending.query).map(|pending| pending.no)
    }

    /// The query itself; `from` supplies it the first time.
    pub(super) fn question<'a>(
        &mut self,
        no: InputNo,
        from: impl FnOnce() -> Option<&'a [u8]>,
    ) -> Option<&[u8]> {
        let at = self.find(no)?;
        let pending = &mut self.pending[at];
        if pending.question.is_none() {
            pending.question = from().map(Into::into);
        }
        pending.question.as_deref()
    }

    /// A query was quarantined: from now on primaries answer it with `refusal`.
    pub(super) fn refuse(&mut self, no: InputNo, refusal: Box<[u8]>) {
        self.may_answer(no, no, refusal.clone());
        if let Some(at) = self.find(no) {
            self.pending[at].refusal = Some(refusal);
        }
    }

    /// What later primaries answer a quarantined query with.
    pub(super) fn refusal(&self, no: InputNo) -> Option<Box<[u8]>> {
        self.pending[self.find(no)?].refusal.clone()
    }

    /// Inputs behind `no` will be applied again.
    pub(super) fn go_back(&mut self, no: InputNo) {
        while self.items.back().is_some_and(|item| item.input > no) {
            self.items.pop_back();
        }
        for pending in &mut self.pending {
            pending.reached &= pending.no <= no;
            let refusal = &pending.refusal;
            pending
                .answers
                .retain(|answer| answer.state <= no || Some(&answer.frame) == refusal.as_ref());
        }
        if self.last.0 > no {
            self.skip = Some(self.last);
        }
    }

    /// Outputs that wait to be delivered.
    pub(super) fn waiting(&self) -> usize {
        self.items.len() + self.pending.len()
    }

    fn remember(&mut self, frame: &[u8]) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(hash(frame));
    }

    fn deliver_item(&mut self, frame: &[u8]) -> Option<Taken> {
        if *self.items.front()?.frame != *frame {
            return None;
        }
        let item = self.items.pop_front()?;
        let count = if self.last.0 == item.input { self.last.1 + 1 } else { 1 };
        self.last = (item.input, count);
        self.remember(frame);
        Some(Taken::Logged { input: item.input, is_reply: item.is_reply })
    }

    /// Takes a whole frame that was delivered. `exhausted` says that all inputs
    /// are applied.
    pub(super) fn take(&mut self, frame: &[u8], exhausted: bool) -> Taken {
        if is_event(frame) {
            self.take_event(frame, exhausted)
        } else {
            self.take_reply(frame, exhausted)
        }
    }

    fn take_event(&mut self, frame: &[u8], exhausted: bool) -> Taken {
        if let Some(taken) = self.deliver_item(frame) {
            return taken;
        }
        if self.items.is_empty() && !exhausted {
            return Taken::TooEarly;
        }
        let front = self.items.front();
        let (input, expected) =
            front.map_or((None, Vec::new()), |item| (Some(item.input), item.frame.to_vec()));
        let kind = if self.items.iter().any(|item| *item.frame == *frame) {
            ViolationKind::Reordered
        } else if self.recent.contains(&hash(frame)) {
            ViolationKind::DoubledEvent
        } else {
            ViolationKind::WrongEvent
        };
        Taken::Wrong { kind, input, expected }
    }

    fn take_reply(&mut self, frame: &[u8], exhausted: bool) -> Taken {
        let Some(first) = self.pending.front() else {
            if is_too_long(frame) {
                return Taken::TooLong;
            }
            let repeated = self.recent.contains(&hash(frame));
            let kind =
                if repeated { ViolationKind::DoubledReply } else { ViolationKind::UnaskedReply };
            return Taken::Wrong { kind, input: None, expected: Vec::new() };
        };
        let no = first.no;
        if first.query {
            if !first.reached && !exhausted {
                return Taken::TooEarly;
            }
            let next = self.items.front().map(|item| item.input);
            let lawful = |answer: &&Answer| {
                *answer.frame == *frame
                    && next.is_none_or(|input| input > answer.state)
                    && self.last.0 <= answer.state
            };
            if let Some(state) = first.answers.iter().find(lawful).map(|answer| answer.state) {
                self.pending.pop_front();
                self.remember(frame);
                return Taken::Answer { no, state };
            }
        } else {
            let is_due = self.items.front().is_some_and(|item| item.is_reply && item.input == no);
            if is_due && let Some(taken) = self.deliver_item(frame) {
                self.pending.pop_front();
                return taken;
            }
            if self.items.is_empty() && !exhausted {
                return Taken::TooEarly;
            }
        }
        self.wrong_reply(frame, no)
    }

    fn wrong_reply(&self, frame: &[u8], no: InputNo) -> Taken {
        let Some(first) = self.pending.front() else {
            return Taken::Wrong {
                kind: ViolationKind::UnaskedReply,
                input: Some(no),
                expected: Vec::new(),
            };
        };
        let reply = self.items.iter().find(|item| item.is_reply && item.input == no);
        let expected: Vec<u8> = match reply {
            Some(item) => item.frame.to_vec(),
            None => first.answers.iter().flat_map(|answer| answer.frame.iter().copied()).collect(),
        };
        let of_later = || {
            let answers = self.pending.iter().skip(1).flat_map(|pending| &pending.answers);
            answers.map(|answer| &answer.frame).chain(self.items.iter().map(|item| &item.frame))
        };
        let id = |frame: &[u8]| Header::decode(frame).map(|header| (header.req_id, header.tx_id));
        let is_same_request = id(frame) == id(&expected);
        let in_content = first.answers.iter().any(|answer| *answer.frame == *frame)
            || reply.is_some_and(|item| *item.frame == *frame);
        let kind = if in_content {
            // The right answer at the wrong place.
            ViolationKind::Reordered
        } else if is_same_request && first.query {
            ViolationKind::StaleAnswer
        } else if is_same_request {
            ViolationKind::WrongReply
        } else if of_later().any(|later| **later == *frame) {
            ViolationKind::Reordered
        } else if self.recent.contains(&hash(frame)) {
            ViolationKind::DoubledReply
        } else {
            ViolationKind::WrongReply
        };
        Taken::Wrong { kind, input: Some(no), expected }
    }

    /// What never came, in the end: the first of each sort.
    pub(super) fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        if let Some(first) = self.pending.front() {
            let reply = self.items.iter().find(|item| item.is_reply && item.input == first.no);
            let expected = match reply {
                Some(item) => item.frame.to_vec(),
                None => first.answers.first().map_or(Vec::new(), |answer| answer.frame.to_vec()),
            };
            missing.push(Missing { kind: ViolationKind::LostReply, input: first.no, expected });
        }
        if let Some(event) = self.items.iter().find(|item| !item.is_reply) {
            missing.push(Missing {
                kind: ViolationKind::LostEvent,
                input: event.input,
                expected: event.frame.to_vec(),
            });
        }
        missing
    }
}

fn is_too_long(frame: &[u8]) -> bool {
    let name = Errno::E2BIG.name().as_bytes();
    Header::decode(frame).is_some_and(|header| header.kind == MessageType::Error.to_u32())
        && frame[HEADER_LEN..].strip_suffix(b"\0") == Some(name)
}
