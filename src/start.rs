//! What a daemon starts with: the run directory, which is its own alone, and the
//! ones who wait to hear that it is ready.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;

/// Why a run directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// Another daemon has it.
    #[error(
        "another rvmm (pid {pid}) already serves {}; stop it with `rvmm down`, or choose \
         another --run-dir", path.display()
    )]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The other daemon, as it wrote down.
        pid: String,
    },
    /// It cannot be made or written.
    #[error("run directory {}: {why}", path.display())]
    Unusable {
        /// What was to be made.
        path: PathBuf,
        /// Why not.
        why: io::Error,
    },
}

/// A run directory that this process has for itself, as long as this lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The lock goes when nobody has this open any more, whatever they died of.
    lock: File,
}

impl RunDir {
    /// Makes the directory and takes its lock.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn claim(path: &Path) -> Result<Self, RunDirError> {
        make_dir(path).map_err(unusable(path))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(unusable(&lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(RunDirError::Taken { path: path.to_path_buf(), pid: read_pid(&lock) });
        }
        write_pid(&mut lock).map_err(unusable(&lock_path))?;
        Ok(Self { path: path.to_path_buf(), lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is to be kept open by whoever else has the directory together with this
    /// process.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// The process id of the daemon that has `run_dir`, as it wrote that down; none when no
/// daemon has it.
///
/// # Errors
/// What reading the lock may meet.
pub fn holder(run_dir: &Path) -> io::Result<Option<String>> {
    match File::open(run_dir.join("lock")) {
        Ok(lock) if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() => Ok(None),
        Ok(lock) => Ok(Some(read_pid(&lock))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_pid(lock: &File) -> String {
    let mut pid = String::new();
    // Who holds it may not have written yet.
    let _ = lock.take(20).read_to_string(&mut pid);
    pid.trim().to_owned()
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    let path = path.to_path_buf();
    move |why| RunDirError::Unusable { path, why }
}

/// The control socket of the daemon that serves `run_dir`.
#[must_use]
pub fn control_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// The log file of a daemon that was started with `--detach`.
#[must_use]
pub fn log_file(run_dir: &Path) -> PathBuf {
    run_dir.join("rvmm.log")
}

/// Makes a directory for its owner alone, unless it is there.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// Tells those who wait how the daemon is: the service manager, and whoever reads
/// standard output.
#[derive(Debug)]
pub struct Announcer {
    detached: bool,
    announced: bool,
}

/// What is printed when the daemon is ready, before what it has to say.
pub(crate) const READY_WORD: &str = "ready: ";

impl Announcer {
    /// `detached`: nobody reads standard output once the daemon is ready.
    #[must_use]
    pub fn new(detached: bool) -> Self {
        Self { detached, announced: false }
    }

    /// A daemon serves; `what` says what, in one line. Only the first one is printed.
    pub fn ready(&mut self, what: &str) {
        self.notify(&[NotifyState::Ready, NotifyState::Status(what)]);
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        // Nobody to tell is no reason to stop serving.
        let _ = writeln!(io::stdout(), "{READY_WORD}{what}");
        if self.detached
            && let Ok(null) = OpenOptions::new().write(true).open("/dev/null")
        {
            let _ = rustix::stdio::dup2_stdout(null);
        }
    }

    /// What goes on instead of serving.
    pub fn status(&self, what: &str) {
        self.notify(&[NotifyState::Status(what)]);
    }

    /// The daemon is going down.
    pub fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    fn notify(&self, state: &[NotifyState<'_>]) {
        // Without a service manager there is nobody to tell.
        let _ = sd_notify::notify(false, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_dir_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = RunDir::claim(&path).unwrap();
        let error = RunDir::claim(&path).unwrap_err().to_string();
        let expected = format!("another rvmm (pid {}) already serves", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(holder(&path).unwrap(), Some(std::process::id().to_string()));
        drop(first);
        assert_eq!(holder(&path).unwrap(), None);
        RunDir::claim(&path).unwrap();
    }

    #[test]
    fn a_run_dir_that_cannot_be_made_is_named() {
        let error = RunDir::claim(Path::new("/proc/nosuch/dir")).unwrap_err().to_string();
        assert!(error.starts_with("run directory /proc/nosuch/dir: "), "{error}");
    }
}
