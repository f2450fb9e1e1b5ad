//! What ring 3 must not be able to do, done: for self-tests. Each ends the machine
//! with an exception.

use core::arch::asm;

use crate::layout::RAM_VIRTUAL;

/// Something that the processor refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// To write where the program's code is.
    WriteText,
    /// To execute what is on the stack.
    ExecuteData,
    /// To read what is ring 0's.
    ReadTables,
    /// To write to a port that nobody gave it.
    OtherPort,
}

impl Misdeed {
    /// Tries it. Returns if it was possible.
    pub fn commit(self) {
        /// Returns at once: `ret`.
        const CODE: [u8; 1] = [0xc3];
        let on_stack = CODE;
        let text: fn(Self) = Self::commit;
        // The page tables are behind the shim's one page; see `boot.s`.
        let tables = (RAM_VIRTUAL + 0x20_1000) as *const u64;
        // SAFETY: nothing changes but the content of a register, whether the processor
        // refuses (and the machine ends) or not: what is written to the text is the
        // byte that is there, what is executed returns, and no device is at port 0x80.
        unsafe {
            match self {
                Self::WriteText => {
                    let text = text as *mut u8;
                    text.write_volatile(text.read_volatile());
                }
                Self::ExecuteData => asm!("call {}", in(reg) on_stack.as_ptr()),
                Self::ReadTables => {
                    tables.read_volatile();
                }
                Self::OtherPort => asm!("out 0x80, al", in("al") 0_u8, options(nostack)),
            }
        }
    }
}
