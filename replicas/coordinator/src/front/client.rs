//! One client's connection.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use state_machine::{ConnId, DomId, Input};
use teeth::Bug;
use xenstore::wire::{self, Errno, Framer, HEADER_LEN, Step};

use super::socket::Socket;
use crate::inlet::Inlet;

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
    socket: Socket,
    framer: Framer,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    under_way: u32,
    queries_under_way: u32,
    opened: bool,
    waits: bool,
    /// Waits for its turn, on the list of those.
    listed: bool,
    listed_unsent: bool,
}

impl Client {
    pub(super) fn new(
        conn: ConnId,
        domid: DomId,
        stream: UnixStream,
        epoll: &OwnedFd,
    ) -> std::io::Result<Self> {
        Ok(Self {
            conn,
            domid,
            socket: Socket::new(conn, stream, epoll)?,
            framer: Framer::default(),
            inbox: Vec::new(),
            outbox: Vec::new(),
            under_way: 0,
            queries_under_way: 0,
            opened: false,
            waits: false,
            listed: false,
            listed_unsent: false,
        })
    }

    pub(super) fn domid(&self) -> DomId {
        self.domid
    }

    /// Whether the component knows of it.
    pub(super) fn was_opened(&self) -> bool {
        self.opened
    }

    /// Requests that are not answered.
    pub(super) fn under_way(&self) -> u32 {
        self.under_way
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.outbox.len()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.unsent_bytes() > 0
    }

    /// Notes that it is on the list of those with something to send; whether it
    /// was not yet.
    pub(super) fn mark_unsent(&mut self) -> bool {
        !std::mem::replace(&mut self.listed_unsent, true)
    }

    /// Notes that it is on the list of those that wait for their turn.
    pub(super) fn mark_listed(&mut self) {
        self.listed = true;
    }

    pub(super) fn clear_listed(&mut self) {
        self.listed = false;
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether the client has closed its end.
    pub(super) fn has_hung_up(&self) -> bool {
        self.socket.has_hung_up()
    }

    /// Notes that there is something to read.
    pub(super) fn is_readable(&mut self) {
        self.socket.is_readable();
    }

    /// Whether there may be something to read, and room for it.
    pub(super) fn wants_to_read(&self) -> bool {
        self.socket.may_have_more() && self.inbox.len() < INBOX_BYTES
    }

    /// Reads what has come, if there is room for it, or notes that the client has
    /// hung up.
    pub(super) fn read(&mut self, buffer: &mut [u8], epoll: &OwnedFd) -> std::io::Result<()> {
        if self.wants_to_read() {
            // Who has asked one thing sleeps until that is answered.
            let lazily = self.under_way == 0 && self.inbox.is_empty() && !self.has_unsent();
            let len = self.socket.read(buffer, lazily, epoll)?;
            self.inbox.extend_from_slice(&buffer[..len]);
        }
        Ok(())
    }

    /// Hands in requests until there is no whole one, or the next must wait.
    pub(super) fn pump(&mut self, inlet: &mut Inlet, outstanding: u32) -> Pumped {
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
                    let overtakes = teeth::bites(Bug::QueryOvertaken);
                    if !query && self.queries_under_way > 0 && !overtakes {
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
        // Without a request under way nothing will go out that wakes it anyway.
        if self.under_way == 0 && !self.has_unsent() && self.socket.settle().is_err() {
            return Pumped::Broken("its socket fails");
        }
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
        let sent = self.socket.send(&self.outbox, epoll)?;
        self.outbox.drain(..sent);
        // One burst of events must not hold its memory for ever.
        if self.outbox.is_empty() && self.outbox.capacity() > UNSENT_SOFT_BYTES {
            self.outbox.shrink_to(UNSENT_SOFT_BYTES);
        }
        Ok(self.waits)
    }
}
