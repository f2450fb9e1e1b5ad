//! Shared memory that an untrusted process may write at the same time.
//!
//! A [`Segment`] is a sealed `memfd`: it cannot shrink under its mappings, so
//! no access to it faults. Memory is reached through a [`View`] (loads only) or
//! a [`ViewMut`]. Neither ever hands out a reference to plain bytes: the other
//! side may change them at any moment. All accesses are atomic words, so that a
//! race with the other side yields odd values at worst, never undefined
//! behaviour.
//!
//! A [`Fuse`] lets a simulator end a party in the middle of what it does: behind
//! a blown fuse nothing is stored any more.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use thiserror::Error;

/// Segments are whole pages.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of the machine word in which shared memory is read and written.
pub const WORD_BYTES: usize = 8;

/// Why shared memory could not be made or mapped.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// What was attempted.
        call: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The descriptor is no sealed segment: its pages could be taken away.
    #[error("the descriptor is not sealed against shrinking")]
    NotSealed,
    /// The length is zero, no multiple of the page size, or not the expected one.
    #[error("a segment of {found} bytes does not fit")]
    Length {
        /// The length that was found or asked for.
        found: usize,
    },
}

fn system(call: &'static str) -> impl Fn(rustix::io::Errno) -> MemoryError {
    move |errno| MemoryError::System { call, source: errno.into() }
}

/// A piece of memory that several processes can map.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    len: usize,
}

impl Segment {
    /// Makes a segment of `len` zero bytes. Pages are allocated when touched.
    ///
    /// # Errors
    /// When `len` is not a positive multiple of [`PAGE_BYTES`] or the kernel
    /// refuses.
    pub fn create(name: &str, len: usize) -> Result<Self, MemoryError> {
        if len == 0 || !len.is_multiple_of(PAGE_BYTES) {
            return Err(MemoryError::Length { found: len });
        }
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(system("memfd_create"))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(system("ftruncate"))?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)
            .map_err(system("fcntl(F_ADD_SEALS)"))?;
        Ok(Self { fd, len })
    }

    /// Takes a segment that another process made and handed over.
    ///
    /// # Errors
    /// When the descriptor is no sealed `memfd` or cannot be examined.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, MemoryError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(system("fcntl(F_GET_SEALS)"))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(MemoryError::NotSealed);
        }
        let stat = rustix::fs::fstat(&fd).map_err(system("fstat"))?;
        let len = usize::try_from(stat.st_size).unwrap_or(0);
        if len == 0 || !len.is_multiple_of(PAGE_BYTES) {
            return Err(MemoryError::Length { found: len });
        }
        Ok(Self { fd, len })
    }

    /// The segment's size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Maps the whole segment for reading and writing.
    ///
    /// # Errors
    /// When the descriptor is read-only, or writers are forbidden by now.
    pub fn map_writable(&self) -> Result<ViewMut, MemoryError> {
        self.map_fused(None)
    }

    /// As [`Self::map_writable`], with stores that stop when `fuse` blows.
    ///
    /// # Errors
    /// The same.
    pub fn map_fused(&self, fuse: Option<Arc<Fuse>>) -> Result<ViewMut, MemoryError> {
        let view = self.map(ProtFlags::READ | ProtFlags::WRITE, fuse)?;
        Ok(ViewMut { view })
    }

    /// Maps the whole segment for reading.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map_read_only(&self) -> Result<View, MemoryError> {
        self.map(ProtFlags::READ, None)
    }

    fn map(&self, prot: ProtFlags, fuse: Option<Arc<Fuse>>) -> Result<View, MemoryError> {
        let mapping = Mapping::new(self.fd.as_fd(), 0, self.len, prot, fuse)?;
        Ok(View { base: mapping.base, len: self.len, mapping: Arc::new(mapping) })
    }

    /// Fixes what may be done with the segment: no other seal can be added any
    /// more. Otherwise somebody who may write could forbid writing to all others.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn fix_seals(&self) -> Result<(), MemoryError> {
        rustix::fs::fcntl_add_seals(&self.fd, SealFlags::SEAL).map_err(system("fcntl(F_ADD_SEALS)"))
    }

    /// A new descriptor with which the segment can be mapped for reading only:
    /// the kernel refuses a writable mapping of it, now and by `mprotect` later.
    /// Whoever may open `/proc/self/fd` could gain a writable one, so the holder
    /// must not be able to open files (see [`crate::sandbox`]).
    ///
    /// # Errors
    /// When `/proc` is not mounted or descriptors have run out.
    pub fn read_only_fd(&self) -> Result<OwnedFd, MemoryError> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(system("open(/proc/self/fd)"))
    }

    /// A duplicate of the segment's own descriptor.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn duplicate_fd(&self) -> Result<OwnedFd, MemoryError> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(system("fcntl(F_DUPFD_CLOEXEC)"))
    }

    /// Gives all pages back: the segment reads as zeros in every mapping.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn discard_contents(&self) -> Result<(), MemoryError> {
        self.discard(0, self.len)
    }

    /// Gives the pages back that lie wholly between two places; what is left of the
    /// others there reads as zeros as well.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn discard(&self, offset: usize, len: usize) -> Result<(), MemoryError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.fd, flags, offset as u64, len as u64)
            .map_err(system("fallocate(PUNCH_HOLE)"))
    }

    /// The segment's descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Counts a party's stores, and lets no more through after a certain one: for
