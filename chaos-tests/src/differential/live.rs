//! A daemon behind its sockets, Xen's or ours.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use xenstore::wire::MessageType;

use super::CONNECTIONS;
use super::endpoint::{Answer, Endpoint, EndpointError};
use super::op::ConnAt;
use crate::client::{Client, ClientError, Event, Transport, Tx};
use crate::peers::Peer;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A stream of either kind.
type AnyClient = Client<Box<dyn Transport>>;

impl Transport for Box<dyn Transport> {
    fn send(&mut self, bytes: &[u8], timeout: Duration) -> std::io::Result<()> {
        (**self).send(bytes, timeout)
    }

    fn recv(&mut self, into: &mut [u8], timeout: Duration) -> std::io::Result<usize> {
        (**self).recv(into, timeout)
    }
}

/// Where a daemon lets domains in.
enum Doors<'a> {
    /// Rings of make-believe domains.
    Peer(&'a Peer),
    /// A socket for each introduced domain, in this directory.
    Sockets(PathBuf),
}

/// A running daemon.
pub struct LiveEndpoint<'a> {
    socket: PathBuf,
    doors: Doors<'a>,
    conns: Vec<AnyClient>,
}

fn named<T>(what: &str, result: Result<T, ClientError>) -> Result<T, EndpointError> {
    result.map_err(|source| EndpointError::Client { what: what.to_owned(), source })
}

impl<'a> LiveEndpoint<'a> {
    /// Connects to one of Xen's daemons.
    ///
    /// # Errors
    /// [`EndpointError`] when a connection cannot be had.
    pub fn of_peer(peer: &'a Peer) -> Result<Self, EndpointError> {
        Self::connect(peer.socket(), Doors::Peer(peer))
    }

    /// Connects to a daemon that has a socket `N.socket` in `domains` for each
    /// introduced domain N.
    ///
    /// # Errors
    /// As [`Self::of_peer`].
    pub fn of_sockets(socket: &Path, domains: &Path) -> Result<Self, EndpointError> {
        Self::connect(socket.to_owned(), Doors::Sockets(domains.to_owned()))
    }

    fn connect(socket: PathBuf, doors: Doors<'a>) -> Result<Self, EndpointError> {
        let mut endpoint = Self { socket, doors, conns: Vec::new() };
        if let Doors::Peer(peer) = endpoint.doors {
            peer.create_domain(super::SPARE_DOMID)?;
        }
        for who in CONNECTIONS {
            let conn = endpoint.open(who.domid)?;
            endpoint.conns.push(conn);
        }
        Ok(endpoint)
    }

    fn open(&self, domid: u16) -> Result<AnyClient, EndpointError> {
        let mut client: AnyClient = if domid == 0 {
            Client::over(self.local(&self.socket)?)
        } else {
            Client::over(self.guest(domid)?)
        };
        client.set_timeout(TIMEOUT);
        Ok(client)
    }

    fn local(&self, socket: &Path) -> Result<Box<dyn Transport>, EndpointError> {
        let client = named("connecting", Client::connect(socket))?;
        Ok(Box::new(client.into_transport()))
    }

    fn guest(&self, domid: u16) -> Result<Box<dyn Transport>, EndpointError> {
        let domains = match &self.doors {
            Doors::Peer(peer) => return Ok(Box::new(peer.guest(domid)?.into_transport())),
            Doors::Sockets(domains) => domains,
        };
        let mut control = named("connecting", Client::connect(&self.socket))?;
        if !named("asking for a domain", control.is_introduced(domid))? {
            let introduced = control.introduce(domid, 1, u32::from(domid));
            named("introducing a domain", introduced)?;
        }
        // The host opens the door only after it introduced the domain.
        let (path, began) = (domains.join(format!("{domid}.socket")), Instant::now());
        loop {
            match self.local(&path) {
                Err(_) if began.elapsed() < TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }
}

impl Endpoint for LiveEndpoint<'_> {
    fn request(&mut self, conn: ConnAt, kind: u32, tx_id: u32, payload: &[u8]) -> Answer {
        let client = &mut self.conns[conn];
        client.queue_raw(kind, Tx(tx_id), &[payload]);
        let answered = client.flush();
        match answered.and_then(|()| client.reply_frame()) {
            Ok((header, payload)) => Answer::of_frame(&header, payload),
            Err(error) => Answer::Dead(error.to_string()),
        }
    }

    fn events(&mut self) -> Result<Vec<Vec<Event>>, EndpointError> {
        // Answers come behind the events that were caused before.
        for client in &mut self.conns {
            client.queue(MessageType::GetDomainPath, Tx::NONE, &[b"0\0"]);
            named("asking", client.flush())?;
        }
        let mut events = Vec::new();
        for (client, who) in self.conns.iter_mut().zip(CONNECTIONS) {
            named(&format!("{who}: awaiting events"), client.reply())?;
            events.push(std::iter::from_fn(|| client.take_event()).collect());
        }
        Ok(events)
    }

    fn reconnect(&mut self, conn: ConnAt) -> Result<(), EndpointError> {
        let who = CONNECTIONS[conn];
        if who.domid == 0 {
            self.conns[conn] = self.open(0)?;
            // The daemon notices the end of the old one before the next round
            // of its loop; a request through it makes sure.
            named("asking", self.conns[conn].domain_path(0)).map(|_| ())
        } else {
            // A ring has no end; this is what a rebooting guest does.
            named("resetting", self.conns[conn].reset_watches())
        }
    }
}
