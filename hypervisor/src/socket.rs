//! Reading a socket without taking anything from it, in order.
//!
//! With `SO_PEEK_OFF` (unix(7)), each `MSG_PEEK` goes on where the last one ended, and
//! whatever is taken moves that place back. So the kernel knows how many bytes were
//! looked at and not taken, also when whoever did so is no more.

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes that were looked at and not taken; 0 where [`set_peek_offset`] was never
/// called.
///
/// # Errors
/// When it is no socket, or one of another kind.
pub fn peek_offset(socket: impl AsFd) -> io::Result<u64> {
    let mut offset: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `offset`, which has as many.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw mut offset).cast(),
            &raw mut len,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // -1 says that peeking always begins at the front.
    Ok(u64::try_from(offset).unwrap_or(0))
}

/// The next look begins so many bytes behind what was taken.
///
/// # Errors
/// When it is no socket, or one of another kind, or `offset` is absurd.
pub fn set_peek_offset(socket: impl AsFd, offset: u64) -> io::Result<()> {
    let offset = c_int::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads as many bytes as an int has from `offset`.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rustix::net::{RecvFlags, recv};

    use super::*;

    #[test]
    fn the_kernel_knows_what_was_looked_at_and_not_taken() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(peek_offset(&ours).unwrap(), 0);
        set_peek_offset(&ours, 0).unwrap();
        let look = |len: usize| {
            let mut buffer = vec![0; len];
            let (_, len) = recv(&ours, &mut buffer[..], RecvFlags::PEEK).unwrap();
            buffer.truncate(len);
            buffer
        };
        theirs.write_all(b"one").unwrap();
        theirs.write_all(b"two and more").unwrap();
        assert_eq!(look(2), b"on");
        assert_eq!(look(4), b"etwo", "over the border of two writes");
        assert_eq!(peek_offset(&ours).unwrap(), 6);
        let mut taken = [0; 4];
        ours.read_exact(&mut taken).unwrap();
        assert_eq!(&taken, b"onet");
        assert_eq!(peek_offset(&ours).unwrap(), 2);
        set_peek_offset(&ours, 3).unwrap();
        let mut buffer = [0; 4];
        recv(&ours, &mut buffer[..], RecvFlags::PEEK).unwrap();
        assert_eq!(&buffer, b"and ");
    }
}
