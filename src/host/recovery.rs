//! What outlives the daemon: whose disk to come back from, and which ids,
//! generations and certificates were used.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use consensus::{LogState, LogStore, RocksStore};
use hypervisor::ReplicaId;
use hypervisor::decision::{DecisionMaker, Event, LogPosition, Standing};
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::events::{Events, Tag};

/// What must never be used again, as of the last time that a primary began to
/// serve; what came after that is in the log of whoever is recovered.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Used {
    generation: u64,
    certificate: u32,
    next_id: u64,
}

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

const USED_FILE: &str = "group.json";

/// Looks for the longest log on disk.
///
/// # Errors
/// When disks are there but none can be used: starting empty would lose what
/// they hold.
pub(crate) fn find(settings: &Settings, events: &Events) -> anyhow::Result<Found> {
    let none = Found { next_id: ReplicaId(1), generation: 0, recover: None };
    let Some(disks) = settings.disks() else { return Ok(none) };
    std::fs::create_dir_all(&disks).with_context(|| disks.display().to_string())?;
    let used = read_used(&disks.join(USED_FILE))?;
    let mut best: Option<Recoverable> = None;
    let mut unusable = Vec::new();
    for (id, path) in replica_disks(&disks)? {
        match RocksStore::open(&path, false).and_then(|mut store| store.load()) {
            Ok(Some(state)) => {
                if let Some(found) = recoverable(id, &state)
                    && best.as_ref().is_none_or(|best| found.log > best.log)
                {
                    best = Some(found);
                }
            }
            Ok(None) => {}
            Err(error) => {
                events.error(&[Tag::Rebuild], format!("{}: {error}", path.display()));
                unusable.push(path.display().to_string());
            }
        }
    }
    if best.is_none() && !unusable.is_empty() {
        bail!(
            "state is on disk, but no replica's log can be read: {}; move it away to start empty",
            unusable.join(", ")
        );
    }
    if let Some(best) = &mut best {
        best.certificate = best.certificate.max(used.certificate);
        events.info(
            &[Tag::Rebuild],
            format!("replica {} has the longest log on disk, to entry {}", best.id, best.log.index),
        );
    }
    Ok(Found {
        next_id: ReplicaId(used.next_id.max(1)),
        generation: used.generation,
        recover: best,
    })
}

/// Whether this disk can be come back from: only a voter's, for others may lack
/// what was answered.
fn recoverable(id: ReplicaId, state: &LogState) -> Option<Recoverable> {
    let members = &state.members;
    if !members.members.voters.iter().any(|voter| voter.0 == id.0) {
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
    let all = members.members.voters.iter().chain(&members.members.learners);
    let others = all.chain(&members.fenced).map(|peer| ReplicaId(peer.0)).filter(|o| *o != id);
    Some(Recoverable { id, certificate: members.epoch.0, others: others.collect(), log })
}

fn replica_disks(disks: &Path) -> anyhow::Result<Vec<(ReplicaId, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(disks).with_context(|| disks.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix("replica-"));
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            found.push((ReplicaId(id), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn read_used(path: &Path) -> anyhow::Result<Used> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Used::default()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Writes down what was used, and removes the disks of replicas that are no
/// more. To be called when a primary begins to serve.
pub(crate) fn remember(settings: &Settings, events: &Events, decisions: &DecisionMaker) {
    let Some(disks) = settings.disks() else { return };
    let used = Used {
        generation: decisions.generation().0,
        certificate: decisions.certificate(),
        next_id: decisions.next_id().0,
    };
    if let Err(error) = write_used(&disks, &used) {
        events.error(&[Tag::Rebuild], format!("{}: {error:#}", disks.display()));
    }
    let alive = |id| {
        decisions
            .members()
            .any(|(member, _, standing)| member == id && standing != Standing::Fenced)
    };
    for (id, path) in replica_disks(&disks).unwrap_or_default() {
        if decisions.primary().is_some() && !alive(id) && std::fs::remove_dir_all(&path).is_err() {
            events.warn(&[Tag::Rebuild], format!("{} cannot be removed", path.display()));
        }
    }
}

/// Writes a new file and then gives it the name, so that a crash leaves the old
/// one or the new one.
fn write_used(disks: &Path, used: &Used) -> anyhow::Result<()> {
    let new = disks.join("group.json.new");
    let file = std::fs::File::create(&new)?;
    serde_json::to_writer(&file, used)?;
    file.sync_all()?;
    std::fs::rename(&new, disks.join(USED_FILE))?;
    std::fs::File::open(disks)?.sync_all()?;
    Ok(())
}
