//! What the host writes down for its successor, in memory that outlives it.
//!
//! The host may end between any two stores, so each change has one store with which
//! it counts. What has to count together with something else in shared memory names
//! that other thing beforehand, and counts if that does: a request that was handed in
//! if its number is in the intake, an output that was queued if it is marked as
//! delivered. All stores are releases: none overtakes one before it.
//!
//! ```text
//! page | domains named, domains gone | inputs answered | decisions, twice | states of seats | seats
//! ```
//!
//! A [`Seat`] holds what a connection must not lose: how far its requests were handed
//! in and its outputs sent, and what lies between, on a [`Tape`].

mod record;
mod seat;
mod tape;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use hypervisor::memory::{Fuse, MemoryError, PAGE_BYTES, Segment, ViewMut, WORD_BYTES};
use state_machine::{ConnId, DomId, InputNo, OutputNo};

use crate::front::FrontLimits;
pub(crate) use record::Record;
use seat::Place;
pub(crate) use seat::{Handed, Kind, Seat, State};

/// What is to be laid out anew when it changes.
const MAGIC: u64 = 0x7276_6d6d_6a6e_6c01;

/// Rings of domains that can be served beside the connections.
const RINGS: usize = 4096;
/// The shortest record of an input in the intake, bytes.
const INPUT_BYTES_MIN: usize = 24;
/// Bits of a word.
const BITS: usize = 64;
/// One bit a domain, bytes.
const DOMAINS_BYTES: usize = (1 << 16) / 8;

mod word {
    pub(super) const MAGIC: usize = 0;
    pub(super) const SEATS: usize = 8;
    pub(super) const OUT_BYTES: usize = 16;
    pub(super) const INPUTS: usize = 24;
    pub(super) const NEXT_CONN: usize = 64;
    pub(super) const INNER: usize = 72;
    pub(super) const SERVES: usize = 80;
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Shared memory failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What was held is none, or one of another version.
    #[error("the journal of the last daemon cannot be read: {0}")]
    Foreign(&'static str),
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    seats: usize,
    /// Half of a seat's tape for outputs, bytes.
    out_bytes: usize,
    /// Inputs that may be unanswered at once; a multiple of [`BITS`].
    inputs: usize,
}

const NAMED: usize = PAGE_BYTES;
const GONE: usize = NAMED + DOMAINS_BYTES;
const ANSWERED: usize = GONE + DOMAINS_BYTES;

impl Layout {
    fn new(limits: FrontLimits, intake_bytes: usize) -> Self {
        Self {
            seats: limits.max_connections + RINGS,
            // Short frames take half as much again as they have bytes.
            out_bytes: (2 * limits.backlog_bytes + (256 << 10)).next_multiple_of(PAGE_BYTES),
            inputs: (intake_bytes / INPUT_BYTES_MIN).next_multiple_of(PAGE_BYTES * 8),
        }
    }

    fn record(self) -> usize {
        ANSWERED + self.inputs / 8
    }

    /// A word a seat, apart from the seats: to read an untouched one would make pages.
    fn states(self) -> usize {
        self.record() + record::BYTES
    }

    fn seat(self, index: usize) -> usize {
        let states = (self.seats * WORD_BYTES).next_multiple_of(PAGE_BYTES);
        self.states() + states + index * self.seat_bytes()
    }

    fn seat_bytes(self) -> usize {
        seat::bytes(self.out_bytes)
    }

