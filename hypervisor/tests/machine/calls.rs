//! Requests and answers.

use std::time::{Duration, Instant};

use guest::layout::{self, ANSWER_OFFSET, REQUEST_MAX};
use hypervisor::kvm::{
    Availability, BadAnswer, Exit, Failure, KVM_RUN, KvmError, Machine, MachineConfig, Outcome,
};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::programs::{self, image, in_ring_3};
use super::{assert_spent, boot, ready, say, usable};

#[test]
fn a_guest_finds_what_it_was_promised() {
    if !usable("a_guest_finds_what_it_was_promised") {
        return;
    }
    let mut machine = ready(&image(programs::curious()));
    let mut bytes = [0; 96];
    machine.exchange().read(ANSWER_OFFSET, &mut bytes).expect("inside");
    let words: Vec<u64> =
        bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    assert_eq!(words[0] as u32, 0x336e_c578, "a start info");
    assert_eq!(words[7..10], [0, programs::MEMORY_BYTES, 1], "all memory from 0 on");
    assert_eq!(words[10..], [layout::MAGIC, layout::VERSION]);
}

#[test]
fn requests_of_any_size_are_answered() {
    if !usable("requests_of_any_size_are_answered") {
        return;
    }
    let mut machine = ready(&in_ring_3(programs::echo()));
    let mut answer = b"before".to_vec();
    for size in [0, 1, 2, 7, 8, 4095, 4097, 100_000, REQUEST_MAX - 1, REQUEST_MAX, 0, 3] {
        let request: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let outcome = machine.call(&request, &mut answer, size).expect("KVM works");
        assert_eq!(outcome, Outcome::Answered);
        assert_eq!(answer[..6], *b"before");
        assert!(answer[6..] == request, "{size} bytes");
        answer.truncate(6);
    }
    let long = machine.call(&vec![0; REQUEST_MAX + 1], &mut answer, 0);
    assert!(matches!(long, Err(KvmError::RequestTooLong { bytes }) if bytes == REQUEST_MAX + 1));
    assert_eq!(machine.call(b"on", &mut answer, 2).expect("goes on"), Outcome::Answered);
    let over = Outcome::Failed(Failure::BadAnswer(BadAnswer::OverLimit));
    assert_eq!(machine.call(b"end", &mut answer, 2).expect("KVM works"), over);
    assert_eq!(answer, b"beforeon");
    assert_spent(&mut machine);
}

#[test]
fn an_answer_may_come_in_parts() {
    if !usable("an_answer_may_come_in_parts") {
        return;
    }
    let ask = |machine: &mut Machine, total: u64, part: u64, limit| {
        let mut answer = Vec::new();
        let request = [total, part].map(u64::to_le_bytes);
        let outcome = machine.call(request.as_flattened(), &mut answer, limit);
        (outcome.expect("KVM works"), answer)
    };
    let mut machine = ready(&in_ring_3(programs::parts()));
    let (outcome, answer) = ask(&mut machine, 80, 16, 80);
    assert_eq!(outcome, Outcome::Answered);
    let left: Vec<u64> =
        answer.as_chunks().0.iter().step_by(2).map(|word| u64::from_le_bytes(*word)).collect();
    assert_eq!(left, [80, 64, 48, 32, 16]);
    let large = 3 * layout::ANSWER_MAX + 5;
    let (outcome, answer) = ask(&mut machine, large as u64, layout::ANSWER_MAX as u64, large);
    assert_eq!((outcome, answer.len()), (Outcome::Answered, large));
    let (outcome, answer) = ask(&mut machine, 81, 16, 80);
    assert_eq!(outcome, Outcome::Failed(Failure::BadAnswer(BadAnswer::OverLimit)));
    assert!(answer.is_empty());
    assert_spent(&mut machine);
}

#[test]
fn nothing_is_asked_of_a_guest_that_is_not_ready() {
    if !usable("nothing_is_asked_of_a_guest_that_is_not_ready") {
        return;
    }
    let mut machine = boot(&in_ring_3(programs::echo()));
    assert!(matches!(machine.call(&[], &mut Vec::new(), 0), Err(KvmError::NotReady)));
    assert_eq!(machine.run().expect("KVM works"), Exit::Yielded);
    assert_eq!(machine.call(&[], &mut Vec::new(), 0).expect("ready"), Outcome::Answered);
}

