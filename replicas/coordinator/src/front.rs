//! The front door: clients' sockets, and on a Xen host the rings of domains, on
//! one side, inputs and outputs on the other.
//!
//! Per connection, the order of requests is the order of their numbers, and
//! with one precaution also of their effects: a request that goes through the
//! log is not handed in while a query of the same connection is unanswered.
//! Otherwise a failover in between would answer that query from a state that
//! has the later request in it.
//!
//! Everything here is bounded. A connection with too many requests under way,
//! or whose client does not read, is not read from until that has changed; one
//! that lets events pile up beyond the limit is closed. Nobody else waits. A
//! domain's kernel cannot come back to a ring that was closed; so it misses the
//! events beyond the limit, as with Xen's own daemons.

mod adopt;
mod channel;
mod client;
mod ring;
mod rings;
mod socket;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hypervisor::ReplicaId;
use hypervisor::xen::RingFault;
use rustix::event::epoll;
use state_machine::{ConnId, DomId, Input, InputNo, OutputNo, mix64};

use crate::events::{Events, Tag};
use crate::holder::{Held, Holder};
use crate::inlet::Inlet;
use crate::journal::{Journal, Kind, Mark, Seat};
use crate::ledger::Answered;
pub(crate) use adopt::Left;
use channel::Channel;
use client::{Client, Pumped};
use ring::Ring;
use rings::Rings;
use socket::Socket;

/// Bounds of the front door.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Connections in all; further ones are closed at once.
    pub max_connections: usize,
    /// Unsent bytes at which a client is given up.
    pub backlog_bytes: usize,
    /// Requests under way from one connection of the control domain.
    pub outstanding: u32,
    /// Requests under way from one connection of a guest (Xen's quota
    /// "outstanding").
    pub guest_outstanding: u32,
}

impl FrontLimits {
    fn outstanding_of(&self, domid: DomId) -> u32 {
        match domid {
            DomId(0) => self.outstanding,
            _ => self.guest_outstanding,
        }
    }
}

/// How much a connection keeps the host busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientLoad {
    /// Which.
    pub conn: ConnId,
    /// Requests under way.
    pub under_way: u32,
    /// How many there may be.
    pub outstanding: u32,
    /// Bytes that its client has not read.
    pub unsent_bytes: usize,
}

/// What an epoll event is about; travels in its 64 bits of user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// One of the loop's own descriptors, by number.
    Loop(u32),
    /// The process of a replica.
    Replica(ReplicaId),
    /// A listening socket, by the domain that its connections speak for.
    Listener(DomId),
    /// A connection.
    Conn(ConnId),
    /// The event channels of domains' rings.
    Rings,
}

impl Token {
    const LOOP: u64 = 1 << 62;
    const REPLICA: u64 = 1 << 61;
    const LISTENER: u64 = 1 << 63;
    const RINGS: u64 = 1 << 60;

    /// The token as epoll's user data.
    #[must_use]
    pub fn to_data(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Self::Loop(number) => Self::LOOP | u64::from(number),
            Self::Replica(id) => Self::REPLICA | id.0,
            Self::Listener(domid) => Self::LISTENER | u64::from(domid.0),
            Self::Conn(conn) => conn.0,
            Self::Rings => Self::RINGS,
        })
    }

    /// The token that [`Self::to_data`] made.
    #[must_use]
    pub fn from_data(data: epoll::EventData) -> Self {
        let word = data.u64();
        if word & Self::LISTENER != 0 {
            Self::Listener(DomId((word & 0xffff) as u16))
        } else if word & Self::LOOP != 0 {
            Self::Loop((word & 0xffff_ffff) as u32)
        } else if word & Self::REPLICA != 0 {
            Self::Replica(ReplicaId(word & !Self::REPLICA))
        } else if word & Self::RINGS != 0 {
            Self::Rings
        } else {
            Self::Conn(ConnId(word))
        }
    }
}

