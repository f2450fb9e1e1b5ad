//! One client's connection.

use std::os::fd::OwnedFd;

use hypervisor::xen::Port;
use state_machine::{ConnId, DomId, Input, InputNo};
use teeth::Bug;
use xenstore::wire::{self, Errno, Framer, HEADER_LEN, Step};

use super::channel::Channel;
use super::ring::Ring;
use super::rings::Rings;
use crate::inlet::Inlet;
use crate::journal::{Handed, Mark, Seat};

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
    /// The same, for the next host.
    seat: Seat,
    framer: Framer,
    /// Bytes of the stream that were handed in, or left out.
    taken: u64,
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
    pub(super) fn new(channel: Channel, seat: Seat) -> Self {
        Self {
            conn: seat.conn(),
            domid: seat.domid(),
            channel,
            seat,
            framer: Framer::default(),
            taken: 0,
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

    /// The client of a host that has ended, as that one has left it.
    pub(super) fn adopt(
        channel: Channel,
        seat: Seat,
        handed: Handed,
        inbox: Vec<u8>,
        outbox: Vec<u8>,
        last: InputNo,
    ) -> Self {
        let opened = seat.was_opened(last);
        Self {
            framer: Framer::skipping(handed.skip),
            taken: handed.taken,
            inbox,
            outbox,
            opened,
            ..Self::new(channel, seat)
        }
    }

    /// A request that an ended host has handed in waits for its answer.
    pub(super) fn asked(&mut self, query: bool) {
        self.under_way += 1;
        self.queries_under_way += u32::from(query);
    }

    /// Its ring, if that is what it comes over.
    pub(super) fn ring(&self) -> Option<&Ring> {
        self.channel.ring()
    }

    /// The same, to be changed.
    pub(super) fn ring_mut(&mut self) -> Option<&mut Ring> {
        self.channel.ring_mut()
    }

    /// What is left when the connection has ended: the ring over which it came, and
    /// the seat.
    pub(super) fn into_parts(self) -> (Option<Ring>, Seat) {
        self.seat.close();
        (self.channel.end(), self.seat)
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
                    let len = socket.read(buffer, lazily, &self.seat, epoll)?;
                    self.inbox.extend_from_slice(&buffer[..len]);
                }
                Channel::Ring(ring) => {
                    let before = self.inbox.len();
                    if ring.read(&mut self.inbox)? > 0 {
                        self.seat.keep_read(&self.inbox[before..], &self.inbox);
                        ring.show();
                    }
                }
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
            self.seat.opening(inlet.ledger.next_no());
            if inlet.push(&Input::Open { conn: self.conn, domid: self.domid }).is_err() {
                self.seat.not_opened();
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
                Step::Skip(len) => {
                    at += len;
                    self.seat.skipped(self.taken + at as u64, framer.to_skip(), &[], &[]);
                }
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
                    let mut error = Vec::new();
                    wire::error_frame(Errno::E2BIG, header.req_id, header.tx_id, &mut error);
                    at += HEADER_LEN;
                    let taken = self.taken + at as u64;
                    self.seat.skipped(taken, framer.to_skip(), &error, &self.outbox);
                    self.outbox.extend_from_slice(&error);
                }
                Step::Frame(len) => {
                    let frame = &rest[..len];
                    let query = Inlet::is_query(self.conn, frame);
                    let overtakes = teeth::bites(Bug::QueryOvertaken);
                    if !query && self.queries_under_way > 0 && !overtakes {
                        break Pumped::Waits;
                    }
                    let told = rings.as_mut().is_none_or(|rings| rings.tell_of_named(frame, inlet));
                    if !told {
                        break Pumped::IntakeFull;
                    }
                    let taken = self.taken + at as u64;
                    self.seat.handing(inlet.ledger.next_no(), taken + len as u64);
                    if inlet.push(&Input::Request { conn: self.conn, frame }).is_err() {
                        self.seat.not_handed(taken);
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
        self.taken += at as u64;
        if self.inbox.is_empty() {
            self.seat.inbox_is_empty();
        }
        self.waits = pumped == Pumped::Waits;
        // Without a request under way nothing will go out that wakes it anyway.
        if self.under_way == 0 && !self.has_unsent() && self.settle().is_err() {
            return Pumped::Broken("its socket fails");
        }
        pumped
    }

    /// Takes what was handed in from the socket, where it was only looked at.
    fn settle(&mut self) -> std::io::Result<()> {
        match &mut self.channel {
            Channel::Socket(socket) => socket.settle(self.taken, &self.seat),
            Channel::Ring(_) => Ok(()),
        }
    }

    /// An answer came; whether a request waited for it.
    pub(super) fn answered(&mut self, query: bool) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        self.queries_under_way = self.queries_under_way.saturating_sub(u32::from(query));
        self.waits
    }

    /// Queues what `mark` stands for, which counts as delivered from now on.
    pub(super) fn queue(&mut self, frame: &[u8], mark: Mark, inlet: &Inlet) {
        self.seat.queue(frame, &self.outbox, mark, inlet);
        self.outbox.extend_from_slice(frame);
    }

    /// Sends as much as the socket takes; whether a request waited for that.
    pub(super) fn send(&mut self, epoll: &OwnedFd) -> std::io::Result<bool> {
        self.listed_unsent = false;
        self.settle()?;
        let sent = match &mut self.channel {
            Channel::Socket(socket) => {
                if self.outbox.is_empty() {
                    return Ok(self.waits);
                }
                self.seat.sending();
                let sent = socket.send(&self.outbox, epoll)?;
                self.seat.sent(sent, sent == self.outbox.len());
                sent
            }
            Channel::Ring(ring) => {
                let sent = ring.send(&self.outbox)?;
                if sent > 0 {
                    self.seat.sent(sent, sent == self.outbox.len());
                    ring.show();
                }
                sent
            }
        };
        self.outbox.drain(..sent);
        // One burst of events must not hold its memory for ever.
        if self.outbox.is_empty() && self.outbox.capacity() > UNSENT_SOFT_BYTES {
            self.outbox.shrink_to(UNSENT_SOFT_BYTES);
        }
        Ok(self.waits)
    }
}
