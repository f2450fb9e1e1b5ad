//! What the decision maker has decided is done.

use std::time::{Duration, Instant};

use hypervisor::decision::{Cause, Decision, Event, Phase, SpawnMode, Standing};
use hypervisor::fabric::HostFabric;
use hypervisor::{ReplicaId, SlotId};
use replica::protocol::ToReplica;
use replica::spec::{ReplicaSpec, Start};
use state_machine::InputNo;
use teeth::Bug;

use super::{EARLY_DEATH, Group, Member, Notice, RESPAWN_PAUSE_MAX};
use crate::events::Tag;
use crate::failover::{Running, cause_name};
use crate::holder::Held;
use crate::platform::{Domain as _, Observed, Platform, PlatformError};

impl<P: Platform> Group<P> {
    pub(super) fn carry_out(
        &mut self,
        decision: Decision,
        fabric: &mut HostFabric,
    ) -> Option<Notice> {
        match decision {
            Decision::Spawn { .. } => {
                if self.respawn_pause.is_zero() {
                    self.spawn(decision, fabric);
                } else {
                    let due = self.platform.now() + self.respawn_pause;
                    self.postponed.push((due, decision));
                }
            }
            Decision::Kill { id, cause } => self.kill(id, cause, fabric),
            Decision::Isolate { generation, certificate, fenced } => {
                fabric.page().set_generation(generation);
                let message = ToReplica::Isolate { generation, certificate, fenced };
                self.tell_all(&message, fabric);
            }
            Decision::Promote { id, generation, quarantine } => {
                if let Some(running) = &mut self.running {
                    running.fenced(self.platform.now());
                }
                self.quarantined.extend(quarantine.iter().map(|no| no.0));
                for no in &quarantine {
                    self.log(
                        &[Tag::Monitor, Tag::Xenstore],
                        format!("input {} has killed primaries: quarantined", no.0),
                    );
                }
                self.log(
                    &[Tag::Monitor, Tag::Xenstore],
                    format!("promoting replica {id}, generation {generation}"),
                );
                let quarantine = quarantine.into_iter().map(|no| InputNo(no.0)).collect();
                self.tell(id, &ToReplica::Promote { generation, quarantine }, fabric);
            }
            Decision::Drain { id } => {
                let now = self.platform.now();
                self.running = Some(Running::new(id, Cause::Retired, now, now));
                self.tell(id, &ToReplica::Drain, fabric);
            }
            Decision::AddLearner { primary, id } => {
                self.tell(primary, &ToReplica::AddLearner(id), fabric);
            }
            Decision::AddVoter { primary, id } => {
                self.tell(primary, &ToReplica::AddVoter(id), fabric);
            }
            Decision::Remove { primary, id } => {
                self.tell(primary, &ToReplica::Remove(id), fabric);
            }
            Decision::DeclareLost { why } => {
                self.running = None;
                self.log(&[Tag::Monitor, Tag::Xenstore], self.settings.describe_loss(why));
                self.recover_wanted = true;
                return Some(Notice::Lost);
            }
        }
        None
    }

    fn spawn(&mut self, decision: Decision, fabric: &mut HostFabric) {
        let Decision::Spawn { id, slot, mode } = decision else { return };
        let member = Member {
            slot,
            ordered: self.platform.now(),
            domain: None,
            watch: None,
            fenced: false,
            ready: false,
            pinned: false,
            accused: None,
            outdated: false,
        };
        let peers = self
            .members
            .iter()
            .filter(|(_, member)| !member.fenced)
            .map(|(id, member)| (id.0, member.slot.get()))
            .collect();
        self.members.insert(id, member);
        let start = match mode {
            SpawnMode::Bootstrap { voters } => {
                Start::Bootstrap { voters: voters.iter().map(|id| id.0).collect() }
            }
            SpawnMode::Join => Start::Join,
            SpawnMode::Recover => Start::Recover,
        };
        let started = self.start(id, slot, start, peers, fabric);
        // The slot is empty now: nothing of its last occupant can be mistaken
        // for the new one's.
        self.tell_all(&ToReplica::Introduce { id, slot }, fabric);
        match started {
            Ok(()) => {
                // It hears of the dead before it hears of anything else.
                if let Decision::Isolate { generation, certificate, fenced } =
                    self.decisions.isolation()
                {
                    let message = ToReplica::Isolate { generation, certificate, fenced };
                    self.tell(id, &message, fabric);
                }
            }
            Err(error) => self.start_failed(id, &error.to_string(), fabric),
        }
    }

