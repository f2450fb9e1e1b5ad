//! The deterministic simulator: the production code of a whole host in one
//! thread, under a virtual clock, with every kind of fault drawn from one seed.
//!
//! What is real: the coordinator (front door, numbers, ledger, group, decision
//! maker, monitor), the replicas' runtime, consensus, the state machine, the
//! rings and pages in shared memory, the sockets of the clients. What is
//! simulated: time, who acts when, processes and their ends, disks, doorbells
//! between ring and wake-up, and the clients themselves.
//!
//! A run has two parts. In the first, faults happen, and nothing that was
//! promised may be broken. Then everything is healed, and the host must become
//! whole again and answer everybody.

mod body;
mod case;
mod checkers;
mod chronicle;
pub mod client;
pub mod disk;
mod faults;
mod host;
pub mod judge;
mod kept;
mod machine;
pub mod many;
pub mod mix;
mod people;
mod plan;
mod run;
mod shrink;
mod steps;
mod targets;
pub mod teeth;
mod trace;
mod verdict;
mod watch;
mod world;

pub use case::{Case, CaseError, clients, span_us};
pub use checkers::{Checker, Looks};
pub use chronicle::{Chronicle, Opening};
pub use kept::{Kept, KeptError};
pub use machine::Disks;
pub use plan::{Doorbells, Overrides, Plan, SPAN_US};
pub use run::run;
pub use shrink::{Attempt, NotFailing, Shrunk, shrink};
pub use trace::TraceMode;
pub use verdict::{DueFault, Flaw, RunVerdict, Stats};

use watch::LOOK_PERIOD_US;

/// Inputs that a loss of power may take away with durability `process`, at most.
const JUDGE_HORIZON: u64 = 8_192;
