//! Where things are in a guest, and what they mean: the agreement between the
//! image and the monitor of its virtual machine.
//!
//! The guest has memory of its own and the *exchange*, the only memory that it
//! shares. Its monitor writes a request there and enters the guest; the guest
//! writes the answer and yields. So there are no interrupts, and nothing is waited
//! for inside.

/// Where the guest's own memory begins, physically.
pub const RAM_GPA: u64 = 0;
/// Its granularity: pages of 2 MiB map it.
pub const RAM_GRAIN_BYTES: u64 = 2 << 20;
/// The least that makes sense: the image, its stack, and some heap.
pub const RAM_MIN_BYTES: u64 = 4 << 20;
/// All of it has to fit below the exchange's virtual address.
pub const RAM_MAX_BYTES: u64 = 1 << 30;
/// Virtual addresses of the guest's memory are physical ones beyond this.
pub const RAM_VIRTUAL: u64 = 0xffff_ffff_8000_0000;
/// Where the image is loaded, physically.
pub const IMAGE_GPA: u64 = 0x20_0000;

/// Where the exchange is, physically.
pub const EXCHANGE_GPA: u64 = 0xc000_0000;
/// Where it is mapped.
pub const EXCHANGE_VIRTUAL: u64 = 0xffff_ffff_c000_0000;
/// Its size.
pub const EXCHANGE_BYTES: usize = 4 << 20;

/// Tells an exchange from memory that is none: "R-VMM", little-endian.
pub const MAGIC: u64 = 0x004d_4d56_2d52;
/// The version of this agreement.
pub const VERSION: u64 = 2;

/// Offsets of the 64-bit little-endian words of the exchange's first page.
pub mod word {
    /// [`super::MAGIC`]; written by the monitor, before the boot.
    pub const MAGIC: usize = 0x00;
    /// [`super::VERSION`]; written by the monitor, before the boot.
    pub const VERSION: usize = 0x08;
    /// Bytes of the request; written by the monitor, before each entry.
    pub const REQUEST_LEN: usize = 0x10;
    /// Bytes of the answer; written by the guest, before each yield.
    pub const ANSWER_LEN: usize = 0x18;
    /// 1 when more is to come of the same answer: the monitor takes what is there
    /// and enters again with a request of 0 bytes. Written by the guest.
    pub const MORE: usize = 0x20;
    /// Why the guest will not go on: 0, or a [`super::FailureKind`].
    pub const FAILURE: usize = 0x28;
    /// Of an exception: its vector.
    pub const VECTOR: usize = 0x30;
    /// Of an exception: its error code, 0 where it has none.
    pub const ERROR_CODE: usize = 0x38;
    /// Of an exception: the instruction.
    pub const RIP: usize = 0x40;
    /// Of an exception: the stack pointer.
    pub const RSP: usize = 0x48;
    /// Of a page fault: the address.
    pub const CR2: usize = 0x50;
    /// Bytes of the last words.
    pub const WORDS_LEN: usize = 0x58;
    /// The index in the request, from 0 on, of the command that is being executed.
    /// Written by the guest, before it executes one; by the monitor, with a request of
    /// more than 0 bytes.
    pub const COMMAND: usize = 0x60;
}

/// Where the last words of a guest are: UTF-8.
pub const WORDS_OFFSET: usize = 0x100;
/// Room for them.
pub const WORDS_MAX: usize = 512;

/// Where the request is.
pub const REQUEST_OFFSET: usize = 0x1000;
/// Room for it.
pub const REQUEST_MAX: usize = ANSWER_OFFSET - REQUEST_OFFSET;
/// Where the answer is.
pub const ANSWER_OFFSET: usize = 1 << 20;
/// Room for a part of it.
pub const ANSWER_MAX: usize = EXCHANGE_BYTES - ANSWER_OFFSET;

/// Why a guest will not go on, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum FailureKind {
    /// The processor has raised an exception that nobody expects.
    Exception = 1,
    /// The program has panicked.
    Panic = 2,
    /// There is no memory left.
    OutOfMemory = 3,
    /// The exchange is not what this version expects.
    BadExchange = 4,
}

impl FailureKind {
    /// The kind of this number.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word {
            1 => Some(Self::Exception),
            2 => Some(Self::Panic),
            3 => Some(Self::OutOfMemory),
            4 => Some(Self::BadExchange),
            _ => None,
        }
    }
}

/// A byte written here gives control back to the monitor: the answer is there.
pub const PORT_YIELD: u16 = 0xe0;
/// A byte written here says that the guest will not go on.
pub const PORT_FAILED: u16 = 0xe4;
/// The first of the eight ports of a serial line, for machines without an
/// exchange.
pub const PORT_SERIAL: u16 = 0x3f8;
/// QEMU's `isa-debug-exit`, for machines without an exchange.
pub const PORT_DEBUG_EXIT: u16 = 0xf4;
