//! Campaigns as users run them: the real program, real faults, real files.
//!
//! `RVMM_CAMPAIGN_S` makes them longer.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use chaos::harness::{ComponentStatus, Host, HostOptions, knob};
use chaos::report::record::{CheckerVerdict, Outcome, Reader, Record, RunOutcome};

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
    // All that was there before is there still, and all replicas have the same.
    let round_nodes = 1000;
    assert!(checker(&records, "prefilled-nodes").checked >= round_nodes);
    assert!(checker(&records, "equal-digests").checked >= 3);
}

#[test]
fn the_guest_campaign_passes_and_tells_how_machines_ended() {
    let kvm = hypervisor::kvm::Availability::probe();
    if !kvm.is_usable() {
        chaos::skip::skip("the_guest_campaign_passes_and_tells_how_machines_ended", &kvm);
        return;
    }
    let records = passes("guest", knob("RVMM_CAMPAIGN_S", 25), &[]);
    let ends: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::FaultJudged(end) if end.outcome.is_trial() => Some(end),
            _ => None,
        })
        .collect();
    assert!(ends.len() >= 5, "{ends:?}");
    assert!(ends.iter().all(|end| end.how.is_some()), "{ends:?}");
    // Whoever was replaced was replaced for a reason that the host has told.
    let mut replaced = ends
        .iter()
        .filter(|end| matches!(end.outcome, Outcome::Failover | Outcome::Rebuilt))
        .peekable();
    assert!(replaced.peek().is_some(), "{ends:?}");
    assert!(replaced.all(|end| end.said.is_some()), "{ends:?}");
}

fn checker<'a>(records: &'a [Record], name: &str) -> &'a CheckerVerdict {
    let found = records.iter().find_map(|record| match record {
        Record::Checker(verdict) if verdict.checker == name => Some(verdict),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no checker {name}: {records:?}"))
}

fn host() -> Host {
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_rvmm")), &HostOptions::default());
    host.expect("starts")
}

/// A campaign against a host that is there, by a profile with this text.
fn against(host: &Host, dir: &Path, profile: &str, budget: &str) -> Command {
    let path = dir.join("own.toml");
    std::fs::write(&path, profile).expect("is written");
    let mut command = rvmm();
    command.args(["chaos", "run"]).arg(path).args(["--budget", budget, "--run-dir"]);
    command.arg(host.run_dir()).stdout(Stdio::null());
    command
}

/// Waits for words in a history that is being written.
fn wait_for_words(out: &Path, words: &str) {
    chaos::harness::wait_for(words, PATIENCE, || {
        let history = std::fs::read_to_string(out.join("history.jsonl")).unwrap_or_default();
        Ok(history.contains(words).then_some(()))
    })
    .expect("comes");
}

/// A host that is not ready when it is asked for the last time, because nobody
/// waits any longer, has done nothing wrong.
#[test]
fn an_interrupted_campaign_does_not_blame_the_host() {
    const BUSY: &str = "\
description = \"most of the time goes into waiting for the host to be ready\"
[workload]
clients = 2
[schedule]
pause = \"1ms\"
[steady]
for = \"100ms\"
[[fault]]
class = \"vanishing-client\"
count = 1
";
    let host = host();
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..4 {
        let out = dir.path().join(format!("out-{round}"));
        let mut campaign =
            against(&host, dir.path(), BUSY, "1m").arg("--out").arg(&out).spawn().expect("starts");
        // Lines are written out some at a time.
        wait_for_words(&out, "steady");
        std::thread::sleep(Duration::from_millis(300 + 37 * round));
        chaos::harness::signal(campaign.id(), chaos::harness::Signal::INT).expect("is sent");
        assert_eq!(campaign.wait().expect("ends").code(), Some(1));
        let records = records(&out);
        let Some(Record::RunEnd(end)) = records.last() else { panic!("no end: {records:?}") };
        assert_eq!(end.outcome, RunOutcome::Aborted, "{end:?}");
        assert_eq!(end.reason.as_deref(), Some("interrupted: told to stop"));
    }
}

/// What clients saw is told also when nothing can be read any more.
#[test]
fn a_host_that_is_gone_takes_no_evidence_with_it() {
    const CALM: &str = "\
description = \"nothing, for a long time\"
[workload]
clients = 2
[schedule]
pause = \"10m\"
[steady]
for = \"100ms\"
within = \"2s\"
[[fault]]
class = \"crash\"
";
    let mut host = host();
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let mut campaign =
        against(&host, dir.path(), CALM, "3s").arg("--out").arg(&out).spawn().expect("starts");
    wait_for_words(&out, "no client sees an error");
    host.kill();
    assert_eq!(campaign.wait().expect("ends").code(), Some(1));
    let records = records(&out);
    let counts = records.iter().find_map(|record| match record {
        Record::Counts(counts) => Some(*counts),
        _ => None,
    });
    let counts = counts.expect("they are kept");
    assert!(counts.errors > 0 && counts.answered > 0, "{counts:?}");
    let exactly_once = checker(&records, "exactly-once");
    assert!(!exactly_once.passed && !exactly_once.judged, "{exactly_once:?}");
    let why = exactly_once.detail.as_deref().unwrap_or_default();
    assert!(why.starts_with("not judged: the store cannot be read: "), "{why}");
}

#[test]
fn a_campaign_that_did_nothing_has_not_passed_and_its_evidence_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let run = || {
        let args = ["chaos", "run", "smoke", "--seed", "1", "--budget", "1ms", "--out"];
        rvmm().args(args).arg(&out).output().expect("runs")
    };
    let report = || rvmm().args(["chaos", "report"]).arg(&out).output().expect("runs");
    let first = run();
    assert_eq!(first.status.code(), Some(1), "{}", said(&first));
    assert!(said(&first).contains("FAILED no fault was injected"), "{}", said(&first));
    let history = out.join("history.jsonl");
    let before = std::fs::read(&history).expect("there is one");
    let again = run();
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(said(&again).contains("out holds a run already"), "{}", said(&again));
    assert_eq!(std::fs::read(&history).expect("there is one"), before);
    // Neither a failed run nor one that is cut off is reported as a good one.
    assert_eq!(report().status.code(), Some(1));
    std::fs::write(&history, &before[..before.len() / 2]).expect("is written");
    let cut = report();
    assert_eq!(cut.status.code(), Some(1), "{}", said(&cut));
    assert!(said(&cut).contains("cut off: the run did not come to its end"), "{}", said(&cut));
}

