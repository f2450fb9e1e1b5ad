//! Whose xenstored a Xen host starts when it boots: Xen's own, or this program.
//!
//! Xen's start scripts (Debian's `/etc/init.d/xen`; `launch-xenstore`, which upstream's
//! `xenstored.service` runs) start the program that the variable `XENSTORED` names. They
//! read it from a file of settings that belongs to the administrator and that package
//! upgrades leave alone. A few lines at the end of that file are all that is needed. The
//! scripts have no room for a subcommand, so the program is called by a link with the
//! name `xenstored`. Where that link leads nowhere, the host boots with Xen's own daemon.

mod settings;

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

pub use settings::Settings;
use settings::{with_lines, without_lines};

/// The link by which start scripts call this program.
pub const LINK: &str = "/usr/local/lib/rvmm/xenstored";

/// A start script that has one (or "": any), and the file of settings that it reads.
const PLACES: [(&str, &str); 3] = [
    ("etc/init.d/xen", "etc/default/xen"),
    ("", "etc/default/xencommons"),
    ("", "etc/sysconfig/xencommons"),
];

/// More than any file of settings; what is larger is something else.
const SETTINGS_BYTES: u64 = 64 * 1024;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No such host, or one of which nothing is known here.
    #[error(
        "{}: none of Xen's start scripts: there is neither /etc/init.d/xen with /etc/default/xen \
         (Debian), nor /etc/default/xencommons, nor /etc/sysconfig/xencommons (others)",
        root.display()
    )]
    NoStartScript {
        /// Where they were looked for.
        root: PathBuf,
    },
    /// What is to be read or written cannot be.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// The file of settings is not what a start script could use.
    #[error("{}: {why}", path.display())]
    Settings {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody else's file is where the link is to be.
    #[error("{} is there and no link of ours; move it away", path.display())]
    InTheWay {
        /// Which.
        path: PathBuf,
    },
    /// The host could not start it.
    #[error("{} is not there, so the host could not start it", path.display())]
    NoProgram {
        /// Where it would have to be.
        path: PathBuf,
    },
}

/// The places on one host that say what it starts.
#[derive(Debug)]
pub struct Boot {
    root: PathBuf,
    settings: PathBuf,
}

impl Boot {
    /// Those of the host whose files are below `root`.
    ///
    /// # Errors
    /// [`BootError::NoStartScript`].
    pub fn find(root: &Path) -> Result<Self, BootError> {
        let is_there = |(script, settings): &(&str, &str)| {
            root.join(script).exists() && root.join(settings).is_file()
        };
        let (_, settings) = PLACES
            .iter()
            .find(|place| is_there(place))
            .ok_or_else(|| BootError::NoStartScript { root: root.to_path_buf() })?;
        Ok(Self { root: root.to_path_buf(), settings: root.join(settings) })
    }

    /// Where on this machine is what the host knows under `path`.
    fn below_root(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn link(&self) -> PathBuf {
        self.below_root(Path::new(LINK))
    }

    fn read(&self) -> Result<Vec<u8>, BootError> {
        let len = std::fs::metadata(&self.settings).map_err(at(&self.settings))?.len();
        if len > SETTINGS_BYTES {
            return Err(self.unusable(format!("{len} bytes, more than a file of settings has")));
        }
        std::fs::read(&self.settings).map_err(at(&self.settings))
    }

    fn unusable(&self, why: String) -> BootError {
        BootError::Settings { path: self.settings.clone(), why }
    }

    /// The settings as the administrator left them, without our lines.
    ///
    /// # Errors
    /// [`BootError::File`], [`BootError::Settings`].
    pub fn settings(&self) -> Result<Settings, BootError> {
        let content = self.read()?;
        let theirs = without_lines(&content).map_err(|why| self.unusable(why))?;
        Settings::evaluate(theirs.as_deref().unwrap_or(&content)).map_err(|why| self.unusable(why))
    }

    /// Whether the host starts this program.
    ///
    /// # Errors
    /// [`BootError::File`], [`BootError::Settings`].
    pub fn is_enabled(&self) -> Result<bool, BootError> {
        let ours = without_lines(&self.read()?).map_err(|why| self.unusable(why))?;
        let program = std::fs::read_link(self.link());
        Ok(ours.is_some() && program.is_ok_and(|program| self.below_root(&program).is_file()))
    }

    /// Has the host start `program` from its next boot on; returns what was changed, a
    /// line each.
    ///
    /// # Errors
    /// [`BootError`]; nothing is in force then.
    pub fn enable(&self, program: &Path) -> Result<Vec<String>, BootError> {
        if !self.below_root(program).is_file() {
            return Err(BootError::NoProgram { path: self.below_root(program) });
        }
        let content = self.read()?;
        let before = self.settings()?;
        if before.is_domain() {
            let why = "XENSTORETYPE=domain: the store is in a domain of its own here";
            return Err(self.unusable(why.into()));
        }
        let mut changes = Vec::new();
        changes.extend(self.make_link(program)?);
        let theirs = without_lines(&content).map_err(|why| self.unusable(why))?;
        let wanted = with_lines(theirs.as_deref().unwrap_or(&content));
        if wanted != content {
            replace(&self.settings, &wanted)?;
            let was = match &*before.xenstored {
                "" => "was not set".into(),
                set => format!("was {set}"),
            };
            let file = self.settings.display();
            changes.push(format!("{file}: lines added at the end: XENSTORED={LINK} ({was})"));
        }
        Ok(changes)
    }

    /// Has the host start what it started before, from its next boot on; returns what was
    /// changed, a line each.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn disable(&self) -> Result<Vec<String>, BootError> {
        let mut changes = Vec::new();
        if let Some(theirs) = without_lines(&self.read()?).map_err(|why| self.unusable(why))? {
            replace(&self.settings, &theirs)?;
            changes.push(format!("{}: our lines taken out", self.settings.display()));
        }
        let link = self.link();
        if link.is_symlink() {
            std::fs::remove_file(&link).map_err(at(&link))?;
            changes.push(format!("{}: removed", link.display()));
            // Only if there is nothing else in it.
            let _ = link.parent().map(std::fs::remove_dir);
        }
        Ok(changes)
    }

    fn make_link(&self, program: &Path) -> Result<Option<String>, BootError> {
        let link = self.link();
        match std::fs::read_link(&link) {
            Ok(leads_to) if leads_to == program => return Ok(None),
            Ok(_) => std::fs::remove_file(&link).map_err(at(&link))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return Err(BootError::InTheWay { path: link }),
        }
        let dir = link.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        symlink(program, &link).map_err(at(&link))?;
        Ok(Some(format!("{}: made, a link to {}", link.display(), program.display())))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BootError {
    let path = path.to_path_buf();
    move |why| BootError::File { path, why }
}

/// Writes a new file and gives it the name, owner and mode of the old one: a crash leaves
/// either, whole.
fn replace(path: &Path, content: &[u8]) -> Result<(), BootError> {
    let write = || -> io::Result<()> {
        let path = path.canonicalize()?;
        let old = path.metadata()?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(content)?;
        std::os::unix::fs::chown(new.path(), Some(old.uid()), Some(old.gid()))?;
        new.as_file().set_permissions(old.permissions())?;
        new.as_file().sync_all()?;
        new.persist(&path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().map_err(at(path))
}

#[cfg(test)]
mod tests;
