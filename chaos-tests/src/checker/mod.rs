//! Judges histories: is there an order of all requests, in agreement with real
//! time, in which every answer is right? Did every watch event come, once, and
//! in order?

mod events;
mod exhaustive;
mod register;
mod verdict;

pub use events::{EventFaults, check_events};
pub use exhaustive::{MAX_OPS as EXHAUSTIVE_MAX_OPS, check_exhaustively};
pub use register::{check_register, check_registers, lost_writes};
pub use verdict::{Latency, Verdict};
