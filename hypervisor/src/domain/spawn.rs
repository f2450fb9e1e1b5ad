//! Starting a replica's process.
//!
//! `std::process` forks, which copies the host's page tables and makes its next
//! writes fault, on the very path that is busy with a failover. Here the child
//! borrows the host's memory until it executes (`CLONE_VM | CLONE_VFORK`), as
//! `posix_spawn` does, and the pidfd comes with it.

use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use super::lifeline::{self, Tether};
use super::{DomainError, system};

/// The first inherited descriptor's number in the child.
const FIRST_DESCRIPTOR: RawFd = 3;

/// Tells the child how many descriptors it inherited.
const COUNT_VARIABLE: &str = "RVMM_DESCRIPTORS";

/// Where the child's standard error goes.
#[derive(Debug, Default)]
pub enum ErrorOutput {
    /// To the host's own.
    #[default]
    Inherit,
    /// Nowhere.
    Discard,
    /// To this descriptor, such as a pipe's writing end.
    To(OwnedFd),
}

/// What a domain may use at most; without a number, as much as this process may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Address space, in bytes.
    pub address_space_bytes: Option<u64>,
    /// Heap and private mappings, in bytes.
    pub data_bytes: Option<u64>,
    /// The stack of the first thread, and of those that do not say how large theirs is
    /// to be, in bytes. The latter are of the data.
    pub stack_bytes: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// Core dumps, in bytes.
    pub core_bytes: Option<u64>,
}

impl Limits {
    /// Those of this process.
    pub const INHERITED: Self = Self {
        address_space_bytes: None,
        data_bytes: None,
        stack_bytes: None,
        descriptors: None,
        core_bytes: None,
    };
}

impl Default for Limits {
    /// No core dumps, and as many descriptors as a replica has use for.
    fn default() -> Self {
        Self { descriptors: Some(1024), core_bytes: Some(0), ..Self::INHERITED }
    }
}

/// What is executed.
#[derive(Debug)]
pub enum Program {
    /// What is at this path when the process starts.
    At(PathBuf),
    /// This open file, whatever is at its path by now.
    File(OwnedFd),
}

impl Program {
    /// The program that this process runs, even if its file is no longer there.
    #[must_use]
    pub fn own() -> Self {
        Self::At("/proc/self/exe".into())
    }
}

/// Whose end a domain does not outlive.
#[derive(Debug)]
pub enum Bond {
    /// This process's.
    Host,
    /// The end of whoever holds this line; it may well outlive this process.
    Lifeline(Arc<Tether>),
}

/// What to start.
#[derive(Debug)]
pub struct SpawnSpec {
    /// The program.
    pub program: Program,
    /// How the process calls itself (`argv[0]`).
    pub name: OsString,
    /// Arguments after the name.
    pub args: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// What the process inherits beside the standard streams; it gets them with
    /// [`inherited_descriptors`] in this order.
    pub descriptors: Vec<OwnedFd>,
    /// Its standard error. Standard input and output are `/dev/null`.
    pub error_output: ErrorOutput,
    /// Resource limits.
    pub limits: Limits,
    /// With whom it ends.
    pub bond: Bond,
}

/// The descriptors that this process inherited from the host which started it as
/// a domain. Can be called once, before anything else is opened.
///
/// # Errors
/// When the process was not started as a domain, or at the second call.
pub fn inherited_descriptors() -> Result<Vec<OwnedFd>, DomainError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count = std::env::var(COUNT_VARIABLE).ok().and_then(|count| count.parse::<u16>().ok());
    let count = count.ok_or(DomainError::NoDescriptors)?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(DomainError::NoDescriptors);
    }
    (FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + RawFd::from(count))
        .map(|number| {
            // SAFETY: plain system call on a number; a closed one is an error.
            if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
                return Err(system("fcntl(F_SETFD)")(io::Error::last_os_error()));
            }
            // SAFETY: it is open, `spawn` put it there for us (the variable tells),
            // and the flag above guarantees that nobody took it before.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect()
}

/// A started process.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
}

enum Job {
    Spawn(Box<SpawnSpec>, mpsc::Sender<Result<Started, DomainError>>),
    Reap(OwnedFd),
}

