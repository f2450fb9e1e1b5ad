//! What every R-VMM state machine has in common: numbered inputs, numbered
//! outputs, the [`StateMachine`] trait, and the [`Numbered`] wrapper that makes
//! applying an input exactly-once.
//!
//! The crate is `no_std` + `alloc`: the same code runs in a process, in a
//! bare-metal unikernel and in the simulator. Nothing here knows a clock, a
//! source of randomness or an I/O call.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod codec;
pub mod executor;
mod id;
mod input;
mod machine;
mod mix;
mod numbered;
mod output;

pub use codec::{CodecError, Reader};
pub use id::{ConnId, Digest, DomId, InputNo, OutputNo};
pub use input::{Class, Input};
pub use machine::{Corruption, Outputs, RestoreError, ScrubProgress, StateMachine};
pub use mix::{Mixer, mix64};
pub use numbered::Numbered;
pub use output::Output;
