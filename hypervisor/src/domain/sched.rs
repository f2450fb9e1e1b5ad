//! What the scheduler says about a process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::process::Pid;

use super::{DomainError, system};

/// The scheduler's account of a process's main thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Time it has run, in nanoseconds. While it runs the kernel brings this up to
    /// date with every clock tick (1 to 10 ms).
    pub on_cpu_ns: u64,
    /// Time it has waited for a core, in nanoseconds. The current wait is added
    /// when it ends.
    pub runnable_wait_ns: u64,
}

/// Open files of a process under `/proc`: reading them anew is cheaper than
/// opening them, and they can never come to mean another process.
#[derive(Debug)]
pub(super) struct SchedFiles {
    stat: File,
    /// Missing in kernels built without it.
    schedstat: Option<File>,
}

impl SchedFiles {
    pub(super) fn open(pid: Pid) -> Result<Self, DomainError> {
        let stat =
            File::open(format!("/proc/{pid}/stat")).map_err(system("open(/proc/PID/stat)"))?;
        Ok(Self { stat, schedstat: File::open(format!("/proc/{pid}/schedstat")).ok() })
    }

    /// The state letter. Several times as costly as [`Self::times`].
    pub(super) fn state(&self) -> Result<char, DomainError> {
        self.stat().map(|stat| stat.state)
    }

    fn stat(&self) -> Result<Stat, DomainError> {
        let mut buffer = [0; 1024];
        let len = self.stat.read_at(&mut buffer, 0).map_err(system("read(/proc/PID/stat)"))?;
        parse_stat(&buffer[..len]).ok_or(DomainError::Account("stat"))
    }

    pub(super) fn times(&self) -> Result<CpuTimes, DomainError> {
        let Some(schedstat) = &self.schedstat else {
            let ticks = self.stat()?.ticks;
            let per_second = rustix::param::clock_ticks_per_second().max(1);
            let on_cpu_ns = ticks.saturating_mul(1_000_000_000 / per_second);
            return Ok(CpuTimes { on_cpu_ns, runnable_wait_ns: 0 });
        };
        let mut buffer = [0; 128];
        let len = schedstat.read_at(&mut buffer, 0).map_err(system("read(/proc/PID/schedstat)"))?;
        let [on_cpu_ns, runnable_wait_ns, _] =
            parse_schedstat(&buffer[..len]).ok_or(DomainError::Account("schedstat"))?;
        Ok(CpuTimes { on_cpu_ns, runnable_wait_ns })
    }
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: Pid,
    state: char,
    /// None for those that the kernel started.
    pub(super) parent: Option<Pid>,
    /// User and system time.
    ticks: u64,
}

impl Stat {
    /// It runs no more code, and waits to be reaped.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The account of a process; none when there is no such process.
pub(super) fn read_stat(pid: Pid) -> Result<Option<Stat>, DomainError> {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text).map(Some).ok_or(DomainError::Account("stat")),
        // It may also end between opening and reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(system("read(/proc/PID/stat)")(error)),
    }
}

/// The name is the process's own choice and may contain anything, even `)`.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
    let number = |bytes| std::str::from_utf8(bytes).ok()?.trim_ascii().parse::<i32>().ok();
    let pid = Pid::from_raw(number(text.split(|&byte| byte == b' ').next()?)?)?;
    let rest = std::str::from_utf8(&text[end_of_name + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Stat { pid, state, parent, ticks: user.saturating_add(system) })
}

/// What `/proc/PID/schedstat` says: nanoseconds on a core, nanoseconds waiting for one, and
/// how often it got one.
pub(crate) fn parse_schedstat(text: &[u8]) -> Option<[u64; 3]> {
    let mut fields = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let mut next = || fields.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_cannot_deceive() {
        let text = b"42 (a) R 0 (x) S 1 42 42 0 -1 4194560 90 0 0 0 7 5 0 0 20 0 1 0 100 200";
        let [pid, parent] = [42, 1].map(Pid::from_raw);
        let stat = Stat { pid: pid.unwrap(), state: 'S', parent, ticks: 12 };
        assert_eq!(parse_stat(text), Some(stat));
        assert_eq!(parse_stat(b"42 (a) R 0"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn schedstat_has_two_times_and_a_count() {
        assert_eq!(parse_schedstat(b"123 45 6\n"), Some([123, 45, 6]));
        assert_eq!(parse_schedstat(b"123 45"), None);
    }

    #[test]
    fn we_run_while_we_look() {
        let files = SchedFiles::open(rustix::process::getpid()).unwrap();
        // The test's main thread waits for us; any state is fine, but one there is.
        assert!(files.state().unwrap().is_ascii_alphabetic());
        let before = files.times().unwrap();
        assert!(files.times().unwrap().on_cpu_ns >= before.on_cpu_ns);
    }
}
