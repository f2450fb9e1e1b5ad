//! Which core the parties of a component share.

use std::fmt::Write as _;
use std::io;
use std::str::FromStr;

use rustix::process::Pid;
use rustix::thread::CpuSet;
use thiserror::Error;

/// A logical processor, by its number in `/proc/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Core(pub u16);

/// Where the parties of a component run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// All on one core, the least busy one; chosen anew when others want it too.
    #[default]
    Auto,
    /// All on this core.
    Core(Core),
    /// Wherever the scheduler puts them.
    Off,
}

/// The text is no affinity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is neither `auto`, `off` nor the number of a core")]
pub struct ParseAffinityError(String);

impl FromStr for Affinity {
    type Err = ParseAffinityError;

    fn from_str(text: &str) -> Result<Self, ParseAffinityError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            number => number
                .parse()
                .map(|core| Self::Core(Core(core)))
                .map_err(|_| ParseAffinityError(text.into())),
        }
    }
}

/// The cores that the calling thread may use, ascending.
///
/// # Errors
/// When the kernel refuses.
pub fn allowed_cores() -> io::Result<Vec<Core>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|cpu| Core(cpu as u16)).collect())
}

fn cpu_set(cores: &[Core]) -> CpuSet {
    let mut set = CpuSet::new();
    for core in cores.iter().filter(|core| usize::from(core.0) < CpuSet::MAX_CPU) {
        set.set(usize::from(core.0));
    }
    set
}

/// Binds the calling thread, and those it starts from now on, to some cores.
///
/// # Errors
/// When there is no such core, or it is not ours to use.
pub fn pin_current_thread(cores: &[Core]) -> io::Result<()> {
    Ok(rustix::thread::sched_setaffinity(None, &cpu_set(cores))?)
}

/// Binds all threads of a process to some cores.
///
/// # Errors
/// When there is no such core or process. Threads bound before stay bound.
pub fn pin_process(pid: Pid, cores: &[Core]) -> io::Result<()> {
    let set = cpu_set(cores);
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let Some(tid) = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        match rustix::thread::sched_setaffinity(Some(tid), &set) {
            // The thread has ended since.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Time a core has spent since the machine started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    total: u64,
}

/// Watches how busy the cores are and chooses one.
#[derive(Debug)]
pub struct CoreChooser {
    cores: Vec<Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    core: Core,
    last: Ticks,
    busy_percent: u64,
}

/// From this share on, others on our core count as a nuisance...
const CONTENDED_PERCENT: u64 = 25;
/// ... and a core must be this much better for a move to pay.
const GAIN_PERCENT: u64 = 20;

impl CoreChooser {
    /// Watches the cores that the calling thread may use; call it before pinning.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn new() -> io::Result<Self> {
        let cores = allowed_cores()?;
        let mut chooser = Self::watching(&cores);
        chooser.update(&read_stat()?);
        Ok(chooser)
    }

    fn watching(cores: &[Core]) -> Self {
        let watch = |&core| Watched { core, last: Ticks::default(), busy_percent: 0 };
        Self { cores: cores.iter().map(watch).collect() }
    }

    /// Looks at the time since the last look, which should be half a second at
    /// least: the kernel counts in steps of 10 ms. The first look covers the time
    /// since the machine started.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn look(&mut self) -> io::Result<()> {
        self.update(&read_stat()?);
        Ok(())
    }

    fn update(&mut self, stat: &str) {
        for (core, now) in stat.lines().filter_map(parse_line) {
            let Some(watched) = self.cores.iter_mut().find(|watched| watched.core == core) else {
                continue;
            };
            let total = now.total.saturating_sub(watched.last.total);
            let busy = now.busy.saturating_sub(watched.last.busy);
            if let Some(percent) = (busy * 100).checked_div(total) {
                watched.busy_percent = percent;
                watched.last = now;
            }
        }
    }

    /// The least busy core. `None` when there is none to choose.
    #[must_use]
    pub fn least_busy(&self) -> Option<Core> {
        self.cores.iter().min_by_key(|watched| watched.busy_percent).map(|watched| watched.core)
    }

    /// A core worth moving to from `current`, of which the component itself used
    /// `own_percent` of the time. `None` when it is well where it is.
    #[must_use]
    pub fn better_than(&self, current: Core, own_percent: u64) -> Option<Core> {
        let busy = |core| self.cores.iter().find(|w| w.core == core).map(|w| w.busy_percent);
        let foreign = busy(current)?.saturating_sub(own_percent);
        let best = self.least_busy()?;
        let worth = foreign >= CONTENDED_PERCENT && busy(best)? + GAIN_PERCENT <= foreign;
        (worth && best != current).then_some(best)
    }

    /// The watched cores and how busy they were, in percent, for diagnostics.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for watched in &self.cores {
            let _ = write!(text, "{}:{}% ", watched.core.0, watched.busy_percent);
        }
        text
    }
}

