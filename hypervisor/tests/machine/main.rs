//! Virtual machines with guests of a few instructions: how they answer, how they
//! fail, how they are fenced. Needs `/dev/kvm`; says so where it is missing.
#![cfg(target_arch = "x86_64")]

mod calls;
mod failures;
mod fencing;
mod images;
mod programs;
mod signals;

use std::io::Write;
use std::path::PathBuf;

use hypervisor::kvm::{Availability, Exit, Image, KvmError, Machine, MachineConfig};

/// Whether there are machines here. If not, says on standard error that `test` is
/// skipped and why, past the test runner's capture, and counts it in
/// `RVMM_SKIP_LOG`, or `skipped-tests.log` in the target directory.
fn usable(test: &str) -> bool {
    let reason = match Availability::probe() {
        Availability::Usable(_) => return true,
        reason => reason,
    };
    let line = format!("SKIPPED {test}: {reason}\n");
    assert!(std::env::var_os("RVMM_NO_SKIP").is_none_or(|value| value != "1"), "{line}");
    say(&line);
    let target = || {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
            PathBuf::from,
        )
    };
    let path = std::env::var_os("RVMM_SKIP_LOG")
        .map_or_else(|| target().join("skipped-tests.log"), PathBuf::from);
    // Failing to note a skip must not fail the test that is skipped.
    let log = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let _ = log.and_then(|mut file| file.write_all(line.as_bytes()));
    false
}

/// Writes past the test runner's capture.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn boot(image: &Image) -> Machine {
    let config =
        MachineConfig { memory_bytes: programs::MEMORY_BYTES, command_line: String::new() };
    Machine::boot(image, &config).expect("a machine")
}

/// A machine whose guest has yielded for the first time.
fn ready(image: &Image) -> Machine {
    let mut machine = boot(image);
    assert_eq!(machine.run().expect("KVM works"), Exit::Yielded);
    machine
}

fn assert_spent(machine: &mut Machine) {
    assert!(matches!(machine.run(), Err(KvmError::Spent)));
    assert!(matches!(machine.call(&[], &mut Vec::new(), 0), Err(KvmError::Spent)));
}
