//! The end of a machine, and what is said about it.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::port;
use super::serial::Serial;
use super::shared::{last_words, read_word, write_word};
use crate::layout::{FailureKind, WORDS_MAX, word};

/// What a machine without a monitor exits with at a failure; see [`port::debug_exit`].
const EXIT_FAILED: u8 = 0x11;

/// Whether a monitor reads what is left in the exchange. If not, it goes along the
/// serial line.
static MONITORED: AtomicBool = AtomicBool::new(true);
/// Whether this is the end already: what fails now fails while it is said why.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Has failures reported along the serial line.
pub(super) fn report_on_serial() {
    MONITORED.store(false, Ordering::Relaxed);
}

/// Collects what fits.
struct Words<'a> {
    room: &'a mut [u8; WORDS_MAX],
    len: usize,
}

impl Write for Words<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut fits = text.len().min(WORDS_MAX - self.len);
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        self.room[self.len..][..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Ends the machine, saying why.
pub(super) fn fail(kind: FailureKind, why: fmt::Arguments<'_>) -> ! {
    if ENDING.swap(true, Ordering::Relaxed) {
        port::failed();
    }
    // First: saying why may fail too.
    write_word(word::FAILURE, kind as u64);
    // SAFETY: ENDING lets nobody else come here.
    let room = unsafe { last_words() };
    let mut words = Words { room, len: 0 };
    // What does not fit is left out.
    let _ = words.write_fmt(why);
    write_word(word::WORDS_LEN, words.len as u64);
    if !MONITORED.load(Ordering::Relaxed) {
        let _ = writeln!(Serial, "failed: {kind:?}: {why}");
        port::debug_exit(EXIT_FAILED);
    }
    port::failed()
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    fail(FailureKind::Panic, format_args!("{info}"))
}

/// Says along the serial line what `boot.s` has written into the exchange. It comes
/// here with an empty stack, and only where there is no monitor.
#[unsafe(no_mangle)]
extern "C" fn guest_post_mortem() -> ! {
    let (vector, error) = (read_word(word::VECTOR), read_word(word::ERROR_CODE));
    let (rip, rsp, cr2) = (read_word(word::RIP), read_word(word::RSP), read_word(word::CR2));
    let _ = writeln!(
        Serial,
        "failed: Exception: {vector} error {error:#x} rip {rip:#x} rsp {rsp:#x} cr2 {cr2:#x}"
    );
    port::debug_exit(EXIT_FAILED)
}

/// The precompiled `core` refers to it; nothing ever unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    port::failed()
}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    port::failed()
}
