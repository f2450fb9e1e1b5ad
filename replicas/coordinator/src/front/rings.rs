//! The rings of domains: who is connected over which, and what an event channel
//! has to say.

use std::collections::{BTreeMap, BTreeSet};

use hypervisor::xen::{
    DomainId, Port, RemotePort, RingFault, Start, StoreRing, Virq, XenError, XenHost,
};
use rustix::event::epoll;
use state_machine::{ConnId, DomId, Input, OutputNo};
use xenstore::wire::{self, MessageType};

use super::channel::Channel;
use super::client::Client;
use super::ring::{Origin, Ring};
use super::{Front, Over, Token};
use crate::events::Tag;
use crate::inlet::Inlet;
use crate::journal::Domains;

/// See the module.
pub(super) struct Rings {
    xen: Box<dyn XenHost>,
    /// Where Xen says that some domain is not what it was.
    deaths: Port,
    by_domain: BTreeMap<DomId, Port>,
    by_port: BTreeMap<Port, ConnId>,
    /// Domains of which the component was told, and to whose rings nobody has
    /// connected: they are not introduced yet, or it could not be done.
    unconnected: BTreeSet<DomId>,
    /// The same, for the next host.
    named: Domains,
    ports: Vec<Port>,
}

fn domain(domid: DomId) -> DomainId {
    DomainId(domid.0)
}

impl Rings {
    pub(super) fn connect(
        &mut self,
        domid: DomId,
        origin: Origin,
        start: Start,
    ) -> Result<Ring, XenError> {
        let page = self.xen.map_ring(domain(domid))?;
        let port = self.xen.bind(domain(domid), origin.port)?;
        Ok(Ring::new(StoreRing::new(page, start), port, origin))
    }

    /// The component was told of a domain, to whose ring nobody is connected.
    pub(super) fn is_unconnected(&mut self, domid: DomId) {
        self.named.insert(domid);
        self.unconnected.insert(domid);
    }

    fn is_connected(&mut self, domid: DomId) {
        if self.unconnected.remove(&domid) {
            self.named.remove(domid);
        }
    }

    /// Tells the component of domains that a request names, and that are new to it:
    /// toolstacks give nodes to a domain before they introduce it. Whether there was
    /// room to tell it.
    pub(super) fn tell_of_named(&mut self, frame: &[u8], inlet: &mut Inlet) -> bool {
        for domid in named(frame).filter(|domid| domid.0 != 0) {
            if self.by_domain.contains_key(&domid) || self.unconnected.contains(&domid) {
                continue;
            }
            // As Xen's own daemon, for which who cannot be looked up does not exist.
            if !self.xen.exists(domain(domid)).unwrap_or(false) {
                continue;
            }
            // Over twice, the component knows no more of it than told once.
            if inlet.push(&Input::DomainExists { domid }).is_err() {
                return false;
            }
            self.is_unconnected(domid);
        }
        true
    }

    /// Domains that are gone, by number. One about which Xen does not tell is not.
    fn gone(&mut self) -> Vec<DomId> {
        let guests = self.by_domain.iter().filter(|(domid, _)| domid.0 != 0);
        let mut gone: Vec<_> = guests
            .filter(|&(&domid, &port)| self.xen.is_gone(domain(domid), port).unwrap_or(false))
            .map(|(&domid, _)| domid)
            .collect();
        let unconnected = self.unconnected.iter();
        gone.extend(unconnected.filter(|&&domid| !self.xen.exists(domain(domid)).unwrap_or(true)));
        gone
    }
}

/// The domains in the permissions that a SET_PERMS sets.
fn named(frame: &[u8]) -> impl Iterator<Item = DomId> {
    let kind = MessageType::SetPerms.to_u32();
    let request = wire::split(frame).filter(|(header, _)| header.kind == kind);
    let entries = request.into_iter().flat_map(|(_, payload)| {
        // The first string is the path.
        payload.split(|byte| *byte == 0).skip(1)
    });
    entries.filter_map(|entry| {
        let domid = std::str::from_utf8(entry.get(1..)?).ok()?;
        domid.parse().ok().map(DomId)
    })
}

