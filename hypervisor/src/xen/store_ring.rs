//! The server's end of one xenstore ring (xs_wire.h, `struct
//! xenstore_domain_interface`; docs/misc/xenstore-ring.txt).
//!
//! The page holds two circles of [`RING_BYTES`], requests and responses, and for
//! each a free-running index of its producer and one of its consumer. The domain
//! can write anything anywhere at any time. Therefore:
//!
//! * The server's own indices are kept here; those in the page are only shown.
//! * The domain's indices are loaded once a call, and checked against those: a
//!   producer cannot be more than a circle ahead, and a consumer, which can only
//!   come closer, not farther away than it was.
//! * Whatever does not fit ends the service of this ring, with a word in the page
//!   that says why, until the domain asks for a new beginning ([`StoreRing::reset`]).
//!
//! One call moves at most [`RING_BYTES`]. Who drives the ring unmasks the event
//! channel first, then reads: what comes later is signalled anew.

use thiserror::Error;

use super::RingPage;

/// Bytes of a ring in each direction (`XENSTORE_RING_SIZE`).
pub const RING_BYTES: usize = 1024;

/// Where things are in the page, bytes from its start.
pub(super) mod layout {
    use super::RING_BYTES;

    pub(crate) const REQUESTS: usize = 0;
    pub(crate) const RESPONSES: usize = RING_BYTES;
    pub(crate) const REQUEST_CONSUMER: usize = 2 * RING_BYTES;
    pub(crate) const REQUEST_PRODUCER: usize = 2 * RING_BYTES + 4;
    pub(crate) const RESPONSE_CONSUMER: usize = 2 * RING_BYTES + 8;
    pub(crate) const RESPONSE_PRODUCER: usize = 2 * RING_BYTES + 12;
    pub(crate) const FEATURES: usize = 2 * RING_BYTES + 16;
    pub(crate) const CONNECTION: usize = 2 * RING_BYTES + 20;
    pub(crate) const ERROR: usize = 2 * RING_BYTES + 24;

    /// `XENSTORE_SERVER_FEATURE_RECONNECTION` and `XENSTORE_SERVER_FEATURE_ERROR`.
    pub(crate) const OFFERED: u32 = 1 | 2;
    /// `XENSTORE_CONNECTED`.
    pub(crate) const CONNECTED: u32 = 0;
    /// `XENSTORE_RECONNECT`.
    pub(crate) const RECONNECT: u32 = 1;
    /// `XENSTORE_ERROR_NONE`.
    pub(crate) const NO_ERROR: u32 = 0;
}
use layout::{
    CONNECTED, CONNECTION, ERROR, FEATURES, NO_ERROR, OFFERED, RECONNECT, REQUEST_CONSUMER,
    REQUEST_PRODUCER, REQUESTS, RESPONSE_CONSUMER, RESPONSE_PRODUCER, RESPONSES,
};

/// Why a ring is not served any more; its code stands in the page
/// (`XENSTORE_ERROR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u32)]
pub enum RingFault {
    /// The event channel does not work.
    #[error("its event channel does not work")]
    Communication = 1,
    /// An index is impossible.
    #[error("its ring has an impossible index")]
    Index = 2,
    /// What came over the ring breaks the protocol above it.
    #[error("it breaks the protocol")]
    Protocol = 3,
}

impl RingFault {
    fn from_code(code: u32) -> Option<Self> {
        match code {
            NO_ERROR => None,
            2 => Some(Self::Index),
            3 => Some(Self::Protocol),
            _ => Some(Self::Communication),
        }
    }
}

/// Where to begin with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With empty rings, whatever is in the page.
    Emptied,
    /// Where the page says that the server before got to.
    Resumed,
    /// Where the server before has told us that it got to, whatever is in the page.
    Continued {
        /// Request bytes that it had taken, modulo 2^32.
        consumed: u32,
        /// Response bytes that it had written, modulo 2^32.
        produced: u32,
    },
}

/// See the module.
#[derive(Debug)]
pub struct StoreRing {
    page: RingPage,
    /// Request bytes taken, modulo 2^32.
    consumed: u32,
    /// Response bytes written, modulo 2^32.
    produced: u32,
    /// Response bytes that the domain was last seen to have taken, modulo 2^32.
    taken: u32,
    fault: Option<RingFault>,
    /// The domain was not signalled since something changed.
    unannounced: bool,
}

const MASK: u32 = RING_BYTES as u32 - 1;

impl StoreRing {
    /// Begins to serve a ring. The domain is to be signalled (see
    /// [`Self::take_notice`]): it may wait for the server since long.
    ///
    /// A page on which an earlier server has noted a fault, or whose indices are
    /// impossible, is not served until the domain asks for a new beginning.
    #[must_use]
    pub fn new(page: RingPage, start: Start) -> Self {
        let mut ring =
            Self { page, consumed: 0, produced: 0, taken: 0, fault: None, unannounced: true };
        // What is offered has to be known before any byte moves.
        ring.page.store_release(FEATURES, OFFERED);
        match start {
            Start::Emptied => ring.reset(),
            Start::Resumed => {
                let consumed = ring.page.load_acquire(REQUEST_CONSUMER);
                let produced = ring.page.load_acquire(RESPONSE_PRODUCER);
                ring.resume(consumed, produced);
            }
            Start::Continued { consumed, produced } => {
                ring.resume(consumed, produced);
                ring.show();
            }
        }
        ring
    }

