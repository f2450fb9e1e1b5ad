//! The simulator as users run it: from the command line.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use chaos::report::read_summary;

fn rvmm(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rvmm"));
    command.env("RVMM_CONFIG", "").stdin(Stdio::null());
    command.arg("chaos").args(args).output().expect("runs")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn seeds_are_run_and_leave_their_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let path = out.to_str().expect("is text");
    let output =
        rvmm(&["sim", "--from", "1", "--seeds", "3", "--jobs", "2", "--span", "5s", "--out", path]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("passed: sim against simulator"), "{text}");
    for file in ["history.jsonl", "summary.json", "junit.xml", "report.html"] {
        let meta = std::fs::metadata(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(meta.len() > 100, "{file} is empty");
    }
    let summary = read_summary(Path::new(path)).expect("is there");
    assert!(summary.passed());
    assert_eq!((summary.seeds, summary.first_seed), (3, Some(1)));
    assert!(summary.simulated_us >= 15_000_000 && summary.operations > 100);
    assert!(summary.reproduce.contains(&"rvmm chaos sim --from 1 --seeds 3 --span 5s".to_owned()));
}

#[test]
fn a_budget_ends_it() {
    let output = rvmm(&["sim", "--from", "1", "--budget", "1s", "--span", "1s"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("every promise was kept\nagain: rvmm chaos sim --from 1 --seeds "),
        "{text}"
    );
}

#[test]
fn the_same_seed_is_the_same_run_step_by_step() {
    let replay = ["replay", "1", "--span", "2s", "--trace"];
    let (first, second) = (rvmm(&replay), rvmm(&replay));
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    assert!(first.stdout == second.stdout, "the traces differ");
    let text = said(&first);
    assert!(text.lines().count() > 1000);
    let end = text.lines().last();
    assert_eq!(end, Some("every promise was kept"));
    let shorter = rvmm(&["replay", "1", "--span", "2s"]);
    assert!(text.ends_with(&said(&shorter)), "{}", said(&shorter));
    let other = rvmm(&["replay", "1", "--span", "2s", "--clients", "2", "--only", "0"]);
    assert!(said(&other).contains("2 clients"), "{}", said(&other));
    assert_ne!(said(&other), said(&shorter));
}

#[test]
fn what_cannot_be_run_is_refused() {
    for (args, part) in [
        (&["replay", "x"][..], "invalid value 'x'"),
        (&["replay", "1", "--without", "crush"], "no fault is called \"crush\""),
        (&["shrink", "1", "--span", "1s"], "rvmm: seed 1: every promise is kept in this run"),
    ] {
        let output = rvmm(args);
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        assert!(said(&output).contains(part), "{}", said(&output));
    }
}
