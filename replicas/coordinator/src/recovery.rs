//! What outlives the daemon: whose disk to come back from, and which ids,
//! generations and certificates were used.

use consensus::{LogState, PeerId};
use hypervisor::ReplicaId;
use hypervisor::decision::{DecisionMaker, Event, LogPosition, Standing};
use teeth::Bug;

use crate::events::{Events, Tag};
use crate::platform::{LogOnDisk, Platform, PlatformError, Used};

/// What was found on disk.
#[derive(Debug)]
pub(crate) struct Found {
    /// The first id that was never given.
    pub(crate) next_id: ReplicaId,
    /// The last generation that was used.
    pub(crate) generation: u64,
    /// The replica to come back from, if there was a group before.
    pub(crate) recover: Option<Recoverable>,
}

/// A replica whose disk holds the longest log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recoverable {
    /// Whose.
    pub(crate) id: ReplicaId,
    /// The newest certificate that is known.
    pub(crate) certificate: u32,
    /// All others its log knows.
    pub(crate) others: Vec<ReplicaId>,
    log: LogPosition,
}

impl Recoverable {
    /// The order to come back from it.
    pub(crate) fn event(self) -> Event {
        Event::Recover { id: self.id, certificate: self.certificate, others: self.others }
    }
}

/// Looks for the longest log on disk.
///
/// # Errors
/// When disks are there but none can be used: starting empty would lose what
/// they hold.
pub(crate) fn find(platform: &mut impl Platform, events: &Events) -> Result<Found, PlatformError> {
    let used = platform.remembered()?.unwrap_or_default();
    let mut best: Option<Recoverable> = None;
    let mut unusable = Vec::new();
    let mut next_id = used.next_id.max(1);
    for LogOnDisk { id, place, state } in platform.logs()? {
        // Whoever left a disk has used its id, whether that was written down or not.
        next_id = next_id.max(id.0 + 1);
        match state {
            Ok(Some(state)) => {
                let first = teeth::bites(Bug::FirstDiskRecovered);
                if let Some(found) = recoverable(id, &state)
                    && best.as_ref().is_none_or(|best| found.log > best.log && !first)
                {
                    best = Some(found);
                }
            }
            Ok(None) => {}
            Err(error) => {
                events.error(&[Tag::Rebuild], format!("{place}: {error}"));
                unusable.push(place);
            }
        }
    }
    if best.is_none() && !unusable.is_empty() {
        return Err(PlatformError(format!(
            "state is on disk, but no replica's log can be read: {}; move it away to start empty",
            unusable.join(", ")
        )));
    }
    if let Some(best) = &mut best {
        best.certificate = best.certificate.max(used.certificate);
        events.info(
            &[Tag::Rebuild],
            format!("replica {} has the longest log on disk, to entry {}", best.id, best.log.index),
        );
    }
    Ok(Found { next_id: ReplicaId(next_id), generation: used.generation, recover: best })
}

/// Whether this disk can be come back from: only a voter's, for others may lack
/// what was answered, or have been dismissed.
fn recoverable(id: ReplicaId, state: &LogState) -> Option<Recoverable> {
    let members = &state.members;
    if !state.is_voter_to_the_end(PeerId(id.0)) {
        return None;
    }
    let log = match state.entries.last() {
        Some(last) => LogPosition {
            term: last.term.0,
            index: state.first_index.0 + state.entries.len() as u64 - 1,
        },
        None => {
            let snapshot = state.snapshot.as_ref()?;
            LogPosition { term: snapshot.term.0, index: snapshot.index.0 }
        }
    };
    // Also those that the log's end would bring in: they are as dead.
    let others = state.known_peers().into_iter().map(|peer| ReplicaId(peer.0));
    let others = others.filter(|other| *other != id);
    Some(Recoverable { id, certificate: members.epoch.0, others: others.collect(), log })
}

/// Writes down what was used, and removes the logs of replicas that are no
/// more. To be called when a primary begins to serve.
pub(crate) fn remember(platform: &mut impl Platform, events: &Events, decisions: &DecisionMaker) {
    let used = Used {
        generation: decisions.generation().0,
        certificate: decisions.certificate(),
        next_id: decisions.next_id().0,
    };
    if let Err(error) = platform.remember(&used) {
        events.error(&[Tag::Rebuild], error.to_string());
    }
    if decisions.primary().is_none() {
        return;
    }
    let alive = |id| {
        decisions
            .members()
            .any(|(member, _, standing)| member == id && standing != Standing::Fenced)
    };
    for id in platform.log_ids() {
        if !alive(id)
            && let Err(error) = platform.discard_log(id)
        {
            events.warn(&[Tag::Rebuild], format!("the log of replica {id}: {error}"));
        }
    }
}
