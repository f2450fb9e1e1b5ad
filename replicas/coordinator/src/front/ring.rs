//! A domain's ring, as a client's connection goes over it.

use std::io;

use hypervisor::xen::{Port, RemotePort, RingFault, StoreRing};
use state_machine::OutputNo;

use crate::journal::Kind;

/// See the module. It outlives its connections: when a guest asks for a new
/// beginning, or has broken the protocol, one ends and another begins.
#[derive(Debug)]
pub(super) struct Ring {
    ring: StoreRing,
    port: Port,
    origin: Origin,
    may_have_more: bool,
    faults: u64,
}

/// Who has asked for a ring to be served, and over which event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The domain's end.
    pub(super) port: RemotePort,
    /// The effect; none for that of the control domain.
    pub(super) effect: OutputNo,
}

impl Ring {
    /// A ring that may have something to read, whose domain is signalled over
    /// `port`.
    pub(super) fn new(ring: StoreRing, port: Port, origin: Origin) -> Self {
        Self { ring, port, origin, may_have_more: true, faults: 0 }
    }

    /// Counts that a connection over it ends because of what its domain did; how many
    /// have.
    pub(super) fn count_fault(&mut self) -> u64 {
        self.faults += 1;
        self.faults
    }

    /// A connection over it, as it is to be kept in the journal.
    pub(super) fn kind(&self) -> Kind {
        let (consumed, produced) = self.ring.indices();
        let Origin { port, effect } = self.origin;
        Kind::Ring { port, consumed, produced, effect }
    }

    pub(super) fn port(&self) -> Port {
        self.port
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
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

    /// Appends what has come; how much. The domain has its room back once that is
    /// [shown](Self::show).
    pub(super) fn read(&mut self, inbox: &mut Vec<u8>) -> io::Result<usize> {
        let len = self.ring.read(inbox).map_err(io::Error::other)?;
        // Who writes all the time gets its turn again, after others.
        self.may_have_more = self.ring.has_requests();
        Ok(len)
    }

    /// Writes as much as there is room for. The domain sees it once that is
    /// [shown](Self::show), and signals when there is more room.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.ring.write(bytes).map_err(io::Error::other)
    }

    /// Shows what was read and written.
    pub(super) fn show(&mut self) {
        self.ring.show();
    }

    /// The port over which the domain has to be signalled, if it has to.
    pub(super) fn take_notice(&mut self) -> Option<Port> {
        self.ring.take_notice().then_some(self.port)
    }
}
