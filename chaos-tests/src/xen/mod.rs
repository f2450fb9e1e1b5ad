//! The Xen lab: a real Xen with a Debian dom0 on an emulated machine, in which
//! guests go through their life cycle with one xenstore daemon or another.
//!
//! [`Lab::prepare`] makes what is booted, [`Lab::run`] boots it with one daemon
//! and returns the [`Report`]: how each step ended, and the store as it was with
//! two guests and after the last one. The scripts are in `chaos-tests/xen`.

mod lab;
mod report;
mod tree;

pub use lab::{Lab, LabError, Scenario};
pub use report::{Mark, Report, ReportError, table};
pub use tree::{Difference, Node, Tree, TreeError};
