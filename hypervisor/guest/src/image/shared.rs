//! The exchange in the memory that the monitor shares with the guest.
//!
//! The monitor touches it only while the guest is not running, which is while the
//! guest writes to one of the monitor's ports. A guest trusts its monitor in this:
//! there is nobody else it could belong to.

use core::ops::ControlFlow;
use core::ptr;
use core::slice;
use core::sync::atomic::{Ordering, compiler_fence};

use super::failure::fail;
use super::port;
use crate::Exchange;
use crate::layout::{
    ANSWER_MAX, ANSWER_OFFSET, EXCHANGE_VIRTUAL, FailureKind, MAGIC, REQUEST_MAX, REQUEST_OFFSET,
    VERSION, WORDS_MAX, WORDS_OFFSET, word,
};

/// The byte of the exchange at this offset.
fn at(offset: usize) -> *mut u8 {
    ptr::with_exposed_provenance_mut(EXCHANGE_VIRTUAL as usize + offset)
}

pub(super) fn write_word(offset: usize, value: u64) {
    assert!(offset < WORDS_OFFSET && offset.is_multiple_of(8));
    // SAFETY: the exchange is mapped there, writable, and its words are below the
    // last words; nothing else refers to them.
    unsafe { at(offset).cast::<u64>().write_volatile(value) };
}

pub(super) fn read_word(offset: usize) -> u64 {
    assert!(offset < WORDS_OFFSET && offset.is_multiple_of(8));
    // SAFETY: as for `write_word`.
    unsafe { at(offset).cast::<u64>().read_volatile() }
}

/// Where the last words go.
///
/// # Safety
/// Nothing else may refer to them; so this is for the end, which comes once.
pub(super) unsafe fn last_words() -> &'static mut [u8; WORDS_MAX] {
    // SAFETY: the exchange is mapped there, writable; the rest is the caller's.
    unsafe { &mut *at(WORDS_OFFSET).cast() }
}

/// See the module. There is one, and it is in the [`super::Machine`].
#[derive(Debug)]
pub struct SharedExchange {
    request_len: usize,
    _one: (),
}

impl SharedExchange {
    /// Finds the monitor's exchange; ends the machine when it is none.
    ///
    /// # Safety
    /// To be called once.
    pub(super) unsafe fn find() -> Self {
        let (magic, version) = (read_word(word::MAGIC), read_word(word::VERSION));
        if magic != MAGIC || version != VERSION {
            fail(FailureKind::BadExchange, format_args!("an exchange {magic:#x} {version}"));
        }
        Self { request_len: 0, _one: () }
    }

    /// Makes one, where there is no monitor.
    ///
    /// # Safety
    /// To be called once.
    pub(super) unsafe fn make() -> Self {
        write_word(word::MAGIC, MAGIC);
        write_word(word::VERSION, VERSION);
        Self { request_len: 0, _one: () }
    }

    /// Writes the words that come with an answer.
    pub(super) fn announce(&mut self, len_bytes: usize, more: bool) {
        assert!(len_bytes <= ANSWER_MAX, "an answer of {len_bytes} bytes");
        write_word(word::ANSWER_LEN, len_bytes as u64);
        write_word(word::MORE, more.into());
    }

    /// Reads the words that come with a request.
    pub(super) fn look(&mut self) {
        let len = read_word(word::REQUEST_LEN);
        if len > REQUEST_MAX as u64 {
            fail(FailureKind::BadExchange, format_args!("a request of {len} bytes"));
        }
        self.request_len = len as usize;
    }

    /// The answer, and room for a request: for a monitor that the guest itself plays.
    pub(super) fn areas(&mut self) -> (&[u8], &mut [u8]) {
        // SAFETY: the exchange is mapped there, and only reached through this value;
        // the two do not overlap.
        unsafe {
            (
                slice::from_raw_parts(at(ANSWER_OFFSET), ANSWER_MAX),
                slice::from_raw_parts_mut(at(REQUEST_OFFSET), REQUEST_MAX),
            )
        }
    }
}

impl Exchange for SharedExchange {
    fn request(&self) -> &[u8] {
        // SAFETY: the exchange is mapped there, and only reached through this value,
        // which cannot hand over to the monitor while it is borrowed; `request_len`
        // is at most REQUEST_MAX.
        unsafe { slice::from_raw_parts(at(REQUEST_OFFSET), self.request_len) }
    }

    fn answer(&mut self) -> &mut [u8] {
        // SAFETY: as for `request`.
        unsafe { slice::from_raw_parts_mut(at(ANSWER_OFFSET), ANSWER_MAX) }
    }

    fn note_command(&mut self, command: u64) {
        write_word(word::COMMAND, command);
        // Nothing of the command is done before it is noted.
        compiler_fence(Ordering::SeqCst);
    }

    fn hand_over(&mut self, len_bytes: usize, more: bool) -> ControlFlow<()> {
        self.announce(len_bytes, more);
        port::yield_to_monitor();
        self.look();
        ControlFlow::Continue(())
    }
}
