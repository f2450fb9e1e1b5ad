//! Everything that tries to break R-VMM, and everything it is compared with:
//! a strict client, load, histories and their checkers, Xen's own daemons on
//! plain Linux and on a real Xen, and the harness of the integration tests.
#![forbid(unsafe_code)]

pub mod background;
pub mod bench;
pub mod campaign;
pub mod checker;
pub mod client;
pub mod differential;
pub mod harness;
pub mod history;
pub mod peers;
pub mod report;
pub mod rng;
pub mod sim;
pub mod skip;
pub mod soak;
pub mod xen;
