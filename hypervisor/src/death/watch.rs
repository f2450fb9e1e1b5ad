//! The robust futex word: armed by the replica's main thread, released by the
//! kernel, watched by a thread of the host.

use std::ffi::{c_long, c_void};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::fabric::{ReplicaPage, ReplicaPageView};

/// The kernel's `struct robust_list` (set_robust_list(2)).
#[repr(C)]
struct RobustList {
    next: *mut RobustList,
}

/// The kernel's `struct robust_list_head`, and our only lock behind it.
#[repr(C)]
struct RobustListHead {
    list: RobustList,
    futex_offset: c_long,
    list_op_pending: *mut RobustList,
    lock: RobustList,
}

/// Makes the kernel release the life word of this page when the calling thread
/// ends, in whatever way. To be called on the main thread, whose end is the
/// process's end. Replaces the thread's robust list: robust pthread mutexes do not
/// work on it afterwards.
///
/// # Errors
/// When the kernel refuses.
pub fn arm(page: &ReplicaPage) -> io::Result<()> {
    // The kernel writes to the page when the thread ends, so the mapping must last
    // until then, and so must the list.
    let page: &'static ReplicaPage = Box::leak(Box::new(page.clone()));
    let word = page.life_word();
    let head: &'static mut RobustListHead = Box::leak(Box::new(RobustListHead {
        list: RobustList { next: std::ptr::null_mut() },
        futex_offset: 0,
        list_op_pending: std::ptr::null_mut(),
        lock: RobustList { next: std::ptr::null_mut() },
    }));
    // The list is a circle: head, lock, head. The word lies where the lock's
    // address plus the offset says.
    head.lock.next = &raw mut head.list;
    head.list.next = &raw mut head.lock;
    let lock_address = (&raw const head.lock).addr();
    head.futex_offset = word.as_ptr().addr().wrapping_sub(lock_address) as c_long;
    let head: *mut RobustListHead = head;

    // SAFETY: gettid has no preconditions.
    let tid = unsafe { libc::gettid() };
    // SAFETY: the list is complete, has the kernel's layout and is never freed; the
    // word in it stays mapped for good.
    let outcome = unsafe {
        libc::syscall(libc::SYS_set_robust_list, head.cast::<c_void>(), size_of::<[usize; 3]>())
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel releases a word only if it bears the thread's id, and wakes
    // somebody only if it bears the waiters' bit.
    word.store(tid.cast_unsigned() | libc::FUTEX_WAITERS, Ordering::SeqCst);
    futex_wake(word);
    Ok(())
}

/// A replica that changes its word more often than this is not worth listening to.
const CHANGES_MAX: u32 = 1000;

/// A thread that waits for the death of one replica.
#[derive(Debug)]
pub struct DeathWatch {
    page: ReplicaPageView,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DeathWatch {
    /// Watches the replica that occupies this page, from the time it has armed its
    /// word on. `on_death` is called at most once, on the watching thread, when the
    /// replica's main thread has ended. The replica could release the word itself
    /// as a lie, or never arm it: what follows must be sound in both cases, and
    /// pidfd has to be watched as well.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        page: &ReplicaPageView,
        on_death: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("death-watch".into()).stack_size(256 << 10);
        let thread = thread.spawn({
            let page = page.clone();
            let stopping = Arc::clone(&stopping);
            move || {
                if wait_for_death(page.life_word(), &stopping) {
                    on_death();
                }
            }
        })?;
        Ok(Self { page: page.clone(), stopping, thread: Some(thread) })
    }

    /// Ends the watch. `on_death` is not called any more when this returns. To be
    /// called before the slot gets another occupant.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stopping.store(true, Ordering::SeqCst);
        // The thread may be just about to wait, so that one wake could be lost.
        while !thread.is_finished() {
            futex_wake(self.page.life_word());
            std::thread::sleep(Duration::from_micros(100));
        }
        let _ = thread.join();
    }
}

/// Says whether the word's owner died; otherwise the watch was stopped or given up.
fn wait_for_death(word: &AtomicU32, stopping: &AtomicBool) -> bool {
    for _ in 0..CHANGES_MAX {
        let value = word.load(Ordering::SeqCst);
        if stopping.load(Ordering::SeqCst) {
            return false;
        }
        if value & libc::FUTEX_OWNER_DIED != 0 {
            return true;
        }
        futex_wait(word, value);
    }
    false
}

/// Waits while the word has this value. May end early.
fn futex_wait(word: &AtomicU32, value: u32) {
    // SAFETY: the word is mapped as long as the reference lives; no timeout.
    unsafe {
        let forever = std::ptr::null::<libc::timespec>();
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, forever);
    }
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: as above; waking touches no memory.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}
