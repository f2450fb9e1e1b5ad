//! What runs inside the virtual machine of a replica: a state machine that takes
//! commands, one request after the other.
//!
//! The program of the image is `main.rs`; all that it is made of is here, and runs
//! in a process just as well. How an image is built, and embedded, is
//! `unikernel-image`'s business.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod rehearsal;
mod serve;

pub use rehearsal::Rehearsal;
pub use serve::{Handler, serve};
