//! Pages that other domains grant, through `/dev/xen/gntdev` (linux/xen/gntdev.h).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::device::{self, request};
use super::{DomainId, RingPage, XenError};
use crate::memory::ViewMut;

const PATH: &str = "/dev/xen/gntdev";

const MAP_GRANT_REF: libc::Ioctl = request(b'G', 0, size_of::<MapGrantRef>());
const UNMAP_GRANT_REF: libc::Ioctl = request(b'G', 1, size_of::<UnmapGrantRef>());

/// The grant under which each toolstack puts a domain's xenstore ring page
/// (grant_table.h, `GNTTAB_RESERVED_XENSTORE`).
const STORE_RING: u32 = 1;

/// `struct ioctl_gntdev_map_grant_ref`, with one reference.
#[repr(C)]
#[derive(Default)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    index: u64,
    domid: u32,
    reference: u32,
}

/// `struct ioctl_gntdev_unmap_grant_ref`.
#[repr(C)]
#[derive(Default)]
struct UnmapGrantRef {
    index: u64,
    count: u32,
    pad: u32,
}

/// Maps granted pages.
#[derive(Debug)]
pub struct GrantDevice {
    device: Arc<OwnedFd>,
}

/// One granted page's entry in the device. A domain that is destroyed does not
/// vanish as long as there is one.
#[derive(Debug)]
pub(super) struct Grant {
    device: Arc<OwnedFd>,
    index: u64,
}

impl GrantDevice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`XenError::Open`] where there is no Xen.
    pub fn open() -> Result<Self, XenError> {
        Ok(Self { device: Arc::new(device::open(PATH, OFlags::empty())?) })
    }

    /// Maps a domain's xenstore ring page. It stays what it is when the domain is
    /// destroyed, until it is dropped.
    ///
    /// # Errors
    /// When the domain does not exist or has not granted its page.
    pub fn map_store_ring(&self, domain: DomainId) -> Result<RingPage, XenError> {
        let mut map = MapGrantRef {
            count: 1,
            domid: u32::from(domain.0),
            reference: STORE_RING,
            ..MapGrantRef::default()
        };
        // SAFETY: the argument has the layout of this request, with room for the
        // one reference that it announces; the device writes its index.
        unsafe { device::ioctl(self.device.as_fd(), "mapping a grant", MAP_GRANT_REF, &mut map) }?;
        // From here on the entry is given back whatever happens.
        let grant = Grant { device: Arc::clone(&self.device), index: map.index };
        let memory = ViewMut::map_device_page(self.device.as_fd(), map.index)?;
        Ok(RingPage::granted(memory, grant))
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut unmap = UnmapGrantRef { index: self.index, count: 1, pad: 0 };
        let call = "unmapping a grant";
        // SAFETY: the argument has the layout of this request; the device forgets
        // an entry, whose page its owner has unmapped before (see `RingPage`).
        let outcome =
            unsafe { device::ioctl(self.device.as_fd(), call, UNMAP_GRANT_REF, &mut unmap) };
        debug_assert!(outcome.is_ok(), "giving our own grant back: {outcome:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_the_sizes_of_the_header() {
        assert_eq!((size_of::<MapGrantRef>(), size_of::<UnmapGrantRef>()), (24, 16));
        assert_eq!(std::mem::offset_of!(MapGrantRef, index), 8);
        assert_eq!(std::mem::offset_of!(MapGrantRef, domid), 16);
    }

    #[test]
    fn a_device_that_is_none_is_an_error() {
        let device = Arc::new(device::open("/dev/null", OFlags::empty()).unwrap());
        assert!(GrantDevice { device }.map_store_ring(DomainId(1)).is_err());
    }
}
