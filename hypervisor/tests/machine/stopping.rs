//! Machines that are stopped: before, while and after they run.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hypervisor::kvm::{Exit, Image, Machine, Outcome};

use super::programs::{self, image, in_ring_3};
use super::{boot, ready, say, usable};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn stop_a_loop(looping: &Image) {
    let mut times = Vec::new();
    for round in 0..20_u32 {
        let mut machine = ready(looping);
        let stopper = machine.stopper();
        assert!(!stopper.confirm(Duration::ZERO), "nobody has stopped it");
        let (sender, running) = mpsc::channel();
        let runner = thread::spawn(move || {
            sender.send(()).expect("somebody waits");
            let exit = machine.run().expect("KVM works");
            (machine, exit)
        });
        running.recv().expect("it runs");
        // At once, or when it has been inside for long.
        thread::sleep(Duration::from_micros(100) * round);
        let begin = Instant::now();
        stopper.stop();
        assert!(stopper.confirm(PATIENCE), "it comes out");
        times.push(begin.elapsed());
        let (mut machine, exit) = runner.join().expect("no panic");
        assert_eq!(exit, Exit::Stopped);
        assert_eq!(machine.run().expect("a stop is for good"), Exit::Stopped);
    }
    times.sort_unstable();
    say(&format!("stop to confirmation: median {:?}, worst {:?}\n", times[10], times[19]));
}

#[test]
fn an_endless_loop_in_ring_0_is_stopped() {
    if usable("an_endless_loop_in_ring_0_is_stopped") {
        stop_a_loop(&image(programs::looping()));
    }
}

#[test]
fn an_endless_loop_in_ring_3_is_stopped() {
    if usable("an_endless_loop_in_ring_3_is_stopped") {
        stop_a_loop(&in_ring_3(programs::looping_in_ring_3()));
    }
}

#[test]
fn a_machine_can_be_stopped_before_it_runs() {
    if !usable("a_machine_can_be_stopped_before_it_runs") {
        return;
    }
    let mut machine = boot(&image(programs::looping()));
    let stopper = machine.stopper();
    thread::spawn(move || {
        stopper.stop();
        assert!(stopper.confirm(Duration::ZERO), "it does not run");
    })
    .join()
    .expect("stopped");
    assert_eq!(machine.run().expect("stopped"), Exit::Stopped);
    assert_eq!(machine.call(&[], &mut Vec::new(), 0).expect("stopped"), Outcome::Stopped);
    let mut machine = ready(&in_ring_3(programs::echo()));
    machine.stopper().stop();
    let mut answer = vec![1];
    assert_eq!(machine.call(b"?", &mut answer, 9).expect("stopped"), Outcome::Stopped);
    assert_eq!(answer, [1]);
}

/// Stops at any moment of a machine that enters and leaves all the time; the order
/// is never lost.
#[test]
fn an_order_to_stop_is_never_lost() {
    if !usable("an_order_to_stop_is_never_lost") {
        return;
    }
    let image = in_ring_3(programs::echo());
    for round in 0..60_u32 {
        let mut machine = ready(&image);
        let stopper = machine.stopper();
        let runner = thread::spawn(move || {
            let mut answer = Vec::new();
            let mut calls = 0_u32;
            while machine.call(b"again", &mut answer, 9).expect("KVM works") == Outcome::Answered {
                assert_eq!(answer, b"again");
                answer.clear();
                calls += 1;
            }
            calls
        });
        thread::sleep(Duration::from_micros(37) * round);
        let helpers: Vec<_> = (0..2)
            .map(|_| {
                let stopper = stopper.clone();
                thread::spawn(move || stopper.stop())
            })
            .collect();
        stopper.stop();
        assert!(stopper.confirm(PATIENCE));
        runner.join().expect("ends without an error");
        for helper in helpers {
            helper.join().expect("no panic");
        }
    }
}

/// A guest that answers byte by byte for ever keeps nobody from stopping it.
#[test]
fn a_dripping_answer_is_stopped() {
    use guest::layout::word;
    if !usable("a_dripping_answer_is_stopped") {
        return;
    }
    let mut machine = ready(&in_ring_3(programs::obedient()));
    let stopper = machine.stopper();
    let runner = thread::spawn(move || {
        let request = [word::ANSWER_LEN as u64, 1, word::MORE as u64, 1].map(u64::to_le_bytes);
        let mut answer = vec![1];
        let outcome = machine.call(request.as_flattened(), &mut answer, usize::MAX);
        (outcome.expect("KVM works"), answer)
    });
    thread::sleep(Duration::from_millis(20));
    assert!(!runner.is_finished(), "it drips on");
    stopper.stop();
    assert!(stopper.confirm(PATIENCE));
    assert_eq!(runner.join().expect("no panic"), (Outcome::Stopped, vec![1]));
}

/// Signals that mean nothing, as a debugger or a stopped process brings, do not
/// end a run.
#[test]
fn other_signals_do_not_stop_a_machine() {
    if !usable("other_signals_do_not_stop_a_machine") {
        return;
    }
    // A stopper's own signal, without an order, sent to the process's thread.
    let mut machine = ready(&image(programs::looping()));
    let stopper = machine.stopper();
    let (sender, thread_id) = mpsc::channel();
    let runner = thread::spawn(move || {
        sender.send(rustix::thread::gettid()).expect("somebody waits");
        machine.run().expect("KVM works")
    });
    let thread_id = thread_id.recv().expect("it runs");
    for _ in 0..20 {
        thread::sleep(Duration::from_micros(500));
        // SAFETY: a plain system call; the machine has installed a handler for this
        // signal that does nothing.
        let sent = unsafe {
            let signal = libc::SIGRTMIN() + 5;
            let process = rustix::process::getpid().as_raw_nonzero().get();
            libc::syscall(libc::SYS_tgkill, process, thread_id.as_raw_nonzero().get(), signal)
        };
        assert_eq!(sent, 0);
    }
    assert!(!runner.is_finished(), "it loops on");
    stopper.stop();
    assert!(stopper.confirm(PATIENCE));
    assert_eq!(runner.join().expect("no panic"), Exit::Stopped);
}

#[test]
fn machines_and_stoppers_move_between_threads() {
    fn moves<T: Send>() {}
    fn shared<T: Send + Sync + Clone>() {}
    moves::<Machine>();
    shared::<hypervisor::kvm::Stopper>();
}
