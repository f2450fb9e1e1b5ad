//! One client's connection.

use std::os::fd::OwnedFd;

use hypervisor::xen::Port;
use state_machine::{ConnId, DomId, Input};
use teeth::Bug;
use xenstore::wire::{self, Errno, Framer, HEADER_LEN, Step};

use super::channel::Channel;
use super::ring::Ring;
use super::rings::Rings;
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
    channel: Channel,
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
    /// Events for it were dropped.
    misses_events: bool,
}

impl Client {
    pub(super) fn new(conn: ConnId, domid: DomId, channel: Channel) -> Self {
        Self {
            conn,
            domid,
            channel,
            framer: Framer::default(),
            inbox: Vec::new(),
            outbox: Vec::new(),
            under_way: 0,
            queries_under_way: 0,
            opened: false,
            waits: false,
            listed: false,
            listed_unsent: false,
            misses_events: false,
        }
    }

    /// Its ring, if that is what it comes over.
    pub(super) fn ring(&self) -> Option<&Ring> {
        self.channel.ring()
    }

    /// The same, to be changed.
    pub(super) fn ring_mut(&mut self) -> Option<&mut Ring> {
        self.channel.ring_mut()
    }

    /// The ring that is left when the connection over it has ended.
    pub(super) fn into_ring(self) -> Option<Ring> {
        self.channel.into_ring()
    }

    /// Over which port somebody has to be signalled, if so.
    pub(super) fn take_notice(&mut self) -> Option<Port> {
        self.channel.ring_mut()?.take_notice()
    }

    /// Notes that an event for it was dropped; whether it was the first.
    pub(super) fn miss_event(&mut self) -> bool {
        !std::mem::replace(&mut self.misses_events, true)
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
        self.channel.has_hung_up()
    }

    /// Notes that there is something to read.
    pub(super) fn is_readable(&mut self) {
        self.channel.is_readable();
    }

    /// Whether there may be something to read, and room for it.
    pub(super) fn wants_to_read(&self) -> bool {
        self.channel.may_have_more() && self.inbox.len() < INBOX_BYTES
    }

    /// Reads what has come, if there is room for it, or notes that the client has
    /// hung up.
    pub(super) fn read(&mut self, buffer: &mut [u8], epoll: &OwnedFd) -> std::io::Result<()> {
        if self.wants_to_read() {
            // Who has asked one thing sleeps until that is answered.
            let lazily = self.under_way == 0 && self.inbox.is_empty() && !self.has_unsent();
            match &mut self.channel {
                Channel::Socket(socket) => {
                    let len = socket.read(buffer, lazily, epoll)?;
                    self.inbox.extend_from_slice(&buffer[..len]);
                }
                Channel::Ring(ring) => ring.read(&mut self.inbox)?,
            }
        }
        Ok(())
    }

    /// Hands in requests until there is no whole one, or the next must wait.
    /// On a Xen host, `rings` knows which domains there are.
    pub(super) fn pump(
        &mut self,
        inlet: &mut Inlet,
        outstanding: u32,
        mut rings: Option<&mut Rings>,
    ) -> Pumped {
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
                // As Xen's own daemons do: a kernel knows the limit.
                Step::Oversized(_) if self.channel.is_ring() => {
                    break Pumped::Broken("a frame longer than the protocol allows");
                }
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
                    let told = rings.as_mut().is_none_or(|rings| rings.tell_of_named(frame, inlet));
                    if !told || inlet.push(&Input::Request { conn: self.conn, frame }).is_err() {
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
        if self.under_way == 0 && !self.has_unsent() && self.channel.settle().is_err() {
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
        let sent = self.channel.send(&self.outbox, epoll)?;
        self.outbox.drain(..sent);
        // One burst of events must not hold its memory for ever.
        if self.outbox.is_empty() && self.outbox.capacity() > UNSENT_SOFT_BYTES {
            self.outbox.shrink_to(UNSENT_SOFT_BYTES);
        }
        Ok(self.waits)
    }
}
