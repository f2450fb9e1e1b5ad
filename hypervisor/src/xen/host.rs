//! The real Xen.

use std::os::fd::{AsFd, BorrowedFd};

use super::{
    DomainId, EventChannels, GrantDevice, Hypercalls, Port, RemotePort, RingPage, Virq, XenError,
    XenHost, control,
};

/// Xen as the control domain reaches it.
#[derive(Debug)]
pub struct Xen {
    channels: EventChannels,
    grants: GrantDevice,
    hypercalls: Hypercalls,
}

impl Xen {
    /// Opens all that is needed.
    ///
    /// # Errors
    /// [`XenError::Open`] where there is no Xen, or this is not its control domain.
    pub fn open() -> Result<Self, XenError> {
        Ok(Self {
            channels: EventChannels::open()?,
            grants: GrantDevice::open()?,
            hypercalls: Hypercalls::open()?,
        })
    }
}

impl XenHost for Xen {
    fn events(&self) -> BorrowedFd<'_> {
        self.channels.as_fd()
    }

    fn map_ring(&mut self, domain: DomainId) -> Result<RingPage, XenError> {
        match domain {
            DomainId::CONTROL => control::map_page(),
            guest => self.grants.map_store_ring(guest),
        }
    }

    fn control_port(&mut self) -> Result<RemotePort, XenError> {
        control::port()
    }

    fn bind(&mut self, domain: DomainId, remote: RemotePort) -> Result<Port, XenError> {
        self.channels.bind(domain, remote)
    }

    fn bind_virq(&mut self, virq: Virq) -> Result<Port, XenError> {
        self.channels.bind_virq(virq)
    }

    fn unbind(&mut self, port: Port) -> Result<(), XenError> {
        self.channels.unbind(port)
    }

    fn notify(&mut self, port: Port) -> Result<(), XenError> {
        self.channels.notify(port)
    }

    fn take_pending(&mut self, ports: &mut Vec<Port>) -> Result<(), XenError> {
        self.channels.take_pending(ports)?;
        self.channels.unmask(ports)
    }

    fn is_gone(&mut self, domain: DomainId, port: Port) -> Result<bool, XenError> {
        Ok(self.hypercalls.channel_status(port)?.lost(domain))
    }

    fn exists(&mut self, domain: DomainId) -> Result<bool, XenError> {
        self.hypercalls.exists(domain)
    }
}