impl Front {
    /// Begins to serve rings, with that of the control domain's own kernel.
    ///
    /// # Errors
    /// [`XenError`] when Xen refuses: nothing is served then. When epoll does,
    /// the same.
    pub(crate) fn serve_rings(
        &mut self,
        xen: Box<dyn XenHost>,
        inlet: &mut Inlet,
    ) -> Result<(), XenError> {
        let mut rings = self.attend_rings(xen)?;
        let origin = Origin { port: rings.xen.control_port()?, effect: OutputNo(0) };
        let ring = rings.connect(DomId(0), origin, Start::Resumed)?;
        self.rings = Some(rings);
        self.begin_ring(DomId(0), ring, inlet);
        Ok(())
    }

    /// Rings of nobody yet.
    pub(super) fn attend_rings(&self, mut xen: Box<dyn XenHost>) -> Result<Rings, XenError> {
        let deaths = xen.bind_virq(Virq::DomainException)?;
        let events = xen.events();
        epoll::add(&*self.epoll, events, Token::Rings.to_data(), epoll::EventFlags::IN)
            .map_err(|errno| XenError::Call { call: "epoll", source: errno.into() })?;
        let named = self.journal.named();
        Ok(Rings {
            xen,
            deaths,
            by_domain: BTreeMap::new(),
            by_port: BTreeMap::new(),
            unconnected: named.all().into_iter().collect(),
            named,
            ports: Vec::new(),
        })
    }

    /// Ends the service of all rings, whose connections have ended.
    pub(super) fn stop_rings(&mut self) {
        if let Some(rings) = self.rings.take() {
            let _ = epoll::delete(&*self.epoll, rings.xen.events());
        }
    }

    /// Connects to the ring of a domain, as an effect says. One that is connected
    /// already begins anew: its toolstack says that it has another event channel.
    pub(crate) fn introduce_ring(
        &mut self,
        domid: DomId,
        port: RemotePort,
        effect: OutputNo,
        inlet: &mut Inlet,
    ) {
        let origin = Origin { port, effect };
        if self.origin_of(domid) == Some(origin) {
            // The last host has done so, and did not live to say it.
            return;
        }
        let again = self.remove_ring(domid, inlet);
        let Some(rings) = &mut self.rings else { return };
        // The page of a domain that was served before this daemon started tells
        // how far; that of a new one is empty.
        let start = if again { Start::Emptied } else { Start::Resumed };
        match rings.connect(domid, origin, start) {
            Ok(ring) => self.begin_ring(domid, ring, inlet),
            Err(error) => {
                rings.is_unconnected(domid);
                self.events.warn(
                    &[Tag::Client],
                    format!("the ring of domain {domid} is not served: {error}"),
                );
                // It may have died while nobody looked.
                self.look_for_the_gone(inlet);
            }
        }
    }

    fn origin_of(&self, domid: DomId) -> Option<Origin> {
        let rings = self.rings.as_ref()?;
        let conn = rings.by_port.get(rings.by_domain.get(&domid)?)?;
        self.clients.get(conn)?.ring().map(Ring::origin)
    }

    /// Disconnects from the ring of a domain; whether it was connected.
    pub(crate) fn remove_ring(&mut self, domid: DomId, inlet: &mut Inlet) -> bool {
        let Some(rings) = &mut self.rings else { return false };
        rings.is_connected(domid);
        let Some(port) = rings.by_domain.remove(&domid) else { return false };
        let conn = rings.by_port.remove(&port);
        if let Err(error) = rings.xen.unbind(port) {
            self.events.warn(&[Tag::Client], format!("domain {domid}: {error}"));
        }
        if let Some(conn) = conn {
            // With the ring, its page is given back.
            drop(self.finish(conn, inlet));
        }
        true
    }

    pub(super) fn begin_ring(&mut self, domid: DomId, ring: Ring, inlet: &mut Inlet) {
        let port = ring.port();
        let conn = self.take_conn();
        self.seat(conn, domid, ring);
        // What waits is read, and who waits for the server is signalled.
        self.ring_ready(port, inlet);
    }

