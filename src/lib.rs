//! R-VMM's host daemon and command line.
//!
//! A tiny process, the `holder`, starts the daemon and sees to it that there is always
//! one. The daemon (`host`) numbers the inputs of its components, hands them to
//! replicas, delivers what comes back exactly once, and replaces replicas that
//! fail. The rest of this package is what people and programs see of it: the
//! configuration, the control socket, the status, the log, and the command
//! line.
#![forbid(unsafe_code)]

pub mod boot;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod holder;
pub mod host;
pub mod panics;
mod signals;
pub mod start;
pub mod status;
