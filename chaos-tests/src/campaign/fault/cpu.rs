//! Others take the processor away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_setaffinity};

use super::cgroup::Quota;
use super::{FaultError, Planned, Scene};
use crate::rng::Rng;

/// Threads that compute for nothing; they end when this is dropped.
struct Spinners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Spinners {
    fn start(count: u64, cores: &[usize]) -> Result<Self, FaultError> {
        let mut spinners = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for number in 0..count {
            let (stop, cores) = (Arc::clone(&spinners.stop), cores.to_vec());
            let spin = move || {
                let mut set = CpuSet::new();
                cores.iter().for_each(|core| set.set(*core));
                // Where it is not pinned it takes time all the same.
                let _ = sched_setaffinity(None, &set);
                let mut rng = Rng::new(number);
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box(rng.next_u64());
                }
            };
            let thread = std::thread::Builder::new().name(format!("spinner-{number}")).spawn(spin);
            spinners.threads.push(thread.map_err(|e| FaultError::system("starting a thread", e))?);
        }
        Ok(spinners)
    }
}

/// The cores in a list such as `0-2,5`.
fn cores(list: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cores.extend(
                (first..=last).take(CpuSet::MAX_CPU).filter(|core| *core < CpuSet::MAX_CPU),
            );
        }
    }
    cores
}

/// Busy threads where the replica runs.
pub(super) fn spin(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    let status = victim.read_proc("status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cores = cores(list.unwrap_or_default());
    // A replica that is bound to no core gets as many on each.
    let count = fault.count * cores.len().max(1) as u64;
    let spinners = Spinners::start(count, &cores)?;
    scene.hit(
        &victim,
        &[
            ("for_ms", fault.hold.as_millis().to_string()),
            ("threads", count.to_string()),
            ("cores", list.unwrap_or_default().trim().to_owned()),
        ],
    );
    scene.stop.sleep(fault.hold);
    drop(spinners);
    scene.healed();
    Ok(())
}

/// A control group that grants little.
pub(super) fn quota(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    let quota = Quota::impose(&victim, fault.percent)?;
    scene.hit(
        &victim,
        &[("for_ms", fault.hold.as_millis().to_string()), ("percent", fault.percent.to_string())],
    );
    scene.stop.wait_for(fault.hold, super::LOOK_EVERY * 10, || (!victim.lives()).then_some(()));
    drop(quota);
    scene.healed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(cores(" 0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cores("3"), [3]);
        assert_eq!(cores(""), [0usize; 0]);
        assert!(cores("0-99999999").len() <= CpuSet::MAX_CPU);
    }

    #[test]
    fn spinners_end_with_their_owner() {
        let spinners = Spinners::start(2, &[0]).expect("start");
        let stop = Arc::clone(&spinners.stop);
        drop(spinners);
        assert!(stop.load(Ordering::Relaxed));
        assert_eq!(Arc::strong_count(&stop), 1, "both threads have ended");
    }
}