/// The only child of a process, if it has one.
fn child_of(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.trim().parse().ok()
}

#[test]
fn a_killed_campaign_takes_its_host_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let mut campaign = rvmm()
        .args(["chaos", "run", "smoke", "--out"])
        .arg(&out)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    wait_for_words(&out, "run-begin");
    let host = child_of(campaign.id()).expect("it has started a host");
    campaign.kill().expect("is killed");
    campaign.wait().expect("ends");
    chaos::harness::wait_for("the end of the host", PATIENCE, || {
        Ok((!Path::new(&format!("/proc/{host}")).exists()).then_some(()))
    })
    .expect("it ends");
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
    let host = host();
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("lasting.toml");
    std::fs::write(&profile, LASTING).expect("is written");
    let daemon = host.daemon_pid().expect("it tells");
    let limits = || {
        let limits = std::fs::read_to_string(format!("/proc/{daemon}/limits"));
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
    let host = host();
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
    // Also what is harmless for one replica, or for a moment.
    let hang =
        "description = \"d\"\n[[fault]]\nclass = \"hang\"\ntarget = \"all\"\nfor = \"60s\"\n";
    let output = against(&host, dir.path(), hang, "1s").output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(
        text.contains("hang all for up to 1m would take the state of this host away"),
        "{text}"
    );
}

#[test]
fn profiles_and_faults_are_listed() {
    let output = rvmm().args(["chaos", "list"]).output().expect("runs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for name in [
        "smoke",
        "ci",
        "soak",
        "corruption",
        "guest",
        "lockstep",
        "rebuild",
        "crash",
        "hostile-ring",
    ] {
        assert!(text.contains(&format!("\n  {name:<22} ")), "{name}: {text}");
    }
}
