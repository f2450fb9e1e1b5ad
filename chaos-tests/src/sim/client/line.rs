//! A client's end of a connection: frames out, frames in, and which answer
//! belongs to which request.

use std::collections::VecDeque;

use xenstore::wire::{self, Errno, HEADER_LEN, Header, MAX_PAYLOAD, MessageType};

use crate::client::Event;
use crate::sim::judge::show_frame;

/// Frames in a transcript.
const TRANSCRIPT: usize = 24;

/// What came.
#[derive(Debug)]
pub(super) enum Heard {
    /// A watch fired.
    Event { path: Vec<u8>, token: Vec<u8> },
    /// The answer to the request with this tag.
    Answer { tag: u64, answer: Result<Vec<u8>, Errno> },
}

#[derive(Debug)]
struct Due {
    kind: u32,
    req_id: u32,
    tx_id: u32,
    tag: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    last_id: u32,
    due: VecDeque<Due>,
    input: Vec<u8>,
    /// Bytes of `input` that were taken.
    taken: usize,
    output: Vec<u8>,
    recent: VecDeque<(bool, Vec<u8>)>,
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) events: u64,
}

impl Line {
    /// A new connection.
    pub(super) fn reset(&mut self) {
        self.due.clear();
        self.output.clear();
        self.discard();
    }

    /// Forgets what has come.
    pub(super) fn discard(&mut self) {
        self.input.clear();
        self.taken = 0;
    }

    /// Requests without an answer.
    pub(super) fn due(&self) -> usize {
        self.due.len()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    fn note(&mut self, out: bool, frame: &[u8]) {
        let mut slot = match self.recent.len() {
            TRANSCRIPT => self.recent.pop_front().map_or(Vec::new(), |(_, frame)| frame),
            _ => Vec::new(),
        };
        slot.clear();
        slot.extend_from_slice(frame);
        self.recent.push_back((out, slot));
    }

    pub(super) fn transcript(&self) -> Vec<String> {
        let line = |(out, frame): &(bool, Vec<u8>)| {
            format!("{} {}", if *out { '>' } else { '<' }, show_frame(frame))
        };
        self.recent.iter().map(line).collect()
    }

    /// Appends a request; its answer comes back with `tag`.
    pub(super) fn ask(&mut self, kind: u32, tx_id: u32, payload: &[u8], tag: u64) {
        self.last_id = self.last_id.wrapping_add(1);
        let req_id = self.last_id;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let at = self.output.len();
        self.output.extend_from_slice(&Header { kind, req_id, tx_id, len }.encode());
        self.output.extend_from_slice(payload);
        self.due.push_back(Due { kind, req_id, tx_id, tag });
        self.sent += 1;
        let frame = self.output[at..].to_vec();
        self.note(true, &frame);
    }

    /// Appends bytes that are no request.
    pub(super) fn babble(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.sent += 1;
        self.note(true, bytes);
    }

    /// Cuts what is to be sent short, and forgets the request that this breaks.
    pub(super) fn cut_short(&mut self, by: usize) {
        let len = self.output.len().saturating_sub(by.max(1));
        self.output.truncate(len);
        self.due.pop_back();
    }

    pub(super) fn take_in(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next whole frame, checked.
    pub(super) fn next(&mut self) -> Result<Option<Heard>, String> {
        let rest = &self.input[self.taken..];
        let Some(header) = Header::decode(rest) else { return Ok(self.all_taken()) };
        let len = header.len as usize;
        if len > MAX_PAYLOAD {
            return Err(format!("an answer of {len} bytes"));
        }
        let Some(frame) = rest.get(..HEADER_LEN + len) else { return Ok(self.all_taken()) };
        let frame = frame.to_vec();
        self.taken += frame.len();
        self.note(false, &frame);
        let (header, payload) = wire::split(&frame).ok_or("an answer that is no frame")?;
        if header.kind == MessageType::WatchEvent.to_u32() {
            self.events += 1;
            if (header.req_id, header.tx_id) != (0, 0) {
                return Err("an event with a request id".to_owned());
            }
            let event = Event::parse(payload).ok_or("an event without path and token")?;
            let (path, token) = (event.path().to_vec(), event.token().to_vec());
            return Ok(Some(Heard::Event { path, token }));
        }
        let Some(due) = self.due.pop_front() else {
            return Err(format!("an answer to no request: {}", show_frame(&frame)));
        };
        self.answered += 1;
        let failed = header.kind == MessageType::Error.to_u32();
        if header.req_id != due.req_id || header.tx_id != due.tx_id {
            return Err(format!(
                "request {} (tx {}) is due, but the answer is {}",
                due.req_id,
                due.tx_id,
                show_frame(&frame)
            ));
        }
        if !failed && header.kind != due.kind {
            return Err(format!("a request of type {} has {}", due.kind, show_frame(&frame)));
        }
        let answer = match failed {
            false => Ok(payload.to_vec()),
            true => match Errno::from_name(payload) {
                // The host answers so only what has killed replicas; it is an
                // error like others here.
                Some(errno) => Err(errno),
                None => return Err(format!("an unknown error: {}", show_frame(&frame))),
            },
        };
        Ok(Some(Heard::Answer { tag: due.tag, answer }))
    }

    fn all_taken(&mut self) -> Option<Heard> {
        self.input.drain(..self.taken);
        self.taken = 0;
        None
    }
}
