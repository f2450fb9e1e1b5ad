//! The ports that ring 3 may use. The bitmap in `boot.s` allows no others.

use core::arch::asm;

use crate::layout::{PORT_DEBUG_EXIT, PORT_FAILED, PORT_SERIAL, PORT_YIELD};

fn write(port: u16, byte: u8) {
    // SAFETY: behind these ports are the monitor, a serial line and a switch that
    // ends the machine; none of them changes memory that a reference is held to.
    // The monitor changes the exchange: see `shared`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nostack, preserves_flags)) };
}

/// Gives control to the monitor until it enters the guest again.
pub(super) fn yield_to_monitor() {
    write(PORT_YIELD, 0);
}

/// Tells the monitor that this is the end.
pub(super) fn failed() -> ! {
    loop {
        write(PORT_FAILED, 0);
    }
}

/// Sends a byte along the serial line.
pub(super) fn serial(byte: u8) {
    write(PORT_SERIAL, byte);
}

/// Ends a machine that has QEMU's `isa-debug-exit`; its process exits with
/// `2 * code + 1`. Elsewhere it is a failure.
pub fn debug_exit(code: u8) -> ! {
    write(PORT_DEBUG_EXIT, code);
    failed()
}
