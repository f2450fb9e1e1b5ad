//! The kernel's devices for Xen, and their `ioctl`s.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::XenError;

/// An `ioctl` request as the headers of Linux write it for Xen:
/// `_IOC(_IOC_NONE, group, number, size)`.
pub(super) const fn request(group: u8, number: u8, size: usize) -> libc::Ioctl {
    ((size as libc::Ioctl) << 16) | ((group as libc::Ioctl) << 8) | number as libc::Ioctl
}

/// Opens a device for reading and writing.
pub(super) fn open(path: &'static str, extra: OFlags) -> Result<OwnedFd, XenError> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | extra, Mode::empty())
        .map_err(|errno| XenError::Open { path, source: errno.into() })
}

/// Makes an `ioctl`; returns what it returned, which is not negative.
///
/// # Safety
/// `argument` is what `request` of this device expects: the kernel reads and
/// writes it, and does nothing else to this process's memory.
pub(super) unsafe fn ioctl<T>(
    device: BorrowedFd<'_>,
    call: &'static str,
    request: libc::Ioctl,
    argument: &mut T,
) -> Result<c_int, XenError> {
    loop {
        // SAFETY: as the caller promises; the reference is valid for the call.
        let outcome =
            unsafe { libc::ioctl(device.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if outcome >= 0 {
            return Ok(outcome);
        }
        let source = io::Error::last_os_error();
        if source.kind() != io::ErrorKind::Interrupted {
            return Err(XenError::Call { call, source });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_headers() {
        // As strace shows them: _IOC(_IOC_NONE, 0x45, 0x1, 0x8), and so on.
        assert_eq!(request(b'E', 1, 8), 0x0008_4501);
        assert_eq!(request(b'G', 0, 24), 0x0018_4700);
        assert_eq!(request(b'P', 0, 48), 0x0030_5000);
    }

    #[test]
    fn who_has_no_device_is_told_which() {
        let error = open("/dev/xen/no-such-device", OFlags::empty()).unwrap_err();
        assert!(error.to_string().starts_with("/dev/xen/no-such-device: "), "{error}");
    }

    #[test]
    fn a_refused_call_is_told_by_name() {
        use std::os::fd::AsFd;
        let device = open("/dev/null", OFlags::empty()).unwrap();
        // SAFETY: /dev/null knows no request at all.
        let outcome = unsafe { ioctl(device.as_fd(), "notify", request(b'E', 4, 4), &mut 7_u32) };
        assert!(outcome.unwrap_err().to_string().starts_with("notify: "));
    }
}
