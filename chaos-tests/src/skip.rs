//! Tests that cannot run on this machine: never silent, always counted.

use std::io::Write;
use std::path::PathBuf;

/// Says on standard error that `test` is skipped and why, past the test
/// runner's capture, and adds a line to the file that [`log_path`] names.
///
/// # Panics
/// With `RVMM_NO_SKIP=1` in the environment, where a skip is a failure.
pub fn skip(test: &str, reason: &dyn std::fmt::Display) {
    let line = format!("SKIPPED {test}: {reason}\n");
    assert!(std::env::var_os("RVMM_NO_SKIP").is_none_or(|value| value != "1"), "{line}");
    // Failing to note a skip must not fail the test that is skipped.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let log = std::fs::OpenOptions::new().append(true).create(true).open(log_path());
    let _ = log.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// Where skips are counted, one a line: `RVMM_SKIP_LOG`, or `skipped-tests.log`
/// in the target directory.
#[must_use]
pub fn log_path() -> PathBuf {
    std::env::var_os("RVMM_SKIP_LOG")
        .map_or_else(|| target_dir().join("skipped-tests.log"), PathBuf::from)
}

/// Cargo's target directory, for files that outlive a run.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    )
}
