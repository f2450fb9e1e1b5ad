//! What the daemon holds when it starts: the run directory, which is its own
//! alone, and the ones who wait to hear that it is ready.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
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
    /// The lock goes when this is closed, also at any kind of death. It is not
    /// inherited by other programs.
    _lock: File,
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
            let mut pid = String::new();
            let _ = (&lock).take(20).read_to_string(&mut pid);
            return Err(RunDirError::Taken { path: path.to_path_buf(), pid: pid.trim().into() });
        }
        write_pid(&mut lock).map_err(unusable(&lock_path))?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a daemon has `run_dir`.
///
/// # Errors
/// What reading the lock may meet.
pub fn is_taken(run_dir: &Path) -> io::Result<bool> {
    match File::open(run_dir.join("lock")) {
        Ok(lock) => Ok(flock(&lock, FlockOperation::NonBlockingLockShared).is_err()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
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

/// Tells those who wait that the daemon is ready: the service manager, and
/// whoever reads standard output.
#[derive(Debug)]
pub struct Ready {
    detached: bool,
}

/// What a detached daemon prints when it is ready, before what it has to say.
pub(crate) const READY_WORD: &str = "ready: ";

impl Ready {
    /// `detached`: nobody reads standard output after that.
    #[must_use]
    pub fn new(detached: bool) -> Self {
        Self { detached }
    }

    /// The daemon serves; `what` says what, in one line.
    pub fn notify(self, what: &str) {
        // Nobody to tell is no reason to stop serving.
        let _ = writeln!(io::stdout(), "{READY_WORD}{what}");
        let _ = sd_notify::notify(false, &[NotifyState::Ready, NotifyState::Status(what)]);
        if self.detached
            && let Ok(null) = OpenOptions::new().write(true).open("/dev/null")
        {
            let _ = rustix::stdio::dup2_stdout(null);
        }
    }
}

/// Tells the service manager that the daemon is going down.
pub(crate) fn notify_stopping() {
    let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
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
        assert!(is_taken(&path).unwrap());
        drop(first);
        assert!(!is_taken(&path).unwrap());
        RunDir::claim(&path).unwrap();
    }

    #[test]
    fn a_run_dir_that_cannot_be_made_is_named() {
        let error = RunDir::claim(Path::new("/proc/nosuch/dir")).unwrap_err().to_string();
        assert!(error.starts_with("run directory /proc/nosuch/dir: "), "{error}");
    }
}
