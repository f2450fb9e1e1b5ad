//! A pipe on which lives hang: when its holder ends, however that ends, the kernel
//! kills everybody at the other end, also those that are stopped or never look.
//!
//! The kernel's signal at a parent's death will not do for replicas: they have to
//! outlive the daemon that is their parent, and the signal that they could survive
//! is one that a stopped or a broken one would never handle.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{DomainError, system};

/// Which signal a descriptor sends; as in `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// The holder's end: whoever hangs on it dies when nobody has it open any more.
#[derive(Debug)]
pub struct Lifeline {
    /// Nothing is ever written to it: that would kill as well.
    _writer: OwnedFd,
}

/// The end from which lives are made to hang on the line.
#[derive(Debug)]
pub struct Tether(OwnedFd);

impl Lifeline {
    /// A line, and the end that is handed down.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn new() -> Result<(Self, Tether), DomainError> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(system("pipe"))?;
        Ok((Self { _writer: writer }, Tether(reader)))
    }
}

impl From<OwnedFd> for Tether {
    /// The one that another process handed down.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for Tether {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tether {
    /// The same end, opened anew: whom the kernel kills is a matter of the open file
    /// and not of the descriptor.
    pub(super) fn anew(&self) -> Result<OwnedFd, DomainError> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::empty()).map_err(system("open(the lifeline)"))
    }
}

/// Lets the calling process hang on the line whose end, opened for it alone, is
/// `descriptor`; until that is closed. Says which step failed.
///
/// It is called between clone and execve: nothing here allocates.
pub(super) fn hang_on(descriptor: RawFd) -> Result<(), &'static str> {
    // SAFETY: system calls on numbers, and on a structure of this function's own.
    unsafe {
        if libc::fcntl(descriptor, libc::F_SETOWN, libc::getpid()) != 0 {
            return Err("fcntl(F_SETOWN)");
        }
        if libc::fcntl(descriptor, F_SETSIG, libc::SIGKILL) != 0 {
            return Err("fcntl(F_SETSIG)");
        }
        if libc::fcntl(descriptor, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) != 0 {
            return Err("fcntl(F_SETFL)");
        }
        // Had the holder ended just before, no signal would come any more.
        let mut line = libc::pollfd { fd: descriptor, events: 0, revents: 0 };
        if libc::poll(&raw mut line, 1, 0) != 0 {
            *libc::__errno_location() = libc::ESRCH;
            return Err("the holder");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tether_opens_the_same_pipe_anew() {
        let (line, tether) = Lifeline::new().expect("a pipe");
        let anew = tether.anew().expect("another end");
        let inode = |fd: &dyn AsRawFd| {
            std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("/proc")
        };
        assert_eq!(inode(&anew), inode(&tether.0));
        assert_eq!(rustix::io::read(&anew, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
        drop(line);
        assert_eq!(rustix::io::read(&anew, &mut [0; 1]), Ok(0));
    }
}
