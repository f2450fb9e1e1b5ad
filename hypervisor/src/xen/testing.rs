//! A Xen that is played in memory, for tests of what stands above [`XenHost`].
//!
//! ```
//! use hypervisor::xen::testing::PlayedXen;
//! use hypervisor::xen::{DomainId, Start, StoreRing, XenHost};
//!
//! let xen = PlayedXen::new()?;
//! let guest = xen.create(DomainId(5));
//! let mut xen = xen.host();
//! let port = xen.bind(DomainId(5), guest.port())?;
//! let mut ring = StoreRing::new(xen.map_ring(DomainId(5))?, Start::Emptied);
//! assert_eq!(guest.write(b"request"), 7);
//!
//! let (mut ports, mut bytes) = (Vec::new(), Vec::new());
//! xen.take_pending(&mut ports)?;
//! assert_eq!((ports, ring.read(&mut bytes)), (vec![port], Ok(7)));
//! # Ok::<(), hypervisor::xen::XenError>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::store_ring::layout;
use super::{DomainId, Port, RING_BYTES, RemotePort, RingPage, Virq, XenError, XenHost};
use crate::memory::{PAGE_BYTES, Segment};

/// What a played domain has.
#[derive(Debug)]
struct PlayedDomain {
    page: Segment,
    remote: RemotePort,
    /// Our port, while it is bound.
    bound: Option<Port>,
    /// Signals that it has got.
    signals: u64,
}

#[derive(Debug, Default)]
struct World {
    domains: BTreeMap<DomainId, PlayedDomain>,
    virq: Option<Port>,
    last_port: u32,
    pending: BTreeSet<Port>,
}

impl World {
    fn take_port(&mut self) -> Port {
        self.last_port += 1;
        Port(self.last_port)
    }

    fn bound_to(&mut self, port: Port) -> Option<&mut PlayedDomain> {
        self.domains.values_mut().find(|domain| domain.bound == Some(port))
    }
}

/// A Xen without domains, but for those that [`PlayedXen::create`] makes. Its
/// clones are the same one.
#[derive(Clone, Debug)]
pub struct PlayedXen {
    world: Arc<Mutex<World>>,
    bell: Arc<OwnedFd>,
}

fn refused(call: &'static str, kind: io::ErrorKind) -> XenError {
    XenError::Call { call, source: kind.into() }
}

impl PlayedXen {
    /// An empty one.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn new() -> Result<Self, XenError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| XenError::Call { call: "eventfd", source: errno.into() })?;
        Ok(Self { world: Arc::default(), bell: Arc::new(bell) })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, port: Port) {
        if self.world().pending.insert(port) {
            // It cannot overflow: it is emptied by whoever takes what is pending.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Makes a domain, or makes one anew, with an empty page of zeros.
    ///
    /// # Panics
    /// When memory has run out.
    #[must_use]
    pub fn create(&self, domain: DomainId) -> PlayedGuest {
        let page = Segment::create("played-ring", PAGE_BYTES).expect("a page of memory");
        let mapped = RingPage::in_memory(&page).expect("a mapping");
        let remote = RemotePort(100 + u32::from(domain.0));
        let played = PlayedDomain { page, remote, bound: None, signals: 0 };
        self.world().domains.insert(domain, played);
        PlayedGuest { xen: self.clone(), domain, remote, page: mapped }
    }

    /// Destroys a domain; whoever has bound the interrupt for that hears of it.
    pub fn destroy(&self, domain: DomainId) {
        self.world().domains.remove(&domain);
        self.raise_virq();
    }

    /// Says that some domain has shut down or was destroyed.
    pub fn raise_virq(&self) {
        let virq = self.world().virq;
        if let Some(port) = virq {
            self.ring(port);
        }
    }

    /// Whether some port of ours is bound to this domain's.
    #[must_use]
    pub fn is_bound(&self, domain: DomainId) -> bool {
        self.world().domains.get(&domain).is_some_and(|domain| domain.bound.is_some())
    }

    /// What a daemon has of it; one at a time.
    #[must_use]
    pub fn host(&self) -> PlayedHost {
        PlayedHost { xen: self.clone() }
    }
}

/// What a daemon has of a [`PlayedXen`]. When it is dropped, all that it has bound
/// is unbound.
#[derive(Debug)]
pub struct PlayedHost {
    xen: PlayedXen,
}

impl PlayedHost {
    fn world(&self) -> MutexGuard<'_, World> {
        self.xen.world()
    }
}

impl Drop for PlayedHost {
    fn drop(&mut self) {
        let mut world = self.world();
        world.virq = None;
        world.pending.clear();
        for domain in world.domains.values_mut() {
            domain.bound = None;
        }
    }
}

