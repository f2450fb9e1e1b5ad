//! Signals to the thread that is inside a guest.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hypervisor::kvm::{Machine, Outcome};

use super::programs::{self, in_ring_3};
use super::{ready, usable};

const SIGNALS: u32 = 20;
/// As many as keep the guest busy for longer than the signals take.
const ROUNDS: u64 = 200_000_000;

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// A signal that is handled interrupts the entry. The guest goes on where it was, and
/// its answer arrives.
#[test]
fn a_signal_does_not_break_an_entry() {
    if !usable("a_signal_does_not_break_an_entry") {
        return;
    }
    let signal = libc::SIGRTMIN() + 5;
    // SAFETY: a zeroed action is one without flags and with an empty mask; the handler
    // has the type that is told, and does nothing but count.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    assert_eq!(installed, 0);
    let mut machine = ready(&in_ring_3(programs::counting()));
    let (sender, thread_id) = mpsc::channel();
    let runner = thread::spawn(move || {
        sender.send(rustix::thread::gettid()).expect("somebody waits");
        let mut answer = Vec::new();
        let outcome = machine.call(&ROUNDS.to_le_bytes(), &mut answer, 8);
        (outcome.expect("KVM works"), answer)
    });
    let thread_id = thread_id.recv().expect("it runs");
    for _ in 0..SIGNALS {
        thread::sleep(Duration::from_micros(500));
        // SAFETY: a plain system call; this signal has a handler.
        let sent = unsafe {
            let process = rustix::process::getpid().as_raw_nonzero().get();
            libc::syscall(libc::SYS_tgkill, process, thread_id.as_raw_nonzero().get(), signal)
        };
        assert_eq!(sent, 0);
    }
    assert!(!runner.is_finished(), "it counts on");
    let answered = runner.join().expect("no panic");
    assert_eq!(answered, (Outcome::Answered, ROUNDS.to_le_bytes().to_vec()));
    assert_eq!(HANDLED.load(Ordering::SeqCst), SIGNALS, "each interrupted it");
}

#[test]
fn machines_move_between_threads() {
    fn moves<T: Send>() {}
    moves::<Machine>();
}
