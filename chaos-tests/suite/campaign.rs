//! Campaigns as users run them: the real program, real faults, real files.
//!
//! `RVMM_CAMPAIGN_S` makes them longer.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use chaos::harness::{ComponentStatus, Host, HostOptions, knob};
use chaos::report::record::{Outcome, Reader, Record, RunOutcome};

const PATIENCE: Duration = Duration::from_secs(20);

fn rvmm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rvmm"));
    command.env("RVMM_CONFIG", "").stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn records(dir: &Path) -> Vec<Record> {
    let reader = Reader::open(&dir.join("history.jsonl")).expect("there is a history");
    reader.map(|record| record.expect("is a record")).collect()
}

/// Runs a campaign that must pass, and returns its history.
fn passes(profile: &str, seconds: u64, more: &[&str]) -> Vec<Record> {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let output = rvmm()
        .args(["chaos", "run", profile, "--seed", "1", "--budget", &format!("{seconds}s")])
        .arg("--out")
        .arg(&out)
        .args(more)
        .output()
        .expect("runs");
    println!("{}", said(&output));
    let log = std::fs::read_to_string(out.join("host.log")).unwrap_or_default();
    assert_eq!(output.status.code(), Some(0), "{}\n{log}", said(&output));
    for file in ["history.jsonl", "summary.json", "junit.xml", "report.html"] {
        let meta = std::fs::metadata(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(meta.len() > 100, "{file} is empty");
    }
    for skipped in said(&output).lines().filter(|line| line.starts_with("SKIPPED ")) {
        chaos::skip::skip(&format!("campaign {profile}"), &skipped);
    }
    let records = records(&out);
    let Some(Record::RunEnd(end)) = records.last() else { panic!("no end: {records:?}") };
    assert_eq!(end.outcome, RunOutcome::Passed);
    records
}

fn outcomes(records: &[Record]) -> Vec<Outcome> {
    let judged = records.iter().filter_map(|record| match record {
        Record::FaultJudged(judged) => Some(judged.outcome),
        _ => None,
    });
    judged.collect()
}

#[test]
fn the_smoke_campaign_passes_and_leaves_its_files() {
    let records = passes("smoke", knob("RVMM_CAMPAIGN_S", 12), &[]);
    let outcomes = outcomes(&records);
    assert!(outcomes.len() >= 5, "{outcomes:?}");
    assert!(outcomes.contains(&Outcome::Failover), "{outcomes:?}");
    let count = |wanted: fn(&Record) -> bool| records.iter().filter(|r| wanted(r)).count();
    assert_eq!(count(|r| matches!(r, Record::RunBegin(_))), 1);
    assert!(count(|r| matches!(r, Record::Failover(_))) >= 1);
    assert!(count(|r| matches!(r, Record::Latency(_))) >= 20);
    assert!(count(|r| matches!(r, Record::Role(_))) >= 3);
    assert_eq!(count(|r| matches!(r, Record::Counts(_))), 1);
    assert!(count(|r| matches!(r, Record::Checker(_))) >= 3);
}

const FLIPS: &str = "\
description = \"flipped bits anywhere in the memory of replicas\"
[schedule]
pause = \"50ms..200ms\"
[bounds]
longest_pause = \"10s\"
failover_median = \"2s\"
failover_p99 = \"8s\"
[[fault]]
class = \"state-bit-flip\"
how = \"state\"
target = \"any\"
[[fault]]
class = \"state-bit-flip\"
how = \"memory\"
target = \"standby\"
count = \"1..8\"
";

#[test]
fn flipped_bits_are_borne() {
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("flips.toml");
    std::fs::write(&profile, FLIPS).expect("is written");
    let profile = profile.to_str().expect("is text");
    let outcomes = outcomes(&passes(profile, knob("RVMM_CAMPAIGN_S", 8), &[]));
    let skipped = outcomes.iter().filter(|outcome| **outcome == Outcome::Skipped).count();
    assert!(outcomes.len() - skipped >= 2, "{outcomes:?}");
}

/// All that a campaign lowers, stops and starts is as before when it is over,
/// also when it is told to stop in the middle.
#[test]
fn a_stopped_campaign_leaves_the_host_as_it_was() {
    const LASTING: &str = "\
description = \"things that last longer than anybody waits\"
[workload]
clients = 2
[schedule]
pause = \"1ms\"
[[fault]]
class = \"descriptor-exhaustion\"
for = \"10m\"
";
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_rvmm")), &HostOptions::default());
    let host = host.expect("starts");
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("lasting.toml");
    std::fs::write(&profile, LASTING).expect("is written");
    let limits = || {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.pid()));
        limits.expect("the host lives")
    };
    let before = (limits(), host.wait_complete(PATIENCE).expect("all run"));
    let out = dir.path().join("out");
    let mut campaign = rvmm()
        .args(["chaos", "run"])
        .arg(&profile)
        .arg("--run-dir")
        .arg(host.run_dir())
        .arg("--out")
        .arg(&out)
        .spawn()
        .expect("starts");
    chaos::harness::wait_for("a lowered limit", PATIENCE, || {
        Ok((limits() != before.0).then_some(()))
    })
    .expect("is lowered");
    chaos::harness::signal(campaign.id(), chaos::harness::Signal::INT).expect("is sent");
    assert_eq!(campaign.wait().expect("ends").code(), Some(1));
    assert_eq!(limits(), before.0);
    let after = host.wait_until("all run", PATIENCE, ComponentStatus::is_complete);
    assert_eq!(after.expect("they do").generation, before.1.generation);
    let mut client = chaos::client::Client::connect(host.socket()).expect("connects");
    let names = client.directory(chaos::client::Tx::NONE, "/").expect("lists");
    let ours = |name: &Vec<u8>| String::from_utf8_lossy(name).starts_with("rvmm-chaos");
    assert!(!names.iter().any(ours), "{names:?}");
    let records = records(&out);
    let Some(Record::RunEnd(end)) = records.last() else { panic!("no end: {records:?}") };
    assert_eq!(end.outcome, RunOutcome::Aborted);
}

#[test]
fn a_wrong_profile_is_refused_with_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("wrong.toml");
    let text = "description = \"d\"\n[[fault]]\nclass = \"crash\"\ntarget = \"boss\"\n";
    std::fs::write(&profile, text).expect("is written");
    let out = dir.path().join("out");
    let output = rvmm().args(["chaos", "run"]).arg(&profile).arg("--out").arg(&out).output();
    let output = output.expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let expected = "wrong.toml:4:10: target = \"boss\" is refused for crash; allowed: primary, \
                    standby, any; in: target = \"boss\"\nrvmm: the profile is refused\n";
    assert!(said(&output).ends_with(expected), "{}", said(&output));
    assert!(!out.exists());
}

#[test]
fn what_would_take_the_state_of_a_host_away_is_not_done_to_it() {
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_rvmm")), &HostOptions::default());
    let host = host.expect("starts");
    let dir = tempfile::tempdir().expect("a directory");
    let output = rvmm()
        .args(["chaos", "run", "durable", "--budget", "1s", "--run-dir"])
        .arg(host.run_dir())
        .arg("--out")
        .arg(dir.path().join("out"))
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("would take the state of this host away"), "{text}");
}

#[test]
fn profiles_and_faults_are_listed() {
    let output = rvmm().args(["chaos", "list"]).output().expect("runs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for name in ["smoke", "ci", "soak", "corruption", "rebuild", "crash", "hostile-ring"] {
        assert!(text.contains(&format!("\n  {name:<22} ")), "{name}: {text}");
    }
}
