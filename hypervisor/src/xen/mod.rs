//! Xen, as far as a xenstore daemon in the control domain needs it: event
//! channels, granted pages, whether a domain is gone, and the ring pages over
//! which the kernels of all domains talk to the store.
//!
//! ```text
//!  guest ── ring page ──▶ StoreRing          bytes in, bytes out
//!    └── event channel ──▶ EventChannels     "look at it", both ways
//!                          GrantDevice       how a guest's page gets here
//!                          Hypercalls        is the domain still there?
//! ```
//!
//! No Xen library is needed: all goes through the devices of Linux (`/dev/xen/*`,
//! `/proc/xen/*`), whose `ioctl`s and the hypercall used here are stable
//! interfaces on x86-64 and arm64 alike. [`XenHost`] stands between that rim and
//! everything above, which can therefore be tried without Xen (see [`testing`]).

mod control;
mod device;
mod evtchn;
mod gntdev;
mod host;
mod page;
mod status;
mod store_ring;
pub mod testing;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use thiserror::Error;

pub use evtchn::EventChannels;
pub use gntdev::GrantDevice;
pub use host::Xen;
pub use page::RingPage;
pub use status::{ChannelStatus, Hypercalls};
pub use store_ring::{RING_BYTES, RingFault, Start, StoreRing};

use crate::memory::MemoryError;

/// A domain by its number (xen.h, `domid_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u16);

impl DomainId {
    /// The control domain, in which the daemon runs.
    pub const CONTROL: Self = Self(0);
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Our end of an event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Another domain's end of an event channel, in that domain's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemotePort(pub u32);

impl fmt::Display for RemotePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An interrupt that Xen itself raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Virq {
    /// Some domain has shut down or was destroyed (xen.h, `VIRQ_DOM_EXC`). It
    /// does not say which. One process of the host can bind it.
    DomainException = 3,
}

/// Why Xen did not do what was asked.
#[derive(Debug, Error)]
pub enum XenError {
    /// A device or file of Xen's is missing or closed to us: no Xen, or not the
    /// control domain.
    #[error("{path}: {source}")]
    Open {
        /// The path.
        path: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A call to a device failed.
    #[error("{call}: {source}")]
    Call {
        /// What was attempted.
        call: &'static str,
        /// What the kernel or Xen answered.
        source: io::Error,
    },
    /// Somebody else has the interrupt that tells of domains' ends.
    #[error("{call}: another xenstore daemon serves this host, or has not ended yet")]
    Taken {
        /// What was attempted.
        call: &'static str,
    },
    /// A page could not be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file of the kernel's does not hold what it should.
    #[error("{path} holds no event channel port")]
    NoPort {
        /// The path.
        path: &'static str,
    },
}

/// What a daemon needs of Xen.
pub trait XenHost: Send {
    /// Readable whenever [`Self::take_pending`] has something to tell; for epoll.
    fn events(&self) -> BorrowedFd<'_>;

    /// Maps the page of a domain's xenstore ring.
    ///
    /// # Errors
    /// When the domain does not exist or has not granted its page.
    fn map_ring(&mut self, domain: DomainId) -> Result<RingPage, XenError>;

    /// The kernel's end of the channel of the control domain's own ring.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn control_port(&mut self) -> Result<RemotePort, XenError>;

    /// Binds a new port of ours to a domain's.
    ///
    /// # Errors
    /// When the domain does not exist, or its port does not wait for us.
    fn bind(&mut self, domain: DomainId, remote: RemotePort) -> Result<Port, XenError>;

    /// Binds a new port to an interrupt of Xen's.
    ///
    /// # Errors
    /// When somebody else has it.
    fn bind_virq(&mut self, virq: Virq) -> Result<Port, XenError>;

    /// Gives a port back. The other end waits for a new binding then.
    ///
    /// # Errors
    /// When it was not bound.
    fn unbind(&mut self, port: Port) -> Result<(), XenError>;

    /// Signals the other end.
    ///
    /// # Errors
    /// When it was not bound.
    fn notify(&mut self, port: Port) -> Result<(), XenError>;

    /// Replaces the content of `ports` by ports that were signalled, and lets them
    /// be signalled again; what they are about is to be looked at only then. A
    /// bounded number a call: there may be more as long as [`Self::events`] is
    /// readable.
    ///
    /// # Errors
    /// When the device fails.
    fn take_pending(&mut self, ports: &mut Vec<Port>) -> Result<(), XenError>;

    /// Whether the domain to which `port` was bound is gone: destroyed, or about
    /// to be. A domain that closes its own end looks the same, and hurts itself.
    ///
    /// # Errors
    /// When Xen does not tell; the domain is to be taken for alive then.
    fn is_gone(&mut self, domain: DomainId, port: Port) -> Result<bool, XenError>;

    /// Whether there is such a domain, or what a destroyed one has left as long as
    /// others use its pages. To be asked about one that no port is bound to.
    ///
    /// # Errors
    /// When Xen does not tell; the domain is to be taken for alive then.
    fn exists(&mut self, domain: DomainId) -> Result<bool, XenError>;
}
