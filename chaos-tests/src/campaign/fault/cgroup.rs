//! A control group of our own with little processor time, in either of the
//! kernel's two hierarchies.

use std::path::{Path, PathBuf};

use super::victim::Victim;
use super::{FaultError, own_name};

const ROOT: &str = "/sys/fs/cgroup";
const PERIOD_US: u64 = 20_000;

/// A replica's quota; taken back when this is dropped.
#[derive(Debug)]
pub(super) struct Quota {
    dir: PathBuf,
    /// Where the replica was before.
    back: PathBuf,
    pid: String,
}

fn write(path: &Path, text: &str) -> Result<(), FaultError> {
    std::fs::write(path, text)
        .map_err(|error| FaultError::Unavailable(format!("{}: {error}", path.display())))
}

/// The group in `/proc/PID/cgroup` that the controller `name` has, or the one of
/// the unified hierarchy when it is empty.
fn group_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|controller| controller == name).then_some(path)
    })
}

fn below(root: &Path, group: &str) -> PathBuf {
    root.join(group.trim_start_matches('/'))
}

impl Quota {
    /// Grants a replica so much of one core.
    pub(super) fn impose(victim: &Victim, percent: u64) -> Result<Self, FaultError> {
        let groups = victim.read_proc("cgroup")?;
        let pid = victim.pid.as_raw_nonzero().to_string();
        let quota_us = (PERIOD_US * percent / 100).max(1000);
        let first = Path::new(ROOT).join("cpu");
        if let Some(group) = group_of(&groups, "cpu").filter(|_| first.is_dir()) {
            let quota = Self::enter(&below(&first, group), pid, |dir| {
                write(&dir.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&dir.join("cpu.cfs_quota_us"), &quota_us.to_string())
            });
            return quota;
        }
        let controllers = std::fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"));
        if !controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "cpu")) {
            return Err(FaultError::Unavailable("no control group for processor time".into()));
        }
        let group = group_of(&groups, "")
            .ok_or_else(|| FaultError::Unavailable("the replica is in no control group".into()))?;
        // Beside the replica's own group: one with processes has no groups below.
        let own = below(Path::new(ROOT), group);
        let parent = own.parent().filter(|parent| parent.starts_with(ROOT)).unwrap_or(&own);
        let _ = write(&parent.join("cgroup.subtree_control"), "+cpu");
        Self::enter_beside(parent, &own, pid, |dir| {
            write(&dir.join("cpu.max"), &format!("{quota_us} {PERIOD_US}"))
        })
    }

    fn enter(
        parent: &Path,
        pid: String,
        limit: impl FnOnce(&Path) -> Result<(), FaultError>,
    ) -> Result<Self, FaultError> {
        Self::enter_beside(parent, parent, pid, limit)
    }

    fn enter_beside(
        parent: &Path,
        back: &Path,
        pid: String,
        limit: impl FnOnce(&Path) -> Result<(), FaultError>,
    ) -> Result<Self, FaultError> {
        let dir = parent.join(own_name("quota"));
        std::fs::create_dir(&dir)
            .map_err(|error| FaultError::Unavailable(format!("{}: {error}", dir.display())))?;
        // From here on everything is taken back by `drop`.
        let quota = Self { dir, back: back.to_owned(), pid };
        limit(&quota.dir)?;
        write(&quota.dir.join("cgroup.procs"), &quota.pid)?;
        Ok(quota)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // All of this fails when the replica is gone, except the removal.
        let _ = write(&self.back.join("cgroup.procs"), &self.pid);
        for _ in 0..100 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            // A killed process leaves its group a little later than it dies.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_hierarchies_are_found() {
        let text = "5:cpu,cpuacct:/a\n3:memory:/\n0::/user.slice/x\n";
        assert_eq!(group_of(text, "cpu"), Some("/a"));
        assert_eq!(group_of(text, ""), Some("/user.slice/x"));
        assert_eq!(group_of(text, "pids"), None);
        assert_eq!(below(Path::new("/r"), "/"), Path::new("/r/"));
    }
}
