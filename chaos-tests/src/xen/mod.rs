//! The Xen lab: a real Xen with a Debian dom0 on an emulated machine, in which
//! guests come, live and go with one xenstore daemon or another.
//!
//! [`Lab::prepare`] makes what is booted, [`Lab::run`] boots it with one daemon, has it
//! go through scenarios, and returns the [`Report`]: how each step ended, the store as it
//! was at some of them, and what was counted and measured. The scripts are in `chaos-tests/xen`.

mod lab;
mod report;
mod tree;

pub use lab::{Clock, Lab, LabError, Machine};
pub use report::{Mark, Report, ReportError, table};
pub use tree::{Difference, Node, Tree, TreeError};