    fn start(
        &mut self,
        id: ReplicaId,
        slot: SlotId,
        start: Start,
        peers: Vec<(u64, u8)>,
        fabric: &mut HostFabric,
    ) -> Result<(), PlatformError> {
        let refused = |error| PlatformError::new("its memory", error);
        fabric.reset_slot(slot, id).map_err(refused)?;
        let memory = fabric.descriptors(slot).map_err(refused)?;
        let settings = &self.settings;
        let spec = ReplicaSpec {
            id: id.0,
            slot: slot.get(),
            start,
            ack: settings.ack(),
            storage: self.platform.storage(id),
            backend: self.platform.backend(slot),
            lockstep: settings.lockstep,
            spin_us: settings.replica_spin_us,
            spin_unreleased_us: settings.commit_spin_us,
            beat_ms: settings.beat_ms,
            idle_beat_ms: settings.idle_beat_ms,
            election_ms: settings.election_ms,
            log: settings.log,
            peers,
        };
        self.platform.start(&spec, memory)
    }

    pub(super) fn start_failed(&mut self, id: ReplicaId, why: &str, fabric: &mut HostFabric) {
        self.log(&[Tag::Monitor, Tag::Xenstore], format!("replica {id} cannot start: {why}"));
        let event = Event::Failed { id, cause: Cause::Misbehaved, applying: None };
        // Nothing serves that did not before.
        let _ = self.step(event, fabric);
        self.forget(id, fabric);
    }

    /// A killed replica is gone: its slot and its disk are free.
    pub(super) fn forget(&mut self, id: ReplicaId, fabric: &mut HostFabric) {
        self.members.remove(&id);
        self.holder.let_go(Held::Replica(id));
        self.injected.remove(&id);
        // Where all are lost, a disk may be the last thing that holds the state.
        if !matches!(self.decisions.phase(), Phase::Lost { .. }) {
            self.discard_disk(id);
        }
        let _ = self.step(Event::Gone { id }, fabric);
    }

    fn discard_disk(&mut self, id: ReplicaId) {
        if let Err(error) = self.platform.discard_log(id) {
            self.events.warn(&[Tag::Rebuild], format!("replica {id}: {error}"));
        }
    }

    fn kill(&mut self, id: ReplicaId, cause: Cause, fabric: &mut HostFabric) {
        let now = self.platform.now();
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.fenced {
            return;
        }
        member.fenced = true;
        if let Some(domain) = &member.domain
            && !teeth::bites(Bug::KillSkipped)
            && let Err(error) = domain.kill()
        {
            self.events.warn(&[Tag::Fence], format!("replica {id}: {error}"));
        }
        // Nothing that it writes is read from here on, dead already or not.
        fabric.isolate_slot(member.slot);
        self.platform.observe(Observed::Fenced { id, cause });
        if cause != Cause::Retired && now.duration_since(member.ordered) < EARLY_DEATH {
            self.respawn_pause =
                (self.respawn_pause * 2).clamp(Duration::from_millis(50), RESPAWN_PAUSE_MAX);
        } else {
            self.respawn_pause = Duration::ZERO;
        }
        self.log(
            &[Tag::Fence, Tag::Xenstore],
            format!("fenced replica {id}: {}", cause_name(cause)),
        );
    }

    fn tell(&self, id: ReplicaId, message: &ToReplica, fabric: &mut HostFabric) {
        let Some(member) = self.members.get(&id) else { return };
        if member.fenced {
            return;
        }
        let control = fabric.control(member.slot);
        if let Err(error) = control.send(&message.encode()) {
            self.log(&[Tag::Monitor], format!("replica {id} was not told {message:?}: {error}"));
        }
        control.flush();
        fabric.ring_doorbell(member.slot);
    }

    /// Sends a fault, or a wish, to a replica.
    pub(crate) fn order(&self, id: ReplicaId, message: &ToReplica, fabric: &mut HostFabric) {
        self.tell(id, message, fabric);
    }

    pub(super) fn tell_all(&self, message: &ToReplica, fabric: &mut HostFabric) {
        for &id in self.members.keys() {
            self.tell(id, message, fabric);
        }
    }

    pub(super) fn spawn_postponed(&mut self, fabric: &mut HostFabric) {
        let now = self.platform.now();
        let (due, rest) =
            std::mem::take(&mut self.postponed).into_iter().partition(|(due, _)| *due <= now);
        self.postponed = rest;
        let due: Vec<(Instant, Decision)> = due;
        for (_, decision) in due {
            let Decision::Spawn { id, .. } = &decision else { continue };
            // It may have been scaled away meanwhile.
            let wanted = self
                .decisions
                .members()
                .any(|(member, _, standing)| member == *id && standing == Standing::Starting);
            if wanted {
                self.spawn(decision, fabric);
            } else {
                let id = *id;
                self.forget(id, fabric);
            }
        }
    }
}
