//! How a guest comes to its end, for the log and for tests of it.

use std::fmt;

use crate::memory::PAGE_BYTES;

/// Why a guest will never run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The processor could not even deliver an exception (triple fault), or shut
    /// down for another reason.
    Shutdown,
    /// KVM cannot execute what the guest asks for; the number is a
    /// `KVM_INTERNAL_ERROR_*` of `linux/kvm.h`, 1 being an instruction that it
    /// cannot emulate.
    InternalError {
        /// Which error.
        suberror: u32,
    },
    /// An access to a port that the agreement does not know.
    UnexpectedPort {
        /// The port.
        port: u16,
        /// Whether it was an output.
        write: bool,
        /// How many bytes.
        size: usize,
    },
    /// An access to a physical address where no memory is.
    UnexpectedAddress {
        /// The guest physical address.
        gpa: u64,
        /// Whether it was a write.
        write: bool,
    },
    /// It waits for an interrupt, and there are none.
    Halted,
    /// The processor has refused to enter the guest.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// KVM has returned for another reason; a `KVM_EXIT_*` of `linux/kvm.h`.
    UnexpectedExit {
        /// Which.
        reason: u32,
    },
    /// The guest reports an exception of its processor.
    Exception {
        /// The vector: 6 invalid opcode, 13 general protection, 14 page fault, ...
        vector: u64,
        /// The error code; 0 where the exception has none.
        error_code: u64,
        /// The instruction's address.
        rip: u64,
        /// The stack pointer.
        rsp: u64,
        /// Of a page fault, the address.
        cr2: u64,
    },
    /// The guest reports that its program has panicked.
    Panic {
        /// What it said.
        words: LastWords,
    },
    /// The guest reports that its memory is used up.
    OutOfMemory {
        /// What it said.
        words: LastWords,
    },
    /// The guest reports that the exchange is not as agreed: of another version, or with
    /// a request that cannot be.
    BadExchange {
        /// What it said.
        words: LastWords,
    },
    /// The guest reports a failure that the agreement does not know.
    Unexplained {
        /// The number.
        kind: u64,
        /// What it said.
        words: LastWords,
    },
    /// What the guest claims to have answered cannot be.
    BadAnswer(BadAnswer),
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAnswer {
    /// It is longer than its room in the exchange.
    TooLong {
        /// The length that the guest has written, in bytes.
        bytes: u64,
    },
    /// All its parts together are longer than the caller takes.
    OverLimit,
    /// More is announced, but there is nothing in this part: that could go on for
    /// ever.
    EmptyPart,
    /// The word that tells whether more is to come is neither 0 nor 1.
    MoreWord {
        /// What it is.
        word: u64,
    },
}

/// What a guest has said before its end: at most [`guest::layout::WORDS_MAX`]
/// bytes of its own. What is not UTF-8, and what could garble a log, is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords(String);

impl LastWords {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let legible = |c: char| match c {
            '\t' | '\n' | '\r' => ' ',
            // Separators of lines and marks that reverse the direction of writing.
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        Self(String::from_utf8_lossy(bytes).trim().chars().map(legible).collect())
    }

    /// The words, on one line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => write!(f, "the processor has shut down (triple fault)"),
            Self::InternalError { suberror } => {
                write!(f, "KVM cannot go on: internal error {suberror}")
            }
            Self::UnexpectedPort { port, write, size } => {
                write!(f, "{} of {size} bytes at port {port:#x}", access(*write))
            }
            Self::UnexpectedAddress { gpa, write } => {
                write!(f, "{} at physical address {gpa:#x}, where no memory is", access(*write))
            }
            Self::Halted => write!(f, "halted, with nothing that could wake it"),
            Self::FailEntry { reason } => {
                write!(f, "the processor refuses to enter the guest: {reason:#x}")
            }
            Self::UnexpectedExit { reason } => write!(f, "unexpected exit {reason}"),
            Self::Exception { vector, error_code, rip, rsp, cr2 } => write!(
                f,
                "{}{} (exception {vector}), error code {error_code:#x}, at {rip:#x}, stack \
                 {rsp:#x}, address {cr2:#x}",
                exception(*vector),
                if is_overflow(*vector, *error_code, *rsp, *cr2) { " below the stack" } else { "" },
            ),
            Self::Panic { words } => write!(f, "panic: {words}"),
            Self::OutOfMemory { words } => write!(f, "out of memory: {words}"),
            Self::BadExchange { words } => write!(f, "the exchange is not as agreed: {words}"),
            Self::Unexplained { kind, words } => write!(f, "failure of kind {kind}: {words}"),
            Self::BadAnswer(bad) => write!(f, "{bad}"),
        }
    }
}