/// the others the party has died right there, in the middle of a record or
/// between a record and its announcement.
#[derive(Debug)]
pub struct Fuse {
    /// Stores that still go through; for ever at [`u64::MAX`].
    left: AtomicU64,
    /// Whether who stores behind it unwinds.
    unwinds: bool,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { left: AtomicU64::new(u64::MAX), unwinds: false }
    }
}

/// What a party unwinds with that has met a blown fuse: see [`Fuse::unwinding`].
#[derive(Debug)]
pub struct FuseBlown;

impl Fuse {
    /// A fuse at which the party itself comes to an end, by unwinding with
    /// [`FuseBlown`] instead of storing: for one that acts by other means as well,
    /// which must not go on either.
    #[must_use]
    pub fn unwinding() -> Self {
        Self { unwinds: true, ..Self::default() }
    }

    /// Blows after `stores` more words.
    pub fn light(&self, stores: u64) {
        self.left.store(stores, Ordering::Relaxed);
    }

    /// Lets everything through for now; what it is to be [lit](Self::light) with to go
    /// on.
    #[must_use]
    pub fn pause(&self) -> u64 {
        self.left.swap(u64::MAX, Ordering::Relaxed)
    }

    /// Whether it will blow, or has.
    #[must_use]
    pub fn is_lit(&self) -> bool {
        self.left.load(Ordering::Relaxed) != u64::MAX
    }

    /// Whether nothing goes through any more.
    #[must_use]
    pub fn is_blown(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Whether one more effect goes through.
    pub fn burn(&self) -> bool {
        match self.left.load(Ordering::Relaxed) {
            u64::MAX => true,
            0 if self.unwinds && !std::thread::panicking() => {
                std::panic::resume_unwind(Box::new(FuseBlown))
            }
            0 => false,
            left => {
                self.left.store(left - 1, Ordering::Relaxed);
                true
            }
        }
    }
}

#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
    fuse: Option<Arc<Fuse>>,
}

impl Mapping {
    fn new(
        fd: BorrowedFd<'_>,
        offset_bytes: u64,
        len: usize,
        prot: ProtFlags,
        fuse: Option<Arc<Fuse>>,
    ) -> Result<Self, MemoryError> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no
        // memory of ours; it is unmapped only by `drop`, when no view is left.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset_bytes)
        }
        .map_err(system("mmap"))?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(MemoryError::Length { found: len })?;
        Ok(Self { base, len, fuse })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mapping made in `new`; every view
        // holds an Arc of it, so nothing reaches the memory any more.
        let outcome = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(outcome.is_ok(), "unmapping our own mapping: {outcome:?}");
    }
}

// SAFETY: a mapping is only an address range; what is in it is reached through
// atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above: shared use goes through atomics.
unsafe impl Sync for Mapping {}

