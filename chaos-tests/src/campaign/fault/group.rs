//! Faults upon faults: while the group is busy with another one, or with an
//! operator's wish.

use rustix::process::Signal;

use super::victim::Victim;
use super::{FaultError, Planned, Scene};
use crate::harness::{ComponentStatus, ReplicaStatus};
use crate::report::record::Component;

fn primary(scene: &Scene<'_>, status: &ComponentStatus) -> Result<Victim, FaultError> {
    let primary = status.primary();
    let primary = primary.ok_or_else(|| FaultError::Missed("there is no primary".into()))?;
    Victim::of(scene.host_pid, primary)
}

fn standby(scene: &Scene<'_>, fault: &Planned) -> Result<Victim, FaultError> {
    let standbys: Vec<&ReplicaStatus> = scene.status.standbys().collect();
    if standbys.len() < 2 {
        return Err(FaultError::Missed("fewer than two standbys: nobody would be left".into()));
    }
    Victim::of(scene.host_pid, standbys[fault.rng.clone().below(standbys.len())])
}

/// The primary, and a moment later a standby.
pub(super) fn kill_in_failover(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let (first, second) = (primary(scene, scene.status)?, standby(scene, fault)?);
    first.signal(Signal::KILL)?;
    // Whole milliseconds of `Stop::sleep` would be too coarse.
    std::thread::sleep(fault.hold);
    second.signal(Signal::KILL)?;
    scene.hit(
        &first,
        &[
            ("then", format!("replica {}", second.id)),
            ("after_us", fault.hold.as_micros().to_string()),
        ],
    );
    Ok(())
}

/// A standby, and when another is being taught, that one or the primary.
pub(super) fn kill_in_rebuild(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let first = standby(scene, fault)?;
    first.signal(Signal::KILL)?;
    let known: Vec<u64> = scene.status.replicas.iter().map(|replica| replica.id).collect();
    let is_new = |replica: &ReplicaStatus| !known.contains(&replica.id) && replica.pid != 0;
    let rebuilding = scene.wait_until(|status| status.replicas.iter().any(is_new));
    let rebuilding =
        rebuilding.ok_or_else(|| FaultError::Missed("no replica took its place".into()))?;
    let second = match fault.way {
        "learner" => rebuilding
            .replicas
            .iter()
            .find(|replica| is_new(replica))
            .ok_or_else(|| FaultError::Missed("it is gone already".into()))
            .and_then(|replica| Victim::of(scene.host_pid, replica)),
        _ => primary(scene, &rebuilding),
    }?;
    second.signal(Signal::KILL)?;
    scene.hit(&second, &[("after", format!("replica {}", first.id))]);
    Ok(())
}

/// Another number of replicas, and back.
pub(super) fn scale(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let before = u64::from(scene.status.replication_factor);
    let factor = if fault.count == before { (before % 7 + 1).max(2) } else { fault.count };
    let text = format!("{before} to {factor} replicas");
    scene.injected(Component::Host, text, &[("how", fault.way.to_owned())]);
    let scaling = {
        let daemon = scene.daemon.clone();
        std::thread::spawn(move || daemon.scale(factor))
    };
    let mut hit = Ok(());
    if fault.way == "kill" {
        // The request is on its way, or just through: both are worth a try.
        std::thread::sleep(
            fault.rng.clone().below(20) as u32 * std::time::Duration::from_millis(1),
        );
        hit = primary(scene, scene.status).and_then(|primary| primary.signal(Signal::KILL));
    }
    let scaled = scaling.join().map_err(|_| FaultError::Missed("the request panicked".into()));
    // The old number is asked for whatever came of the new one.
    let whole = |status: &ComponentStatus| status.is_complete();
    scene.wait_until(|status| u64::from(status.replication_factor) == factor && whole(status));
    let back = scene.daemon.scale(before);
    scene.wait_until(|status| u64::from(status.replication_factor) == before && whole(status));
    scene.healed();
    scaled??;
    back?;
    hit
}

/// The primary's role goes round.
pub(super) fn promote_storm(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let mut rng = fault.rng.clone();
    let (mut done, mut refused) = (0, 0);
    scene.injected(
        Component::Primary,
        "all replicas",
        &[("promotions", fault.count.to_string()), ("how", fault.way.to_owned())],
    );
    for number in 0..fault.count {
        let Some(status) = scene
            .wait_until(|status| status.primary().is_some() && status.standbys().next().is_some())
        else {
            break;
        };
        let standbys: Vec<u64> = status.standbys().map(|replica| replica.id).collect();
        let next = *rng.pick(&standbys);
        match scene.daemon.promote(next) {
            Ok(_) => done += 1,
            // Another failover came first: the next round finds who serves now.
            Err(_) => refused += 1,
        }
        if fault.way == "kill" && number == 0 && standbys.len() > 1 {
            let status = scene.daemon.xenstore()?;
            primary(scene, &status)?.signal(Signal::KILL)?;
        }
        if scene.stop.is_set() {
            break;
        }
    }
    scene.healed();
    if done == 0 {
        return Err(FaultError::Missed(format!("{refused} promotions were refused")));
    }
    Ok(())
}
