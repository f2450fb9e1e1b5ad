//! Xen's xenstore as a deterministic state machine.
//!
//! The machine ([`Xenstore`]) takes whole protocol frames and yields replies,
//! watch events and [`Effect`]s; sockets, rings, clocks and logs are other
//! people's business. [`wire`] is the protocol, for clients and front doors too.
//!
//! # Where it differs from C xenstored 4.17
//! Requests have the errors, and changes the events, of the C daemon, but for
//! what is listed here.
//!
//! - Transactions are serializable, and have no conflict beyond what the client
//!   could have seen: reads are of one moment, siblings and blind writes merge,
//!   a transaction that changed nothing always commits. A client that lost a
//!   conflict is favoured over others of no higher privilege the next time.
//! - The events of a commit come in the order in which the transaction first
//!   named the paths, not in which the daemon first touched the nodes.
//! - Later operations of Xen's daemon are there: features, quotas by request,
//!   watches with a depth, special watches with a domain id.
//! - Malformed requests, such as READ without a NUL and domain ids that are no
//!   numbers, get `EINVAL`. (C 4.17 gives whatever its last error was, or
//!   aborts.)
//! - A domain exists once it was introduced, or the host opened a connection for
//!   it; there is no hypervisor to ask. INTRODUCE of domain 0 is `EINVAL`.
//! - Quotas hold to the number: 128 watches are 128, not 129. A transaction is
//!   bounded for the control domain too.
//! - A guest's own write never fails for the memory that its replies and events
//!   take: those are the host's to bound.
//! - The whole store can have a limit, which holds for the control domain too:
//!   quota `store-kib`, `ENOSPC` beyond it.
//! - CONTROL: `memreport` answers with the report instead of writing it to a
//!   file, `live-update` says that replicas are replaced instead.
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
mod size;
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
pub use machine::{Snapshot, SnapshotCursor, Xenstore};
pub use quota::Quota;
