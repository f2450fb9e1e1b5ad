//! Where a guest's memory is in the process that is its monitor.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use guest::layout::{EXCHANGE_BYTES, IMAGE_GPA, MAGIC, RAM_MAX_BYTES, RAM_VIRTUAL, VERSION};

use super::image::Image;
use crate::campaign::fault::FaultError;
use crate::campaign::fault::memory::Memory;
use crate::campaign::fault::victim::Victim;

pub(super) const PAGE: u64 = 4096;

/// Gates for exceptions: how many there are, of how many bytes, in which byte one says
/// that it is present, and that of an undefined instruction.
const GATES: u64 = 32;
const GATE_BYTES: u64 = 16;
const GATE_PRESENT: u64 = 5;
const GATE_UNDEFINED: u64 = 6;

/// `XEN_HVM_START_MAGIC_VALUE`: with it begins what a guest is told at its start,
/// below the first MiB. Offset 40 there says where the map of its memory is, and
/// offset 8 in that how long the memory is.
const START_MAGIC: u32 = 0x336e_c578;
const START_BEFORE: u64 = 1 << 20;
const START_MAP: u64 = 40;
const MAP_SIZE: u64 = 8;

/// A page in use of `/proc/PID/pagemap`: in memory, or swapped out.
const IN_USE: u64 = 3 << 62;

/// The memory of a guest, through that of its monitor.
pub(super) struct Guest<'a> {
    image: &'a Image,
    memory: Memory,
    pagemap: File,
    ram: Range<u64>,
    exchange: u64,
}

/// The addresses of pages that are in use.
fn in_use(pagemap: &File, range: &Range<u64>) -> Result<Vec<u64>, FaultError> {
    let pages = (range.end - range.start) / PAGE;
    let failed = |error| FaultError::system("reading a pagemap", error);
    let mut entries = vec![0; usize::try_from(pages * 8).unwrap_or(0)];
    pagemap.read_exact_at(&mut entries, range.start / PAGE * 8).map_err(failed)?;
    let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
    let used = (range.start..range.end).step_by(PAGE as usize).zip(entries);
    Ok(used.filter(|(_, entry)| entry & IN_USE != 0).map(|(at, _)| at).collect())
}

fn word(memory: &Memory, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(at, &mut bytes).then(|| u64::from_le_bytes(bytes))
}

/// The size of the memory that begins there.
fn ram_bytes(memory: &Memory, ram: u64) -> Option<u64> {
    let mut pages = (ram..ram + START_BEFORE).step_by(PAGE as usize);
    let is_start = |at: &u64| word(memory, *at).is_some_and(|word| word as u32 == START_MAGIC);
    let map = word(memory, pages.find(is_start)? + START_MAP)?;
    let map = Some(map).filter(|map| *map < START_BEFORE)?;
    word(memory, ram + map + MAP_SIZE).filter(|bytes| (IMAGE_GPA..=RAM_MAX_BYTES).contains(bytes))
}

impl<'a> Guest<'a> {
    /// Looks for memory that begins as an exchange, and for the begin of the image:
    /// what is mapped may be more than one or the other.
    pub(super) fn find(victim: &Victim, image: &'a Image) -> Result<Self, FaultError> {
        let memory = Memory::open(victim)?;
        let path = victim.proc("pagemap");
        let pagemap = File::open(&path);
        let pagemap =
            pagemap.map_err(|error| FaultError::system(&path.display().to_string(), error))?;
        let (mut ram, mut exchange) = (None, None);
        let mut begin = vec![0; image.begin.len()];
        for map in memory.heap() {
            for at in in_use(&pagemap, &map.range)? {
                if !memory.read(at, &mut begin) {
                    continue;
                }
                if begin == image.begin {
                    ram = ram.or(at.checked_sub(IMAGE_GPA));
                } else if begin.starts_with(&MAGIC.to_le_bytes())
                    && begin[8..].starts_with(&VERSION.to_le_bytes())
                {
                    exchange = exchange.or(Some(at));
                }
            }
        }
        let none = || FaultError::Missed("the replica has no virtual machine yet".into());
        let (ram, exchange) = ram.zip(exchange).ok_or_else(none)?;
        let ram = ram..ram + ram_bytes(&memory, ram).ok_or_else(none)?;
        Ok(Self { image, memory, pagemap, ram, exchange })
    }

    /// Writes into the guest's memory, at a physical address.
    pub(super) fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), FaultError> {
        let none = || FaultError::Missed(format!("the guest has no memory at {gpa:#x}"));
        let at = self.ram.start.checked_add(gpa).ok_or_else(none)?;
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= self.ram.end);
        end.ok_or_else(none)?;
        self.memory.write(at, bytes)
    }

    /// Writes into the exchange, at an offset.
    pub(super) fn write_exchange(&self, offset: usize, bytes: &[u8]) -> Result<(), FaultError> {
        debug_assert!(offset + bytes.len() <= EXCHANGE_BYTES);
        self.memory.write(self.exchange + offset as u64, bytes)
    }

    /// Flips a bit.
    pub(super) fn flip(&self, gpa: u64, bit: usize) -> Result<(), FaultError> {
        let mut byte = [0];
        if !self.memory.read(self.ram.start + gpa, &mut byte) {
            return Err(FaultError::Missed("the guest has ended".into()));
        }
        self.write(gpa, &[byte[0] ^ 1 << bit])
    }

    /// The physical addresses of its pages that are in use.
    pub(super) fn resident(&self) -> Result<Vec<u64>, FaultError> {
        let pages = in_use(&self.pagemap, &self.ram)?;
        Ok(pages.into_iter().map(|at| at - self.ram.start).collect())
    }

    /// As [`Self::resident`], of those that its program may write.
    pub(super) fn resident_writable(&self) -> Result<Vec<u64>, FaultError> {
        let mut pages = self.resident()?;
        pages.retain(|gpa| *gpa >= self.image.writable);
        Ok(pages)
    }

    /// Has it execute this in ring 3 when it is entered the next time.
    pub(super) fn resume_with(&self, code: &[u8]) -> Result<(), FaultError> {
        self.write(self.image.yielded, code)
    }

    /// Has it execute this in ring 0 when an undefined instruction comes.
    pub(super) fn handle_with(&self, code: &[u8]) -> Result<(), FaultError> {
        let at = self.ram.start + self.image.idt + GATE_UNDEFINED * GATE_BYTES;
        let gate = word(&self.memory, at).zip(word(&self.memory, at + 8));
        let (low, high) = gate.ok_or_else(|| FaultError::Missed("the guest has ended".into()))?;
        // The address is in three parts.
        let handler = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        self.write(handler.wrapping_sub(RAM_VIRTUAL), code)
    }

    /// Leaves it without a gate for any exception.
    pub(super) fn remove_gates(&self) -> Result<(), FaultError> {
        (0..GATES).try_for_each(|gate| {
            self.write(self.image.idt + gate * GATE_BYTES + GATE_PRESENT, &[0])
        })
    }
}
