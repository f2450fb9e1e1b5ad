//! A domain's ring, as a client's connection goes over it.

use std::io;

use hypervisor::xen::{Port, RingFault, StoreRing};

/// See the module. It outlives its connections: when a guest asks for a new
/// beginning, or has broken the protocol, one ends and another begins.
#[derive(Debug)]
pub(super) struct Ring {
    ring: StoreRing,
    port: Port,
    may_have_more: bool,
}

impl Ring {
    /// A ring that may have something to read, whose domain is signalled over
    /// `port`.
    pub(super) fn new(ring: StoreRing, port: Port) -> Self {
        Self { ring, port, may_have_more: true }
    }

    pub(super) fn port(&self) -> Port {
        self.port
    }

    /// Whether it is served.
    pub(super) fn is_served(&self) -> bool {
        self.ring.fault().is_none()
    }

    pub(super) fn wants_reset(&self) -> bool {
        self.ring.wants_reset()
    }

    pub(super) fn reset(&mut self) {
        self.ring.reset();
        self.may_have_more = true;
    }

    pub(super) fn fail(&mut self, fault: RingFault) {
        self.ring.fail(fault);
    }

    pub(super) fn is_readable(&mut self) {
        self.may_have_more = true;
    }

    pub(super) fn may_have_more(&self) -> bool {
        self.may_have_more && self.is_served()
    }

    /// Appends what has come.
    pub(super) fn read(&mut self, inbox: &mut Vec<u8>) -> io::Result<()> {
        self.ring.read(inbox).map_err(io::Error::other)?;
        // Who writes all the time gets its turn again, after others.
        self.may_have_more = self.ring.has_requests();
        Ok(())
    }

    /// Writes as much as there is room for. The domain signals when there is more.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.ring.write(bytes).map_err(io::Error::other)
    }

    /// The port over which the domain has to be signalled, if it has to.
    pub(super) fn take_notice(&mut self) -> Option<Port> {
        self.ring.take_notice().then_some(self.port)
    }
}
