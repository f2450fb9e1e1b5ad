//! Replicas that outlive the daemon that has started them, and not its holder.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use hypervisor::domain::{
    Bond, DomainError, Exit, Lifeline, ProcessDomain, Program, SpawnSpec, Tether, end_children,
    inherited_descriptors, reap_children,
};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::domains::pipe;
use super::{PATIENCE, spec, until};

pub(super) const TESTS: &[(&str, fn())] = &[
    ("orphans::replicas_outlive_the_daemon_and_not_its_holder", replicas_live_with_the_holder),
    ("orphans::nobody_starts_once_the_holder_has_ended", nobody_starts_without_a_holder),
    ("orphans::the_end_of_one_that_is_adopted_is_noticed", the_adopted_end),
    ("orphans::children_but_the_spared_are_killed_and_reaped", children_are_killed_and_reaped),
    ("orphans::a_program_is_what_was_opened", a_program_is_what_was_opened),
];

/// What becomes of the replicas: one sleeps, one never looks up, one will be stopped.
const REPLICAS: [&str; 3] = ["sleep", "spins", "sleep"];

/// A child's part: holds the line, and starts a daemon once.
pub(super) fn hold() -> i32 {
    let report = inherited_descriptors().expect("descriptors").remove(0);
    rustix::process::set_child_subreaper(Some(getpid())).expect("prctl");
    let (_line, tether) = Lifeline::new().expect("a line");
    let tether = tether.as_fd().try_clone_to_owned().expect("dup");
    let descriptors = vec![report, tether];
    let mut daemon =
        ProcessDomain::spawn(SpawnSpec { descriptors, ..spec("daemon") }).expect("spawn");
    assert_eq!(daemon.wait(PATIENCE).expect("wait"), Some(Exit::Code(0)));
    super::child::sleep_for_ever()
}

/// A child's part: starts replicas, tells who they are, and is gone.
pub(super) fn start_replicas() -> i32 {
    let mut given = inherited_descriptors().expect("descriptors").into_iter();
    let mut report = std::fs::File::from(given.next().expect("a report"));
    let tether = Arc::new(Tether::from(given.next().expect("a tether")));
    for role in REPLICAS {
        let bond = Bond::Lifeline(Arc::clone(&tether));
        let domain = ProcessDomain::spawn(SpawnSpec { bond, ..spec(role) }).expect("spawn");
        writeln!(report, "{}", domain.pid()).expect("written");
        // Nobody gets to kill it.
        std::mem::forget(domain);
    }
    writeln!(report, "0").expect("written");
    0
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Pid::from_raw(parent.expect("a parent").trim().parse().expect("a number"))
}

