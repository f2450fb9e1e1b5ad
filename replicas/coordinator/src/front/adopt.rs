//! The connections of a host that has ended are gone on with.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use hypervisor::xen::{RingFault, Start, XenError, XenHost};
use state_machine::{ConnId, Input};

use super::channel::Channel;
use super::client::Client;
use super::ring::Origin;
use super::socket::Socket;
use super::{Front, Over};
use crate::events::Tag;
use crate::holder::Held;
use crate::inlet::Inlet;
use crate::journal::{Kind, Seat, State};

/// What a host that has ended leaves to the next one's front.
pub(crate) struct Left {
    /// Sockets, beside what is nobody's.
    pub(crate) held: BTreeMap<Held, Vec<OwnedFd>>,
    /// Connections.
    pub(crate) seats: Vec<Seat>,
    /// Requests under way, in their order, and whether they skip the log.
    pub(crate) pending: Vec<(ConnId, bool)>,
    /// The connection on which the host itself has asked.
    pub(crate) inner: Option<ConnId>,
}

impl Front {
    /// Goes on with what is left. Rings are served where there is a `xen`. `abandoned`
    /// hears of each connection that cannot be gone on with, before its client does.
    ///
    /// # Errors
    /// [`XenError`] when rings cannot be served.
    pub(crate) fn adopt(
        &mut self,
        left: Left,
        xen: Option<Box<dyn XenHost>>,
        inlet: &mut Inlet,
        abandoned: &mut dyn FnMut(ConnId),
    ) -> Result<(), XenError> {
        let Left { mut held, mut seats, pending, inner } = left;
        for seat in &seats {
            seat.forget_inputs_after(inlet.last_no());
        }
        if let Some(xen) = xen {
            self.rings = Some(self.attend_rings(xen)?);
        }
        seats.sort_unstable_by_key(Seat::conn);
        for seat in seats {
            let socket = held.remove(&Held::Conn(seat.conn())).and_then(|mut fds| fds.pop());
            self.adopt_seat(seat, socket, inlet, abandoned);
        }
        for (conn, query) in pending {
            if let Some(client) = self.clients.get_mut(&conn) {
                client.asked(query);
            }
        }
        self.adopt_held(held);
        if let Some(conn) = inner {
            // Whoever waits for its answers has ended.
            self.tell(Input::Close { conn }, Over::Nothing, inlet);
        }
        self.go_on_with_all(inlet);
        Ok(())
    }

    fn adopt_held(&mut self, held: BTreeMap<Held, Vec<OwnedFd>>) {
        for (name, descriptors) in held {
            let outcome = match (name, descriptors.into_iter().next()) {
                (Held::Listener(domid), Some(fd)) => self.attend(domid, UnixListener::from(fd)),
                // The last host was about to let go of it, or to take it up.
                _ => {
                    self.holder.let_go(name);
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                self.events.error(&[Tag::Client], format!("a socket is not served: {error}"));
            }
        }
    }

    fn adopt_seat(
        &mut self,
        mut seat: Seat,
        socket: Option<OwnedFd>,
        inlet: &mut Inlet,
        abandoned: &mut dyn FnMut(ConnId),
    ) {
        let conn = seat.conn();
        let handed = seat.handed(inlet.last_no());
        if seat.state() == State::Closing {
            return self.close_seat(seat, inlet);
        }
        let outbox = seat.outbox(inlet);
        let adopted = match (seat.kind(), socket) {
            (Kind::Socket, Some(fd)) => {
                let stream = UnixStream::from(fd);
                let Some(outbox) = outbox else {
                    self.not_adopted(conn, "what it was sent last is not known", abandoned);
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                    return self.close_seat(seat, inlet);
                };
                match Socket::adopt(conn, stream, handed.taken, &seat, &self.epoll) {
                    Ok(socket) => Some((Channel::Socket(socket), Vec::new(), outbox)),
                    Err(error) => {
                        self.not_adopted(conn, &error.to_string(), abandoned);
                        None
                    }
                }
            }
            (Kind::Socket, None) => {
                self.not_adopted(conn, "nobody has held its socket", abandoned);
                None
            }
            (Kind::Ring { .. }, _) => return self.adopt_ring(seat, outbox, inlet, abandoned),
        };
        let Some((channel, inbox, outbox)) = adopted else { return self.close_seat(seat, inlet) };
        let client = Client::adopt(channel, seat, handed, inbox, outbox, inlet.last_no());
        self.clients.insert(conn, client);
    }

    fn adopt_ring(
        &mut self,
        mut seat: Seat,
        outbox: Option<Vec<u8>>,
        inlet: &mut Inlet,
        abandoned: &mut dyn FnMut(ConnId),
    ) {
        let (conn, domid) = (seat.conn(), seat.domid());
        let handed = seat.handed(inlet.last_no());
        let Kind::Ring { port, consumed, produced, effect } = seat.kind() else { return };
        let Some(rings) = &mut self.rings else { return self.close_seat(seat, inlet) };
        let kept = seat.inbox();
        // Indices are modulo 2^32.
        let read = kept.as_ref().map_or(0, |(_, end)| *end);
        let start = Start::Continued {
            consumed: consumed.wrapping_add(read as u32),
            produced: produced.wrapping_add(seat.sent_bytes() as u32),
        };
        let mut ring = match rings.connect(domid, Origin { port, effect }, start) {
            Ok(ring) => ring,
            Err(error) => {
                rings.is_unconnected(domid);
                self.not_adopted(conn, &error.to_string(), abandoned);
                return self.close_seat(seat, inlet);
            }
        };
        match (kept, outbox) {
            (Ok((inbox, _)), Some(outbox)) => {
                self.connected(conn, domid, ring.port());
                let channel = Channel::Ring(ring);
                let client = Client::adopt(channel, seat, handed, inbox, outbox, inlet.last_no());
                self.clients.insert(conn, client);
            }
            _ => {
                // Its domain may begin anew.
                self.not_adopted(conn, "what it was sent last is not known", abandoned);
                self.close_seat(seat, inlet);
                ring.fail(RingFault::Communication);
                self.begin_ring(domid, ring, inlet);
            }
        }
    }

    fn not_adopted(&self, conn: ConnId, why: &str, abandoned: &mut dyn FnMut(ConnId)) {
        abandoned(conn);
        self.events.warn(&[Tag::Client], format!("connection {conn} is closed: {why}"));
    }

    /// A connection has ended with the last host, or should have.
    fn close_seat(&mut self, seat: Seat, inlet: &mut Inlet) {
        let (conn, last) = (seat.conn(), inlet.last_no());
        seat.close();
        self.holder.let_go(Held::Conn(conn));
        if seat.was_opened(last) && !seat.was_ended(last) {
            self.tell(Input::Close { conn }, Over::Left(Box::new(seat)), inlet);
        } else {
            self.journal.leave(seat);
        }
    }

    /// Whatever has happened since, nobody has told this host.
    fn go_on_with_all(&mut self, inlet: &mut Inlet) {
        for domid in self.journal.gone().all() {
            self.let_go_of(domid, inlet);
        }
        self.look_for_the_gone(inlet);
        if self.rings.is_some() {
            self.tell(Input::DomainShutDown, Over::Nothing, inlet);
        }
        let mut conns: Vec<_> = self.clients.keys().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            let Some(client) = self.clients.get_mut(&conn) else { continue };
            if let Some(ring) = client.ring() {
                let port = ring.port();
                self.ring_ready(port, inlet);
            } else {
                self.send(conn, inlet);
                self.read(conn, inlet);
            }
        }
    }
}