    /// The connection over a ring ends, and with a change to the ring its next one
    /// begins; its number. One that the component never knew of goes on as the
    /// next, so that a domain which begins anew all the time piles nothing up.
    pub(super) fn renew(
        &mut self,
        conn: ConnId,
        change: impl FnOnce(&mut Ring),
        inlet: &mut Inlet,
    ) -> ConnId {
        let Some(client) = self.clients.get(&conn) else { return conn };
        let (domid, known, listed) = (client.domid(), client.was_opened(), client.is_listed());
        let Some(mut ring) = self.finish(conn, inlet) else { return conn };
        change(&mut ring);
        let next = if known { self.take_conn() } else { conn };
        self.seat(next, domid, ring);
        if !known
            && listed
            && let Some(client) = self.clients.get_mut(&next)
        {
            client.mark_listed();
        }
        next
    }

    fn seat(&mut self, conn: ConnId, domid: DomId, ring: Ring) {
        let Some(seat) = self.journal.seat(conn, domid, ring.kind()) else {
            // There are as many as Xen can have domains that are of use.
            self.events.error(
                &[Tag::Client],
                format!("the ring of domain {domid} is not served: no seat is free"),
            );
            return;
        };
        self.connected(conn, domid, ring.port());
        self.clients.insert(conn, Client::new(Channel::Ring(ring), seat));
    }

    pub(super) fn connected(&mut self, conn: ConnId, domid: DomId, port: Port) {
        if let Some(rings) = &mut self.rings {
            rings.is_connected(domid);
            rings.by_domain.insert(domid, port);
            rings.by_port.insert(port, conn);
        }
    }

    /// Event channels have something to say.
    pub(crate) fn rings_ready(&mut self, inlet: &mut Inlet) {
        let Some(rings) = &mut self.rings else { return };
        let mut ports = std::mem::take(&mut rings.ports);
        if let Err(error) = rings.xen.take_pending(&mut ports) {
            // The device would say so for ever.
            self.events.error(&[Tag::Client], format!("rings are not served any more: {error}"));
            let _ = epoll::delete(&*self.epoll, rings.xen.events());
        }
        let deaths = rings.deaths;
        for &port in &ports {
            if port == deaths {
                // Who hears of one that is gone looks for those that have shut down
                // as well.
                if !self.look_for_the_gone(inlet) {
                    self.tell(Input::DomainShutDown, Over::Nothing, inlet);
                }
            } else {
                self.ring_ready(port, inlet);
            }
        }
        if let Some(rings) = &mut self.rings {
            rings.ports = ports;
        }
    }

    /// A domain has signalled.
    pub(super) fn ring_ready(&mut self, port: Port, inlet: &mut Inlet) {
        let conn = self.rings.as_ref().and_then(|rings| rings.by_port.get(&port));
        let Some(&conn) = conn else { return };
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let Some(ring) = client.ring_mut() else { return };
        if ring.wants_reset() {
            // What the connection held ends with it.
            let next = self.renew(conn, Ring::reset, inlet);
            if self.announce(next, inlet) {
                self.pump(next, inlet);
            }
            return;
        }
        ring.is_readable();
        if client.has_unsent() {
            self.send(conn, inlet);
        }
        self.read(conn, inlet);
    }

    /// Signals the domain behind a connection, if something has changed in its
    /// ring; whether the connection still stands.
    pub(super) fn announce(&mut self, conn: ConnId, inlet: &mut Inlet) -> bool {
        let Some(rings) = &mut self.rings else { return true };
        let port = self.clients.get_mut(&conn).and_then(Client::take_notice);
        let Some(Err(error)) = port.map(|port| rings.xen.notify(port)) else { return true };
        self.complain(conn, &error);
        self.end(conn, RingFault::Communication, inlet);
        false
    }

    /// Lets go of domains that are gone; whether there were any.
    pub(super) fn look_for_the_gone(&mut self, inlet: &mut Inlet) -> bool {
        let Some(rings) = &mut self.rings else { return false };
        let gone = rings.gone();
        for &domid in &gone {
            self.let_go_of(domid, inlet);
        }
        !gone.is_empty()
    }

    /// A domain is gone.
    pub(super) fn let_go_of(&mut self, domid: DomId, inlet: &mut Inlet) {
        // Without its ring, nothing else would tell the next host.
        self.journal.gone().insert(domid);
        self.remove_ring(domid, inlet);
        self.tell(Input::DomainGone { domid }, Over::Gone(domid), inlet);
    }
}
