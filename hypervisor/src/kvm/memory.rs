//! Memory of a guest. Nobody else has it, and the guest runs only while its
//! monitor's thread is inside the kernel: so the monitor may copy from and to it
//! at any other time, within bounds.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::{KvmError, system};
use crate::memory::{PAGE_BYTES, WORD_BYTES};

/// Pages of which the kernel is asked at once; each answers with a byte.
const RESIDENCE_CHUNK_PAGES: usize = 4096;

/// A range of guest physical memory: private to this process, zero at first, and
/// paid for page by page when touched.
#[derive(Debug)]
pub(super) struct Region {
    mapping: MmapRegion,
}

impl Region {
    /// `len` zero bytes.
    pub(super) fn new(len: usize) -> Result<Self, KvmError> {
        let mapping = MmapRegion::new(len)
            .map_err(|source| KvmError::Memory { bytes: len as u64, source })?;
        Ok(Self { mapping })
    }

    pub(super) fn len(&self) -> usize {
        self.mapping.size()
    }

    /// Where it is in this process, for KVM.
    pub(super) fn host_address(&self) -> u64 {
        self.mapping.as_ptr() as u64
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), KvmError> {
        let slice = self.mapping.get_slice(offset, bytes.len());
        let outcome = slice.and_then(|slice| slice.write_slice(bytes, 0));
        outcome.map_err(|_| KvmError::OutOfBounds { offset, len: bytes.len() })
    }

    pub(super) fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), KvmError> {
        let slice = self.mapping.get_slice(offset, out.len());
        let outcome = slice.and_then(|slice| slice.read_slice(out, 0));
        outcome.map_err(|_| KvmError::OutOfBounds { offset, len: out.len() })
    }

    /// The word at `offset`, a multiple of 8; loaded exactly once.
    pub(super) fn load(&self, offset: usize) -> Result<u64, KvmError> {
        let word = self.mapping.as_volatile_slice().load::<u64>(offset, Ordering::Relaxed);
        word.map(u64::from_le).map_err(|_| KvmError::OutOfBounds { offset, len: WORD_BYTES })
    }

    pub(super) fn store(&self, offset: usize, word: u64) -> Result<(), KvmError> {
        let slice = self.mapping.as_volatile_slice();
        let outcome = slice.store(word.to_le(), offset, Ordering::Relaxed);
        outcome.map_err(|_| KvmError::OutOfBounds { offset, len: WORD_BYTES })
    }

    /// Bytes of it for which there is physical memory, in whole pages.
    pub(super) fn resident_bytes(&self) -> Result<u64, KvmError> {
        let pages = self.len().div_ceil(PAGE_BYTES);
        let mut residence = vec![0_u8; RESIDENCE_CHUNK_PAGES.min(pages)];
        let mut resident = 0;
        for first in (0..pages).step_by(RESIDENCE_CHUNK_PAGES) {
            let count = RESIDENCE_CHUNK_PAGES.min(pages - first);
            // SAFETY: these pages are inside the mapping, which lives as long as
            // `self`; the kernel writes a byte a page, for which there is room.
            let outcome = unsafe {
                let address = self.mapping.as_ptr().add(first * PAGE_BYTES);
                libc::mincore(address.cast(), count * PAGE_BYTES, residence.as_mut_ptr())
            };
            if outcome != 0 {
                return Err(system("mincore")(std::io::Error::last_os_error()));
            }
            // The other bits are reserved.
            resident += residence[..count].iter().filter(|page| **page & 1 != 0).count();
        }
        Ok((resident * PAGE_BYTES) as u64)
    }
}

/// Memory of a guest that does not run right now: to look at, and to injure in
/// tests of what follows from it.
#[derive(Debug)]
pub struct MemoryView<'a> {
    region: &'a mut Region,
}

impl<'a> MemoryView<'a> {
    pub(super) fn new(region: &'a mut Region) -> Self {
        Self { region }
    }

    /// Its size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> usize {
        self.region.len()
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When some of them are outside; `out` is as it was then.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), KvmError> {
        self.region.read(offset, out)
    }

    /// Overwrites the bytes from `offset` on.
    ///
    /// # Errors
    /// When some of them are outside; nothing is written then.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), KvmError> {
        self.region.write(offset, bytes)
    }

    /// Turns over one bit of the byte at `offset`: bit 0 is the least significant,
    /// and of larger numbers the last three bits count.
    ///
    /// # Errors
    /// When the byte is outside.
    pub fn flip_bit(&mut self, offset: usize, bit: u8) -> Result<(), KvmError> {
        let mut byte = [0];
        self.region.read(offset, &mut byte)?;
        self.region.write(offset, &[byte[0] ^ (1 << (bit % 8))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_inside_work_and_others_are_refused() {
        let mut region = Region::new(2 * PAGE_BYTES).unwrap();
        let len = region.len();
        region.store(len - 8, 0x0102_0304_0506_0708).unwrap();
        assert_eq!(region.load(len - 8).unwrap(), 0x0102_0304_0506_0708);
        assert!(region.load(len).is_err());
        assert!(region.load(usize::MAX - 7).is_err());
        let mut view = MemoryView::new(&mut region);
        view.flip_bit(len - 8, 0).unwrap();
        view.flip_bit(len - 1, 15).unwrap();
        let mut bytes = [0; 8];
        view.read(len - 8, &mut bytes).unwrap();
        assert_eq!(bytes, [9, 7, 6, 5, 4, 3, 2, 0x81]);
        assert!(view.flip_bit(len, 0).is_err());
        assert!(view.write(len - 1, &[1, 2]).is_err());
        assert!(view.write(usize::MAX, &[1, 2]).is_err());
        assert!(view.read(len - 7, &mut bytes).is_err());
        assert_eq!(bytes[0], 9, "nothing was read");
        view.write(len, &[]).unwrap();
    }

    #[test]
    fn only_touched_pages_are_resident() {
        let region = Region::new((RESIDENCE_CHUNK_PAGES + 5) * PAGE_BYTES).unwrap();
        assert_eq!(region.resident_bytes().unwrap(), 0);
        region.store(0, 1).unwrap();
        region.store(region.len() - 8, 1).unwrap();
        assert_eq!(region.resident_bytes().unwrap(), 2 * PAGE_BYTES as u64);
    }
}
