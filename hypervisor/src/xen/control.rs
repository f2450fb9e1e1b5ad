//! The ring of the control domain itself, over which its own kernel talks to the
//! store. It is no grant: the kernel offers page and port in `/proc/xen` (Linux,
//! drivers/xen/xenfs/xenstored.c).

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::OFlags;

use super::{RemotePort, RingPage, XenError, device};
use crate::memory::ViewMut;

const PAGE: &str = "/proc/xen/xsd_kva";
const PORT: &str = "/proc/xen/xsd_port";

/// Maps the page. It belongs to the kernel, for good.
pub(super) fn map_page() -> Result<RingPage, XenError> {
    let file = device::open(PAGE, OFlags::empty())?;
    Ok(RingPage::own(ViewMut::map_device_page(file.as_fd(), 0)?))
}

/// The kernel's end of the event channel.
pub(super) fn port() -> Result<RemotePort, XenError> {
    read_port(Path::new(PORT))
}

fn read_port(path: &Path) -> Result<RemotePort, XenError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| XenError::Open { path: PORT, source })?;
    let port = text.trim().parse().ok().filter(|&port| port != 0);
    port.map(RemotePort).ok_or(XenError::NoPort { path: PORT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_other_than_0() {
        let name = format!("rvmm-xsd-port-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let port = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_port(&path)
        };
        assert_eq!(port("1").unwrap(), RemotePort(1));
        assert_eq!(port("17\n").unwrap(), RemotePort(17));
        for none in ["", "0", "-1", "x", "99999999999"] {
            assert!(matches!(port(none), Err(XenError::NoPort { .. })), "{none:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_port(&path), Err(XenError::Open { .. })));
    }
}