#[test]
fn memory_has_to_be_of_a_possible_size() {
    if !usable("memory_has_to_be_of_a_possible_size") {
        return;
    }
    let image = image(programs::yielding());
    let boot = |memory_bytes| {
        Machine::boot(&image, &MachineConfig { memory_bytes, command_line: String::new() })
    };
    for bytes in [0, 2 << 20, (4 << 20) + 4096, (1 << 30) + (2 << 20), u64::MAX] {
        assert!(matches!(boot(bytes), Err(KvmError::MemorySize { bytes: told }) if told == bytes));
    }
    let mut machine = boot(layout::RAM_MAX_BYTES).expect("1 GiB that nobody touches");
    assert_eq!(machine.run().expect("KVM works"), Exit::Yielded);
    let resident = machine.resident_bytes().expect("mincore");
    assert!((8192..1 << 20).contains(&resident), "{resident} bytes are resident");
}

/// A machine gives back all that it had. Other tests have some machines at the same
/// time, but not so many.
#[test]
fn a_dropped_machine_leaves_nothing() {
    const MACHINES: usize = 64;
    if !usable("a_dropped_machine_leaves_nothing") {
        return;
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
        maps.matches("kvm-vcpu").count()
    };
    let virtual_pages = || -> usize {
        let sizes = std::fs::read_to_string("/proc/self/statm").expect("/proc");
        sizes.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number")
    };
    let image = image(programs::yielding());
    let memory_bytes = layout::RAM_MAX_BYTES;
    let config = MachineConfig { memory_bytes, command_line: String::new() };
    let before = (descriptors(), mapped(), virtual_pages());
    for _ in 0..MACHINES {
        let mut machine = Machine::boot(&image, &config).expect("a machine");
        assert_eq!(machine.run().expect("KVM works"), Exit::Yielded);
    }
    assert!(descriptors() < before.0 + MACHINES);
    assert!(mapped() < before.1 + MACHINES);
    assert!(virtual_pages() < before.2 + MACHINES / 2 * (memory_bytes as usize / 4096));
}

/// With nothing but the system calls that the module's documentation names, and
/// those with which a thread ends.
#[test]
fn a_sandboxed_thread_can_run_a_machine() {
    if !usable("a_sandboxed_thread_can_run_a_machine") {
        return;
    }
    let mut machine = ready(&in_ring_3(programs::echo()));
    let allowed = [
        libc::SYS_mmap,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_brk,
        libc::SYS_close,
        libc::SYS_fcntl,
        libc::SYS_mincore,
        // The thread's end.
        libc::SYS_futex,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_madvise,
        libc::SYS_exit,
    ];
    let mut rules: std::collections::BTreeMap<_, _> =
        allowed.into_iter().map(|call| (call, Vec::new())).collect();
    let run = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, KVM_RUN);
    let run = SeccompRule::new(vec![run.expect("a condition")]).expect("a rule");
    rules.insert(libc::SYS_ioctl, vec![run]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().expect("an architecture"),
    );
    let program: seccompiler::BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    let caged = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).expect("seccomp");
        let mut answer = Vec::new();
        let answered = machine.call(&[7; 100_000], &mut answer, 1 << 20);
        let resident = machine.resident_bytes();
        drop(machine);
        (answered, resident, answer.len())
    });
    let (answered, resident, len) = caged.join().expect("no panic");
    assert_eq!(answered.expect("KVM works"), Outcome::Answered);
    assert!(resident.expect("mincore") > 0);
    assert_eq!(len, 100_000);
}

/// How long things take here; nothing is asserted. To be read when no other test
/// runs: machines that are made at the same time hold each other up.
#[test]
fn figures() {
    if !usable("figures") {
        return;
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let image = in_ring_3(programs::echo());
    let mut boots = Vec::new();
    let mut entries = Vec::new();
    for _ in 0..21 {
        let begin = Instant::now();
        let mut machine = boot(&image);
        let entry = Instant::now();
        assert_eq!(machine.run().expect("KVM works"), Exit::Yielded);
        entries.push(entry.elapsed());
        boots.push(begin.elapsed());
    }
    let mut machine = ready(&image);
    let mut calls = Vec::new();
    let mut answer = Vec::new();
    for _ in 0..10_000 {
        answer.clear();
        let begin = Instant::now();
        let outcome = machine.call(&[1; 64], &mut answer, 64).expect("KVM works");
        calls.push(begin.elapsed());
        assert_eq!(outcome, Outcome::Answered);
    }
    say(&format!(
        "{}: boot to first yield {:?} (of which inside the guest {:?}); a call with 64 bytes {:?} \
         (medians)\n",
        Availability::probe(),
        median(boots),
        median(entries),
        median(calls),
    ));
}
