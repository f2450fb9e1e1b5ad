//! The page that a domain shares with the store.

use std::sync::atomic::{Ordering, fence};

use super::XenError;
use super::gntdev::Grant;
use crate::memory::{PAGE_BYTES, Segment, ViewMut};

/// A mapped ring page. The domain writes to it whenever it likes.
///
/// Its layout is Xen's: bytes and 32-bit words, each of which only one side
/// writes; so none of the accesses here touches more than that.
#[derive(Debug)]
pub struct RingPage {
    /// Before the grant: a page is unmapped before it is given back.
    memory: ViewMut,
    _grant: Option<Grant>,
}

impl RingPage {
    /// A page that another domain has granted.
    pub(super) fn granted(memory: ViewMut, grant: Grant) -> Self {
        Self { memory, _grant: Some(grant) }
    }

    /// A page that nobody has to be given back.
    pub(super) fn own(memory: ViewMut) -> Self {
        Self { memory, _grant: None }
    }

    /// A page in plain memory, of which somebody else in this host plays the
    /// domain. Of a longer segment, the first page.
    ///
    /// # Errors
    /// When the kernel does not map it.
    pub fn in_memory(segment: &Segment) -> Result<Self, XenError> {
        Ok(Self::own(segment.map_writable()?.part_mut(0, PAGE_BYTES)))
    }

    /// The word at `offset`; what was written before it was stored with
    /// [`Self::store_release`] is visible afterwards, and nothing that follows is
    /// done before.
    pub(super) fn load_acquire(&self, offset: usize) -> u32 {
        self.memory.futex_word(offset).load(Ordering::Acquire)
    }

    /// Stores a word, after all that was read or written before.
    pub(super) fn store_release(&self, offset: usize, value: u32) {
        self.memory.futex_word(offset).store(value, Ordering::Release);
    }

    /// Appends `len` bytes, read from `offset` on, to `out`.
    pub(super) fn append_to(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let bytes = self.memory.atomic_bytes(offset, len).iter();
        out.extend(bytes.map(|byte| byte.load(Ordering::Relaxed)));
    }

    /// Writes bytes from `offset` on.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let targets = self.memory.atomic_bytes(offset, bytes.len());
        for (target, &byte) in targets.iter().zip(bytes) {
            target.store(byte, Ordering::Relaxed);
        }
    }

    /// All that was written is there before the other side is signalled, and all
    /// that is read from now on is as new as that.
    pub(super) fn settle() {
        fence(Ordering::SeqCst);
    }
}