fn replicas_live_with_the_holder() {
    let (reader, writer) = pipe();
    let mut holder =
        ProcessDomain::spawn(SpawnSpec { descriptors: vec![writer], ..spec("holder") })
            .expect("spawn");
    let pids = BufReader::new(reader).lines().map(|line| line.expect("a line").parse());
    let pids: Vec<_> = pids.map_while(|pid| Pid::from_raw(pid.expect("a number"))).collect();
    assert_eq!(pids.len(), REPLICAS.len());
    until("all are the holder's", || pids.iter().all(|&p| parent_of(p) == Some(holder.pid())));
    let adopt = |&pid| {
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it lives");
        ProcessDomain::adopt(pidfd).expect("is adopted")
    };
    let mut replicas: Vec<_> = pids.iter().map(adopt).collect();
    replicas[2].stop().expect("is stopped");
    until("it is stopped", || replicas[2].state().expect("stat") == 'T');
    std::thread::sleep(Duration::from_millis(50));
    for (replica, state) in replicas.iter_mut().zip(['S', 'R', 'T']) {
        assert_eq!(replica.state().expect("stat"), state);
        assert_eq!(replica.try_wait().expect("poll"), None);
    }
    holder.kill().expect("is killed");
    assert_eq!(holder.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
    for replica in &mut replicas {
        assert_eq!(replica.wait(PATIENCE).expect("poll"), Some(Exit::Unknown));
    }
}

fn nobody_starts_without_a_holder() {
    let (line, tether) = Lifeline::new().expect("a line");
    let tether = Arc::new(tether);
    let start = || {
        let bond = Bond::Lifeline(Arc::clone(&tether));
        ProcessDomain::spawn(SpawnSpec { bond, ..spec("sleep") })
    };
    let mut early = start().expect("spawn");
    assert_eq!(early.try_wait().expect("wait"), None);
    drop(line);
    assert_eq!(early.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
    let error = start().expect_err("there is no holder");
    assert!(matches!(error, DomainError::System { call: "the holder", .. }), "{error}");
}

fn the_adopted_end() {
    let mut child = ProcessDomain::spawn(spec("sleep")).expect("spawn");
    let pidfd = child.pidfd().try_clone_to_owned().expect("dup");
    let mut adopted = ProcessDomain::adopt(pidfd.try_clone().expect("dup")).expect("is adopted");
    assert_eq!(adopted.pid(), child.pid());
    assert_eq!(adopted.try_wait().expect("poll"), None);
    assert!(adopted.cpu_times().is_ok());
    adopted.kill().expect("is killed");
    assert_eq!(adopted.wait(PATIENCE).expect("poll"), Some(Exit::Unknown));
    // Whoever started it is told how all the same.
    assert_eq!(child.wait(PATIENCE).expect("wait"), Some(Exit::Signal(9)));
    assert_eq!(adopted.try_wait().expect("poll"), Some(Exit::Unknown));
    let error = ProcessDomain::adopt(pidfd).expect_err("it is gone");
    assert!(matches!(error, DomainError::Gone), "{error}");
    let no_pidfd = std::fs::File::open("/dev/null").expect("open").into();
    let error = ProcessDomain::adopt(no_pidfd).expect_err("no process");
    assert!(matches!(error, DomainError::Account(_)), "{error}");
}

/// A child's part, as no other test may have its children killed.
pub(super) fn end_own_children() -> i32 {
    let [mut spared, mut one, two] =
        [(); 3].map(|()| ProcessDomain::spawn(spec("sleep")).expect("spawn"));
    one.stop().expect("is stopped");
    let mut killed = end_children(getpid(), &[spared.pid()], PATIENCE).expect("all end");
    killed.sort_by_key(|pid| pid.as_raw_nonzero());
    let mut expected = [one.pid(), two.pid()];
    expected.sort_by_key(|pid| pid.as_raw_nonzero());
    assert_eq!(killed, expected);
    assert_eq!(one.try_wait().expect("wait"), Some(Exit::Signal(9)));
    assert_eq!(spared.try_wait().expect("wait"), None);
    assert_eq!(reap_children(&[two.pid()]).expect("/proc"), 0, "it is spared");
    assert_eq!(reap_children(&[]).expect("/proc"), 1);
    assert!(two.state().is_err(), "it is reaped");
    assert_eq!(end_children(getpid(), &[spared.pid()], PATIENCE).expect("none"), []);
    0
}

fn children_are_killed_and_reaped() {
    let mut parent = ProcessDomain::spawn(spec("parent")).expect("spawn");
    assert_eq!(parent.wait(PATIENCE).expect("wait"), Some(Exit::Code(0)));
}

fn a_program_is_what_was_opened() {
    let path = std::env::temp_dir().join(format!("rvmm-program-{}", std::process::id()));
    // What another test's child has open for writing could not be executed.
    let own = std::env::current_exe().expect("this program");
    let copied = std::process::Command::new("cp").arg("--").args([&own, &path]).status();
    assert!(copied.expect("runs").success());
    let file = std::fs::File::open(&path).expect("is opened");
    std::fs::remove_file(&path).expect("is removed");
    // More descriptors than the number of the program.
    let descriptors = (0..300).map(|_| std::fs::File::open("/dev/null").expect("open").into());
    let mut domain = ProcessDomain::spawn(SpawnSpec {
        program: Program::File(file.into()),
        descriptors: descriptors.collect(),
        ..spec("exit:7")
    })
    .expect("spawn");
    assert_eq!(domain.wait(PATIENCE).expect("wait"), Some(Exit::Code(7)));
}
