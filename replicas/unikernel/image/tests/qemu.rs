//! The image on machines that have nothing in common with the monitor: QEMU's,
//! whose processor is a program. What it does there must be what the same code
//! does in a process.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use guest::Exchange;
use guest::layout::{ANSWER_MAX, REQUEST_MAX};
use state_machine::executor::Executor;
use unikernel::{Rehearsal, serve};
use unikernel_image::{IMAGE, IS_BUILT};
use xenstore::Xenstore;

const QEMU: &str = "qemu-system-x86_64";
/// Machines as different as QEMU has them: one without firmware to speak of, and
/// the PC of old.
const MACHINES: [&str; 2] = ["microvm", "pc"];
/// What QEMU exits with when the image says that it is done (16), or that it has
/// failed (17): twice that, and one.
const EXIT_DONE: i32 = 33;
const EXIT_FAILED: i32 = 35;
/// Seconds after which a machine is given up. It takes less than one.
const PATIENCE_S: &str = "120";

/// Says that `test` cannot run, and counts it.
fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    assert!(std::env::var_os("RVMM_NO_SKIP").is_none_or(|value| value != "1"), "{line}");
    let _ = std::io::stderr().write_all(line.as_bytes());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../target")),
        PathBuf::from,
    );
    let log = std::env::var_os("RVMM_SKIP_LOG")
        .map_or_else(|| target.join("skipped-tests.log"), PathBuf::from);
    let log = std::fs::OpenOptions::new().append(true).create(true).open(log);
    let _ = log.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// Whether there is what `test` needs.
fn can_run(test: &str) -> bool {
    let version = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status();
    if !IS_BUILT {
        skip(test, "no image is built for this target");
    } else if version.is_err() {
        skip(test, "qemu-system-x86_64 is not installed");
    } else {
        return true;
    }
    false
}

/// Boots the image.
fn boot(machine: &str, command_line: &str) -> Output {
    let mut image = tempfile::NamedTempFile::new().expect("a file");
    image.write_all(IMAGE).expect("writing the image");
    Command::new("timeout")
        .args([PATIENCE_S, QEMU, "-machine", machine, "-accel", "tcg", "-m", "64M"])
        .args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .args(["-append", command_line, "-kernel"])
        .arg(image.path())
        .stdin(Stdio::null())
        .output()
        .expect("QEMU")
}

/// What the image has said: what comes before its first words is the firmware's.
fn said<'a>(output: &'a str, first_words: &str) -> &'a str {
    output.find(first_words).map_or("", |at| &output[at..])
}

/// An exchange in a process, with the rehearsal as its monitor.
struct Stage<'a> {
    rehearsal: Rehearsal<&'a mut String>,
    request: Vec<u8>,
    request_len: usize,
    answer: Vec<u8>,
}

impl Exchange for Stage<'_> {
    fn request(&self) -> &[u8] {
        &self.request[..self.request_len]
    }

    fn answer(&mut self) -> &mut [u8] {
        &mut self.answer
    }

    fn note_command(&mut self, _: u64) {}

    fn hand_over(&mut self, len_bytes: usize, more: bool) -> ControlFlow<()> {
        let Self { rehearsal, request, request_len, answer } = self;
        match rehearsal.play(&answer[..len_bytes], more, request) {
            Some(len) => {
                *request_len = len;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }
}

fn transcript_of_a_process() -> String {
    let mut transcript = String::new();
    let mut stage = Stage {
        rehearsal: Rehearsal::new(&mut transcript),
        request: vec![0; REQUEST_MAX],
        request_len: 0,
        answer: vec![0; ANSWER_MAX],
    };
    serve(&mut stage, &mut Executor::<Xenstore>::new(16 << 20));
    transcript
}

#[test]
fn the_script_goes_as_in_a_process() {
    let wanted = transcript_of_a_process();
    // That it is the whole script: a large snapshot is taken and brought back, without
    // what was written meanwhile, and damage is found.
    let parts =
        ["bytes in 2 parts", "last true", "NothingFrozen", "ENOENT", "Corrupt", "NoCommand"];
    for part in parts {
        assert!(wanted.contains(part), "{part} is missing: {wanted}");
    }
    let frozen = "State { last_input: InputNo(1208)";
    assert_eq!(wanted.matches(frozen).count(), 2, "frozen, and restored: {wanted}");
    if !can_run("the_script_goes_as_in_a_process") {
        return;
    }
    for machine in MACHINES {
        let output = boot(machine, "selftest");
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert_eq!(said(&text, "step 0:"), wanted, "{machine}: {output:?}");
        assert_eq!(output.status.code(), Some(EXIT_DONE), "{machine}");
    }
}

#[test]
fn every_way_to_fail_is_reported() {
    if !can_run("every_way_to_fail_is_reported") {
        return;
    }
    for (command_line, wanted) in [
        ("selftest=panic", &["Panic: panicked at replicas/unikernel/src/main.rs"][..]),
        // A write (2) by ring 3 (4) to a page that is there (1).
        ("selftest=write-text", &["Exception: 14 error 0x7 ", "cr2 0xffffffff802"]),
        // The fetch of an instruction (16) from a page of data.
        ("selftest=execute-data", &["Exception: 14 error 0x15 "]),
        // A read of a page that is not for ring 3.
        ("selftest=read-tables", &["Exception: 14 error 0x5 ", "cr2 0xffffffff80201000"]),
        ("selftest=other-port", &["Exception: 13 error 0x0 "]),
        // A write to a page that is not there: the guard below the stack.
        ("selftest=stack-overflow", &["Exception: 14 error 0x6 ", "cr2 0xffffffff802ac"]),
        ("selftest=out-of-memory", &["OutOfMemory: 100000 bytes wanted"]),
    ] {
        for machine in MACHINES {
            let output = boot(machine, command_line);
            let text = String::from_utf8_lossy(&output.stdout);
            let report = said(&text, "failed: ");
            for part in wanted {
                assert!(report.contains(part), "{machine} {command_line}: {output:?}");
            }
            assert_eq!(output.status.code(), Some(EXIT_FAILED), "{machine} {command_line}");
        }
    }
}
