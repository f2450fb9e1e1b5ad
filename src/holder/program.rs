//! The program that a daemon is started from, and whether another one may take over.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use coordinator::HANDOVER_FORMAT;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

/// The command that prints [`About`]. It is not for people, and not in the help.
pub(crate) const ABOUT_COMMAND: &str = "handover-format";
/// How long a program may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// More is not read of what it says, bytes.
const MAX_ABOUT: u64 = 4096;
/// What the kernel appends to the path of a program whose file is gone.
const DELETED: &str = " (deleted)";

/// What a program says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// What it can be handed.
    pub(crate) handover_format: u32,
    /// Its version.
    pub(crate) version: String,
}

impl About {
    /// This program.
    pub(crate) fn own() -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { handover_format: HANDOVER_FORMAT, version }
    }
}

/// Why a program cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be opened.
    #[error("{}: {why}", path.display())]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
    /// It is no `rvmm`, or one from before there were handovers.
    #[error("{} is no rvmm that can take over: {why}", path.display())]
    Stranger {
        /// Where it is.
        path: PathBuf,
        /// What it did instead of saying what it is.
        why: String,
    },
    /// It would not understand what it would be handed.
    #[error(
        "{} (rvmm {version}) takes over what is of format {format}; here is format {HANDOVER_FORMAT}: \
         stop the daemon and start the other one", path.display()
    )]
    Format {
        /// Where it is.
        path: PathBuf,
        /// Its version.
        version: String,
        /// Its format.
        format: u32,
    },
}

/// A program, open, so that it is what it was whatever becomes of its file.
#[derive(Debug)]
pub struct Program {
    /// Where it was found, for people.
    pub(crate) path: PathBuf,
    /// Itself.
    pub(crate) file: OwnedFd,
}

impl Program {
    /// The program that this process runs.
    pub(super) fn own() -> std::io::Result<Self> {
        Ok(Self { path: own_path()?, file: File::open("/proc/self/exe")?.into() })
    }

    /// Opens a program that may take over from the one that runs here, and has it say
    /// what it is. Without a path it is what is now where this one was.
    ///
    /// # Errors
    /// Why it may not: any [`ProgramError`].
    pub(crate) async fn examine(path: Option<PathBuf>) -> Result<Self, ProgramError> {
        let found = path.map_or_else(own_path, Ok);
        let path = found.map_err(|why| ProgramError::Unreadable { path: "/proc".into(), why })?;
        let program = match File::open(&path) {
            Ok(file) => Self { file: file.into(), path },
            Err(why) => return Err(ProgramError::Unreadable { path, why }),
        };
        match program.about().await {
            Err(why) => Err(ProgramError::Stranger { path: program.path, why }),
            Ok(About { handover_format: HANDOVER_FORMAT, .. }) => Ok(program),
            Ok(About { handover_format: format, version }) => {
                Err(ProgramError::Format { path: program.path, version, format })
            }
        }
    }

    /// What it says of itself.
    async fn about(&self) -> Result<About, String> {
        // What is opened is what is asked, and what will be started.
        let mut child =
            tokio::process::Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
                .arg(ABOUT_COMMAND)
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| error.to_string())?;
        let mut said = Vec::new();
        let stdout = child.stdout.take().ok_or("it has no output")?;
        let told = async {
            stdout.take(MAX_ABOUT).read_to_end(&mut said).await?;
            child.wait().await
        };
        match tokio::time::timeout(PATIENCE, told).await {
            Err(_) => Err(format!("it said nothing for {} s", PATIENCE.as_secs())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(status)) if !status.success() => Err(format!("it ended with {status}")),
            Ok(Ok(_)) => serde_json::from_slice(&said).map_err(|error| error.to_string()),
        }
    }
}

/// Where this program was started from, or what has replaced it.
fn own_path() -> std::io::Result<PathBuf> {
    std::fs::read_link("/proc/self/exe").map(without_mark)
}

fn without_mark(path: PathBuf) -> PathBuf {
    // A file may really be called so.
    let name = path.to_str().filter(|_| !path.exists());
    name.and_then(|name| name.strip_suffix(DELETED)).map(Path::new).map_or(path.clone(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(path: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let examined = runtime.block_on(Program::examine(Some(path.into())));
        examined.unwrap_err().to_string()
    }

    #[test]
    fn strangers_do_not_take_over() {
        for (path, why) in [
            (
                "/bin/false",
                "/bin/false is no rvmm that can take over: it ended with exit status: 1",
            ),
            ("/bin/true", "/bin/true is no rvmm that can take over: EOF while parsing"),
            // It never stops talking.
            (
                "/usr/bin/yes",
                "/usr/bin/yes is no rvmm that can take over: it ended with signal: 13",
            ),
            ("/nosuch/rvmm", "/nosuch/rvmm: No such file or directory"),
            ("/etc/passwd", "/etc/passwd is no rvmm that can take over: Permission denied"),
        ] {
            let error = examined(path);
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn another_format_is_named() {
        let (path, version) = ("/opt/rvmm".into(), "9.9".into());
        let error = ProgramError::Format { path, version, format: 99 }.to_string();
        assert!(error.starts_with("/opt/rvmm (rvmm 9.9) takes over what is of format 99; "));
    }

    #[test]
    fn the_mark_of_a_replaced_file_is_no_part_of_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rvmm");
        let marked = dir.path().join("rvmm (deleted)");
        assert_eq!(without_mark(marked.clone()), path);
        assert_eq!(without_mark(path.clone()), path);
        std::fs::write(&marked, "").unwrap();
        assert_eq!(without_mark(marked.clone()), marked);
    }
}