/// The sockets and rings of one component.
pub(crate) struct Front {
    epoll: Arc<OwnedFd>,
    limits: FrontLimits,
    events: Arc<Events>,
    directory: PathBuf,
    listeners: BTreeMap<DomId, UnixListener>,
    /// Listeners that are not looked at for a moment: to accept has failed, and
    /// would again.
    deaf: BTreeSet<DomId>,
    /// That was told, and nobody was accepted since.
    told_deaf: bool,
    clients: HashMap<ConnId, Client, BuildHasherDefault<ConnHasher>>,
    /// What the next host must know of them.
    journal: Journal,
    /// Whoever holds their sockets for that one.
    holder: Arc<dyn Holder>,
    next_conn: ConnId,
    refused: u64,
    /// Clients with something to send.
    unsent: Vec<ConnId>,
    /// Clients that wait for their turn: the intake had no room for their next
    /// request, or their socket may have more to read.
    listed: VecDeque<ConnId>,
    /// What the component was not told yet: connections that ended, and domains
    /// that are gone.
    untold: VecDeque<(Input<'static>, Over)>,
    /// On a Xen host.
    rings: Option<Rings>,
    buffer: Box<[u8]>,
}

/// Of ids that the host itself counts up: nobody can choose some that collide, and a client
/// is looked up ten times a request.
#[derive(Debug, Default)]
struct ConnHasher(u64);

impl Hasher for ConnHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix64(self.0 ^ word);
    }
}

/// Bytes read from a socket at once.
const READ_BYTES: usize = 64 * 1024;

