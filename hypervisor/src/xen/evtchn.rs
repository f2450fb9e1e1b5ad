//! Event channels, through `/dev/xen/evtchn` (linux/xen/evtchn.h).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::device::{self, request};
use super::{DomainId, Port, RemotePort, Virq, XenError};

const PATH: &str = "/dev/xen/evtchn";

const BIND_VIRQ: libc::Ioctl = request(b'E', 0, size_of::<u32>());
const BIND_INTERDOMAIN: libc::Ioctl = request(b'E', 1, size_of::<BindInterdomain>());
const UNBIND: libc::Ioctl = request(b'E', 3, size_of::<u32>());
const NOTIFY: libc::Ioctl = request(b'E', 4, size_of::<u32>());

#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

/// Ports taken from the device at once.
const PORTS_PER_READ: usize = 64;
const PORT_BYTES: usize = size_of::<u32>();

/// All ports of this process. They are unbound when it is dropped.
#[derive(Debug)]
pub struct EventChannels {
    device: OwnedFd,
}

impl EventChannels {
    /// Opens the device.
    ///
    /// # Errors
    /// [`XenError::Open`] where there is no Xen.
    pub fn open() -> Result<Self, XenError> {
        Ok(Self { device: device::open(PATH, OFlags::NONBLOCK)? })
    }

    /// Binds a new port to a domain's.
    ///
    /// # Errors
    /// When the domain does not exist, or its port does not wait for us.
    pub fn bind(&self, domain: DomainId, remote: RemotePort) -> Result<Port, XenError> {
        let mut bind =
            BindInterdomain { remote_domain: u32::from(domain.0), remote_port: remote.0 };
        self.call("binding an event channel", BIND_INTERDOMAIN, &mut bind)
    }

    /// Binds a new port to an interrupt of Xen's.
    ///
    /// # Errors
    /// [`XenError::Taken`] when somebody else has it.
    pub fn bind_virq(&self, virq: Virq) -> Result<Port, XenError> {
        self.call("binding a virtual interrupt", BIND_VIRQ, &mut (virq as u32)).map_err(who_has_it)
    }

    /// Gives a port back.
    ///
    /// # Errors
    /// When it was not bound.
    pub fn unbind(&self, port: Port) -> Result<(), XenError> {
        self.call("unbinding an event channel", UNBIND, &mut { port.0 }).map(drop)
    }

    /// Signals the other end of a port.
    ///
    /// # Errors
    /// When it was not bound.
    pub fn notify(&self, port: Port) -> Result<(), XenError> {
        self.call("notifying over an event channel", NOTIFY, &mut { port.0 }).map(drop)
    }

    /// Replaces the content of `ports` by ports that were signalled, a bounded
    /// number of them. They are masked until [`Self::unmask`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn take_pending(&self, ports: &mut Vec<Port>) -> Result<(), XenError> {
        ports.clear();
        let mut bytes = [0; PORTS_PER_READ * PORT_BYTES];
        match rustix::io::read(&self.device, &mut bytes) {
            Ok(len) => {
                let (words, _) = bytes[..len].as_chunks::<PORT_BYTES>();
                ports.extend(words.iter().map(|word| Port(u32::from_ne_bytes(*word))));
                Ok(())
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(()),
            Err(errno) => Err(failed("reading pending event channels", errno)),
        }
    }

    /// Lets these ports be signalled again. To be called before one looks at what
    /// they are about: what comes after the look is told anew then.
    ///
    /// # Errors
    /// When the device fails.
    pub fn unmask(&self, ports: &[Port]) -> Result<(), XenError> {
        for ports in ports.chunks(PORTS_PER_READ) {
            let mut bytes = [0; PORTS_PER_READ * PORT_BYTES];
            let (words, _) = bytes.as_chunks_mut::<PORT_BYTES>();
            for (word, port) in words.iter_mut().zip(ports) {
                *word = port.0.to_ne_bytes();
            }
            let bytes = &bytes[..ports.len() * PORT_BYTES];
            // The device takes all or nothing.
            rustix::io::retry_on_intr(|| rustix::io::write(&self.device, bytes))
                .map_err(|errno| failed("unmasking event channels", errno))?;
        }
        Ok(())
    }

    fn call<T: Argument>(
        &self,
        call: &'static str,
        request: libc::Ioctl,
        argument: &mut T,
    ) -> Result<Port, XenError> {
        // SAFETY: every request above has the size of the type that it is used
        // with, of plain words, and the device only reads it.
        let outcome = unsafe { device::ioctl(self.device.as_fd(), call, request, argument) }?;
        Ok(Port(outcome.cast_unsigned()))
    }
}

/// What the device's requests take.
trait Argument {}
impl Argument for u32 {}
impl Argument for BindInterdomain {}

impl AsFd for EventChannels {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn failed(call: &'static str, errno: Errno) -> XenError {
    XenError::Call { call, source: io::Error::from(errno) }
}

/// Xen lets one process of the control domain have it.
fn who_has_it(error: XenError) -> XenError {
    match error {
        XenError::Call { call, source } if source.kind() == io::ErrorKind::AlreadyExists => {
            XenError::Taken { call }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A socket speaks the device's protocol of reads and writes.
    fn played() -> (EventChannels, UnixDatagram) {
        let (device, kernel) = UnixDatagram::pair().unwrap();
        for end in [&device, &kernel] {
            end.set_nonblocking(true).unwrap();
        }
        (EventChannels { device: device.into() }, kernel)
    }

    #[test]
    fn pending_ports_are_read_and_written_back() {
        let (channels, kernel) = played();
        let mut ports = vec![Port(9)];
        channels.take_pending(&mut ports).unwrap();
        assert_eq!(ports, [], "none, and it does not block");
        let words: Vec<u8> = [3_u32, 70_000].iter().flat_map(|port| port.to_ne_bytes()).collect();
        kernel.send(&words).unwrap();
        channels.take_pending(&mut ports).unwrap();
        assert_eq!(ports, [Port(3), Port(70_000)]);
        channels.unmask(&ports).unwrap();
        let mut written = [0; 64];
        assert_eq!(kernel.recv(&mut written).unwrap(), 8);
        assert_eq!(written[..8], words);
    }

    #[test]
    fn many_ports_are_unmasked_in_parts() {
        let (channels, kernel) = played();
        let ports: Vec<Port> = (0..150).map(Port).collect();
        channels.unmask(&ports).unwrap();
        let mut sizes = Vec::new();
        while let Ok(len) = kernel.recv(&mut [0; 1024]) {
            sizes.push(len);
        }
        assert_eq!(sizes, [256, 256, 88]);
        channels.unmask(&[]).unwrap();
        assert!(kernel.recv(&mut [0; 1]).is_err(), "nothing to say");
    }

    #[test]
    fn whoever_comes_second_for_an_interrupt_is_told_why_it_gets_none() {
        let told = |errno| who_has_it(failed("binding a virtual interrupt", errno)).to_string();
        let taken = "binding a virtual interrupt: another xenstore daemon serves this host, or has \
                     not ended yet";
        assert_eq!(told(Errno::EXIST), taken);
        assert!(!told(Errno::ACCESS).contains("another"));
    }

    #[test]
    fn a_device_that_is_none_is_an_error() {
        let (channels, kernel) = played();
        assert!(channels.bind(DomainId(1), RemotePort(2)).is_err());
        assert!(channels.bind_virq(Virq::DomainException).is_err());
        assert!(channels.unbind(Port(1)).is_err() && channels.notify(Port(1)).is_err());
        drop(kernel);
        assert!(channels.unmask(&[Port(1)]).is_err());
    }
}
