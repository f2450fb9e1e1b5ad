//! Whether a domain is still there.
//!
//! No client of the store says when a domain dies, and what lists domains
//! (`domctl`) changes with every version of Xen. The state of an event channel
//! does not: when a domain is destroyed, Xen closes its ends of all channels, and
//! ours waits for a new peer.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;

use super::device::{self, request};
use super::{DomainId, Port, XenError};
use crate::memory::ViewMut;

const PATH: &str = "/dev/xen/privcmd";
/// Memory that the kernel neither moves nor takes away, so that the hypervisor
/// can write to it (Linux 4.18).
const BUFFER_PATH: &str = "/dev/xen/hypercall";

const HYPERCALL: libc::Ioctl = request(b'P', 0, size_of::<PrivcmdHypercall>());

/// xen.h, `__HYPERVISOR_event_channel_op`.
const EVENT_CHANNEL_OP: u64 = 32;
/// event_channel.h, `EVTCHNOP_status`.
const STATUS: u64 = 5;
/// xen.h, `DOMID_SELF`.
const DOMID_SELF: u16 = 0x7ff0;

/// xen.h, `DOMID_FIRST_RESERVED`.
const FIRST_RESERVED: u16 = 0x7ff0;

/// linux/xen/privcmd.h, `struct privcmd_hypercall`.
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    arg: [u64; 5],
}

/// What an event channel of ours is connected to (event_channel.h,
/// `EVTCHNSTAT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelStatus {
    /// Not in use.
    Closed,
    /// Nobody is at the other end.
    Unbound,
    /// Another domain is.
    Interdomain(DomainId),
    /// Something else than a domain is; the number of the state.
    Other(u32),
}

impl ChannelStatus {
    /// Whether the domain to which this channel was bound is gone.
    #[must_use]
    pub fn lost(self, domain: DomainId) -> bool {
        self != Self::Interdomain(domain)
    }

    /// `struct evtchn_status` as three little-endian words: who asks and about
    /// which port, state and processor, the other end.
    fn from_words(words: [u64; 3]) -> Self {
        let [_, state, peer] = words;
        match state as u32 {
            0 => Self::Closed,
            1 => Self::Unbound,
            2 => Self::Interdomain(DomainId(peer as u16)),
            state => Self::Other(state),
        }
    }
}

/// Asks the hypervisor.
#[derive(Debug)]
pub struct Hypercalls {
    device: OwnedFd,
    buffer: ViewMut,
}

impl Hypercalls {
    /// Opens the devices.
    ///
    /// # Errors
    /// [`XenError::Open`] where there is no Xen, or Linux is older than 4.18.
    pub fn open() -> Result<Self, XenError> {
        let device = device::open(PATH, OFlags::empty())?;
        let memory = device::open(BUFFER_PATH, OFlags::empty())?;
        Ok(Self { device, buffer: ViewMut::map_device_page(memory.as_fd(), 0)? })
    }

    /// What a port of ours is connected to.
    ///
    /// # Errors
    /// When the port was never bound, or the hypervisor does not answer.
    pub fn channel_status(&mut self, port: Port) -> Result<ChannelStatus, XenError> {
        self.ask(DOMID_SELF, port.0)
    }

    /// Whether there is such a domain, or what is left of it. Needs the rights of
    /// the control domain.
    ///
    /// # Errors
    /// When the hypervisor does not tell.
    pub fn exists(&mut self, domain: DomainId) -> Result<bool, XenError> {
        // Every domain has a port 0, which is never used.
        match self.ask(domain.0, 0) {
            Err(XenError::Call { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                Ok(false)
            }
            outcome => outcome.map(|_| true),
        }
    }

    /// All domains but the control domain, and what is left of those that others still
    /// use pages of. Takes some milliseconds.
    ///
    /// # Errors
    /// When the hypervisor does not tell.
    pub fn guests(&mut self) -> Result<Vec<DomainId>, XenError> {
        let mut guests = Vec::new();
        for domain in (1..FIRST_RESERVED).map(DomainId) {
            if self.exists(domain)? {
                guests.push(domain);
            }
        }
        Ok(guests)
    }

    fn ask(&mut self, domid: u16, port: u32) -> Result<ChannelStatus, XenError> {
        self.buffer.store(0, u64::from(domid) | u64::from(port) << 32);
        self.buffer.store(8, 0);
        self.buffer.store_release(16, 0);
        let buffer = self.buffer.address();
        let mut call = PrivcmdHypercall { op: EVENT_CHANNEL_OP, arg: [STATUS, buffer, 0, 0, 0] };
        let what = "asking for a channel's state";
        // SAFETY: the argument has the layout of this request. The hypercall reads
        // and writes 24 bytes at the buffer, a page of ours that is reached through
        // atomics only and is not unmapped meanwhile.
        unsafe { device::ioctl(self.device.as_fd(), what, HYPERCALL, &mut call) }?;
        let words = [0, 8, 16].map(|offset| self.buffer.load_acquire(offset));
        Ok(ChannelStatus::from_words(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{PAGE_BYTES, Segment};

    #[test]
    fn states_are_told_apart() {
        let asked = 0x7ff0 | 9 << 32;
        let processor = 3 << 32;
        let state = |state: u64| ChannelStatus::from_words([asked, state | processor, 5 | 7 << 32]);
        assert_eq!(state(0), ChannelStatus::Closed);
        assert_eq!(state(1), ChannelStatus::Unbound);
        assert_eq!(state(2), ChannelStatus::Interdomain(DomainId(5)));
        assert_eq!(state(4), ChannelStatus::Other(4));
        assert!(!state(2).lost(DomainId(5)));
        for other in [state(0), state(1), state(4)] {
            assert!(other.lost(DomainId(5)));
        }
        assert!(state(2).lost(DomainId(6)));
    }

    #[test]
    fn a_device_that_is_none_is_an_error() {
        assert_eq!(size_of::<PrivcmdHypercall>(), 48);
        let device = device::open("/dev/null", OFlags::empty()).unwrap();
        let buffer = Segment::create("test", PAGE_BYTES).unwrap().map_writable().unwrap();
        let mut hypercalls = Hypercalls { device, buffer };
        assert!(hypercalls.channel_status(Port(4)).is_err());
        assert_eq!(hypercalls.buffer.load(0), 0x7ff0 | 4 << 32, "it was asked about that port");
        assert!(hypercalls.exists(DomainId(9)).is_err(), "nobody says that it is not there");
        assert_eq!(hypercalls.buffer.load(0), 9);
    }
}
