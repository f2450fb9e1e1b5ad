//! What a bare-metal image needs.
//!
//! Of ring 0 there is only `boot.s`. All Rust is in ring 3, on one processor, with
//! interrupts off: nothing ever happens at the same time as something else.

mod entry;
mod failure;
mod heap;
mod misdeed;
mod port;
mod rehearsal;
mod serial;
mod shared;

pub use entry::{Machine, SelfTest, start};
pub use misdeed::Misdeed;
pub use port::debug_exit;
pub use rehearsal::Rehearsal;
pub use serial::Serial;
pub use shared::SharedExchange;
