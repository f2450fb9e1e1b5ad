//! Makes a recording of the bytes that go both ways.

use std::collections::{BTreeMap, VecDeque};

use xenstore::wire::{self, HEADER_LEN, Header, MessageType};

use super::{Mix, Said, TxOf};

/// A connection that is being recorded.
#[derive(Debug, Default)]
struct Talk {
    said: Vec<Said>,
    /// Types of the unanswered requests.
    due: VecDeque<u32>,
    /// Numbers of transactions, by their begin.
    begun: Vec<Option<u32>>,
    last_us: u64,
    up: Vec<u8>,
    down: Vec<u8>,
}

/// Takes whole frames off the front.
fn frames(buffer: &mut Vec<u8>, mut each: impl FnMut(Header, &[u8])) {
    let mut at = 0;
    while let Some(header) = Header::decode(&buffer[at..]) {
        let Some(frame) = buffer.get(at..at + HEADER_LEN + header.len as usize) else { break };
        if let Some((header, payload)) = wire::split(frame) {
            each(header, payload);
        }
        at += frame.len();
    }
    buffer.drain(..at);
}

impl Talk {
    fn ask(&mut self, header: Header, payload: &[u8], now_us: u64) {
        let tx = match header.tx_id {
            0 => TxOf::None,
            // The last of that number: numbers come again.
            id => match self.begun.iter().rposition(|begun| *begun == Some(id)) {
                Some(at) => TxOf::Start(u32::try_from(at).unwrap_or(u32::MAX)),
                None => TxOf::Raw(id),
            },
        };
        self.said.push(Said {
            pause_us: u32::try_from(now_us - self.last_us).unwrap_or(u32::MAX),
            due: u32::try_from(self.due.len()).unwrap_or(u32::MAX),
            kind: header.kind,
            tx,
            payload: payload.to_vec(),
        });
        self.last_us = now_us;
        self.due.push_back(header.kind);
    }

    fn answer(&mut self, header: Header, payload: &[u8]) {
        if header.kind == MessageType::WatchEvent.to_u32() {
            return;
        }
        if self.due.pop_front() == Some(MessageType::TransactionStart.to_u32()) {
            let text = std::str::from_utf8(payload).unwrap_or("");
            self.begun.push(text.trim_end_matches('\0').parse().ok());
        }
    }
}

/// See the module. Connections are numbered by whoever accepts them.
#[derive(Debug)]
pub struct Recorder {
    talks: BTreeMap<u64, Talk>,
    max_requests: usize,
    requests: usize,
}

impl Recorder {
    /// Records the first `max_requests` requests.
    #[must_use]
    pub fn new(max_requests: usize) -> Self {
        Self { talks: BTreeMap::new(), max_requests, requests: 0 }
    }

    /// A connection began.
    pub fn opened(&mut self, conn: u64, now_us: u64) {
        self.talks.insert(conn, Talk { last_us: now_us, ..Talk::default() });
    }

    /// The client said this.
    pub fn said(&mut self, conn: u64, bytes: &[u8], now_us: u64) {
        let Some(talk) = self.talks.get_mut(&conn) else { return };
        talk.up.extend_from_slice(bytes);
        let mut buffer = std::mem::take(&mut talk.up);
        frames(&mut buffer, |header, payload| {
            if self.requests < self.max_requests {
                self.requests += 1;
                talk.ask(header, payload, now_us);
            }
        });
        talk.up = buffer;
    }

    /// The daemon said this.
    pub fn heard(&mut self, conn: u64, bytes: &[u8]) {
        let Some(talk) = self.talks.get_mut(&conn) else { return };
        talk.down.extend_from_slice(bytes);
        let mut buffer = std::mem::take(&mut talk.down);
        frames(&mut buffer, |header, payload| talk.answer(header, payload));
        talk.down = buffer;
    }

    /// Whether it records no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.requests >= self.max_requests
    }

    /// What was recorded.
    #[must_use]
    pub fn finish(self, name: &str) -> Mix {
        let talks = self.talks.into_values().map(|talk| talk.said);
        Mix::new(name, talks.filter(|said| !said.is_empty()).collect())
    }
}