impl Front {
    /// Sockets under `directory`.
    pub(crate) fn new(
        epoll: Arc<OwnedFd>,
        directory: &Path,
        limits: FrontLimits,
        journal: Journal,
        holder: Arc<dyn Holder>,
        events: Arc<Events>,
    ) -> Self {
        Self {
            next_conn: journal.next_conn(),
            journal,
            holder,
            epoll,
            limits,
            events,
            directory: directory.to_owned(),
            listeners: BTreeMap::new(),
            deaf: BTreeSet::new(),
            told_deaf: false,
            clients: HashMap::default(),
            refused: 0,
            unsent: Vec::new(),
            listed: VecDeque::new(),
            untold: VecDeque::new(),
            rings: None,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// Where connections of `domid` are accepted.
    pub(crate) fn socket_path(&self, domid: DomId) -> PathBuf {
        if domid == DomId(0) {
            self.directory.join("socket")
        } else {
            self.directory.join("domains").join(format!("{domid}.socket"))
        }
    }

    /// Numbers connections from `first`: those of an earlier daemon are known to
    /// the component until it is told that this one has started.
    pub(crate) fn number_from(&mut self, first: ConnId) {
        self.next_conn = self.next_conn.max(first);
        self.journal.set_next_conn(self.next_conn);
    }

    /// What the next host must know.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// A number for a connection of the host's own.
    pub(crate) fn take_conn(&mut self) -> ConnId {
        let conn = self.next_conn;
        self.next_conn = ConnId(conn.0 + 1);
        self.journal.set_next_conn(self.next_conn);
        conn
    }

    /// The number that the next connection gets.
    pub(crate) fn next_conn(&self) -> ConnId {
        self.next_conn
    }

    /// Connections that were turned away.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// How much each connection keeps the host busy with, in no order.
    pub(crate) fn loads(&self) -> impl Iterator<Item = ClientLoad> {
        self.clients.iter().map(|(&conn, client)| ClientLoad {
            conn,
            under_way: client.under_way(),
            outstanding: self.limits.outstanding_of(client.domid()),
            unsent_bytes: client.unsent_bytes(),
        })
    }

    /// Connections now.
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Begins to accept connections that speak for `domid`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn listen(&mut self, domid: DomId) -> std::io::Result<()> {
        if self.listeners.contains_key(&domid) {
            return Ok(());
        }
        let path = self.socket_path(domid);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        self.holder.hold(Held::Listener(domid), &[listener.as_fd()]);
        self.attend(domid, listener)
    }

    fn attend(&mut self, domid: DomId, listener: UnixListener) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let flags = epoll::EventFlags::IN;
        epoll::add(&*self.epoll, &listener, Token::Listener(domid).to_data(), flags)?;
        self.listeners.insert(domid, listener);
        Ok(())
    }

    /// Looks at listeners again at which to accept has failed; to be called now
    /// and then.
    pub(crate) fn listen_again(&mut self) {
        for &domid in &self.deaf {
            if let Some(listener) = self.listeners.get(&domid) {
                let data = Token::Listener(domid).to_data();
                let _ = epoll::add(&*self.epoll, listener, data, epoll::EventFlags::IN);
            }
        }
        self.deaf.clear();
    }

    /// Ends the listening for `domid` and closes its connections.
    pub(crate) fn unlisten(&mut self, domid: DomId, inlet: &mut Inlet) {
        if self.listeners.remove(&domid).is_some() {
            self.holder.let_go(Held::Listener(domid));
            // Nobody can connect any more: a leftover file is only untidy.
            let _ = std::fs::remove_file(self.socket_path(domid));
        }
        let mut theirs: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, client)| client.domid() == domid)
            .map(|(&conn, _)| conn)
            .collect();
        // A map has no order that could be repeated.
        theirs.sort_unstable();
        for conn in theirs {
            drop(self.finish(conn, inlet));
        }
    }

    /// Closes every socket and lets go of every ring; for the end of the host.
    pub(crate) fn close(&mut self) {
        for (domid, _) in std::mem::take(&mut self.listeners) {
            self.holder.let_go(Held::Listener(domid));
            let _ = std::fs::remove_file(self.socket_path(domid));
        }
        let mut clients: Vec<_> = std::mem::take(&mut self.clients).into_iter().collect();
        // A map has no order that could be repeated.
        clients.sort_unstable_by_key(|(conn, _)| *conn);
        for (conn, client) in clients {
            self.holder.let_go(Held::Conn(conn));
            // Whoever else holds its socket: it is shut down.
            drop(client.into_parts());
        }
        self.stop_rings();
    }

    /// Takes the connections that wait at a listener.
    pub(crate) fn accept(&mut self, domid: DomId, inlet: &mut Inlet) {
        loop {
            let Some(listener) = self.listeners.get(&domid) else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Whoever waits there keeps the listener readable: out of
                    // descriptors, the host would do nothing else.
                    let _ = epoll::delete(&*self.epoll, listener);
                    self.deaf.insert(domid);
                    if !std::mem::replace(&mut self.told_deaf, true) {
                        self.events.warn(&[Tag::Client], format!("accept failed: {error}"));
                    }
                    return;
                }
            };
            if self.clients.len() >= self.limits.max_connections {
                self.refused += 1;
                self.events.warn(
                    &[Tag::Client],
                    format!(
                        "connection refused: max_connections = {} reached",
                        self.limits.max_connections
                    ),
                );
                continue;
            }
            self.told_deaf = false;
            let conn = self.take_conn();
            let socket = match Socket::new(conn, stream, &self.epoll) {
                Ok(socket) => socket,
                Err(error) => {
                    self.events.warn(&[Tag::Client], format!("connection {conn}: {error}"));
                    continue;
                }
            };
            let Some(seat) = self.journal.seat(conn, domid, Kind::Socket) else {
                // Connections that have ended keep theirs until the component knows.
                self.refused += 1;
                self.events.warn(&[Tag::Client], "connection refused: no seat is free");
                continue;
            };
            self.holder.hold(Held::Conn(conn), &[socket.descriptor()]);
            self.clients.insert(conn, Client::new(Channel::Socket(socket), seat));
            self.pump(conn, inlet);
        }
    }

    /// A connection has something to read, or room to write.
    pub(crate) fn ready(&mut self, conn: ConnId, flags: epoll::EventFlags, inlet: &mut Inlet) {
        if flags.contains(epoll::EventFlags::OUT) {
            self.send(conn, inlet);
        }
        let failed = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        if flags.intersects(epoll::EventFlags::IN | failed)
            && let Some(client) = self.clients.get_mut(&conn)
        {
            client.is_readable();
            self.read(conn, inlet);
        }
    }

    fn read(&mut self, conn: ConnId, inlet: &mut Inlet) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        match client.read(&mut self.buffer, &self.epoll) {
            Ok(()) => {
                if self.announce(conn, inlet) {
                    self.pump(conn, inlet);
                }
            }
            Err(error) => {
                self.complain(conn, &error);
                self.end(conn, RingFault::Index, inlet);
            }
        }
    }

    /// Says why a connection is closed. A ring can break as often as it likes: of that,
    /// ever fewer are told.
    fn complain(&mut self, conn: ConnId, why: &dyn std::fmt::Display) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let domid = client.domid();
        let text = match client.ring_mut().map(Ring::count_fault) {
            None => format!("connection {conn} closed: {why}"),
            Some(count) if count.is_power_of_two() => {
                format!(
                    "connection {conn} of domain {domid} closed, fault {count} of its ring: {why}"
                )
            }
            Some(_) => return,
        };
        self.events.warn(&[Tag::Client], text);
    }

    /// Hands in what a connection has asked, as far as it may.
    fn pump(&mut self, conn: ConnId, inlet: &mut Inlet) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        if client.is_listed() {
            // It gets its turn, after those listed before it.
            return;
        }
        if client.ring().is_some_and(|ring| !ring.is_served()) {
            return;
        }
        let outstanding = self.limits.outstanding_of(client.domid());
        // A ring's next connection begins when the component knows that its last
        // one has ended.
        let early = !client.was_opened() && client.ring().is_some() && !self.untold.is_empty();
        let pumped = if early {
            Pumped::IntakeFull
        } else {
            client.pump(inlet, outstanding, self.rings.as_mut())
        };
        match pumped {
            // What a client asked before it hung up is still done.
            Pumped::Done if client.has_hung_up() => {
                self.end(conn, RingFault::Communication, inlet);
                return;
            }
            Pumped::Done | Pumped::Waits => {}
            Pumped::IntakeFull => {
                client.mark_listed();
                self.listed.push_back(conn);
            }
            Pumped::Broken(why) => {
                self.complain(conn, &why);
                self.end(conn, RingFault::Protocol, inlet);
                return;
            }
        }
        if client.has_unsent() && client.mark_unsent() {
            self.unsent.push(conn);
        }
        if client.wants_to_read() && !client.is_listed() {
            client.mark_listed();
            self.listed.push_back(conn);
        }
    }

    /// Delivers the answer to input `no`: one request fewer is under way.
    pub(crate) fn answer(&mut self, no: InputNo, to: Answered, frame: &[u8], inlet: &mut Inlet) {
        let Answered { conn, query } = to;
        let mark = Mark::Reply(no);
        let Some(client) = self.clients.get_mut(&conn) else { return inlet.mark(mark) };
        let goes_on = client.answered(query);
        self.queue(conn, frame, mark, inlet);
        if goes_on {
            self.pump(conn, inlet);
        }
    }

    /// Delivers event `no`.
    pub(crate) fn event(&mut self, no: OutputNo, conn: ConnId, frame: &[u8], inlet: &mut Inlet) {
        let mark = Mark::Event(no);
        if let Some(client) = self.clients.get_mut(&conn)
            && client.ring().is_some()
            && client.unsent_bytes() > self.limits.backlog_bytes
        {
            if client.miss_event() {
                self.events.warn(
                    &[Tag::Client],
                    format!(
                        "domain {} misses events: it does not read, and {} bytes wait for it \
                         (client_backlog_kib)",
                        client.domid(),
                        client.unsent_bytes()
                    ),
                );
            }
            return inlet.mark(mark);
        }
        self.queue(conn, frame, mark, inlet);
    }

    fn queue(&mut self, conn: ConnId, frame: &[u8], mark: Mark, inlet: &mut Inlet) {
        let Some(client) = self.clients.get_mut(&conn) else { return inlet.mark(mark) };
        client.queue(frame, mark, inlet);
        // The answers that a ring waits for are bounded by its requests under way.
        if client.unsent_bytes() > self.limits.backlog_bytes && client.ring().is_none() {
            self.events.warn(
                &[Tag::Client],
                format!(
                    "connection {conn} closed: it does not read, and {} bytes wait for it \
                     (client_backlog_kib)",
                    client.unsent_bytes()
                ),
            );
            drop(self.finish(conn, inlet));
            return;
        }
        if client.mark_unsent() {
            self.unsent.push(conn);
        }
    }

    /// Sends what was queued since the last time, one write a client.
    pub(crate) fn flush(&mut self, inlet: &mut Inlet) -> bool {
        if self.unsent.is_empty() {
            return false;
        }
        let unsent = std::mem::take(&mut self.unsent);
        for &conn in &unsent {
            self.send(conn, inlet);
        }
        true
    }

    fn send(&mut self, conn: ConnId, inlet: &mut Inlet) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        match client.send(&self.epoll) {
            Ok(goes_on) => {
                if self.announce(conn, inlet) && goes_on {
                    self.pump(conn, inlet);
                }
            }
            Err(_) => self.end(conn, RingFault::Index, inlet),
        }
    }

    /// Goes on with what could not be done when it came.
    pub(crate) fn go_on(&mut self, inlet: &mut Inlet) {
        if !self.tell_what_waits(inlet) {
            return;
        }
        for _ in 0..self.listed.len() {
            let Some(conn) = self.listed.pop_front() else { break };
            if let Some(client) = self.clients.get_mut(&conn) {
                client.clear_listed();
                self.read(conn, inlet);
            }
        }
    }

    /// Whether [`Self::go_on`] has something to read, of which nothing else will
    /// tell.
    pub(crate) fn has_more(&self) -> bool {
        self.listed.iter().any(|conn| self.clients.get(conn).is_some_and(Client::wants_to_read))
    }

    /// A connection is over. The ring over which it came, if it came over one,
    /// shows `fault` unless it shows another, and waits for its domain to begin
    /// anew.
    fn end(&mut self, conn: ConnId, fault: RingFault, inlet: &mut Inlet) {
        if self.clients.get(&conn).is_some_and(|client| client.ring().is_some()) {
            let next = self.renew(conn, |ring| ring.fail(fault), inlet);
            self.announce(next, inlet);
        } else {
            drop(self.finish(conn, inlet));
        }
    }

    /// A connection is over; the component is told so, after all it asked. Gives
    /// the ring back over which it came.
    fn finish(&mut self, conn: ConnId, inlet: &mut Inlet) -> Option<Ring> {
        let client = self.clients.remove(&conn)?;
        let opened = client.was_opened();
        let (ring, seat) = client.into_parts();
        if ring.is_none() {
            self.holder.let_go(Held::Conn(conn));
        }
        if opened {
            self.tell(Input::Close { conn }, Over::Left(Box::new(seat)), inlet);
        } else {
            self.journal.leave(seat);
        }
        ring
    }

    /// Tells the component, as soon as there is room.
    fn tell(&mut self, input: Input<'static>, over: Over, inlet: &mut Inlet) {
        // What waits to be told need not be told twice.
        if self.untold.back().is_some_and(|(last, _)| *last == input) {
            return;
        }
        self.untold.push_back((input, over));
        self.tell_what_waits(inlet);
    }

    /// Tells what was not told yet; whether there was room for all of it.
    fn tell_what_waits(&mut self, inlet: &mut Inlet) -> bool {
        while let Some((input, over)) = self.untold.front() {
            if let Over::Left(seat) = over {
                seat.ending(inlet.ledger.next_no());
            }
            if inlet.push(input).is_err() {
                if let Over::Left(seat) = over {
                    seat.not_ended();
                }
                return false;
            }
            match self.untold.pop_front() {
                Some((_, Over::Left(seat))) => self.journal.leave(*seat),
                Some((_, Over::Gone(domid))) => self.journal.gone().remove(domid),
                Some((_, Over::Nothing)) | None => {}
            }
        }
        true
    }
}

/// What is over once the component was told.
#[derive(Debug)]
enum Over {
    Nothing,
    /// A connection.
    Left(Box<Seat>),
    /// A domain.
    Gone(DomId),
}

#[cfg(test)]
mod tests;
