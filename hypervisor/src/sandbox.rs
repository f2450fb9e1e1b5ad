//! The cage that a replica locks itself into when it has everything it needs.
//!
//! * It can gain no privileges (`no_new_privs`).
//! * System calls that no replica has any business with (sockets, executing,
//!   tracing, mounting, ...) kill it: it is compromised or broken, and a replica
//!   that is fenced does less harm than one that carries on.
//! * All others that are not on the list of what the runtime needs fail with
//!   `ENOSYS`, so that a C library which tries something new falls back to what it
//!   did before.
//! * New processes cannot be made, only threads; memory cannot become executable.
//! * Where it has a virtual machine, it can enter that; no other `ioctl` works.
//! * Files: a replica that keeps nothing cannot open any. One that keeps its log
//!   on disk can open files, confined to its own directory by Landlock where the
//!   kernel has it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use thiserror::Error;

use crate::kvm::KVM_RUN;

/// Which files a replica can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileAccess {
    /// None; opening fails. Descriptors that it has keep working.
    Nothing,
    /// Everything under one directory.
    Directory(PathBuf),
}

/// What a replica needs beside what all need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which files it can reach.
    pub files: FileAccess,
    /// Whether it can enter the virtual machine that it has booted. It cannot make
    /// another one, nor change this one.
    pub runs_guest: bool,
}

/// Whether files outside the replica's directory are out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// They are.
    Enforced,
    /// The kernel has no Landlock (before 5.13, or not enabled): the replica can
    /// open whatever its user may, and through `/proc/self/fd` map the other
    /// replicas' regions writable.
    Unsupported,
}

/// Why the cage could not be closed. The process is partly restricted then and
/// should end.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Landlock failed.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The directory cannot be opened.
    #[error("landlock: {0}")]
    Directory(#[from] landlock::PathFdError),
    /// A system call filter failed.
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
    /// A system call filter could not be built.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Locks the calling process in, for good. To be called by a replica after it has
/// attached and opened what it needs, and before it takes anything from outside.
/// With [`FileAccess::Directory`] it must be called before threads are started:
/// Landlock binds the calling thread and those it starts; the system call filters
/// bind all threads.
///
/// # Errors
/// When the kernel lacks seccomp, or the directory does not exist.
pub fn enter(access: &Access) -> Result<Confinement, SandboxError> {
    let confinement = match &access.files {
        FileAccess::Nothing => Confinement::Enforced,
        FileAccess::Directory(directory) => confine(directory)?,
    };
    for program in [kill_filter()?, allow_filter(access)?] {
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(confinement)
}

fn confine(directory: &PathBuf) -> Result<Confinement, SandboxError> {
    let abi = ABI::V5;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(directory)?, AccessFs::from_all(abi)))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::NotEnforced => Confinement::Unsupported,
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Confinement::Enforced,
    })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(
    rules: Rules,
    on_mismatch: SeccompAction,
    on_match: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, on_mismatch, on_match, architecture)?.try_into()?)
}

/// No replica has any business with these.
const KILL: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_keyctl,
    libc::SYS_add_key,
];

/// What the Rust runtime, the C library's threads and allocator, and our own
/// rings, doorbells and waiting need.
const ALWAYS: &[i64] = &[
    // Handing over, waiting, waking.
    libc::SYS_sched_yield,
    libc::SYS_futex,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_timerfd_settime,
    // Time and facts.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_getrlimit,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getcpu,
    libc::SYS_sched_getaffinity,
    // Descriptors that are open; fcntl has conditions.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_lseek,
    // Memory; mmap and mprotect have conditions.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads; clone has conditions.
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals to oneself; tgkill has conditions.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
];

/// What may be done to a descriptor. Not F_SETFL: it could make a doorbell that is
/// shared with the host block the host. Not F_ADD_SEALS.
const DESCRIPTOR_COMMANDS: &[libc::c_int] = &[
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_OFD_SETLK,
    libc::F_GET_SEALS,
];

#[cfg(target_arch = "x86_64")]
const ALWAYS_LEGACY: &[i64] =
    &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_dup2, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_LEGACY: &[i64] = &[];

/// What a log store on disk needs beside that. Landlock decides where.
const FILES: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_flock,
    libc::SYS_msync,
];

#[cfg(target_arch = "x86_64")]
const FILES_LEGACY: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
];
#[cfg(not(target_arch = "x86_64"))]
const FILES_LEGACY: &[i64] = &[];

fn kill_filter() -> Result<BpfProgram, SandboxError> {
    let rules = KILL.iter().map(|&call| (call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn allow_filter(access: &Access) -> Result<BpfProgram, SandboxError> {
    // Where the two filters disagree, the kernel does the stricter thing.
    let mut rules: Rules =
        [ALWAYS, ALWAYS_LEGACY].into_iter().flatten().map(|&call| (call, Vec::new())).collect();
    if matches!(access.files, FileAccess::Directory(_)) {
        rules.extend([FILES, FILES_LEGACY].into_iter().flatten().map(|&call| (call, Vec::new())));
    }
    let if_arg = |index, operation, value: u64| {
        let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operation, value)?;
        SeccompRule::new(vec![condition])
    };
    if access.runs_guest {
        rules.insert(libc::SYS_ioctl, vec![if_arg(1, SeccompCmpOp::Eq, KVM_RUN)?]);
    }
    let no_exec = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    rules.insert(libc::SYS_mmap, vec![if_arg(2, no_exec.clone(), 0)?]);
    rules.insert(libc::SYS_mprotect, vec![if_arg(2, no_exec, 0)?]);
    // Threads only. The flags of clone3 are in memory, where no filter sees them:
    // it fails with ENOSYS, and the C library uses clone.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![if_arg(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    let commands = DESCRIPTOR_COMMANDS
        .iter()
        .map(|command| if_arg(1, SeccompCmpOp::Eq, command.unsigned_abs().into()))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_fcntl, commands);
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![if_arg(0, SeccompCmpOp::Eq, own)?]);
    // Its own limits may be asked for; 0 and its own id mean itself.
    rules.insert(
        libc::SYS_prlimit64,
        vec![if_arg(0, SeccompCmpOp::Eq, 0)?, if_arg(0, SeccompCmpOp::Eq, own)?],
    );
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    let name_memory = u64::from(libc::PR_SET_VMA.unsigned_abs());
    rules.insert(
        libc::SYS_prctl,
        vec![if_arg(0, SeccompCmpOp::Eq, name)?, if_arg(0, SeccompCmpOp::Eq, name_memory)?],
    );
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    compile(rules, enosys, SeccompAction::Allow)
}
