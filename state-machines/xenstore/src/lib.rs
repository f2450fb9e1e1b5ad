//! Xen's xenstore as a deterministic state machine.
//!
//! The machine takes whole protocol frames and yields replies, watch events and
//! effects; sockets, rings, clocks and logs are other people's business.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod answer;
mod children;
mod decimal;
mod domain;
mod effect;
mod exchange;
mod fair;
mod graves;
mod machine;
mod node;
mod ops;
mod path;
mod perms;
mod pmap;
mod quota;
mod scrub;
mod snapshot;
mod state;
mod store;
pub mod stream;
#[cfg(test)]
mod testing;
mod transaction;
mod tree;
mod watch;
pub mod wire;

pub use effect::Effect;
pub use exchange::{ImportError, Imported, ImportedConn};
pub use machine::{Snapshot, Xenstore};
pub use quota::Quota;
