//! Virtual machines that come to their end in every way that a guest can bring about:
//! each is named by the host, and no client can tell. Needs `/dev/kvm`; says so where
//! it is missing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chaos::client::{Client, ClientError, Tx};
use chaos::harness::{Host, HostOptions};
use chaos::report::record::{Outcome, Reader, Record};
use hypervisor::kvm::Availability;
use xenstore::wire::MessageType;

const PATIENCE: Duration = Duration::from_secs(30);

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

/// Whether there are machines here; if not, `test` is counted as skipped.
fn usable(test: &str) -> bool {
    let kvm = Availability::probe();
    if !kvm.is_usable() {
        chaos::skip::skip(test, &kvm);
    }
    kvm.is_usable()
}

fn host(backend: &str) -> Host {
    let options = HostOptions::default().set("xenstore.backend", backend);
    Host::start(rvmm(), &options).expect("starts")
}

/// A fault of the class `guest` into a host that is there, as often as fits into a
/// short time, while clients work; the history of it.
fn strike(host: &Host, how: &str, target: &str) -> Vec<Record> {
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("one.toml");
    let text = format!(
        "description = \"one way in which a virtual machine ends\"\n\
         [workload]\nclients = 4\nthink = \"200us\"\n\
         [schedule]\npause = \"100ms\"\n\
         [steady]\nfor = \"200ms\"\np99 = \"2s\"\n\
         [bounds]\nlongest_pause = \"1m\"\nfailover_median = \"1m\"\nfailover_p99 = \"1m\"\n\
         [[fault]]\nclass = \"guest\"\nhow = \"{how}\"\ntarget = \"{target}\"\n"
    );
    std::fs::write(&profile, text).expect("is written");
    let out = dir.path().join("out");
    let mut command = Command::new(rvmm());
    command.args(["chaos", "run"]).arg(&profile).args(["--seed", "1", "--budget", "200ms"]);
    command.arg("--run-dir").arg(host.run_dir()).arg("--out").arg(&out);
    let output = command.env("RVMM_CONFIG", "").stdin(Stdio::null()).output().expect("runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(0), "{how}: {said}\n{}", host.log());
    let reader = Reader::open(&out.join("history.jsonl")).expect("there is a history");
    reader.map(|record| record.expect("is a record")).collect()
}

/// The first replica that was hit, how that ended, and what the host said of it.
fn first_end(records: &[Record]) -> (String, Outcome, Option<String>) {
    let hit = records.iter().find_map(|record| match record {
        Record::FaultInjected(fault) => fault.target.clone(),
        _ => None,
    });
    let judged = records.iter().find_map(|record| match record {
        Record::FaultJudged(judged) => Some((judged.outcome, judged.said.clone())),
        _ => None,
    });
    let (outcome, said) = judged.expect("a fault is judged");
    (hit.unwrap_or_default(), outcome, said)
}

#[test]
fn the_end_of_a_machine_is_named_and_nothing_is_lost() {
    if !usable("the_end_of_a_machine_is_named_and_nothing_is_lost") {
        return;
    }
    let host = host("kvm");
    for (how, expected) in [
        ("triple-fault", "guest: the processor has shut down (triple fault)"),
        ("halt", "guest: halted, with nothing that could wake it"),
        ("loop", "hangs: busy loop"),
        ("kernel-loop", "hangs: busy loop"),
        ("stack-overflow", "guest: page fault below the stack (exception 14), error code 0x6, at "),
    ] {
        // The campaign itself judges that nothing is lost, doubled or reordered.
        let (replica, outcome, said) = first_end(&strike(&host, how, "primary"));
        assert_eq!(outcome, Outcome::Failover, "{how}: {said:?}\n{}", host.log());
        let said = said.unwrap_or_default();
        assert!(said.starts_with(expected), "{how}: {said}");
        let log = host.command(&["dmesg"]).expect("is shown");
        let told = [format!("last words of {replica}: {said}"), format!("{replica} {said}")];
        assert!(told.iter().any(|line| log.contains(line)), "{told:?} is not in:\n{log}");
        let cause = if said.starts_with("guest: ") { "crashed" } else { "hung" };
        let status = host.wait_complete(PATIENCE).expect("all run");
        let from = |from: u64| replica == format!("replica {from}");
        let failover = status.failovers.iter().find(|failover| from(failover.from));
        assert_eq!(failover.map(|failover| failover.cause.as_str()), Some(cause), "{how}");
    }
}

/// A primary that executes every request twice says nothing that its damaged memory
/// made up, whatever was hit.
#[test]
fn what_a_damaged_primary_in_lockstep_says_is_right() {
    if !usable("what_a_damaged_primary_in_lockstep_says_is_right") {
        return;
    }
    let options = HostOptions::default().set("xenstore.backend", "kvm");
    let host = Host::start(rvmm(), &options.set("xenstore.lockstep", true)).expect("starts");
    let mut failovers = 0;
    for how in ["wild-writes", "memory-flips"].repeat(4) {
        let (replica, outcome, said) = first_end(&strike(&host, how, "primary"));
        match outcome {
            Outcome::Failover => failovers += 1,
            Outcome::Masked => {}
            outcome => panic!("{how} of {replica}: {outcome:?}, {said:?}\n{}", host.log()),
        }
    }
    assert!(failovers > 0, "not one of them did any damage");
}

/// Who has no virtual machine is left alone, and that is told.
#[test]
fn a_replica_without_a_machine_is_skipped() {
    const PROFILE: &str = "\
description = \"machines that break, where there are none\"
[schedule]
pause = \"1ms\"
[steady]
for = \"100ms\"
[[fault]]
class = \"guest\"
how = \"halt\"
";
    let host = host("process");
    let dir = tempfile::tempdir().expect("a directory");
    let (profile, out) = (dir.path().join("none.toml"), dir.path().join("out"));
    std::fs::write(&profile, PROFILE).expect("is written");
    let mut command = Command::new(rvmm());
    command.args(["chaos", "run"]).arg(&profile).args(["--budget", "1s", "--run-dir"]);
    command.arg(host.run_dir()).arg("--out").arg(&out).env("RVMM_CONFIG", "");
    let output = command.stdin(Stdio::null()).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let skipped = "SKIPPED guest halt: no replica of this host runs in a virtual machine";
    assert!(said.contains(skipped), "{said}");
    // A campaign that did nothing has not passed.
    assert_eq!(output.status.code(), Some(1), "{said}");
    let records = Reader::open(&out.join("history.jsonl")).expect("there is a history");
    let counted = records.filter(
        |record| matches!(record, Ok(Record::FaultJudged(end)) if end.outcome == Outcome::Skipped),
    );
    assert_eq!(counted.count(), 1);
}

/// All replicas hold the same, so all of them are full at once, if an operator lifts the
/// limit on the store. That is named, and the host lives on to say so.
#[test]
fn memory_that_is_used_up_is_named() {
    const MEMORY_MIB: u64 = 128;
    const TOGETHER: usize = 50;
    const VALUE: &[u8] = &[b'x'; 2000];
    if !usable("memory_that_is_used_up_is_named") {
        return;
    }
    let options =
        HostOptions::default().set("xenstore.backend", "kvm").set("limits.memory_mib", MEMORY_MIB);
    let host = Host::start(rvmm(), &options).expect("starts");
    let mut client = Client::connect(host.socket()).expect("connects");
    client.set_timeout(2 * PATIENCE);
    client.control(&["quota", "set", "store-kib", "1000000"]).expect("lifts the limit");
    let most = usize::try_from(MEMORY_MIB << 20).expect("is small") / VALUE.len();
    let mut answered = 0;
    let mut write_some = || {
        for number in answered..answered + TOGETHER {
            let path = format!("/full/{}/{number}\0", number % 100);
            client.queue(MessageType::Write, Tx::NONE, &[path.as_bytes(), VALUE]);
        }
        client.flush()?;
        for _ in 0..TOGETHER {
            client.reply()?;
            answered += 1;
        }
        Ok::<_, ClientError>(())
    };
    let full = (0..most / TOGETHER).find_map(|_| write_some().err());
    assert!(full.is_some(), "{most} nodes did not fill the guest's part of {MEMORY_MIB} MiB");
    let log = host.command(&["dmesg"]).expect("the host lives");
    assert!(log.contains(": guest: out of memory: "), "{log}");
    // Half of what the guest has, which is 48 MiB, is the least that it must have taken.
    assert!(answered * VALUE.len() > 24 << 20, "{answered} nodes\n{log}");
    assert!(host.xenstore().is_ok(), "the host tells how it is");
}
