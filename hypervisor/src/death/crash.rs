//! Last words: panics and fatal signals are noted in the replica's page.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::fabric::{CRASH_REASON_MAX, ReplicaPage};

/// The page to write to; never freed.
static PAGE: AtomicPtr<ReplicaPage> = AtomicPtr::new(std::ptr::null_mut());

const SIGNALS: [c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// A handler must work when the stack has run out.
const STACK_BYTES: usize = 64 << 10;

/// Notes panics and fatal signals of this process in its page from now on: the
/// first reason counts. Panics go on to the former panic hook, signals end the
/// process as they would have. To be called on the main thread.
///
/// # Errors
/// When the kernel refuses.
pub fn mark_crashes(page: &ReplicaPage) -> io::Result<()> {
    let page: &'static mut ReplicaPage = Box::leak(Box::new(page.clone()));
    PAGE.store(page, Ordering::SeqCst);

    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        note(info.to_string().as_bytes());
        next(info);
    }));

    let stack: &'static mut [u8] = Box::leak(vec![0; STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast::<c_void>(),
        ss_flags: 0,
        ss_size: STACK_BYTES,
    };
    // SAFETY: the stack is never freed and used by nobody else.
    if unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for signal in SIGNALS {
        // SAFETY: all zeros is a valid start; the fields that matter are set.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: the handler does only what is allowed in one, see there.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn note(reason: &[u8]) {
    // SAFETY: null, or a page that is never freed and only used by shared
    // reference.
    if let Some(page) = unsafe { PAGE.load(Ordering::SeqCst).as_ref() } {
        page.mark_crashed(reason);
    }
}

/// Writes with atomic stores and makes system calls, nothing else: it may run at
/// any instruction.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    let mut text = Text::default();
    text.push(b"signal ");
    text.push_number(signal.unsigned_abs().into(), 10);
    if signal != libc::SIGABRT {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
        let address = unsafe { (*info).si_addr() };
        text.push(b" at address 0x");
        text.push_number(address.addr() as u64, 16);
    }
    note(&text.bytes[..text.len]);
    // SA_RESETHAND put the default action back. The signal is sent again, for it
    // may have been sent rather than caused; it takes effect on return.
    // SAFETY: system calls without memory.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
    }
}

/// Text on the stack: a handler must not allocate.
struct Text {
    bytes: [u8; CRASH_REASON_MAX],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; CRASH_REASON_MAX], len: 0 }
    }
}

impl Text {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, mut number: u64, base: u64) {
        let mut digits = [0; 20];
        let mut begin = digits.len();
        loop {
            begin -= 1;
            digits[begin] = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[begin..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_allocation() {
        for (number, base, expected) in [
            (0, 10, "0"),
            (11, 10, "11"),
            (0xdead_beef, 16, "deadbeef"),
            (u64::MAX, 10, "18446744073709551615"),
        ] {
            let mut text = Text::default();
            text.push_number(number, base);
            assert_eq!(&text.bytes[..text.len], expected.as_bytes());
        }
    }

    #[test]
    fn text_is_cut_at_its_limit() {
        let mut text = Text::default();
        text.push(&[b'x'; CRASH_REASON_MAX + 50]);
        assert_eq!(text.len, CRASH_REASON_MAX);
    }
}
