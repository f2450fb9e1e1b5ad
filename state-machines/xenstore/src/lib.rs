//! Xen's xenstore as a deterministic state machine.
//!
//! The machine takes whole protocol frames and yields replies, watch events and
//! effects; sockets, rings, clocks and logs are other people's business.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod decimal;
mod path;
mod pmap;
pub mod stream;
pub mod wire;
