//! What a hypervisor gives to the replicas of a component, on a plain Linux
//! host: domains (processes for now), shared memory, rings, doorbells, heartbeat
//! pages, a quick death notice, a sandbox, the monitor that judges hangs, small
//! virtual machines, and, on a Xen host, the rings of other domains.
//!
//! All `unsafe` code of the project is in this crate; what it exports is safe.
//! The other side of any shared memory is taken to be hostile and mortal at any
//! instruction.

pub mod death;
pub mod decision;
pub mod domain;
pub mod fabric;
pub mod id;
pub mod kvm;
pub mod memory;
pub mod monitor;
pub mod ring;
pub mod sandbox;
pub mod socket;
pub mod waiting;
pub mod xen;

pub use id::{Generation, ReplicaId, SLOTS, SlotId};