/// Has the spawner thread do a job. The kernel kills a child when the *thread*
/// that started it ends, not the process; so one thread that never ends starts
/// all of them.
fn submit(job: Job) -> Result<(), DomainError> {
    static SPAWNER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    let queue = match &mut *spawner {
        Some(queue) => queue,
        none => {
            let (queue, jobs) = mpsc::channel();
            std::thread::Builder::new()
                .name("spawner".into())
                .spawn(move || jobs.into_iter().for_each(Job::carry_out))
                .map_err(system("start the spawner thread"))?;
            none.insert(queue)
        }
    };
    queue.send(job).map_err(|_| system("spawner thread")(io::Error::other("it has ended")))
}

impl Job {
    fn carry_out(self) {
        match self {
            Self::Spawn(spec, answer) => {
                let _ = answer.send(spawn_here(*spec));
            }
            Self::Reap(pidfd) => {
                let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
                let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
            }
        }
    }
}

pub(super) fn spawn(spec: SpawnSpec) -> Result<Started, DomainError> {
    let (answer, outcome) = mpsc::channel();
    submit(Job::Spawn(Box::new(spec), answer))?;
    let ended = |_| system("spawner thread")(io::Error::other("it has ended"));
    outcome.recv().map_err(ended)?
}

/// Waits for a killed process on the spawner thread, so that it leaves no zombie.
pub(super) fn reap_later(pidfd: OwnedFd) {
    // Without the thread there is no process to reap either.
    let _ = submit(Job::Reap(pidfd));
}

/// All that the child needs, made before it exists: it must not allocate.
struct Plan {
    exe: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// Source of each standard stream and inherited descriptor, by target number.
    /// All sources are above all targets. -1 leaves the target as it is.
    sources: Vec<RawFd>,
    limits: [(u32, Option<u64>); 5],
    /// Whose child it must be; none when it hangs on the last of the descriptors.
    parent: Option<libc::pid_t>,
    failed_call: &'static str,
    errno: c_int,
}

fn c_string(text: &OsStr) -> Result<CString, DomainError> {
    CString::new(text.as_bytes())
        .map_err(|_| DomainError::ZeroByte(text.to_string_lossy().into_owned()))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

fn spawn_here(spec: SpawnSpec) -> Result<Started, DomainError> {
    let args: Vec<CString> = std::iter::once(&spec.name)
        .chain(&spec.args)
        .map(|arg| c_string(arg))
        .collect::<Result<_, _>>()?;
    let count = (OsString::from(COUNT_VARIABLE), spec.descriptors.len().to_string().into());
    let env: Vec<CString> = spec
        .env
        .iter()
        // This process may be a domain itself.
        .filter(|(key, _)| key != COUNT_VARIABLE)
        .chain([&count])
        .map(|(key, value)| {
            let mut pair = key.clone();
            pair.push("=");
            pair.push(value);
            c_string(&pair)
        })
        .collect::<Result<_, _>>()?;

    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(system("open(/dev/null)"))?;
    let lifeline = match &spec.bond {
        Bond::Host => None,
        Bond::Lifeline(tether) => Some(tether.anew()?),
    };
    let counted = spec.descriptors.len() + usize::from(lifeline.is_some());
    let first_free = FIRST_DESCRIPTOR + counted as RawFd;
    let above = |fd: &OwnedFd| {
        rustix::io::fcntl_dupfd_cloexec(fd, first_free).map_err(system("fcntl(F_DUPFD_CLOEXEC)"))
    };
    let null = above(&null)?;
    let error_output = match &spec.error_output {
        ErrorOutput::To(fd) => Some(above(fd)?),
        ErrorOutput::Inherit | ErrorOutput::Discard => None,
    };
    let inherited = spec.descriptors.iter().chain(&lifeline).map(above);
    let inherited = inherited.collect::<Result<Vec<_>, _>>()?;
    // Open until it is executed.
    let (exe, _file) = match &spec.program {
        Program::At(path) => (c_string(path.as_os_str())?, None),
        Program::File(file) => {
            let file = above(file)?;
            let path = OsString::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            (c_string(&path)?, Some(file))
        }
    };
    let mut sources = vec![null.as_raw_fd(), null.as_raw_fd()];
    sources.push(match (&spec.error_output, &error_output) {
        (ErrorOutput::To(_), Some(fd)) => fd.as_raw_fd(),
        (ErrorOutput::Inherit, _) => -1,
        _ => null.as_raw_fd(),
    });
    sources.extend(inherited.iter().map(AsRawFd::as_raw_fd));

    let mut plan = Plan {
        exe,
        argv: pointers(&args),
        envp: pointers(&env),
        sources,
        limits: [
            (libc::RLIMIT_CORE, spec.limits.core_bytes),
            (libc::RLIMIT_NOFILE, spec.limits.descriptors),
            (libc::RLIMIT_AS, spec.limits.address_space_bytes),
            (libc::RLIMIT_DATA, spec.limits.data_bytes),
            (libc::RLIMIT_STACK, spec.limits.stack_bytes),
        ],
        parent: lifeline.is_none().then(|| rustix::process::getpid().as_raw_nonzero().get()),
        failed_call: "",
        errno: 0,
    };
    clone_child(&mut plan)
}

/// Room for the child's few calls until it executes.
const CHILD_STACK_BYTES: usize = 64 << 10;

fn clone_child(plan: &mut Plan) -> Result<Started, DomainError> {
    let mut stack: Vec<u128> = vec![0; CHILD_STACK_BYTES / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;

    // No handler of ours may run in the child while it borrows our memory.
    // SAFETY: the sets are initialized by sigfillset and pthread_sigmask; the mask
    // is put back below.
    let old_mask = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        old
    };
    // SAFETY: the child runs `child` on its own stack, whose end is aligned to 16,
    // and this thread stands still until it has executed or ended (CLONE_VFORK), so
    // plan and stack outlive their use. `child` makes only system calls and touches
    // no memory but the plan and its stack.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast::<c_void>(),
            flags,
            std::ptr::from_mut(plan).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let error = io::Error::last_os_error();
    // SAFETY: `old_mask` was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &old_mask, std::ptr::null_mut()) };
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(system("clone")(error));
    };
    // SAFETY: with CLONE_PIDFD the kernel has put a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if plan.errno != 0 {
        reap_later(pidfd);
        let source = io::Error::from_raw_os_error(plan.errno);
        return Err(DomainError::System { call: plan.failed_call, source });
    }
    Ok(Started { pid, pidfd })
}