    fn resume(&mut self, consumed: u32, produced: u32) {
        self.fault = RingFault::from_code(self.page.load_acquire(ERROR));
        (self.consumed, self.produced) = (consumed, produced);
        self.taken = self.page.load_acquire(RESPONSE_CONSUMER);
        let requests = self.page.load_acquire(REQUEST_PRODUCER).wrapping_sub(self.consumed);
        let responses = self.produced.wrapping_sub(self.taken);
        if requests.max(responses) as usize > RING_BYTES {
            self.fail(RingFault::Index);
        }
    }

    /// Whether the domain asks for a new beginning. To be looked at before the
    /// ring is read: if so, the connection ends with all that it holds, a new one
    /// begins, and the ring is [reset](Self::reset).
    #[must_use]
    pub fn wants_reset(&self) -> bool {
        self.page.load_acquire(CONNECTION) == RECONNECT
    }

    /// Begins anew, without a fault: both rings are empty, and the domain is told
    /// that it is connected.
    pub fn reset(&mut self) {
        (self.consumed, self.produced, self.taken) = (0, 0, 0);
        self.fault = None;
        let indices = [REQUEST_CONSUMER, REQUEST_PRODUCER, RESPONSE_CONSUMER, RESPONSE_PRODUCER];
        for index in indices {
            self.page.store_release(index, 0);
        }
        self.page.store_release(ERROR, NO_ERROR);
        // The last: from here on the domain uses the ring.
        self.page.store_release(CONNECTION, CONNECTED);
        self.unannounced = true;
    }

    /// Ends the service of this ring and tells the domain why. Only the first
    /// fault counts.
    pub fn fail(&mut self, fault: RingFault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.page.store_release(ERROR, fault as u32);
            self.unannounced = true;
        }
    }

    /// Why it is not served, if it is not.
    #[must_use]
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    fn served(&self) -> Result<(), RingFault> {
        self.fault.map_or(Ok(()), Err)
    }

    fn broken(&mut self) -> RingFault {
        self.fail(RingFault::Index);
        RingFault::Index
    }

    /// Whether the domain has shown request bytes that were not read, or something
    /// that [`Self::read`] will not believe.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.fault.is_none() && self.page.load_acquire(REQUEST_PRODUCER) != self.consumed
    }

    /// Where the ring stands: request bytes taken and response bytes written, modulo
    /// 2^32.
    #[must_use]
    pub fn indices(&self) -> (u32, u32) {
        (self.consumed, self.produced)
    }

    /// Appends all request bytes that the domain has shown to `out`, at most
    /// [`RING_BYTES`]; returns how many. Their room is the domain's again once the
    /// indices are [shown](Self::show).
    ///
    /// # Errors
    /// The fault that ended the service of this ring, now or earlier.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Result<usize, RingFault> {
        self.served()?;
        // Acquired: the bytes are read after the index that shows them.
        let shown = self.page.load_acquire(REQUEST_PRODUCER).wrapping_sub(self.consumed);
        let len = shown as usize;
        // All that was shown is taken each time, so an index that went back is far
        // ahead as well.
        if len > RING_BYTES {
            return Err(self.broken());
        }
        if len > 0 {
            let (at, first) = self.part(self.consumed, len);
            self.page.append_to(REQUESTS + at, first, out);
            self.page.append_to(REQUESTS, len - first, out);
            self.consumed = self.consumed.wrapping_add(shown);
        }
        Ok(len)
    }

    /// Shows the domain what was read and written.
    pub fn show(&mut self) {
        // Released: bytes are read before their room is given back, and there before
        // the index that shows them.
        self.page.store_release(REQUEST_CONSUMER, self.consumed);
        self.page.store_release(RESPONSE_PRODUCER, self.produced);
        self.unannounced = true;
    }

    /// Writes as many response bytes as there is room for; returns how many. The
    /// domain sees them once the indices are [shown](Self::show).
    ///
    /// # Errors
    /// The fault that ended the service of this ring, now or earlier.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingFault> {
        self.served()?;
        let taken = self.page.load_acquire(RESPONSE_CONSUMER);
        let untaken = self.produced.wrapping_sub(taken);
        if untaken > self.produced.wrapping_sub(self.taken) {
            return Err(self.broken());
        }
        self.taken = taken;
        let len = bytes.len().min(RING_BYTES - untaken as usize);
        if len > 0 {
            let (at, first) = self.part(self.produced, len);
            self.page.write(RESPONSES + at, &bytes[..first]);
            self.page.write(RESPONSES, &bytes[first..len]);
            self.produced = self.produced.wrapping_add(len as u32);
        }
        Ok(len)
    }

    /// Where in the circle an index is, and how many of `len` bytes lie before the
    /// circle's end.
    fn part(&self, index: u32, len: usize) -> (usize, usize) {
        let at = (index & MASK) as usize;
        (at, len.min(RING_BYTES - at))
    }

    /// Whether the domain has to be signalled, since something has changed: to be
    /// asked after each round, and done then.
    pub fn take_notice(&mut self) -> bool {
        let notice = std::mem::take(&mut self.unannounced);
        if notice {
            RingPage::settle();
        }
        notice
    }
}

#[cfg(test)]
mod tests;