impl XenHost for PlayedHost {
    fn events(&self) -> BorrowedFd<'_> {
        self.xen.bell.as_fd()
    }

    fn map_ring(&mut self, domain: DomainId) -> Result<RingPage, XenError> {
        let world = self.world();
        let no_such = || refused("mapping a grant", io::ErrorKind::NotFound);
        RingPage::in_memory(&world.domains.get(&domain).ok_or_else(no_such)?.page)
    }

    fn control_port(&mut self) -> Result<RemotePort, XenError> {
        let world = self.world();
        let control = world.domains.get(&DomainId::CONTROL);
        control.map(|control| control.remote).ok_or(XenError::NoPort { path: "played" })
    }

    fn bind(&mut self, domain: DomainId, remote: RemotePort) -> Result<Port, XenError> {
        let mut world = self.world();
        let port = world.take_port();
        let waits = |played: &&mut PlayedDomain| played.remote == remote && played.bound.is_none();
        let played = world.domains.get_mut(&domain).filter(waits);
        let kind = io::ErrorKind::InvalidInput;
        played.ok_or_else(|| refused("binding an event channel", kind))?.bound = Some(port);
        Ok(port)
    }

    fn bind_virq(&mut self, _: Virq) -> Result<Port, XenError> {
        let mut world = self.world();
        if world.virq.is_some() {
            return Err(XenError::Taken { call: "binding a virtual interrupt" });
        }
        let port = world.take_port();
        world.virq = Some(port);
        Ok(port)
    }

    fn unbind(&mut self, port: Port) -> Result<(), XenError> {
        let mut world = self.world();
        world.pending.remove(&port);
        if world.virq == Some(port) {
            world.virq = None;
        }
        if let Some(domain) = world.bound_to(port) {
            domain.bound = None;
        }
        Ok(())
    }

    fn notify(&mut self, port: Port) -> Result<(), XenError> {
        if let Some(domain) = self.world().bound_to(port) {
            domain.signals += 1;
        }
        Ok(())
    }

    fn take_pending(&mut self, ports: &mut Vec<Port>) -> Result<(), XenError> {
        let mut world = self.world();
        ports.clear();
        ports.extend(std::mem::take(&mut world.pending));
        let _ = rustix::io::read(&self.xen.bell, &mut [0; 8]);
        Ok(())
    }

    fn is_gone(&mut self, domain: DomainId, port: Port) -> Result<bool, XenError> {
        let world = self.world();
        Ok(world.domains.get(&domain).is_none_or(|played| played.bound != Some(port)))
    }

    fn exists(&mut self, domain: DomainId) -> Result<bool, XenError> {
        Ok(self.world().domains.contains_key(&domain))
    }
}

/// The guest's end of a ring: what its kernel would do, and worse.
#[derive(Debug)]
pub struct PlayedGuest {
    xen: PlayedXen,
    domain: DomainId,
    remote: RemotePort,
    page: RingPage,
}

impl PlayedGuest {
    /// Its port, as a toolstack would introduce it.
    #[must_use]
    pub fn port(&self) -> RemotePort {
        self.remote
    }

    /// Signals the server, if that is bound.
    pub fn signal(&self) {
        let bound = self.xen.world().domains.get(&self.domain).and_then(|domain| domain.bound);
        if let Some(port) = bound {
            self.xen.ring(port);
        }
    }

    /// Signals that it has got so far.
    #[must_use]
    pub fn signals(&self) -> u64 {
        self.xen.world().domains.get(&self.domain).map_or(0, |domain| domain.signals)
    }

    /// Writes as many request bytes as there is room for, and signals; returns how
    /// many. Room that cannot be is none.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let producer = self.page.load_acquire(layout::REQUEST_PRODUCER);
        let consumer = self.page.load_acquire(layout::REQUEST_CONSUMER);
        let room = RING_BYTES.saturating_sub(producer.wrapping_sub(consumer) as usize);
        let len = bytes.len().min(room);
        for (i, &byte) in (0_u32..).zip(&bytes[..len]) {
            let at = producer.wrapping_add(i) as usize % RING_BYTES;
            self.page.write(layout::REQUESTS + at, &[byte]);
        }
        self.page.store_release(layout::REQUEST_PRODUCER, producer.wrapping_add(len as u32));
        self.signal();
        len
    }

    /// Takes up to `most` response bytes, and signals if there were any.
    pub fn read(&self, most: usize) -> Vec<u8> {
        let producer = self.page.load_acquire(layout::RESPONSE_PRODUCER);
        let consumer = self.page.load_acquire(layout::RESPONSE_CONSUMER);
        let len = (producer.wrapping_sub(consumer) as usize).min(RING_BYTES).min(most);
        let mut bytes = Vec::with_capacity(len);
        for i in 0..len as u32 {
            let at = consumer.wrapping_add(i) as usize % RING_BYTES;
            self.page.append_to(layout::RESPONSES + at, 1, &mut bytes);
        }
        self.page.store_release(layout::RESPONSE_CONSUMER, consumer.wrapping_add(len as u32));
        if len > 0 {
            self.signal();
        }
        bytes
    }

    /// Asks for a new beginning, if the server offers that.
    pub fn reconnect(&self) {
        if self.page.load_acquire(layout::FEATURES) & 1 != 0 {
            self.page.store_release(layout::CONNECTION, layout::RECONNECT);
            self.signal();
        }
    }

    /// Whether the server says that it is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.page.load_acquire(layout::CONNECTION) == layout::CONNECTED
    }

    /// The error that the server shows, as its code; 0 is none.
    #[must_use]
    pub fn error(&self) -> u32 {
        self.page.load_acquire(layout::ERROR)
    }

    /// Writes a word anywhere; `word` counts from the start of the page, and
    /// around.
    pub fn scribble(&self, word: usize, value: u32) {
        let offset = word % (PAGE_BYTES / 4) * 4;
        self.page.store_release(offset, value);
    }

    /// Writes a word within the indices and states; `word` counts from the first
    /// index, and around.
    pub fn scribble_index(&self, word: usize, value: u32) {
        self.scribble(layout::REQUEST_CONSUMER / 4 + word % 8, value);
    }
}
