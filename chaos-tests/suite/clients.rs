//! Real, unmodified clients give on us what they give on Xen's C daemon:
//! Debian's command line tools, `test-xenstore`, and the tests of pyxs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use chaos::harness::{Host, HostOptions, knob};
use chaos::peers::{Kit, KitPart, Peer, PeerKind};
use chaos::skip::skip;

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

/// Ours, and Xen's to compare with.
struct Pair {
    host: Host,
    peer: Peer,
    kit: Kit,
    _dir: tempfile::TempDir,
}

fn pair(test: &str, part: KitPart) -> Option<Pair> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kit = Kit::fetch(KitPart::Daemons).and_then(|kit| Kit::fetch(part).map(|_| kit));
    let started =
        kit.and_then(|kit| Peer::start(&kit, PeerKind::C, dir.path()).map(|peer| (kit, peer)));
    match started {
        Ok((kit, peer)) => {
            let host = Host::start(rvmm(), &HostOptions::default()).expect("starts");
            Some(Pair { host, peer, kit, _dir: dir })
        }
        Err(error) => {
            skip(test, &error);
            None
        }
    }
}

/// Command lines in their order; a tool's name lacks its `xenstore-`.
const COMMANDS: &[&str] = &[
    "write /t/a one /t/b two",
    "write /t/sub/deep/er value",
    "write -s /t/s with-s",
    "read /t/a",
    "read -p /t/a",
    "read /t/a /t/b",
    "read /t/none",
    "read /t//a",
    "read",
    "list /t",
    "list -p /t",
    "list /t/none",
    "ls /t",
    "ls -p /t",
    "ls -f /t",
    "ls -fp /t/sub",
    "ls /t/none",
    "exists /t/a",
    "exists /t/none",
    "exists -s /t/a",
    "chmod /t/a b0 r1",
    "chmod -r /t/sub n0 r2",
    "chmod -u /t/sub/deep/er n3",
    "chmod /t/a x0",
    "chmod /t/none r1",
    "ls -p /t",
    "rm /t/sub/deep/er",
    "rm -t /t/sub/deep",
    "rm /t/none/at/all",
    "rm /t/none",
    "list /t",
    "rm /",
    "write /t/long 0123456789012345678901234567890123456789012345678901234567890123456789",
    "ls /t",
    "write /bad^path x",
    "write relative x",
    "read relative",
    "read /local/domain/0/relative",
    "control check",
    "control nonsense",
    "rm /t /local/domain/0/relative",
    "ls /t",
];

fn show(output: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What is meant to be different; the exit code still has to be the same.
const KNOWN: &[(&str, &str)] =
    &[("control nonsense", "our help says why there is no live update, and no memreport file")];

#[test]
fn command_line_tools_say_the_same() {
    let Some(pair) = pair("command_line_tools_say_the_same", KitPart::Daemons) else { return };
    let mut differences = Vec::new();
    for line in COMMANDS {
        let mut words = line.split(' ');
        let tool = format!("xenstore-{}", words.next().expect("a name"));
        let words: Vec<_> = words.collect();
        let run = |socket: &Path| pair.kit.tool(&tool, socket).args(&words).output().expect("runs");
        let (ours, theirs) = (run(&pair.host.socket()), run(&pair.peer.socket()));
        let known = KNOWN.iter().find(|(known, _)| known == line);
        let same = match known {
            Some((_, why)) => {
                println!("known difference of '{line}': {why}");
                ours.status.code() == theirs.status.code()
            }
            None => show(&ours) == show(&theirs),
        };
        if !same {
            differences.push(format!("{line}: ours {}\ntheirs {}", show(&ours), show(&theirs)));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What `xenstore-watch` prints while a node is written, created and removed.
fn watch(kit: &Kit, socket: &Path) -> String {
    let watch = kit
        .tool("xenstore-watch", socket)
        .args(["-n", "4", "/w"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    // The watch has to be there before the first change.
    std::thread::sleep(Duration::from_millis(300));
    for words in [&["write", "/w/a", "1"][..], &["write", "/w/b", "2"], &["rm", "/w/a"]] {
        let tool = format!("xenstore-{}", words[0]);
        let done = kit.tool(&tool, socket).args(&words[1..]).status().expect("runs");
        assert!(done.success());
    }
    show(&watch.wait_with_output().expect("ends"))
}

#[test]
fn the_watch_tool_says_the_same() {
    let Some(pair) = pair("the_watch_tool_says_the_same", KitPart::Daemons) else { return };
    let ours = watch(&pair.kit, &pair.host.socket());
    assert_eq!(ours, watch(&pair.kit, &pair.peer.socket()));
    assert!(ours.contains("/w/b"), "{ours}");
}

#[test]
fn test_xenstore_passes() {
    let Some(pair) = pair("test_xenstore_passes", KitPart::Daemons) else { return };
    let rounds = knob("RVMM_TEST_XENSTORE", 200).to_string();
    let passes = |socket: &Path| {
        let mut tool = pair.kit.tool("test-xenstore", socket);
        let output = tool.args(["-i", &rounds]).output().expect("runs");
        println!("{}:\n{}", socket.display(), show(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The lines tell times, which differ.
        let tests: Vec<_> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let tests: Vec<_> = tests.iter().map(|(name, _)| name.trim().to_owned()).collect();
        (output.status.code(), tests)
    };
    let (ours, theirs) = (passes(&pair.host.socket()), passes(&pair.peer.socket()));
    assert_eq!(ours, theirs);
    assert_eq!((ours.0, ours.1.len()), (Some(0), 12));
}

/// Runs pytest and ends at once. One of pyxs's tests leaves a thread behind that
/// may wait for an answer on a connection which the test has closed; the
/// interpreter would wait for that thread for ever.
const PYTEST: &str = "import os, sys, pytest
code = pytest.main(sys.argv[1:])
sys.stdout.flush()
os._exit(code)";

/// The outcome of each of pyxs's client tests.
fn pyxs(dir: &Path, socket: &Path) -> BTreeMap<String, String> {
    let output = Command::new(dir.join("venv/bin/python"))
        .args(["-c", PYTEST, "-p", "no:cacheprovider", "-q", "-rA"])
        .args(["tests/test_client.py"])
        .current_dir(dir.join("pyxs"))
        .env("PYTHONPATH", ".")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("XENSTORED_PATH", socket)
        .stdin(Stdio::null())
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut outcomes = BTreeMap::new();
    for line in text.lines() {
        let Some((outcome, test)) = line.split_once(" tests/test_client.py::") else { continue };
        if ["PASSED", "FAILED", "ERROR", "SKIPPED"].contains(&outcome) {
            let name = test.split(" - ").next().unwrap_or(test);
            outcomes.insert(name.to_owned(), outcome.to_owned());
        }
    }
    assert!(!outcomes.is_empty(), "{}", show(&output));
    outcomes
}

#[test]
fn pyxs_says_the_same() {
    let Some(pair) = pair("pyxs_says_the_same", KitPart::Pyxs) else { return };
    let ours = pyxs(pair.kit.dir(), &pair.host.socket());
    let theirs = pyxs(pair.kit.dir(), &pair.peer.socket());
    let passed = |of: &BTreeMap<String, String>| of.values().filter(|o| *o == "PASSED").count();
    println!("{} of {} pass on us, {} on C", passed(&ours), ours.len(), passed(&theirs));
    assert_eq!(ours, theirs);
    assert!(passed(&ours) >= 30, "{ours:?}");
}