/// A range of shared memory that we may read. Offsets are in bytes from the
/// range's start and come from our own layout, never from the other side: an
/// offset outside the range is a bug of ours and panics.
#[derive(Clone, Debug)]
pub struct View {
    base: NonNull<u8>,
    len: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: the memory is reached through atomics only and lives as long as the
// Arc in the view.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The range's size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// A part of this range. `offset` must be a multiple of [`WORD_BYTES`].
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Self {
        assert!(offset.is_multiple_of(WORD_BYTES) && len > 0, "parts are whole words");
        assert!(offset <= self.len && len <= self.len - offset, "a part lies inside its range");
        // SAFETY: offset is inside the mapping, as just asserted.
        let base = unsafe { self.base.add(offset) };
        Self { base, len, mapping: Arc::clone(&self.mapping) }
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(WORD_BYTES) && offset < self.len,
            "a word lies inside its range"
        );
        // SAFETY: in bounds and aligned: the base of every range is word-aligned
        // (mappings are page-aligned, parts begin at words) and mappings are
        // whole words, so a word that begins inside the mapping ends inside it.
        // All processes access the memory atomically or through the kernel.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast::<u64>().as_ptr()) }
    }

    /// The word at `offset`, with no order towards other accesses.
    #[inline]
    #[must_use]
    pub fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    /// The word at `offset`; what was written before it was stored with
    /// [`ViewMut::store_release`] is visible afterwards.
    #[inline]
    #[must_use]
    pub fn load_acquire(&self, offset: usize) -> u64 {
        // Only a relaxed load is defined on memory that is mapped read-only; with
        // the fence it is as strong.
        let value = self.word(offset).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// Appends `len` bytes, read from `offset` on, to `out`.
    #[inline]
    pub fn append_to(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let words = len.div_ceil(WORD_BYTES);
        assert!(
            offset.is_multiple_of(WORD_BYTES)
                && offset <= self.len
                && words <= (self.len - offset) / WORD_BYTES,
            "a copy lies inside its range"
        );
        out.reserve(words * WORD_BYTES);
        let filled = out.len();
        // SAFETY: the source words lie inside the mapping (asserted) and are
        // aligned (see `word`). The target has room for all words (reserved), and
        // the first `len` bytes of it are initialized when the length is raised.
        unsafe {
            let source = self.base.add(offset).cast::<u64>().as_ptr();
            let target = out.as_mut_ptr().add(filled);
            for i in 0..words {
                let word = AtomicU64::from_ptr(source.add(i)).load(Ordering::Relaxed);
                target.add(i * WORD_BYTES).cast::<[u8; 8]>().write(word.to_ne_bytes());
            }
            out.set_len(filled + len);
        }
    }

    /// The 32-bit word at `offset`, for the kernel's futex calls.
    pub(crate) fn futex_word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && self.len >= 4 && offset <= self.len - 4,
            "a futex word lies inside its range"
        );
        // SAFETY: in bounds and aligned, as asserted; accessed atomically by all.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast::<u32>().as_ptr()) }
    }

    /// The bytes from `offset` on, for memory whose layout others have laid down
    /// and that has no words of ours.
    pub(crate) fn atomic_bytes(&self, offset: usize, len: usize) -> &[AtomicU8] {
        assert!(offset <= self.len && len <= self.len - offset, "bytes lie inside their range");
        // SAFETY: in bounds, as asserted, and of no alignment; an AtomicU8 has the
        // layout of a byte and may change under a shared reference.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast().as_ptr(), len) }
    }
}

/// A range of shared memory that we may read and write.
#[derive(Clone, Debug)]
pub struct ViewMut {
    view: View,
}

