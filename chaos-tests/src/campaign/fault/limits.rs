//! Limits of a process that are lowered for a while.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::victim::Victim;
use super::{FaultError, Planned, Scene, clients};
use crate::report::record::Component;

/// A limit as it was; put back when this is dropped.
struct Lowered {
    pid: Pid,
    resource: Resource,
    before: Rlimit,
}

impl Lowered {
    fn to(pid: Pid, resource: Resource, current: u64) -> Result<Self, FaultError> {
        // Without the old limit nothing could be put back: it is asked for first.
        let call = |error| FaultError::system("prlimit", error);
        let before = limit_of(pid, resource)?;
        let current = before.maximum.map_or(current, |maximum| current.min(maximum));
        let lowered = Rlimit { current: Some(current), maximum: before.maximum };
        prlimit(Some(pid), resource, lowered).map_err(call)?;
        Ok(Self { pid, resource, before })
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        // It fails when the process is gone, and its limits with it.
        let _ = prlimit(Some(self.pid), self.resource, self.before);
    }
}

/// A limit of another process, from `/proc/PID/limits`.
fn limit_of(pid: Pid, resource: Resource) -> Result<Rlimit, FaultError> {
    let name = match resource {
        Resource::Data => "Max data size",
        Resource::Fsize => "Max file size",
        _ => "Max open files",
    };
    let path = format!("/proc/{}/limits", pid.as_raw_nonzero());
    let text = std::fs::read_to_string(&path).map_err(|error| FaultError::system(&path, error))?;
    parse_limit(&text, name).ok_or_else(|| FaultError::Unavailable(format!("{path}: no {name}")))
}

fn parse_limit(text: &str, name: &str) -> Option<Rlimit> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut fields = rest.split_ascii_whitespace();
    let mut limit = || match fields.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Rlimit { current: limit()?, maximum: limit()? })
}

fn open_descriptors(pid: Pid) -> Result<u64, FaultError> {
    let path = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let entries = std::fs::read_dir(&path).map_err(|error| FaultError::system(&path, error))?;
    Ok(entries.count() as u64)
}

/// A limit of a replica, for a while.
fn squeeze(
    scene: &mut Scene<'_>,
    fault: &Planned,
    resource: Resource,
    to: impl FnOnce(&Victim) -> Result<u64, FaultError>,
) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    let limit = to(&victim)?;
    let lowered = Lowered::to(victim.pid, resource, limit)?;
    scene.hit(
        &victim,
        &[("for_ms", fault.hold.as_millis().to_string()), ("limit", limit.to_string())],
    );
    scene.stop.wait_for(fault.hold, super::LOOK_EVERY * 10, || (!victim.lives()).then_some(()));
    if victim.lives() {
        drop(lowered);
    } else {
        // Its number may belong to somebody else by now.
        std::mem::forget(lowered);
    }
    scene.healed();
    Ok(())
}

/// No more memory than the replica has.
pub(super) fn memory(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    squeeze(scene, fault, Resource::Data, |victim| Ok(victim.status_number("VmData")? * 1024))
}

/// No larger file than the replica's log, or no new one.
pub(super) fn disk(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    if fault.way == "descriptors" {
        return squeeze(scene, fault, Resource::Nofile, |victim| open_descriptors(victim.pid));
    }
    squeeze(scene, fault, Resource::Fsize, |victim| {
        let files = std::fs::read_dir(victim.proc("fd"))
            .map_err(|error| FaultError::system("/proc/PID/fd", error))?;
        let logs = files.filter_map(|file| {
            let path = file.ok()?.path();
            let name = std::fs::read_link(&path).ok()?;
            let is_log = name.extension().is_some_and(|extension| extension == "log");
            is_log.then(|| std::fs::metadata(path).ok()).flatten()
        });
        let longest = logs.filter(std::fs::Metadata::is_file).map(|log| log.len()).max();
        longest.ok_or_else(|| FaultError::Missed("the replica has no log on disk".into()))
    })
}

/// Fewer descriptors than clients want.
pub(super) fn host_descriptors(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let pid = i32::try_from(scene.host_pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| FaultError::Missed("the host is gone".into()))?;
    let open = open_descriptors(pid)?;
    let lowered = Lowered::to(pid, Resource::Nofile, open + fault.count)?;
    scene.injected(
        Component::Host,
        format!("process {}", scene.host_pid),
        &[
            ("for_ms", fault.hold.as_millis().to_string()),
            ("open", open.to_string()),
            ("limit", (open + fault.count).to_string()),
        ],
    );
    let crowd = clients::crowd(scene.socket, fault.count + 16);
    scene.stop.sleep(fault.hold);
    drop(crowd);
    drop(lowered);
    scene.healed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_others_are_read() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units
Max file size             unlimited            unlimited            bytes
Max data size             1073741824           2147483648           bytes
Max open files            1024                 unlimited            files
";
        let limit = |name| parse_limit(text, name).map(|it| (it.current, it.maximum));
        assert_eq!(limit("Max file size"), Some((None, None)));
        assert_eq!(limit("Max data size"), Some((Some(1 << 30), Some(2 << 30))));
        assert_eq!(limit("Max open files"), Some((Some(1024), None)));
        assert_eq!(limit("Max nice priority"), None);
    }

    #[test]
    fn a_lowered_limit_is_put_back() {
        let pid = rustix::process::getpid();
        let soft = || limit_of(pid, Resource::Fsize).expect("is read").current;
        let before = soft();
        let lowered = Lowered::to(pid, Resource::Fsize, 1 << 40).expect("is lowered");
        assert_eq!(soft(), Some(1 << 40));
        drop(lowered);
        assert_eq!(soft(), before);
    }
}
