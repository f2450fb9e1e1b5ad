//! The packages that the comparison needs, unpacked in a work directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{PeerError, io};

const SCRIPT: &str = include_str!("../../peers/fetch.sh");
const STUB: &str = include_str!("../../peers/xenfake.c");

/// A part of the kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KitPart {
    /// Debian's daemons, their client tools and the stub.
    Daemons,
    /// A Python client and its tests.
    Pyxs,
}

impl KitPart {
    fn name(self) -> &'static str {
        match self {
            Self::Daemons => "daemons",
            Self::Pyxs => "pyxs",
        }
    }
}

/// A work directory that holds fetched parts.
#[derive(Clone, Debug)]
pub struct Kit {
    dir: PathBuf,
}

impl Kit {
    /// Fetches `part` into the default directory: `RVMM_PEERS`, or `peers` in
    /// Cargo's target directory. Quick when it is there already.
    ///
    /// # Errors
    /// [`PeerError::Fetch`] when the machine lacks a tool or the registry.
    pub fn fetch(part: KitPart) -> Result<Self, PeerError> {
        let dir = std::env::var_os("RVMM_PEERS")
            .map_or_else(|| crate::skip::target_dir().join("peers"), PathBuf::from);
        Self::fetch_into(&dir, part)
    }

    /// Fetches `part` into `dir`.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_into(dir: &Path, part: KitPart) -> Result<Self, PeerError> {
        io(|| format!("creating {}", dir.display()), std::fs::create_dir_all(dir))?;
        let script = place(dir, "fetch.sh", SCRIPT)?;
        place(dir, "xenfake.c", STUB)?;
        let output = io(
            || "running bash".to_owned(),
            Command::new("bash")
                .arg(&script)
                .arg(dir)
                .arg(part.name())
                .stdin(Stdio::null())
                .output(),
        )?;
        if output.status.success() {
            let dir = io(|| format!("resolving {}", dir.display()), dir.canonicalize())?;
            return Ok(Self { dir });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = said.lines().rev().take(3).collect();
        Err(PeerError::Fetch {
            part: part.name(),
            reason: lines.into_iter().rev().collect::<Vec<_>>().join("; "),
        })
    }

    /// The work directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of the programs of Debian's xenstore-utils, such as `xenstore-ls`, or
    /// of Xen's own directory, such as `test-xenstore`, speaking to the daemon
    /// at `socket`.
    #[must_use]
    pub fn tool(&self, name: &str, socket: &Path) -> Command {
        let own = self.xen_bin(name);
        let path = if own.exists() { own } else { self.dir.join("root/usr/bin").join(name) };
        let mut command = Command::new(path);
        command
            .env("LD_LIBRARY_PATH", self.lib_dir())
            .env("XENSTORED_PATH", socket)
            .stdin(Stdio::null());
        command
    }

    pub(super) fn xen_bin(&self, name: &str) -> PathBuf {
        self.dir.join("root/usr/lib/xen-4.17/bin").join(name)
    }

    pub(super) fn lib_dir(&self) -> PathBuf {
        self.dir.join("root/usr/lib/x86_64-linux-gnu")
    }

    pub(super) fn stub(&self) -> PathBuf {
        self.dir.join("libxenfake.so")
    }
}

/// Writes a file of the kit, if it is not there as it should be: an unchanged
/// stub is not built anew. Tests run side by side, so it is replaced at once.
fn place(dir: &Path, name: &str, content: &str) -> Result<PathBuf, PeerError> {
    let path = dir.join(name);
    if std::fs::read_to_string(&path).is_ok_and(|old| old == content) {
        return Ok(path);
    }
    let fail = || format!("writing {}", path.display());
    let mut file = io(fail, tempfile::NamedTempFile::new_in(dir))?;
    io(fail, std::io::Write::write_all(&mut file, content.as_bytes()))?;
    io(fail, file.persist(&path).map_err(|error| error.error))?;
    Ok(path)
}