impl std::ops::Deref for ViewMut {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl ViewMut {
    /// Maps one page that a device shares at `offset_bytes`. The caller knows that
    /// the device does not take it away as long as it is mapped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn map_device_page(
        device: BorrowedFd<'_>,
        offset_bytes: u64,
    ) -> Result<Self, MemoryError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = Mapping::new(device, offset_bytes, PAGE_BYTES, prot, None)?;
        let view = View { base: mapping.base, len: PAGE_BYTES, mapping: Arc::new(mapping) };
        Ok(Self { view })
    }

    /// A part of this range. `offset` must be a multiple of [`WORD_BYTES`].
    #[must_use]
    pub fn part_mut(&self, offset: usize, len: usize) -> Self {
        Self { view: self.view.part(offset, len) }
    }

    /// The same range for reading only.
    #[must_use]
    pub fn read_only(&self) -> View {
        self.view.clone()
    }

    /// Whether stores still go through; counts one.
    #[inline]
    fn lives(&self) -> bool {
        self.view.mapping.fuse.as_ref().is_none_or(|fuse| fuse.burn())
    }

    /// Where the range lies in this process, for calls that take an address.
    pub(crate) fn address(&self) -> u64 {
        self.view.base.as_ptr().expose_provenance() as u64
    }

    /// The fuse behind which this memory lies, if there is one.
    #[must_use]
    pub fn fuse(&self) -> Option<&Fuse> {
        self.view.mapping.fuse.as_deref()
    }

    /// Stores a word, with no order towards other accesses.
    #[inline]
    pub fn store(&self, offset: usize, value: u64) {
        if !self.lives() {
            return;
        }
        self.word(offset).store(value, Ordering::Relaxed);
    }

    /// Stores a word; whoever loads it with [`View::load_acquire`] sees all that
    /// was written before.
    #[inline]
    pub fn store_release(&self, offset: usize, value: u64) {
        if !self.lives() {
            return;
        }
        self.word(offset).store(value, Ordering::Release);
    }

    /// Writes bytes from `offset` on. The last word is filled up with zeros.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let words = bytes.len().div_ceil(WORD_BYTES);
        assert!(
            offset.is_multiple_of(WORD_BYTES)
                && offset <= self.len
                && words <= (self.len - offset) / WORD_BYTES,
            "a write lies inside its range"
        );
        // SAFETY: the words lie inside the mapping (asserted) and are aligned (see
        // `word`); the mapping of a ViewMut is writable.
        let write = |index: usize, word: u64| unsafe {
            let target = self.base.cast::<u64>().add(offset / WORD_BYTES + index);
            AtomicU64::from_ptr(target.as_ptr()).store(word, Ordering::Relaxed);
        };
        let store = |index: usize, word: u64| {
            if self.lives() {
                write(index, word);
            }
        };
        let (whole, rest) = bytes.as_chunks::<WORD_BYTES>();
        for (index, word) in whole.iter().enumerate() {
            store(index, u64::from_ne_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; WORD_BYTES];
            last[..rest.len()].copy_from_slice(rest);
            store(whole.len(), u64::from_ne_bytes(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_whatever_their_length() {
        let view = Segment::create("test", PAGE_BYTES).unwrap().map_writable().unwrap();
        for len in 0..40 {
            let bytes: Vec<u8> = (0..len).collect();
            view.write(64, &[0xff; 48]);
            view.write(64, &bytes);
            let mut out = vec![9];
            view.append_to(64, bytes.len(), &mut out);
            assert_eq!(out[0], 9);
            assert_eq!(out[1..], bytes);
        }
    }

    #[test]
    fn behind_a_blown_fuse_nothing_is_stored() {
        let segment = Segment::create("test", PAGE_BYTES).unwrap();
        let fuse = Arc::new(Fuse::default());
        let view = segment.map_fused(Some(Arc::clone(&fuse))).unwrap();
        view.store(0, 1);
        fuse.light(2);
        assert!(!fuse.is_blown());
        view.write(8, &[0xff; 24]);
        assert!(fuse.is_blown());
        view.store_release(0, 2);
        let seen: Vec<u64> = (0..4).map(|word| view.load(word * WORD_BYTES)).collect();
        assert_eq!(seen, [1, u64::MAX, u64::MAX, 0], "torn after the second word");
    }

    #[test]
    fn the_last_word_is_reached_and_not_more() {
        let view = Segment::create("test", PAGE_BYTES).unwrap().map_writable().unwrap();
        view.write(PAGE_BYTES - 8, &[1; 8]);
        let beyond = std::panic::catch_unwind(|| view.write(PAGE_BYTES - 8, &[1; 9]));
        assert!(beyond.is_err());
        let part = view.part_mut(PAGE_BYTES - 16, 16);
        assert!(std::panic::catch_unwind(|| part.load(16)).is_err());
        assert!(std::panic::catch_unwind(|| part.append_to(8, 9, &mut Vec::new())).is_err());
    }

    #[test]
    fn who_may_only_read_cannot_map_for_writing() {
        let segment = Segment::create("test", PAGE_BYTES).unwrap();
        let writer = segment.map_writable().unwrap();
        let reader = Segment::from_fd(segment.read_only_fd().unwrap()).unwrap();
        assert!(reader.map_writable().is_err());
        let view = reader.map_read_only().unwrap();
        writer.store(8, 42);
        assert_eq!(view.load(8), 42);
        // SAFETY: changes the protection of a mapping that this test owns; it is
        // only read afterwards, which every outcome allows.
        let upgraded = unsafe {
            let flags = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
            rustix::mm::mprotect(view.base.as_ptr().cast(), PAGE_BYTES, flags)
        };
        assert!(upgraded.is_err());
    }

    #[test]
    fn nobody_can_forbid_what_is_fixed() {
        let segment = Segment::create("test", PAGE_BYTES).unwrap();
        segment.fix_seals().unwrap();
        let other = Segment::from_fd(segment.duplicate_fd().unwrap()).unwrap();
        assert!(rustix::fs::fcntl_add_seals(&other.fd, SealFlags::WRITE).is_err());
        segment.discard_contents().unwrap();
    }

    #[test]
    fn a_segment_cannot_shrink_or_grow() {
        let segment = Segment::create("test", PAGE_BYTES).unwrap();
        assert!(rustix::fs::ftruncate(segment.fd(), 0).is_err());
        assert!(rustix::fs::ftruncate(segment.fd(), 2 * PAGE_BYTES as u64).is_err());
    }

    #[test]
    fn only_sealed_memory_is_taken() {
        let file = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, PAGE_BYTES as u64).unwrap();
        assert!(matches!(Segment::from_fd(file), Err(MemoryError::NotSealed)));
        assert!(matches!(Segment::create("test", 100), Err(MemoryError::Length { found: 100 })));
        assert!(matches!(Segment::create("test", 0), Err(MemoryError::Length { found: 0 })));
    }

    #[test]
    fn discarded_contents_read_as_zeros_everywhere() {
        let segment = Segment::create("test", 4 * PAGE_BYTES).unwrap();
        let view = segment.map_writable().unwrap();
        view.store(PAGE_BYTES, 7);
        segment.discard_contents().unwrap();
        assert_eq!(view.load(PAGE_BYTES), 0);
        view.store(PAGE_BYTES, 8);
        assert_eq!(segment.map_read_only().unwrap().load(PAGE_BYTES), 8);
    }
}
