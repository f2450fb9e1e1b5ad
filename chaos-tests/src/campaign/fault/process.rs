//! Processes that end, stop or crawl, and requests that make them.

use std::time::Duration;

use rustix::process::Signal;

use super::victim::Victim;
use super::{FaultError, Planned, Scene, Told};
use crate::report::record::Component;

fn millis(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1000.0)
}

/// SIGKILL.
pub(super) fn crash(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    victim.signal(Signal::KILL)?;
    scene.hit(&victim, &[]);
    Ok(())
}

/// SIGKILL to everybody.
pub(super) fn kill_all(scene: &mut Scene<'_>) -> Result<(), FaultError> {
    let running = scene.status.replicas.iter().filter(|replica| replica.pid != 0);
    // All are held before the first one is hit.
    let victims: Vec<_> =
        running.filter_map(|replica| Victim::of(scene.host_pid, replica).ok()).collect();
    for victim in &victims {
        victim.signal(Signal::KILL)?;
    }
    let ids: Vec<_> = victims.iter().map(|victim| victim.id.to_string()).collect();
    scene.injected(Component::Primary, format!("replicas {}", ids.join(", ")), &[]);
    Ok(())
}

/// Stopped processes; they go on when this is dropped.
struct Stopped(Vec<Victim>);

impl Drop for Stopped {
    fn drop(&mut self) {
        for victim in &self.0 {
            // It fails only for those that are gone.
            let _ = victim.signal(Signal::CONT);
        }
    }
}

/// SIGSTOP for a while.
pub(super) fn hang(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let mut stopped = Stopped(Vec::new());
    for victim in scene.victims(fault)? {
        victim.signal(Signal::STOP)?;
        stopped.0.push(victim);
    }
    let parameters = [("for_ms", millis(fault.hold))];
    match &stopped.0[..] {
        [victim] => scene.hit(victim, &parameters),
        _ => scene.injected(Component::Primary, "all replicas", &parameters),
    }
    // Short hangs must not become long ones by our own slices of sleep.
    scene.stop.wait_for(fault.hold, fault.hold.min(Duration::from_millis(5)), || {
        (!stopped.0.iter().any(Victim::lives)).then_some(())
    });
    drop(stopped);
    scene.healed();
    Ok(())
}

/// The daemon makes it crawl.
pub(super) fn slow(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    let id = victim.id.to_string();
    scene.daemon.fault("slow", &id, Some(fault.hold), Some(fault.percent))?;
    scene.hit(&victim, &[("for_ms", millis(fault.hold)), ("percent", fault.percent.to_string())]);
    scene.stop.sleep(fault.hold);
    scene.healed();
    Ok(())
}

/// A request that kills whoever applies it.
pub(super) fn poison(scene: &mut Scene<'_>) -> Result<(), FaultError> {
    let primary = scene.status.primary().map_or(0, |primary| primary.id);
    scene.injected(Component::Primary, format!("replica {primary}"), &[]);
    let said = scene.daemon.fault("poison", "primary", None, None)?;
    if said.contains("EIO") {
        (scene.tell)(Told::AnsweredEio);
    }
    Ok(())
}
