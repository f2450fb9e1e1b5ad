//! Stopping a running machine from another thread.
//!
//! Whoever stops a machine cannot know whether its thread is about to enter the
//! guest, inside, or coming back. So three things happen, in this order and under
//! a lock:
//!
//! 1. The order to stop is noted. A thread that has not entered yet sees it.
//! 2. `immediate_exit` is set in the page that the thread shares with KVM, and
//!    stays set. A thread that has announced itself but has not entered yet comes
//!    back at once.
//! 3. A signal is sent to the thread if it has announced itself. One that is inside
//!    is driven out: KVM looks for signals whenever it (re-)enters the guest, and a
//!    signal interrupts a guest that runs. If the signal arrives just before the
//!    entry and its handler has run by then, `immediate_exit` is set already.
//!
//! The thread announces itself and takes leave under the same lock. So whoever
//! holds the lock knows that an announced thread lives, and its id belongs to it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::Pid;
use vmm_sys_util::signal;

use super::{KvmError, system};
use crate::memory::PAGE_BYTES;

/// The signal that drives a thread out of the guest is this far above the first
/// real-time signal that the C library leaves to programs.
const KICK_OFFSET: i32 = 5;

/// How often [`Stopper::confirm`] sends the signal again: it is lost when the
/// user's pending signals are at their limit.
const KICK_AGAIN: Duration = Duration::from_millis(5);

fn kick_signal() -> i32 {
    signal::SIGRTMIN() + KICK_OFFSET
}

/// Only interrupts.
extern "C" fn on_kick(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Without a handler the signal would kill the process.
fn install_handler() -> Result<(), KvmError> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let install =
        || signal::register_signal_handler(kick_signal(), on_kick).map_err(|error| error.errno());
    let failed = |errno: i32| system("sigaction")(std::io::Error::from_raw_os_error(errno));
    INSTALLED.get_or_init(install).map_err(failed)
}

/// The page that a virtual processor's thread shares with KVM, mapped a second
/// time: what is stored here can come from any thread, without a part in the
/// first mapping, of which the vCPU's owner takes references.
#[derive(Debug)]
struct RunPage(NonNull<u8>);

// SAFETY: only an address; what is behind it is reached through an atomic.
unsafe impl Send for RunPage {}

impl RunPage {
    fn map(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        use std::os::fd::{AsRawFd, BorrowedFd};
        // SAFETY: the descriptor is open as long as `vcpu`, which outlives this call.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no
        // memory of ours; only `drop` unmaps it.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), PAGE_BYTES, prot, MapFlags::SHARED, fd, 0)
        };
        let base = base.map_err(system("mmap(vcpu)"))?;
        let failed = || system("mmap(vcpu)")(rustix::io::Errno::INVAL);
        NonNull::new(base.cast::<u8>()).map(Self).ok_or_else(failed)
    }

    fn exit_immediately(&self) {
        const OFFSET: usize = std::mem::offset_of!(kvm_run, immediate_exit);
        const { assert!(OFFSET < PAGE_BYTES) };
        // SAFETY: the byte is inside the page, which is mapped as long as `self`;
        // through this mapping it is reached here only, and a byte is aligned.
        let flag = unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(OFFSET)) };
        flag.store(1, Ordering::SeqCst);
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; nobody reaches it any more.
        let outcome = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
        debug_assert!(outcome.is_ok(), "unmapping our own mapping: {outcome:?}");
    }
}

#[derive(Debug)]
struct State {
    /// Whether the machine shall never run again.
    stopped: bool,
    /// The thread that is inside, or about to enter.
    inside: Option<Pid>,
    /// Gone when the machine is: it keeps the virtual machine in the kernel alive.
    page: Option<RunPage>,
}

/// What a machine and its stoppers share.
#[derive(Debug)]
pub(super) struct Control {
    state: Mutex<State>,
    left: Condvar,
}

impl Control {
    pub(super) fn new(vcpu: &VcpuFd) -> Result<Arc<Self>, KvmError> {
        install_handler()?;
        let page = Some(RunPage::map(vcpu)?);
        let state = Mutex::new(State { stopped: false, inside: None, page });
        Ok(Arc::new(Self { state, left: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces that the calling thread is about to enter the guest; nothing when
    /// it must not.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.lock();
        if state.stopped {
            return None;
        }
        state.inside = Some(rustix::thread::gettid());
        Some(Inside { control: self })
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Lets go of the virtual processor.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.page = None;
    }
}

/// A thread that is inside the guest, or on its way.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    control: &'a Control,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.control.lock();
        state.inside = None;
        if state.stopped {
            self.control.left.notify_all();
        }
    }
}

fn kick(thread: Pid) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: a plain system call; the handler of this signal does nothing.
    let outcome = unsafe {
        libc::syscall(libc::SYS_tgkill, process, thread.as_raw_nonzero().get(), kick_signal())
    };
    // EAGAIN is the only error that there can be: `confirm` tries again.
    debug_assert!(
        outcome == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    );
}

/// Stops a machine for good, from any thread, whether it runs or not. Its thread
/// must not block the real-time signals. A stopper may outlive its machine.
#[derive(Clone, Debug)]
pub struct Stopper {
    control: Arc<Control>,
}

impl Stopper {
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self { control: Arc::clone(control) }
    }

    /// Orders the machine to stop, and does not wait for it. What runs returns
    /// `Stopped`, as does every later attempt to run it. Only
    /// [`Stopper::confirm`] makes sure that the order has arrived.
    pub fn stop(&self) {
        let mut state = self.control.lock();
        state.stopped = true;
        if let Some(page) = &state.page {
            page.exit_immediately();
        }
        if let Some(thread) = state.inside {
            kick(thread);
        }
    }

    /// Waits, after [`Stopper::stop`], until no thread is inside the guest; none
    /// will be again. Returns whether that is so; `false` also when nobody has
    /// stopped it.
    #[must_use]
    pub fn confirm(&self, timeout: Duration) -> bool {
        let begin = Instant::now();
        let mut state = self.control.lock();
        while state.stopped {
            let Some(thread) = state.inside else { return true };
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return false;
            }
            let waited = self.control.left.wait_timeout(state, left.min(KICK_AGAIN));
            let (woken, result) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if result.timed_out() && state.inside == Some(thread) {
                kick(thread);
            }
        }
        false
    }
}