    fn bytes(self) -> usize {
        self.seat(self.seats)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Journal {
    segment: Segment,
    memory: ViewMut,
    layout: Layout,
    /// Seats that nobody has, the next one last.
    free: Vec<u32>,
}

impl Journal {
    pub(crate) fn new(
        limits: FrontLimits,
        intake_bytes: usize,
        fuse: Option<Arc<Fuse>>,
    ) -> Result<Self, JournalError> {
        let layout = Layout::new(limits, intake_bytes);
        let segment = Segment::create("rvmm-journal", layout.bytes())?;
        segment.fix_seals()?;
        let memory = segment.map_fused(fuse)?;
        memory.store(word::SEATS, layout.seats as u64);
        memory.store(word::OUT_BYTES, layout.out_bytes as u64);
        memory.store(word::INPUTS, layout.inputs as u64);
        memory.store(word::NEXT_CONN, 1);
        memory.store_release(word::MAGIC, MAGIC);
        let free = (0..layout.seats as u32).rev().collect();
        Ok(Self { segment, memory, layout, free })
    }

    /// That of a host that has ended, with the seats that are taken.
    pub(crate) fn adopt(
        fd: OwnedFd,
        fuse: Option<Arc<Fuse>>,
    ) -> Result<(Self, Vec<Seat>), JournalError> {
        let segment = Segment::from_fd(fd)?;
        let memory = segment.map_fused(fuse)?;
        if memory.load(word::MAGIC) != MAGIC {
            return Err(JournalError::Foreign("it has another format"));
        }
        let size = |word| usize::try_from(memory.load(word)).unwrap_or(usize::MAX);
        let layout = Layout {
            seats: size(word::SEATS),
            out_bytes: size(word::OUT_BYTES),
            inputs: size(word::INPUTS),
        };
        // Far beyond what can be configured; bounds what is computed from them.
        let absurd =
            layout.seats > 1 << 20 || layout.out_bytes > 1 << 30 || layout.inputs > 1 << 32;
        if absurd || layout.bytes() != segment.len() {
            return Err(JournalError::Foreign("it has another size"));
        }
        let mut journal = Self { segment, memory, layout, free: Vec::new() };
        let mut taken = Vec::new();
        for index in (0..layout.seats as u32).rev() {
            if journal.state(index).load(0) == 0 {
                journal.free.push(index);
            } else {
                taken.push(Seat::found(journal.place(index)));
            }
        }
        Ok((journal, taken))
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    fn state(&self, index: u32) -> ViewMut {
        self.memory.part_mut(self.layout.states() + index as usize * WORD_BYTES, WORD_BYTES)
    }

    fn place(&self, index: u32) -> Place {
        let (at, bytes) = (self.layout.seat(index as usize), self.layout.seat_bytes());
        Place {
            index,
            state: self.state(index),
            memory: self.memory.part_mut(at, bytes),
            out_bytes: self.layout.out_bytes,
        }
    }

    /// A seat for a new connection; none when all are taken.
    pub(crate) fn seat(&mut self, conn: ConnId, domid: DomId, kind: Kind) -> Option<Seat> {
        let index = self.free.pop()?;
        Some(Seat::taken(self.place(index), conn, domid, kind))
    }

    /// Nothing of this seat matters any more.
    pub(crate) fn leave(&mut self, seat: Seat) {
        let (index, is_large) = seat.leave();
        if is_large {
            let (at, bytes) = (self.layout.seat(index as usize), self.layout.seat_bytes());
            // What is not given back now is used again.
            let _ = self.segment.discard(at, bytes);
        }
        self.free.push(index);
    }

    /// Where it is written what was delivered.
    pub(crate) fn marks(&self) -> Marks {
        let memory = self.memory.part_mut(ANSWERED, self.layout.inputs / 8);
        Marks { answered: memory, inputs: self.layout.inputs as u64 }
    }

    /// Where decisions are written down.
    pub(crate) fn record(&self) -> Record {
        Record::new(self.memory.part_mut(self.layout.record(), record::BYTES))
    }

    /// Whether the component has served.
    pub(crate) fn serves(&self) -> bool {
        self.memory.load(word::SERVES) != 0
    }

    pub(crate) fn set_serves(&self) {
        self.memory.store_release(word::SERVES, 1);
    }

    /// The first connection number that was never given.
    pub(crate) fn next_conn(&self) -> ConnId {
        ConnId(self.memory.load(word::NEXT_CONN))
    }

    pub(crate) fn set_next_conn(&self, conn: ConnId) {
        self.memory.store_release(word::NEXT_CONN, conn.0);
    }

    /// The last connection on which the host itself has asked something.
    pub(crate) fn inner(&self) -> Option<ConnId> {
        Some(ConnId(self.memory.load(word::INNER))).filter(|conn| conn.0 != 0)
    }

    pub(crate) fn set_inner(&self, conn: ConnId) {
        self.memory.store_release(word::INNER, conn.0);
    }

    /// Domains that the component knows, and to whose rings nobody is connected.
    pub(crate) fn named(&self) -> Domains {
        Domains(self.memory.part_mut(NAMED, DOMAINS_BYTES))
    }

    /// Domains of whose end the component is to be told.
    pub(crate) fn gone(&self) -> Domains {
        Domains(self.memory.part_mut(GONE, DOMAINS_BYTES))
    }
}

/// A set of domains.
#[derive(Clone, Debug)]
pub(crate) struct Domains(ViewMut);

impl Domains {
    fn place(domid: DomId) -> (usize, u64) {
        let number = usize::from(domid.0);
        (number / BITS * WORD_BYTES, 1 << (number % BITS))
    }

    pub(crate) fn insert(&self, domid: DomId) {
        let (offset, bit) = Self::place(domid);
        self.0.store_release(offset, self.0.load(offset) | bit);
    }

    pub(crate) fn remove(&self, domid: DomId) {
        let (offset, bit) = Self::place(domid);
        let word = self.0.load(offset);
        if word & bit != 0 {
            self.0.store_release(offset, word & !bit);
        }
    }

    /// All of them, by number.
    pub(crate) fn all(&self) -> Vec<DomId> {
        let words =
            (0..DOMAINS_BYTES / WORD_BYTES).map(|word| (word, self.0.load(word * WORD_BYTES)));
        let domains = words.filter(|(_, bits)| *bits != 0).flat_map(|(word, bits)| {
            (0..BITS).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| word * BITS + bit)
        });
        domains.filter_map(|number| u16::try_from(number).ok().map(DomId)).collect()
    }
}

/// What an output is marked by when it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The input that it answers.
    Reply(InputNo),
    /// Its own number.
    Event(OutputNo),
}

/// Which inputs are answered.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    answered: ViewMut,
    inputs: u64,
}

impl Marks {
    fn place(&self, no: InputNo) -> (usize, u64) {
        let at = no.0 % self.inputs;
        ((at / BITS as u64) as usize * WORD_BYTES, 1 << (at % BITS as u64))
    }

    pub(crate) fn is_answered(&self, no: InputNo) -> bool {
        let (offset, bit) = self.place(no);
        self.answered.load(offset) & bit != 0
    }

    /// Notes that an input is answered.
    pub(crate) fn answer(&self, no: InputNo) {
        let (offset, bit) = self.place(no);
        self.answered.store_release(offset, self.answered.load(offset) | bit);
    }

    /// Makes room for the next input; to be called before it is in the intake.
    pub(crate) fn admit(&self, no: InputNo) {
        let (offset, bit) = self.place(no);
        let word = self.answered.load(offset);
        if word & bit != 0 {
            self.answered.store_release(offset, word & !bit);
        }
    }
}

#[cfg(test)]
mod tests;
