//! The host's side of a replicated component: it numbers inputs, delivers
//! outputs exactly once, and keeps the replica group alive.
//!
//! ```text
//!  clients ── front ── inlet ──▶ intake        the data path
//!     ▲                  │ ledger              who waits, what was delivered
//!     └───── deliver ◀───┘◀── output rings
//!            group ◀─▶ decision maker          who is fenced, promoted, rebuilt
//! ```
//!
//! [`Coordinator`] has no thread, no clock and starts no process: whoever drives
//! it calls [`Coordinator::turn`] whenever there may be something to do, and all
//! it needs of the machine comes through a [`Platform`]. The daemon drives it
//! with processes and timers, the simulator with neither.
#![forbid(unsafe_code)]

mod deliver;
pub mod events;
mod failover;
mod front;
mod group;
mod holder;
mod inlet;
mod inner;
mod journal;
mod ledger;
mod platform;
mod recovery;
mod service;
mod settings;
mod trace;

pub use failover::{Failover, cause_name};
pub use front::{ClientLoad, FrontLimits, Token};
pub use group::MAX_FAILOVERS;
pub use holder::{HANDOVER_FORMAT, Held, Holder, NoHolder};
pub use inlet::IntakeFull;
pub use journal::JournalError;
pub use ledger::LedgerError;
pub use platform::{DeathWatch, Domain, LogOnDisk, Observed, Platform, PlatformError, Used};
pub use service::{BeginError, Beginning, Coordinator, Deliveries, News, Rim, Service};
pub use settings::{Durability, Settings};
pub use trace::Reopener;
