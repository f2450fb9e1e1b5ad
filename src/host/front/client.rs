//! One client's connection.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::event::epoll::{self, EventFlags};
use state_machine::{ConnId, DomId, Input};
use xenstore::wire::{self, Errno, Framer, HEADER_LEN, Step};

use super::Token;
use crate::host::inlet::Inlet;

/// Unsent bytes at which no more requests are taken from a client.
const UNSENT_SOFT_BYTES: usize = 128 * 1024;
/// Unread requests at which the socket is not read any more.
const INBOX_BYTES: usize = 64 * 1024;

/// How far [`Client::pump`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Everything that has come is handed in.
    Done,
    /// The next request waits for answers to earlier ones.
    Waits,
    /// The intake has no room.
    IntakeFull,
    /// The stream makes no sense.
    Broken(&'static str),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    conn: ConnId,
    domid: DomId,
    stream: UnixStream,
    framer: Framer,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    under_way: u32,
    queries_under_way: u32,
    opened: bool,
    hung_up: bool,
    waits: bool,
    stalled: bool,
    listed_unsent: bool,
    interest: EventFlags,
}

impl Client {
    pub(super) fn new(
        conn: ConnId,
        domid: DomId,
        stream: UnixStream,
        epoll: &OwnedFd,
    ) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let interest = EventFlags::IN;
        epoll::add(epoll, &stream, Token::Conn(conn).to_data(), interest)?;
        Ok(Self {
            conn,
            domid,
            stream,
            framer: Framer::default(),
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            under_way: 0,
            queries_under_way: 0,
            opened: false,
            hung_up: false,
            waits: false,
            stalled: false,
            listed_unsent: false,
            interest,
        })
    }

    pub(super) fn domid(&self) -> DomId {
        self.domid
    }

    /// Whether the component knows of it.
    pub(super) fn was_opened(&self) -> bool {
        self.opened
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.outbox.len() - self.sent
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.unsent_bytes() > 0
    }

    /// Notes that it is on the list of those with something to send; whether it
    /// was not yet.
    pub(super) fn mark_unsent(&mut self) -> bool {
        !std::mem::replace(&mut self.listed_unsent, true)
    }

    /// Notes that it is on the list of the stalled; whether it was not yet.
    pub(super) fn mark_stalled(&mut self) -> bool {
        !std::mem::replace(&mut self.stalled, true)
    }

    pub(super) fn clear_stalled(&mut self) {
        self.stalled = false;
    }

    fn want(&mut self, interest: EventFlags, epoll: &OwnedFd) -> std::io::Result<()> {
        if self.interest != interest && !self.hung_up {
            epoll::modify(epoll, &self.stream, Token::Conn(self.conn).to_data(), interest)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// Whether the client has closed its end.
    pub(super) fn has_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Reads what has come, or notes that the client has hung up.
    pub(super) fn read(&mut self, buffer: &mut [u8], epoll: &OwnedFd) -> std::io::Result<()> {
        if self.hung_up {
            return Ok(());
        }
        if self.inbox.len() >= INBOX_BYTES {
            // Enough for now. `send` asks for more once answers go out.
            return self.want(self.interest.difference(EventFlags::IN), epoll);
        }
        match self.stream.read(buffer) {
            Ok(0) => {
                // epoll would report the hang-up again and again.
                epoll::delete(epoll, &self.stream)?;
                self.hung_up = true;
            }
            Ok(len) => self.inbox.extend_from_slice(&buffer[..len]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Hands in requests until there is no whole one, or the next must wait.
    pub(super) fn pump(&mut self, inlet: &mut Inlet, outstanding: u32) -> Pumped {
        if self.stalled {
            return Pumped::IntakeFull;
        }
        if !self.opened {
            if inlet.push(&Input::Open { conn: self.conn, domid: self.domid }).is_err() {
                return Pumped::IntakeFull;
            }
            self.opened = true;
        }
        let mut at = 0;
        let pumped = loop {
            if self.under_way >= outstanding || self.unsent_bytes() > UNSENT_SOFT_BYTES {
                break Pumped::Waits;
            }
            let rest = &self.inbox[at..];
            let mut framer = self.framer;
            match framer.step(rest) {
                Step::NeedMore(_) => break Pumped::Done,
                Step::Skip(len) => at += len,
                Step::Close(_) => break Pumped::Broken("a frame of absurd length"),
                Step::Oversized(header) => {
                    // Its error must not overtake earlier answers.
                    if self.under_way > 0 {
                        break Pumped::Waits;
                    }
                    wire::error_frame(Errno::E2BIG, header.req_id, header.tx_id, &mut self.outbox);
                    at += HEADER_LEN;
                }
                Step::Frame(len) => {
                    let frame = &rest[..len];
                    let query = Inlet::is_query(self.conn, frame);
                    if !query && self.queries_under_way > 0 {
                        break Pumped::Waits;
                    }
                    if inlet.push(&Input::Request { conn: self.conn, frame }).is_err() {
                        break Pumped::IntakeFull;
                    }
                    self.under_way += 1;
                    self.queries_under_way += u32::from(query);
                    at += len;
                }
            }
            self.framer = framer;
        };
        self.inbox.drain(..at);
        self.waits = pumped == Pumped::Waits;
        pumped
    }

    /// An answer came; whether a request waited for it.
    pub(super) fn answered(&mut self, query: bool) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        self.queries_under_way = self.queries_under_way.saturating_sub(u32::from(query));
        self.waits
    }

    pub(super) fn queue(&mut self, frame: &[u8]) {
        self.outbox.extend_from_slice(frame);
    }

    /// Sends as much as the socket takes; whether a request waited for that.
    pub(super) fn send(&mut self, epoll: &OwnedFd) -> std::io::Result<bool> {
        self.listed_unsent = false;
        while self.sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut interest = EventFlags::empty();
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
            // One burst of events must not hold its memory for ever.
            if self.outbox.capacity() > UNSENT_SOFT_BYTES {
                self.outbox.shrink_to(UNSENT_SOFT_BYTES);
            }
        } else {
            self.outbox.drain(..self.sent);
            self.sent = 0;
            interest |= EventFlags::OUT;
        }
        if self.inbox.len() < INBOX_BYTES {
            interest |= EventFlags::IN;
        }
        self.want(interest, epoll)?;
        Ok(self.waits)
    }
}
