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
    let nice = rustix::process::getpriority_process(None)?;
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        flags: RESET_ON_FORK,
        nice,
        runtime_ns: u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX),
        ..SchedAttr::default()
    };
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
}