/// A processor's name for an exception.
fn exception(vector: u64) -> &'static str {
    match vector {
        0 => "division by zero",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "no floating point unit",
        8 => "double fault",
        10 => "invalid task state",
        11 => "segment not present",
        12 => "stack segment fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "floating point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating point error",
        21 => "control protection fault",
        _ => "unknown exception",
    }
}

/// Whether a page that is not there was written to right below the stack pointer, or
/// right above: that is what becomes of who uses more stack than there is.
fn is_overflow(vector: u64, error_code: u64, rsp: u64, address: u64) -> bool {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    let near = rsp.abs_diff(address) <= PAGE_BYTES as u64;
    vector == 14 && error_code & (PRESENT | WRITE) == WRITE && near
}

fn access(write: bool) -> &'static str {
    if write { "unexpected write" } else { "unexpected read" }
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(f, "an answer of {bytes} bytes does not fit"),
            Self::OverLimit => write!(f, "an answer beyond the limit"),
            Self::EmptyPart => write!(f, "an empty part of an answer, with more to come"),
            Self::MoreWord { word } => {
                write!(f, "an answer with the word {word:#x}: neither its end nor more of it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_one_clean_line() {
        let words = |bytes: &[u8]| LastWords::new(bytes).as_str().to_owned();
        assert_eq!(words(b"panicked at x.rs:1:\nno\r\n"), "panicked at x.rs:1: no");
        assert_eq!(words(b"\x1b[31mred\0"), "\u{fffd}[31mred\u{fffd}");
        assert_eq!(words(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(words("a\u{202e}b\u{2028}c".as_bytes()), "a\u{fffd}b\u{fffd}c");
        assert_eq!(words("schön".as_bytes()), "schön");
        assert_eq!(words(b""), "");
    }

    #[test]
    fn an_exception_is_told_by_its_name() {
        let told = |vector, error_code, rsp, cr2| {
            Failure::Exception { vector, error_code, rip: 0x1000, rsp, cr2 }.to_string()
        };
        assert_eq!(
            told(6, 0, 0x2000, 0),
            "invalid opcode (exception 6), error code 0x0, at 0x1000, stack 0x2000, address 0x0"
        );
        for (vector, error_code, rsp, address, overflow) in [
            (14, 6, 0x5000, 0x4ff8, true),
            // A function that asks for much at once touches each page of it.
            (14, 6, 0x4f00, 0x4f00, true),
            (14, 4, 0x5000, 0x4ff8, false),
            (14, 7, 0x5000, 0x4ff8, false),
            (14, 6, 0x5000, 0x8, false),
            (13, 6, 0x5000, 0x4ff8, false),
        ] {
            let told = told(vector, error_code, rsp, address);
            assert_eq!(told.contains(" below the stack "), overflow, "{told}");
        }
        assert!(told(u64::MAX, 0, 0, 0).starts_with("unknown exception (exception 18446"));
    }

    quickcheck::quickcheck! {
        fn every_failure_is_told_on_one_bounded_line(bytes: Vec<u8>, kind: u64) -> bool {
            let bytes = &bytes[..bytes.len().min(guest::layout::WORDS_MAX)];
            let failure = Failure::Unexplained { kind, words: LastWords::new(bytes) };
            let line = failure.to_string();
            line.len() < 3 * guest::layout::WORDS_MAX + 60 && !line.contains(char::is_control)
        }
    }
}