/// The child until it executes. Returns (and so ends) only when something failed.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the parent passed its plan and stands still: nobody else uses it.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    plan.failed_call = child_steps(plan);
    // SAFETY: errno is always readable.
    plan.errno = unsafe { *libc::__errno_location() }.max(1);
    127
}

/// Says which step failed.
fn child_steps(plan: &Plan) -> &'static str {
    // SAFETY: system calls on numbers and on memory of the plan, which the parent
    // keeps alive. None of them allocates or takes a lock. The handlers are the
    // child's own copy (no CLONE_SIGHAND), so are the descriptors (no CLONE_FILES).
    unsafe {
        if let Some(parent) = plan.parent {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return "prctl(PR_SET_PDEATHSIG)";
            }
            // Had the parent died just before, no signal would come any more.
            if libc::getppid() != parent {
                return "getppid";
            }
        }
        // A process group of its own: a terminal's ^C is not for replicas. Not a
        // session: with autogroup, the kernel would give each session its own
        // share of the core, and a busy one its share before all others.
        if libc::setpgid(0, 0) != 0 {
            return "setpgid";
        }
        for (target, &source) in plan.sources.iter().enumerate() {
            if source >= 0 && libc::dup2(source, target as RawFd) < 0 {
                return "dup2";
            }
        }
        if plan.parent.is_none()
            && let Err(step) = lifeline::hang_on(plan.sources.len() as RawFd - 1)
        {
            return step;
        }
        // Whatever else is open stays out, even what was opened without CLOEXEC; but
        // the program may still be among it. Where the kernel lacks this call, CLOEXEC
        // has to do.
        let first = plan.sources.len() as u32;
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for (resource, limit) in plan.limits {
            if let Some(limit) = limit {
                let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                if libc::setrlimit(resource, &limit) != 0 {
                    return "setrlimit";
                }
            }
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=libc::SIGRTMAX() {
            // Fails for SIGKILL, SIGSTOP and what glibc keeps for itself.
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::execve(plan.exe.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
        "execve"
    }
}
