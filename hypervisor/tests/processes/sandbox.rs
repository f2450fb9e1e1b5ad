//! What a caged replica can do and cannot.

use std::path::Path;
use std::time::Duration;

use hypervisor::domain::{Exit, ProcessDomain};
use hypervisor::fabric::Doorbell;
use hypervisor::sandbox::{self, Access, Confinement, FileAccess};

use super::{PATIENCE, spec};

pub(super) const TESTS: &[(&str, fn())] = &[
    ("sandbox::what_a_replica_needs_works", what_a_replica_needs_works),
    ("sandbox::what_it_must_not_do_fails", what_it_must_not_do_fails),
    ("sandbox::what_only_an_intruder_does_kills", what_only_an_intruder_does_kills),
    ("sandbox::files_are_confined_to_a_directory", files_are_confined_to_a_directory),
];

/// The child's part: 0 when all is as it should be, otherwise the failing step.
pub(super) fn play(what: &str) -> i32 {
    if let Some(directory) = what.strip_prefix("files:") {
        return play_files(Path::new(directory));
    }
    if sandbox::enter(&Access { files: FileAccess::Nothing, runs_guest: false }).is_err() {
        return 100;
    }
    match what {
        "works" => first_failure(&[
            || std::thread::spawn(|| vec![1u8; 8 << 20].len()).join().is_ok(),
            || {
                let named = std::thread::Builder::new().name("worker".into());
                named.spawn(|| panic!("unwinds")).is_ok_and(|thread| thread.join().is_err())
            },
            || {
                std::thread::sleep(Duration::from_millis(1));
                std::time::Instant::now().elapsed() < PATIENCE
            },
            || {
                let Ok(bell) = Doorbell::new() else { return false };
                let Ok(bell) = bell.duplicate_fd().map(Doorbell::from_fd) else { return false };
                bell.ring();
                bell.wait(Duration::from_secs(1)) && !bell.wait(Duration::from_millis(1))
            },
            || {
                let (sender, receiver) = std::sync::mpsc::channel();
                let thread = std::thread::spawn(move || receiver.recv());
                sender.send(1).is_ok() && matches!(thread.join(), Ok(Ok(1)))
            },
            || {
                std::thread::yield_now();
                std::thread::available_parallelism().is_ok()
            },
        ]),
        "fails" => first_failure(&[
            || std::fs::File::open("/dev/null").is_err(),
            || std::fs::read_dir("/").is_err(),
            || std::fs::remove_file("/no/such/file").is_err(),
            || {
                let Ok(bell) = Doorbell::new() else { return false };
                rustix::fs::fcntl_setfl(&bell, rustix::fs::OFlags::empty()).is_err()
            },
            // SAFETY: if it is refused nothing happens, and otherwise the child of the
            // fork ends at once.
            || match unsafe { libc::fork() } {
                0 => std::process::exit(0),
                pid => pid < 0,
            },
            // SAFETY: a new mapping touches no other memory.
            || unsafe {
                let exec = libc::PROT_READ | libc::PROT_EXEC;
                let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                libc::mmap(std::ptr::null_mut(), 4096, exec, private, -1, 0) == libc::MAP_FAILED
            },
            // SAFETY: signal 0 only asks whether it could be sent.
            || unsafe { libc::kill(libc::getppid(), 0) } != 0,
            // SAFETY: as above.
            || unsafe { libc::syscall(libc::SYS_tgkill, libc::getppid(), libc::getppid(), 0) != 0 },
        ]),
        // SAFETY: plain system calls without memory, or with none that they reach.
        "socket" => unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) },
        "exec" => {
            let argv = [std::ptr::null()];
            // SAFETY: the path is a C string and the vectors end with null.
            unsafe { libc::execve(c"/bin/true".as_ptr(), argv.as_ptr(), argv.as_ptr()) }
        }
        // SAFETY: asks to be traced; no memory involved.
        "ptrace" => (unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }) as i32,
        // SAFETY: as above, with empty vectors.
        "memory" => {
            let nothing = std::ptr::null();
            // SAFETY: empty vectors: no memory is reached.
            (unsafe { libc::process_vm_readv(1, nothing, 0, nothing, 0, 0) }) as i32
        }
        "thread" => {
            let thread = std::thread::spawn(|| {
                // SAFETY: a plain system call.
                unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) }
            });
            i32::from(thread.join().is_err())
        }
        _ => 101,
    }
}

fn first_failure(steps: &[fn() -> bool]) -> i32 {
    steps.iter().position(|step| !step()).map_or(0, |index| index as i32 + 1)
}

fn play_files(directory: &Path) -> i32 {
    let files = FileAccess::Directory(directory.to_path_buf());
    match sandbox::enter(&Access { files, runs_guest: false }) {
        Ok(Confinement::Enforced) => {}
        Ok(Confinement::Unsupported) => return 77,
        Err(_) => return 100,
    }
    let (old, new) = (directory.join("old"), directory.join("new"));
    let steps = [
        std::fs::write(&old, b"text").is_ok(),
        std::fs::rename(&old, &new).is_ok(),
        std::fs::read(&new).is_ok_and(|text| text == b"text"),
        std::fs::File::open(&new).is_ok_and(|file| file.sync_all().is_ok()),
        std::fs::create_dir(directory.join("sub")).is_ok(),
        std::fs::read_dir(directory).is_ok_and(|entries| entries.count() == 2),
        std::fs::remove_file(&new).is_ok(),
        std::fs::read("/etc/hostname").is_err(),
        std::fs::read_dir("/").is_err(),
        std::fs::File::open("/proc/self/fd/0").is_err(),
        std::fs::write(directory.join("../outside"), b"x").is_err(),
        std::thread::spawn(|| std::fs::read("/proc/self/maps").is_err()).join().unwrap_or(false),
    ];
    steps.iter().position(|step| !step).map_or(0, |index| index as i32 + 1)
}

fn outcome(what: &str) -> Exit {
    let mut domain = ProcessDomain::spawn(spec(&format!("sandbox:{what}"))).expect("spawn");
    domain.wait(PATIENCE).expect("wait").expect("an end")
}

fn what_a_replica_needs_works() {
    assert_eq!(outcome("works"), Exit::Code(0));
}

fn what_it_must_not_do_fails() {
    assert_eq!(outcome("fails"), Exit::Code(0));
}

fn what_only_an_intruder_does_kills() {
    for what in ["socket", "exec", "ptrace", "memory", "thread"] {
        assert_eq!(outcome(what), Exit::Signal(libc::SIGSYS), "{what}");
    }
}

fn files_are_confined_to_a_directory() {
    let parent = std::env::temp_dir().join(format!("rvmm-sandbox-{}", std::process::id()));
    let directory = parent.join("own");
    std::fs::create_dir_all(&directory).expect("a directory");
    let outcome = outcome(&format!("files:{}", directory.display()));
    std::fs::remove_dir_all(&parent).expect("cleaning up");
    if outcome == Exit::Code(77) {
        eprintln!("this kernel has no Landlock");
        return;
    }
    assert_eq!(outcome, Exit::Code(0));
}
