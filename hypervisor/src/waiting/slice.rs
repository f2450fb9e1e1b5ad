//! How long the scheduler lets a thread run before others of its kind get their
//! turn; the shorter, the sooner it runs when it is woken.

use std::io;
use std::time::Duration;

/// `struct sched_attr` of sched_setattr(2), first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// Threads that are started from this one get the default again.
const RESET_ON_FORK: u64 = 1;

/// Sets the calling thread's time slice, from 0.1 to 100 ms (Linux 6.12 and
/// later; older kernels ignore it). A thread of a shorter slice takes the core
/// from one of a longer slice when it is woken; not the other way round. So a
/// party that answers another one gets to finish, and then sleeps, before that
/// one goes on.
///
/// # Errors
/// When the kernel refuses.
pub fn set_time_slice(slice: Duration) -> io::Result<()> {
    set(SchedAttr {
        flags: RESET_ON_FORK,
        runtime_ns: u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX),
        ..SchedAttr::default()
    })
}

/// How the calling thread gets its core when it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precedence {
    /// It takes the core from whoever has had more of it (`SCHED_OTHER`).
    Eager,
    /// It lets whoever runs go on until that one sleeps, or its slice ends
    /// (`SCHED_BATCH`).
    Polite,
}

/// Sets the calling thread's precedence, and that of threads it starts from now on.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn set_precedence(precedence: Precedence) -> io::Result<()> {
    let policy = match precedence {
        Precedence::Eager => libc::SCHED_OTHER,
        Precedence::Polite => libc::SCHED_BATCH,
    };
    set(SchedAttr { policy: policy as u32, ..SchedAttr::default() })
}

/// Whether the calling thread is scheduled as most are, and nobody wanted it otherwise.
pub(super) fn is_ordinary() -> bool {
    // SAFETY: the call takes a number and returns one; thread 0 is this one.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_OTHER }
}

fn set(attr: SchedAttr) -> io::Result<()> {
    let nice = rustix::process::getpriority_process(None)?;
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, nice, ..attr };
    // SAFETY: the kernel reads `size` bytes of the structure; thread 0 is this one.
    let outcome = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_accepted_and_not_passed_on() {
        set_time_slice(Duration::from_micros(100)).unwrap();
        std::thread::spawn(|| set_time_slice(Duration::from_millis(3)).unwrap()).join().unwrap();
    }

    #[test]
    fn precedence_comes_and_goes() {
        assert!(is_ordinary());
        set_precedence(Precedence::Polite).unwrap();
        assert!(!is_ordinary());
        set_precedence(Precedence::Eager).unwrap();
        assert!(is_ordinary());
    }
}
