//! A guest domain of a daemon that runs over the stub: a ring page in a file,
//! and event channels as datagrams.
//!
//! The page is shared with the daemon's mapping through the page cache, so
//! plain reads and writes at an offset do. Source of the layout: Xen's
//! `docs/misc/xenstore-ring.txt`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{PeerError, io as named};
use crate::client::{Transport, wait_readable};

const RING_LEN: u32 = 1024;
const PAGE_LEN: u64 = 4096;
const REQ_RING_AT: u64 = 0;
const RSP_RING_AT: u64 = 1024;
const REQ_CONS_AT: u64 = 2048;
const REQ_PROD_AT: u64 = 2052;
const RSP_CONS_AT: u64 = 2056;
const RSP_PROD_AT: u64 = 2060;
const FIRST_GUEST_PORT: u32 = 1000;
const VIRQ_PORT: u32 = 2;

/// The guest's side of a ring page.
#[derive(Debug)]
pub struct RingGuest {
    page: File,
    kicks: UnixDatagram,
    daemon: PathBuf,
    port: u32,
}

impl RingGuest {
    /// Makes the domain's files in the daemon's directory.
    pub(super) fn create(dir: &Path, domid: u16) -> Result<Self, PeerError> {
        let fail = || format!("making domain {domid} in {}", dir.display());
        let page = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join(format!("dom{domid}.ring")));
        let page = named(fail, page)?;
        named(fail, page.set_len(PAGE_LEN))?;
        named(fail, std::fs::write(dir.join(format!("dom{domid}.alive")), ""))?;
        let socket = dir.join(format!("dom{domid}.sock"));
        if let Err(error) = std::fs::remove_file(&socket)
            && error.kind() != io::ErrorKind::NotFound
        {
            return named(fail, Err(error));
        }
        let kicks = named(fail, UnixDatagram::bind(&socket))?;
        named(fail, kicks.set_nonblocking(true))?;
        Ok(Self {
            page,
            kicks,
            daemon: dir.join("evtchn.sock"),
            port: FIRST_GUEST_PORT + u32::from(domid),
        })
    }

    /// Takes the domain away and raises the interrupt that tells the daemon.
    pub(super) fn destroy(dir: &Path, domid: u16) -> Result<(), PeerError> {
        let fail = || format!("ending domain {domid} in {}", dir.display());
        named(fail, std::fs::remove_file(dir.join(format!("dom{domid}.alive"))))?;
        let sender = named(fail, UnixDatagram::unbound())?;
        let kick = VIRQ_PORT.to_ne_bytes();
        named(fail, sender.send_to(&kick, dir.join("evtchn.sock"))).map(|_| ())
    }

    fn index(&self, at: u64) -> io::Result<u32> {
        let mut word = [0; 4];
        self.page.read_exact_at(&mut word, at)?;
        Ok(u32::from_le_bytes(word))
    }

    fn set_index(&self, at: u64, value: u32) -> io::Result<()> {
        self.page.write_all_at(&value.to_le_bytes(), at)
    }

    fn kick(&self) -> io::Result<()> {
        match self.kicks.send_to(&self.port.to_ne_bytes(), &self.daemon) {
            // A full queue means that the daemon has kicks to read already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Waits for a kick and takes all that are there. The wait is cut short: a
    /// kick that was lost on a full queue must not cost the whole timeout.
    fn wait_kick(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        wait_readable(&self.kicks, left.min(Duration::from_millis(20)))?;
        let mut kick = [0; 4];
        while self.kicks.recv(&mut kick).is_ok() {}
        Ok(())
    }
}

/// The part of a ring from `index` on, at most `len` bytes, that does not wrap.
fn chunk(index: u32, len: usize) -> (u64, usize) {
    let offset = index % RING_LEN;
    let room = usize::try_from(RING_LEN - offset).unwrap_or(usize::MAX);
    (u64::from(offset), len.min(room))
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "ring indices make no sense")
}

impl Transport for RingGuest {
    fn send(&mut self, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        while !bytes.is_empty() {
            let produced = self.index(REQ_PROD_AT)?;
            let used = produced.wrapping_sub(self.index(REQ_CONS_AT)?);
            let free = RING_LEN.checked_sub(used).ok_or_else(broken)?;
            if free == 0 {
                self.wait_kick(deadline)?;
                continue;
            }
            let (at, len) = chunk(produced, bytes.len().min(free as usize));
            self.page.write_all_at(&bytes[..len], REQ_RING_AT + at)?;
            let len_u32 = u32::try_from(len).map_err(|_| broken())?;
            self.set_index(REQ_PROD_AT, produced.wrapping_add(len_u32))?;
            bytes = &bytes[len..];
            self.kick()?;
        }
        Ok(())
    }

    fn recv(&mut self, into: &mut [u8], timeout: Duration) -> io::Result<usize> {
        let deadline = Instant::now() + timeout;
        loop {
            let consumed = self.index(RSP_CONS_AT)?;
            let there = self.index(RSP_PROD_AT)?.wrapping_sub(consumed);
            if there > RING_LEN {
                return Err(broken());
            }
            if there == 0 {
                self.wait_kick(deadline)?;
                continue;
            }
            let (at, len) = chunk(consumed, into.len().min(there as usize));
            self.page.read_exact_at(&mut into[..len], RSP_RING_AT + at)?;
            let len_u32 = u32::try_from(len).map_err(|_| broken())?;
            self.set_index(RSP_CONS_AT, consumed.wrapping_add(len_u32))?;
            self.kick()?;
            return Ok(len);
        }
    }
}
