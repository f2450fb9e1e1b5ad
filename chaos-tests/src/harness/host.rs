//! The daemon's process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{ComponentStatus, HarnessError, HostStatus, wait_for};
use crate::client::Client;

/// The daemon and its replicas start within this, also on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Enough of the log to see what went wrong.
const LOG_TAIL: usize = 4000;

/// How to start a daemon.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Configuration keys and their values, as with `--set`.
    pub set: Vec<(String, String)>,
    /// Where state that must survive lies; a new directory of its own when
    /// `None`.
    pub state_dir: Option<PathBuf>,
    /// Gives the daemon a view of its own in which the state directory is a file
    /// system in memory and so large, MiB: one that can be filled. It goes with
    /// the daemon. Needs root and util-linux.
    pub disk_mib: Option<u64>,
    /// The daemon is told to end when the thread that started it does, however
    /// that ends; where util-linux is there.
    pub ends_with_us: bool,
}

impl HostOptions {
    /// Adds a configuration key and its value.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.set.push((key.to_owned(), value.to_string()));
        self
    }
}

/// A running daemon; stopped when dropped.
#[derive(Debug)]
pub struct Host {
    binary: PathBuf,
    child: Child,
    dir: tempfile::TempDir,
    state_dir: PathBuf,
}

/// The command that becomes the daemon: each step replaces the one before, so
/// that the process stays the same.
fn program(binary: &Path, state_dir: &Path, options: &HostOptions) -> Command {
    const MOUNT: &str =
        "mount -t tmpfs -o size=\"$1\"m rvmm-state \"$0\" || exit; shift; exec \"$@\"";
    let mut words: Vec<OsString> = Vec::new();
    if options.ends_with_us && has_setpriv() {
        // It stays in force whatever the process becomes.
        words.extend(["setpriv", "--pdeathsig", "TERM", "--"].map(Into::into));
    }
    if let Some(disk_mib) = options.disk_mib {
        words.extend(["unshare", "--mount", "--propagation", "private"].map(Into::into));
        words.extend(["--", "sh", "-c", MOUNT].map(Into::into));
        words.extend([state_dir.into(), disk_mib.to_string().into()]);
    }
    words.push(binary.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

fn has_setpriv() -> bool {
    let tried = Command::new("setpriv").arg("--version").stdin(Stdio::null()).output();
    tried.is_ok_and(|output| output.status.success())
}

fn io<T>(what: &str, result: std::io::Result<T>) -> Result<T, HarnessError> {
    result.map_err(|source| HarnessError::Io { what: what.to_owned(), source })
}

impl Host {
    /// Starts the `rvmm` at `binary` and waits until all of its replicas run.
    ///
    /// # Errors
    /// [`HarnessError::NotReady`] with the daemon's log, or
    /// [`HarnessError::Io`].
    pub fn start(binary: &Path, options: &HostOptions) -> Result<Self, HarnessError> {
        let dir = io("making a directory", tempfile::tempdir())?;
        let log = io("making the log", File::create(dir.path().join("log")))?;
        let state_dir = options.state_dir.clone().unwrap_or_else(|| dir.path().join("state"));
        io("making a directory", std::fs::create_dir_all(&state_dir))?;
        let mut command = program(binary, &state_dir, options);
        command.arg("up").arg("--run-dir").arg(dir.path().join("run"));
        command.arg("--set").arg(format!("state_dir={}", state_dir.display()));
        for (key, value) in &options.set {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(io("sharing the log", log.try_clone())?)
            .stderr(log)
            .spawn();
        let child = io("starting rvmm", child)?;
        let mut host = Self { binary: binary.to_owned(), child, dir, state_dir };
        match host.wait_ready() {
            Err(HarnessError::TooLate { what, .. }) => Err(HarnessError::NotReady {
                reason: format!("{what} did not come in time"),
                said: host.log(),
            }),
            other => other.map(|()| host),
        }
    }

    fn wait_ready(&mut self) -> Result<(), HarnessError> {
        let socket = self.socket();
        wait_for("the xenstore socket", READY_TIMEOUT, || {
            if let Some(status) = io("waiting for rvmm", self.child.try_wait())? {
                return Err(HarnessError::NotReady {
                    reason: status.to_string(),
                    said: self.log(),
                });
            }
            let answers = Client::connect(&socket).and_then(|mut client| client.domain_path(0));
            Ok(answers.ok())
        })?;
        self.wait_complete(READY_TIMEOUT).map(|_| ())
    }

    /// The socket of domain 0.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("xenstored/socket")
    }

    /// The socket that speaks as an introduced domain.
    #[must_use]
    pub fn domain_socket(&self, domid: u16) -> PathBuf {
        let name = format!("{domid}.socket");
        self.run_dir().join("xenstored/domains").join(name)
    }

    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The state directory as this process reaches it, whatever view the daemon
    /// has of its own.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.child.id()));
        root.join(self.state_dir.strip_prefix("/").unwrap_or(&self.state_dir))
    }

    /// The file with all that the daemon logged.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The id of the process that was started, which holds the daemon.
    #[must_use]
    pub fn holder_pid(&self) -> u32 {
        self.child.id()
    }

    /// The id of the process that serves just now.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn daemon_pid(&self) -> Result<u32, HarnessError> {
        Ok(self.status()?.pid)
    }

    /// The end of what the daemon logged.
    #[must_use]
    pub fn log(&self) -> String {
        let log = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    /// Runs an `rvmm` command against this daemon, whatever it returns.
    ///
    /// # Errors
    /// [`HarnessError::Io`] when it cannot be run.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output, HarnessError> {
        let output = Command::new(&self.binary)
            .args(args)
            .env("RVMM_RUN_DIR", self.run_dir())
            .stdin(Stdio::null())
            .output();
        io("running rvmm", output)
    }

    /// Runs an `rvmm` command that must succeed and returns what it printed.
    ///
    /// # Errors
    /// [`HarnessError::Command`] when it fails.
    pub fn command(&self, args: &[&str]) -> Result<String, HarnessError> {
        let output = self.run(args)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(HarnessError::Command {
            command: args.join(" "),
            status: output.status,
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// The status; its exit code tells the health and is no failure.
    ///
    /// # Errors
    /// [`HarnessError::Status`] when it prints none.
    pub fn status(&self) -> Result<HostStatus, HarnessError> {
        let output = self.run(&["status", "-o", "json"])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The status of the xenstore component.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn xenstore(&self) -> Result<ComponentStatus, HarnessError> {
        let status = self.status()?;
        status.xenstore().cloned().ok_or_else(|| HarnessError::TooLate {
            what: "a component named xenstore".to_owned(),
            after_ms: 0,
        })
    }

    /// Injects a fault into a replica: `kill`, `hang`, `slow`, `corrupt` or
    /// `poison`; `replica` is `primary`, `standby` or an id.
    ///
    /// # Errors
    /// [`HarnessError::Command`].
    pub fn fault(&self, kind: &str, replica: &str) -> Result<(), HarnessError> {
        let args = ["fault", kind, "--component", "xenstore", "--replica", replica];
        self.command(&args).map(|_| ())
    }

    /// Waits until the component looks as wanted.
    ///
    /// # Errors
    /// [`HarnessError::TooLate`].
    pub fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&ComponentStatus) -> bool,
    ) -> Result<ComponentStatus, HarnessError> {
        wait_for(what, timeout, || Ok(self.xenstore().ok().filter(|status| wanted(status))))
    }

    /// Waits until a primary and all standbys run.
    ///
    /// # Errors
    /// [`HarnessError::TooLate`].
    pub fn wait_complete(&self, timeout: Duration) -> Result<ComponentStatus, HarnessError> {
        self.wait_until("a full set of replicas", timeout, ComponentStatus::is_complete)
    }

    /// Stops the daemon as an operator does, and waits for its end.
    ///
    /// # Errors
    /// [`HarnessError::Command`] or [`HarnessError::TooLate`].
    pub fn stop(&mut self) -> Result<(), HarnessError> {
        self.command(&["down"])?;
        self.wait_end(STOP_TIMEOUT).map(|_| ())
    }

    /// Waits until it has ended, and tells how.
    ///
    /// # Errors
    /// [`HarnessError::TooLate`].
    pub fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus, HarnessError> {
        wait_for("the end of rvmm", timeout, || io("waiting for rvmm", self.child.try_wait()))
    }

    /// Kills the holder, without warning, and so the daemon.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) && self.stop().is_err() {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log ends:\n{}", self.log());
        }
    }
}

/// Sends `signal` to a process of a host.
///
/// # Errors
/// [`HarnessError::Io`] when there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<(), HarnessError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let sent = pid.map_or(Err(rustix::io::Errno::SRCH), |pid| kill_process(pid, signal));
    io("signalling a process", sent.map_err(Into::into))
}
