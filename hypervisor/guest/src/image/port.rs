//! The ports that ring 3 may use. The bitmap in `boot.s` allows no others.

use core::arch::{asm, global_asm};

use crate::layout::{PORT_DEBUG_EXIT, PORT_FAILED, PORT_SERIAL, PORT_YIELD};

// The place where a guest stands that its monitor does not run has a name in the
// image: whoever breaks guests on purpose finds it by that.
global_asm!(
    ".section .text.yield_to_monitor, \"ax\", @progbits",
    ".globl yield_to_monitor, yielded",
    "yield_to_monitor:",
    "mov dx, {port}",
    "xor eax, eax",
    "out dx, al",
    "yielded:",
    "ret",
    port = const PORT_YIELD,
);

mod assembly {
    unsafe extern "C" {
        pub(super) fn yield_to_monitor();
    }
}

fn write(port: u16, byte: u8) {
    // SAFETY: behind these ports are the monitor, a serial line and a switch that
    // ends the machine; none of them changes memory that a reference is held to.
    // The monitor changes the exchange: see `shared`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nostack, preserves_flags)) };
}

/// Gives control to the monitor until it enters the guest again.
pub(super) fn yield_to_monitor() {
    // SAFETY: the monitor changes the exchange, to which nobody holds a reference
    // here: see `shared`.
    unsafe { assembly::yield_to_monitor() };
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
