//! How bytes get to a daemon and back: a socket, or a guest's ring page.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A byte stream to a daemon.
pub trait Transport {
    /// Sends all of `bytes` within `timeout`.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when they were not all taken in time, and what
    /// the stream itself reports.
    fn send(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()>;

    /// Waits up to `timeout` and takes what is there; 0 means that the daemon
    /// closed the stream.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when nothing came, and what the stream itself
    /// reports.
    fn recv(&mut self, into: &mut [u8], timeout: Duration) -> io::Result<usize>;
}

/// A Unix socket.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    /// The timeouts that the kernel was told last: telling it costs a system
    /// call.
    read_armed: Option<Duration>,
    write_armed: Option<Duration>,
}

/// The timeout to tell the kernel, if what it was told before does not do. A
/// caller's remaining time shrinks with each call, so a little more is fine.
fn to_arm(armed: Option<Duration>, timeout: Duration) -> Option<Duration> {
    let timeout = timeout.max(Duration::from_millis(1));
    let fits = armed.is_some_and(|armed| armed >= timeout && armed <= timeout + timeout / 8);
    (!fits).then_some(timeout)
}

impl Socket {
    /// Wraps a connected stream.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, read_armed: None, write_armed: None }
    }

    /// The stream itself, for a test that writes what no client would.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Transport for Socket {
    fn send(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        if let Some(timeout) = to_arm(self.write_armed, timeout) {
            self.stream.set_write_timeout(Some(timeout))?;
            self.write_armed = Some(timeout);
        }
        self.stream.write_all(bytes).map_err(timed_out)
    }

    fn recv(&mut self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        if let Some(timeout) = to_arm(self.read_armed, timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.read_armed = Some(timeout);
        }
        loop {
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(timed_out),
            }
        }
    }
}

/// Waits until `fd` is readable (or hung up); false after `timeout`.
///
/// # Errors
/// What `poll` reports.
pub fn wait_readable(fd: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