fn read_stat() -> io::Result<String> {
    std::fs::read_to_string("/proc/stat")
}

/// A line `cpu3 user nice system idle iowait irq softirq steal ...` of
/// `/proc/stat` (proc_stat(5)).
fn parse_line(line: &str) -> Option<(Core, Ticks)> {
    // The line of all cores together has no number.
    let (core, times) = line.strip_prefix("cpu")?.split_once(' ')?;
    let core = Core(core.parse().ok()?);
    let mut ticks = Ticks::default();
    for (index, field) in times.split_ascii_whitespace().take(8).enumerate() {
        let value: u64 = field.parse().ok()?;
        ticks.total = ticks.total.saturating_add(value);
        let idle = index == 3 || index == 4;
        if !idle {
            ticks.busy = ticks.busy.saturating_add(value);
        }
    }
    Some((core, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooser(percents: &[u64]) -> CoreChooser {
        let cores: Vec<Core> = (0..percents.len() as u16).map(Core).collect();
        let mut chooser = CoreChooser::watching(&cores);
        let mut stat = String::from("cpu 1 2 3 4\n");
        for (core, percent) in percents.iter().enumerate() {
            let _ = writeln!(stat, "cpu{core} {percent} 0 0 {} 0 0 0 0 0 0", 100 - percent);
        }
        stat.push_str("intr 1\nbtime 1\n");
        chooser.update(&stat);
        chooser
    }

    #[test]
    fn reads_the_kernels_lines() {
        assert_eq!(
            parse_line("cpu1 12468 1 2632 121571 377 0 35 10 7 7"),
            Some((Core(1), Ticks { busy: 12468 + 1 + 2632 + 35 + 10, total: 137_094 }))
        );
        assert_eq!(parse_line("cpu  1 2 3 4"), None);
        assert_eq!(parse_line("ctxt 5"), None);
    }

    #[test]
    fn only_the_time_since_the_last_look_counts() {
        let mut chooser = chooser(&[90, 10]);
        assert_eq!(chooser.least_busy(), Some(Core(1)));
        chooser.update("cpu0 90 0 0 110\ncpu1 110 0 0 90\n");
        assert_eq!(chooser.least_busy(), Some(Core(0)));
    }

    #[test]
    fn moves_only_for_a_real_gain() {
        for (percents, current, own, expected) in [
            (&[90, 10][..], 0, 0, Some(1)),
            (&[90, 10], 0, 85, None), // we are the load ourselves
            (&[50, 45], 0, 0, None),  // no better elsewhere
            (&[20, 0], 0, 0, None),   // not contended
            (&[100], 0, 0, None),     // nowhere to go
            (&[60, 100, 5], 1, 10, Some(2)),
        ] {
            let found = chooser(percents).better_than(Core(current), own);
            assert_eq!(found, expected.map(Core), "{percents:?} {current} {own}");
        }
    }

    #[test]
    fn affinity_from_text() {
        assert_eq!("auto".parse(), Ok(Affinity::Auto));
        assert_eq!("off".parse(), Ok(Affinity::Off));
        assert_eq!("3".parse(), Ok(Affinity::Core(Core(3))));
        assert!("x".parse::<Affinity>().is_err());
    }

    #[test]
    fn a_thread_can_be_bound_and_released() {
        std::thread::spawn(|| {
            let all = allowed_cores().unwrap();
            let one = CoreChooser::new().unwrap().least_busy().unwrap();
            assert!(all.contains(&one));
            pin_current_thread(&[one]).unwrap();
            assert_eq!(allowed_cores().unwrap(), [one]);
            pin_current_thread(&all).unwrap();
            assert_eq!(allowed_cores().unwrap(), all);
        })
        .join()
        .unwrap();
    }
}
