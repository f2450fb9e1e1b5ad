//! Starting, stopping and killing processes.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use hypervisor::domain::{
    DomainError, ErrorOutput, Exit, ProcessDomain, Program, SpawnSpec, inherited_descriptors,
};

use super::{PATIENCE, spec, until};

pub(super) const TESTS: &[(&str, fn())] = &[
    ("domains::exit_codes_are_told", exit_codes_are_told),
    ("domains::a_stopped_process_can_be_killed", a_stopped_process_can_be_killed),
    ("domains::nothing_is_inherited_but_what_is_given", nothing_is_inherited_but_what_is_given),
    ("domains::a_missing_program_is_an_error", a_missing_program_is_an_error),
    ("domains::the_program_of_a_process_is_known", the_program_of_a_process_is_known),
    ("domains::children_die_with_the_host", children_die_with_the_host),
    ("domains::dropping_kills", dropping_kills),
];

fn exit_codes_are_told() {
    let mut domain = ProcessDomain::spawn(spec("exit:42")).expect("spawn");
    assert_eq!(domain.wait(PATIENCE).expect("wait"), Some(Exit::Code(42)));
    assert_eq!(domain.try_wait().expect("wait"), Some(Exit::Code(42)), "again");
    domain.kill().expect("killing one that has ended is no error");
}

fn a_stopped_process_can_be_killed() {
    let mut domain = ProcessDomain::spawn(spec("sleep")).expect("spawn");
    let state = |domain: &ProcessDomain| domain.state().expect("stat");
    until("it sleeps", || state(&domain) == 'S');
    domain.stop().expect("stop");
    until("it stops", || state(&domain) == 'T');
    domain.cont().expect("cont");
    until("it sleeps again", || state(&domain) == 'S');
    domain.stop().expect("stop");
    until("it stops again", || state(&domain) == 'T');
    assert_eq!(domain.try_wait().expect("wait"), None, "stopped is not ended");
    domain.kill().expect("kill");
    assert_eq!(domain.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
}

/// The child's part: prints its descriptors, environment, limits and session.
pub(super) fn tell_surroundings() -> i32 {
    let mut fds: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    fds.sort_unstable();
    // The last one is that of the directory being read.
    fds.pop();
    let mut env: Vec<String> = std::env::vars().map(|(key, _)| key).collect();
    env.sort();
    let limits = rustix::process::getrlimit(rustix::process::Resource::Core);
    let leader = rustix::process::getpgid(None).ok() == Some(rustix::process::getpid());
    let inherited = inherited_descriptors().expect("descriptors");
    let again = inherited_descriptors().is_err();
    let pipe = inherited.into_iter().nth(1).expect("two descriptors");
    let text = format!("{fds:?} {env:?} {:?} {leader} {again}", limits.current);
    let written = std::fs::File::from(pipe).write_all(text.as_bytes());
    i32::from(written.is_err())
}

pub(super) fn pipe() -> (std::fs::File, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    (reader.into(), writer)
}

fn nothing_is_inherited_but_what_is_given() {
    // Without CLOEXEC, as a careless library would have it.
    let careless = std::fs::File::open("/dev/null").expect("open");
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).expect("fcntl");
    let (mut reader, writer) = pipe();
    let null: OwnedFd = std::fs::File::open("/dev/null").expect("open").into();
    let mut domain =
        ProcessDomain::spawn(SpawnSpec { descriptors: vec![null, writer], ..spec("surroundings") })
            .expect("spawn");
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(domain.wait(PATIENCE).expect("wait"), Some(Exit::Code(0)));
    let env = r#"["RVMM_DESCRIPTORS", "RVMM_TEST_ROLE"]"#;
    assert_eq!(text, format!("[0, 1, 2, 3, 4] {env} Some(0) true true"));
}

fn a_missing_program_is_an_error() {
    let spec = SpawnSpec { program: Program::At("/no/such/program".into()), ..spec("") };
    let error = ProcessDomain::spawn(spec).expect_err("no program");
    assert!(matches!(error, DomainError::System { call: "execve", .. }), "{error}");
    let spec = SpawnSpec { name: "a\0b".into(), ..super::spec("") };
    assert!(matches!(ProcessDomain::spawn(spec), Err(DomainError::ZeroByte(_))));
}

fn the_program_of_a_process_is_known() {
    let mut same = ProcessDomain::spawn(spec("sleep")).expect("spawn");
    assert!(same.runs_this_program().expect("it lives"));
    let program = Program::At("/bin/sleep".into());
    let spec = SpawnSpec { program, args: vec!["100".into()], ..spec("") };
    let other = ProcessDomain::spawn(spec).expect("spawn");
    assert!(!other.runs_this_program().expect("it lives"));
    same.kill().expect("kill");
    same.wait(PATIENCE).expect("wait");
    assert!(same.runs_this_program().is_err());
}

/// The child's part: starts a process and waits.
pub(super) fn start_a_grandchild() -> i32 {
    let pipe = inherited_descriptors().expect("descriptors").remove(0);
    let grandchild =
        ProcessDomain::spawn(SpawnSpec { error_output: ErrorOutput::To(pipe), ..spec("sleep") });
    let _grandchild = grandchild.expect("spawn");
    super::child::sleep_for_ever()
}

fn children_die_with_the_host() {
    let (mut reader, writer) = pipe();
    let mut middle =
        ProcessDomain::spawn(SpawnSpec { descriptors: vec![writer], ..spec("middle") })
            .expect("spawn");
    let has_child = |pid| {
        let path = format!("/proc/{pid}/task");
        let tasks = std::fs::read_dir(path).expect("/proc").flatten();
        tasks.into_iter().any(|task| {
            std::fs::read_to_string(task.path().join("children")).is_ok_and(|c| !c.is_empty())
        })
    };
    let pid = middle.pid();
    until("the grandchild lives", || has_child(pid));
    middle.kill().expect("kill");
    assert_eq!(middle.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
    // Ends when nobody holds the pipe's other end any more.
    assert_eq!(reader.read(&mut [0; 16]).expect("read"), 0);
}

fn dropping_kills() {
    let domain = ProcessDomain::spawn(spec("sleep")).expect("spawn");
    let pid = domain.pid();
    assert!(rustix::process::test_kill_process(pid).is_ok());
    drop(domain);
    until("it is gone and reaped", || rustix::process::test_kill_process(pid).is_err());
}
