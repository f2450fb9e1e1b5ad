//! The machine of the lab: made, booted, and read.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Report, ReportError};
use crate::skip::target_dir;

/// Why a run could not be had. A test that meets one in
/// [`Lab::prepare`] is skipped with [`crate::skip`].
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A script of the lab failed.
    #[error("{script}: {status}: {said}")]
    Script {
        /// Which script.
        script: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last line that it said.
        said: String,
    },
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// What came through the serial port is no report.
    #[error("{path}: {source}")]
    Report {
        /// The file that holds it.
        path: PathBuf,
        /// Why not.
        source: ReportError,
    },
}

/// Names what was tried when an I/O call fails.
fn io<T>(what: impl FnOnce() -> String, result: std::io::Result<T>) -> Result<T, LabError> {
    result.map_err(|source| LabError::Io { what: what(), source })
}

/// What time is to a machine that is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// What its processor does: a nanosecond an instruction, and what the processor would
    /// wait is skipped. So it lives as a slow real one does, and nothing that happens on
    /// this machine reaches it.
    Counted,
    /// The time that passes on this machine, while the emulated processor does a tenth of
    /// what a real one does, or stands still.
    Passing,
}

/// A machine to boot: what its dom0 runs, and goes through.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name, which its files bear as well.
    pub name: String,
    /// Its clock.
    pub clock: Clock,
    /// The script that starts the xenstore daemon inside dom0.
    pub daemon: PathBuf,
    /// The scenarios (`dom0/scenarios`), one after the other.
    pub scenarios: Vec<&'static str>,
    /// Further files for dom0's `/opt`; shared libraries come with programs. A
    /// script called `fire` runs in the background during the scenarios; the status
    /// with which it exits at SIGTERM is that of the step `fire`.
    pub files: Vec<PathBuf>,
}

impl Machine {
    /// One with a daemon that the lab knows by name (`dom0/daemons`), and which goes
    /// through these scenarios.
    #[must_use]
    pub fn of_daemon(name: &str, scenarios: &[&'static str]) -> Self {
        let daemon = scripts().join("dom0/daemons").join(name);
        let (name, scenarios) = (name.to_owned(), scenarios.to_vec());
        Self { name, clock: Clock::Counted, daemon, scenarios, files: Vec::new() }
    }

    /// Under this name instead of its daemon's.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// With this clock instead of [`Clock::Counted`].
    #[must_use]
    pub fn on(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// With this program in dom0's `/opt`.
    #[must_use]
    pub fn with(mut self, program: &Path) -> Self {
        self.files.push(program.to_owned());
        self
    }

    /// Under a fire that the lab knows by name (`dom0/fires`).
    ///
    /// # Errors
    /// When the script cannot be copied to where its name is right.
    pub fn under(mut self, fire: &str) -> Result<Self, LabError> {
        let dir = Lab::out(&self);
        let path = dir.join("fire");
        let what = || format!("copying to {}", path.display());
        io(what, std::fs::create_dir_all(&dir))?;
        io(what, std::fs::copy(scripts().join("dom0/fires").join(fire), &path))?;
        self.files.push(path);
        Ok(self)
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("xen")
}

/// What machines boot from.
#[derive(Clone, Debug)]
pub struct Lab {
    dir: PathBuf,
}

impl Lab {
    /// Fetches Debian's packages, unless they are there, and builds the images, in
    /// the directory `xen` of Cargo's target directory.
    ///
    /// # Errors
    /// [`LabError`] when this machine lacks a tool or the network.
    pub fn prepare() -> Result<Self, LabError> {
        let lab = Self { dir: target_dir().join("xen") };
        run("fetch.sh", Command::new(scripts().join("fetch.sh")).arg(&lab.dir))?;
        run("build.sh", Command::new(scripts().join("build.sh")).arg(&lab.dir))?;
        Ok(lab)
    }

    /// Boots a machine that goes through its scenarios, and reads its report. What
    /// it said is in `chaos/xen/NAME` of Cargo's target directory.
    ///
    /// # Errors
    /// [`LabError`] when it cannot be started, or is not through within `limit`
    /// without having said how far it got.
    pub fn run(&self, machine: &Machine, limit: Duration) -> Result<Report, LabError> {
        let out = Self::out(machine);
        io(|| format!("creating {}", out.display()), std::fs::create_dir_all(&out))?;
        let mut boot = Command::new(scripts().join("boot.sh"));
        boot.arg(&self.dir).arg(&out).arg(limit.as_secs().to_string());
        let clock = match machine.clock {
            Clock::Counted => "counted",
            Clock::Passing => "passing",
        };
        boot.arg(clock).arg(&machine.daemon).arg(machine.scenarios.join(" ")).args(&machine.files);
        let ended = run("boot.sh", &mut boot);
        let path = out.join("report.log");
        let text = io(|| format!("reading {}", path.display()), std::fs::read_to_string(&path));
        let report = Report::parse(&text?).map_err(|source| LabError::Report { path, source })?;
        // Steps that were reached tell more than the machine's end.
        if report.marks.is_empty() { ended.map(|()| report) } else { Ok(report) }
    }

    /// Where what a machine said is kept.
    #[must_use]
    pub fn out(machine: &Machine) -> PathBuf {
        target_dir().join("chaos/xen").join(&machine.name)
    }
}

fn run(script: &'static str, command: &mut Command) -> Result<(), LabError> {
    let output = io(|| format!("running {script}"), command.stdin(Stdio::null()).output())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or_default().to_owned();
    Err(LabError::Script { script, status: output.status, said })
}
