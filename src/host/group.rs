//! One component's replicas: carries out what the decision maker decides, and
//! tells it what happens.

mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisor::decision::{
    Cause, Decision, DecisionMaker, Event, IntakeNo, LogPosition, Phase, SpawnMode, Standing,
};
use hypervisor::domain::{Limits, ProcessDomain, SpawnSpec};
use hypervisor::fabric::HostFabric;
use hypervisor::waiting::pin_process;
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::protocol::{FromReplica, ToReplica};
use replica::spec::{ReplicaSpec, Start};
use rustix::event::epoll;
use state_machine::{InputNo, OutputNo};

use super::failover::{Running, cause_name};
use super::front::Token;
use super::launcher::{Launched, Launcher};
use super::settings::Settings;
use super::waker::Waker;
use crate::events::{Events, Tag};
use crate::status::{Failover, MAX_FAILOVERS};
use watch::Watch;

/// A replica that fails this soon after its start makes the next one wait.
const EARLY_DEATH: Duration = Duration::from_secs(2);
/// The longest such wait.
const RESPAWN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A replica that is not confirmed gone.
struct Member {
    slot: SlotId,
    ordered: Instant,
    domain: Option<ProcessDomain>,
    watch: Option<Watch>,
    /// Killed: its process may still be ending.
    fenced: bool,
    ready: bool,
    /// Bound to the component's core.
    pinned: bool,
}

/// See the module.
pub(crate) struct Group {
    settings: Arc<Settings>,
    events: Arc<Events>,
    epoll: Arc<OwnedFd>,
    waker: Waker,
    launcher: Launcher,
    decisions: DecisionMaker,
    members: BTreeMap<ReplicaId, Member>,
    running: Option<Running>,
    failovers: VecDeque<Failover>,
    failover_count: u64,
    /// Inputs that were quarantined.
    quarantined: BTreeSet<u64>,
    /// When faults were injected, for the time of detection.
    injected: BTreeMap<ReplicaId, Instant>,
    /// Decisions to spawn that wait because the last replica died early.
    postponed: Vec<(Instant, Decision)>,
    respawn_pause: Duration,
    /// A replica to be recovered once its process is gone.
    recover_wanted: bool,
}

/// What the rest of the host must do after a change of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A primary serves; its log held inputs up to this one.
    Serving {
        /// The last input in the finished log.
        last_input: InputNo,
        /// The last output that it yielded.
        last_output: OutputNo,
    },
    /// The state is gone.
    Lost,
}

impl Group {
    /// A group without replicas.
    ///
    /// # Errors
    /// When the launcher's thread cannot start.
    pub(crate) fn new(
        settings: Arc<Settings>,
        decisions: DecisionMaker,
        epoll: Arc<OwnedFd>,
        waker: Waker,
        events: Arc<Events>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            launcher: Launcher::start(waker.clone())?,
            settings,
            events,
            epoll,
            waker,
            decisions,
            members: BTreeMap::new(),
            running: None,
            failovers: VecDeque::new(),
            failover_count: 0,
            quarantined: BTreeSet::new(),
            injected: BTreeMap::new(),
            postponed: Vec::new(),
            respawn_pause: Duration::ZERO,
            recover_wanted: false,
        })
    }

    /// The decision maker, to look at.
    pub(crate) fn decisions(&self) -> &DecisionMaker {
        &self.decisions
    }

    /// The failovers so far, oldest first; the last [`MAX_FAILOVERS`].
    pub(crate) fn failovers(&self) -> impl Iterator<Item = &Failover> {
        self.failovers.iter()
    }

    /// Failovers since the start.
    pub(crate) fn failover_count(&self) -> u64 {
        self.failover_count
    }

    /// The process of a replica.
    pub(crate) fn domain(&self, id: ReplicaId) -> Option<&ProcessDomain> {
        self.members.get(&id).and_then(|member| member.domain.as_ref())
    }

    /// The slot of a replica.
    pub(crate) fn slot(&self, id: ReplicaId) -> Option<SlotId> {
        self.members.get(&id).map(|member| member.slot)
    }

    /// Slot of the replica whose outputs count, if there is one: the primary, or
    /// the candidate that is about to serve.
    pub(crate) fn primary_slot(&self) -> Option<SlotId> {
        let id = match self.decisions.phase() {
            Phase::Serving { primary } | Phase::Draining { primary } => *primary,
            Phase::Promoting { candidate } => *candidate,
            _ => return None,
        };
        self.slot(id)
    }

    /// The generation whose outputs count.
    pub(crate) fn generation(&self) -> Generation {
        self.decisions.generation()
    }

    /// Notes that a fault was just injected.
    pub(crate) fn note_injected(&mut self, id: ReplicaId) {
        self.injected.insert(id, Instant::now());
    }

    /// Whether nothing is under way: no failover, no start, no rebuild.
    pub(crate) fn is_settled(&self) -> bool {
        self.running.is_none()
            && self.postponed.is_empty()
            && matches!(self.decisions.phase(), Phase::Serving { .. })
            && self.decisions.members().all(|(_, _, standing)| standing == Standing::Voter)
            && self.members.values().all(|member| member.ready && !member.fenced)
    }

    /// Takes an event and carries out what follows from it.
    pub(crate) fn step(&mut self, event: Event, fabric: &mut HostFabric) -> Option<Notice> {
        let mut notice = None;
        for decision in self.decisions.step(event) {
            if let Some(new) = self.carry_out(decision, fabric) {
                notice = Some(new);
            }
        }
        notice
    }

    fn log(&self, tags: &[Tag], text: String) {
        self.events.info(tags, text);
    }

    fn carry_out(&mut self, decision: Decision, fabric: &mut HostFabric) -> Option<Notice> {
        match decision {
            Decision::Spawn { .. } => {
                if self.respawn_pause.is_zero() {
                    self.spawn(decision, fabric);
                } else {
                    let due = Instant::now() + self.respawn_pause;
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
                    running.fenced(Instant::now());
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
                let now = Instant::now();
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
            ordered: Instant::now(),
            domain: None,
            watch: None,
            fenced: false,
            ready: false,
            pinned: false,
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
        let launched = self
            .spawn_spec(id, slot, start, peers, fabric)
            .map(|spec| self.launcher.order(id, spec));
        // The slot is empty now: nothing of its last occupant can be mistaken
        // for the new one's.
        self.tell_all(&ToReplica::Introduce { id, slot }, fabric);
        match launched {
            Ok(true) => {
                // It hears of the dead before it hears of anything else.
                if let Decision::Isolate { generation, certificate, fenced } =
                    self.decisions.isolation()
                {
                    let message = ToReplica::Isolate { generation, certificate, fenced };
                    self.tell(id, &message, fabric);
                }
            }
            Ok(false) => self.start_failed(id, "too many replicas are being started", fabric),
            Err(why) => self.start_failed(id, &why, fabric),
        }
    }

    fn spawn_spec(
        &self,
        id: ReplicaId,
        slot: SlotId,
        start: Start,
        peers: Vec<(u64, u8)>,
        fabric: &mut HostFabric,
    ) -> Result<SpawnSpec, String> {
        fabric.reset_slot(slot, id).map_err(|error| error.to_string())?;
        let descriptors = fabric.descriptors(slot).map_err(|error| error.to_string())?;
        let settings = &self.settings;
        let spec = ReplicaSpec {
            id: id.0,
            slot: slot.get(),
            start,
            ack: settings.ack(),
            storage: settings.storage(id),
            spin_us: settings.config.xenstore.replica_spin_us,
            spin_unreleased_us: settings.config.xenstore.commit_spin_us,
            beat_ms: settings.config.monitor.beat_ms.into(),
            idle_beat_ms: settings.idle_beat_ms().into(),
            election_ms: settings.election_ms(),
            peers,
        };
        let spec = serde_json::to_string(&spec).map_err(|error| error.to_string())?;
        Ok(SpawnSpec {
            exe: settings.exe.clone(),
            name: OsString::from(format!("rvmm: xenstore replica {id}")),
            args: vec!["replica".into(), spec.into()],
            env: settings.replica_env(),
            descriptors,
            error_output: Default::default(),
            limits: Limits { data_bytes: settings.memory_bytes(), ..Limits::default() },
            // A joining replica has much to do and must not do it on the core that
            // answers clients: it moves there when it has its vote.
            core: None,
        })
    }

    fn start_failed(&mut self, id: ReplicaId, why: &str, fabric: &mut HostFabric) {
        self.log(&[Tag::Monitor, Tag::Xenstore], format!("replica {id} cannot start: {why}"));
        let event = Event::Failed { id, cause: Cause::Misbehaved, applying: None };
        // Nothing serves that did not before.
        let _ = self.step(event, fabric);
        self.forget(id, fabric);
    }

    /// A killed replica is gone: its slot and its disk are free.
    fn forget(&mut self, id: ReplicaId, fabric: &mut HostFabric) {
        self.members.remove(&id);
        self.injected.remove(&id);
        // Where all are lost, a disk may be the last thing that holds the state.
        if !matches!(self.decisions.phase(), Phase::Lost { .. }) {
            self.discard_disk(id);
        }
        let _ = self.step(Event::Gone { id }, fabric);
    }

    fn discard_disk(&self, id: ReplicaId) {
        let Some(disk) = self.settings.disk(id) else { return };
        match std::fs::remove_dir_all(&disk) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.events.warn(&[Tag::Rebuild], format!("{}: {error}", disk.display()));
            }
            _ => {}
        }
    }

    fn kill(&mut self, id: ReplicaId, cause: Cause, fabric: &mut HostFabric) {
        let now = Instant::now();
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.fenced {
            return;
        }
        member.fenced = true;
        if let Some(domain) = &member.domain
            && let Err(error) = domain.kill()
        {
            self.events.warn(&[Tag::Fence], format!("replica {id}: {error}"));
        }
        // Nothing that it writes is read from here on, dead already or not.
        fabric.isolate_slot(member.slot);
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

    fn tell_all(&self, message: &ToReplica, fabric: &mut HostFabric) {
        for &id in self.members.keys() {
            self.tell(id, message, fabric);
        }
    }

    /// Looks at everything that is not a message: replicas that have started,
    /// acknowledged, died or hung. `thorough` once a monitor's period, else only
    /// what a failover waits for.
    pub(crate) fn look(
        &mut self,
        thorough: bool,
        inputs_wait: bool,
        fabric: &mut HostFabric,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        while let Some(launched) = self.launcher.take() {
            self.launched(launched, fabric);
        }
        self.look_at_primary(fabric);
        self.look_for_deaths(fabric, &mut notices);
        if self.members.values().any(|member| !member.ready && !member.fenced) {
            self.look_for_ready(fabric, &mut notices);
        }
        if let Phase::Electing { waiting, .. } = self.decisions.phase() {
            let waiting: Vec<_> = waiting.iter().copied().collect();
            self.look_for_acknowledgements(&waiting, fabric, &mut notices);
        }
        if thorough {
            self.look_for_hangs(inputs_wait, fabric, &mut notices);
            self.look_for_divergence(fabric, &mut notices);
            self.look_for_gone(fabric);
            self.spawn_postponed(fabric);
            self.pin_voters();
        }
        notices
    }

    fn launched(&mut self, launched: Launched, fabric: &mut HostFabric) {
        let Launched { id, domain } = launched;
        let domain = match domain {
            Ok(domain) => domain,
            Err(error) => return self.start_failed(id, &error.to_string(), fabric),
        };
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.fenced {
            // Unwanted by now; dropping it kills it, and it is gone then.
            drop(domain);
            return self.forget(id, fabric);
        }
        let data = Token::Replica(id).to_data();
        if let Err(error) = epoll::add(&*self.epoll, domain.pidfd(), data, epoll::EventFlags::IN) {
            self.events.warn(&[Tag::Monitor], format!("replica {id}: epoll: {error}"));
        }
        member.domain = Some(domain);
    }

    fn look_for_ready(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let candidates: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| !member.ready && !member.fenced && member.domain.is_some())
            .map(|(&id, member)| (id, member.slot))
            .collect();
        for (id, slot) in candidates {
            let page = fabric.replica_page(slot);
            if page.replica() != id || page.beats() == 0 {
                continue;
            }
            let watch = Watch::start(self.settings.monitor(), page, self.waker.clone());
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.ready = true;
            member.watch = match watch {
                Ok(watch) => Some(watch),
                Err(error) => {
                    self.events.warn(&[Tag::Monitor], format!("replica {id}: {error}"));
                    None
                }
            };
            let took = member.ordered.elapsed();
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("replica {id} is up after {} us", took.as_micros()),
            );
            notices.extend(self.step(Event::Ready { id }, fabric));
        }
    }

    fn look_for_acknowledgements(
        &mut self,
        waiting: &[ReplicaId],
        fabric: &mut HostFabric,
        notices: &mut Vec<Notice>,
    ) {
        let wanted = self.decisions.generation();
        for &id in waiting {
            let Some(slot) = self.slot(id) else { continue };
            let page = fabric.replica_page(slot);
            if page.generation() == wanted {
                let log = LogPosition { term: page.last_log_term(), index: page.last_log_index() };
                let event = Event::Acknowledged { id, generation: wanted, log };
                notices.extend(self.step(event, fabric));
            }
        }
    }

    /// Notes the primary's beat, so that its last sign of life is known well.
    fn look_at_primary(&mut self, fabric: &HostFabric) {
        if let Some(primary) = self.decisions.primary()
            && let Some(member) = self.members.get_mut(&primary)
            && let Some(watch) = &mut member.watch
        {
            watch.look(Instant::now(), fabric.replica_page(member.slot));
        }
    }

    fn look_for_deaths(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let dead: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| !m.fenced && m.watch.as_ref().is_some_and(Watch::says_dead))
            .map(|(&id, _)| id)
            .collect();
        for id in dead {
            self.died(id, fabric, notices);
        }
    }

    /// A process has ended, says its pidfd.
    pub(crate) fn pidfd_ready(&mut self, id: ReplicaId, fabric: &mut HostFabric) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.members.get(&id).is_some_and(|member| !member.fenced) {
            self.died(id, fabric, &mut notices);
        }
        self.look_for_gone(fabric);
        notices
    }

    fn died(&mut self, id: ReplicaId, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let Some(slot) = self.slot(id) else { return };
        let reason = fabric.replica_page(slot).crash_reason();
        let cause = match &reason {
            None => Cause::Killed,
            Some(reason) if reason.starts_with("corrupt") => Cause::Corrupt,
            Some(_) => Cause::Crashed,
        };
        if let Some(reason) = reason {
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("last words of replica {id}: {reason}"),
            );
        }
        self.failed(id, cause, fabric, notices);
    }

    /// Gives a replica up.
    pub(crate) fn failed(
        &mut self,
        id: ReplicaId,
        cause: Cause,
        fabric: &mut HostFabric,
        notices: &mut Vec<Notice>,
    ) {
        let now = Instant::now();
        let Some(member) = self.members.get(&id) else { return };
        let applying = fabric.replica_page(member.slot).applying_input();
        let applying = (applying > 0).then_some(IntakeNo(applying));
        let leads = match self.decisions.phase() {
            Phase::Serving { primary } | Phase::Draining { primary } => *primary == id,
            Phase::Promoting { candidate } => *candidate == id,
            _ => false,
        };
        let last_sign = self
            .injected
            .get(&id)
            .copied()
            .or_else(|| member.watch.as_ref().map(Watch::last_sign))
            .unwrap_or(now);
        self.log(
            &[Tag::Monitor, Tag::Xenstore],
            format!("replica {id}{} {}", if leads { " (primary)" } else { "" }, cause_name(cause)),
        );
        if leads && self.running.is_none_or(|running| running.is_planned()) {
            self.running = Some(Running::new(id, cause, last_sign, now));
        }
        let applying = if leads { applying } else { None };
        notices.extend(self.step(Event::Failed { id, cause, applying }, fabric));
    }

    fn look_for_hangs(
        &mut self,
        inputs_wait: bool,
        fabric: &mut HostFabric,
        notices: &mut Vec<Notice>,
    ) {
        let now = Instant::now();
        let primary = self.decisions.primary();
        let voters: BTreeSet<_> = self
            .decisions
            .members()
            .filter(|(_, _, standing)| *standing == Standing::Voter)
            .map(|(id, ..)| id)
            .collect();
        let mut hung = Vec::new();
        for (&id, member) in &mut self.members {
            if member.fenced {
                continue;
            }
            let (Some(watch), Some(domain)) = (&mut member.watch, &member.domain) else {
                if now.duration_since(member.ordered) > self.settings.start_limit() {
                    hung.push((
                        id,
                        format!("did not come up in {:?}", self.settings.start_limit()),
                    ));
                }
                continue;
            };
            let page = fabric.replica_page(member.slot);
            let waits = Some(id) == primary && inputs_wait;
            let progress = page.released_index() + fabric.page().freed_input();
            let why = if voters.contains(&id) {
                watch.judge(now, page, domain, waits, progress)
            } else {
                watch.judge_learner(now, page)
            };
            hung.extend(why.map(|why| (id, why)));
        }
        for (id, why) in hung {
            self.log(&[Tag::Monitor, Tag::Xenstore], format!("replica {id} hangs: {why}"));
            self.failed(id, Cause::Hung, fabric, notices);
        }
    }

    /// Compares digests at equal places of the log.
    fn look_for_divergence(&mut self, fabric: &mut HostFabric, notices: &mut Vec<Notice>) {
        let mut shown: BTreeMap<u64, Vec<(ReplicaId, u64)>> = BTreeMap::new();
        let voters = self.decisions.members().filter(|(_, _, s)| *s == Standing::Voter);
        for (id, slot, _) in voters {
            for record in fabric.replica_page(slot).digests() {
                shown.entry(record.log_index).or_default().push((id, record.digest));
            }
        }
        let primary = self.decisions.primary();
        let mut wrong = BTreeSet::new();
        for at in shown.values() {
            wrong.extend(outvoted(at, primary));
        }
        for id in wrong {
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!("replica {id} has another digest than the others at the same index"),
            );
            self.failed(id, Cause::Corrupt, fabric, notices);
        }
    }

    fn look_for_gone(&mut self, fabric: &mut HostFabric) {
        let mut gone = Vec::new();
        for (&id, member) in &mut self.members {
            let Some(domain) = &mut member.domain else { continue };
            if !member.fenced {
                continue;
            }
            match domain.try_wait() {
                Ok(None) => {}
                Ok(Some(_)) => gone.push(id),
                Err(error) => {
                    self.events.warn(&[Tag::Fence], format!("replica {id}: {error}"));
                }
            }
        }
        for id in gone {
            self.forget(id, fabric);
        }
    }

    fn spawn_postponed(&mut self, fabric: &mut HostFabric) {
        let now = Instant::now();
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

    /// Whether nothing is left and a disk may be tried.
    pub(crate) fn take_recovery(&mut self) -> bool {
        let ready = self.recover_wanted && self.members.is_empty() && self.postponed.is_empty();
        if ready {
            self.recover_wanted = false;
        }
        ready
    }

    /// Takes a message of a replica that concerns the group.
    pub(crate) fn heard(
        &mut self,
        id: ReplicaId,
        generation: Generation,
        message: FromReplica,
        fabric: &mut HostFabric,
    ) -> Option<Notice> {
        match message {
            FromReplica::Promoted { last_input, last_output } => {
                let now = Instant::now();
                self.respawn_pause = Duration::ZERO;
                let mut notice = self.step(Event::Promoted { id, generation }, fabric);
                fabric.page().set_primary(id);
                self.log(
                    &[Tag::Monitor, Tag::Xenstore],
                    format!("replica {id} is primary, generation {generation}"),
                );
                if let Some(running) = &mut self.running {
                    running.promoted(now, id, generation);
                }
                if notice.is_none() {
                    notice = Some(Notice::Serving { last_input, last_output });
                }
                notice
            }
            FromReplica::Drained => self.step(Event::Drained { id }, fabric),
            FromReplica::CaughtUp(learner) => self.step(Event::CaughtUp { id: learner }, fabric),
            FromReplica::Membership { voters, learners, logged } => {
                let event = Event::Membership {
                    logged: logged.into_iter().collect(),
                    voters: voters.into_iter().collect(),
                    learners: learners.into_iter().collect(),
                };
                self.step(event, fabric)
            }
            FromReplica::Output(_) | FromReplica::Released(_) | FromReplica::Exported { .. } => {
                None
            }
        }
    }

    /// The first answer after a promotion has come, or there is nothing to
    /// answer.
    pub(crate) fn answered(&mut self) {
        let Some(running) = self.running else { return };
        if let Some(failover) = running.answered(Instant::now()) {
            self.running = None;
            self.log(
                &[Tag::Monitor, Tag::Xenstore],
                format!(
                    "failover {} -> {} ({}): detect {} us, fence {} us, promote {} us, replay {} \
                     us, total {} us",
                    failover.from,
                    failover.to,
                    failover.cause,
                    failover.detect_us,
                    failover.fence_us,
                    failover.promote_us,
                    failover.replay_us,
                    failover.total_us
                ),
            );
            self.failover_count += 1;
            if self.failovers.len() == MAX_FAILOVERS {
                self.failovers.pop_front();
            }
            self.failovers.push_back(failover);
        }
    }

    /// Inputs quarantined since the start.
    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantined.len() as u64
    }

    /// Whether a failover waits for its first answer.
    pub(crate) fn failover_runs(&self) -> bool {
        self.running.is_some()
    }

    /// Binds those that answer clients to the component's core.
    fn pin_voters(&mut self) {
        let Some(core) = self.settings.core() else { return };
        for (id, _, standing) in self.decisions.members() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            if let Some(domain) = &member.domain
                && standing == Standing::Voter
                && !std::mem::replace(&mut member.pinned, true)
                && let Err(error) = pin_process(domain.pid(), &[core])
            {
                self.events.warn(&[Tag::Host], format!("replica {id} on core {}: {error}", core.0));
            }
        }
    }

    /// The component has another core now.
    pub(crate) fn move_to_core(&mut self) {
        for member in self.members.values_mut() {
            member.pinned = false;
        }
        self.pin_voters();
    }

    /// CPU time of all replicas so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let live = self.members.values().filter_map(|member| member.domain.as_ref());
        let spent = live.filter_map(|domain| domain.cpu_times().ok()).map(|times| times.on_cpu_ns);
        Duration::from_nanos(spent.sum())
    }

    /// Kills everything, for the end of the host.
    pub(crate) fn shut_down(&mut self) {
        for member in self.members.values_mut() {
            member.fenced = true;
            // Dropping a domain kills it and waits for its end.
            member.domain = None;
        }
    }
}

/// Who is wrong, of those that show a digest of the same place of the log: the
/// minority; without one, whoever differs from the primary.
fn outvoted(shown: &[(ReplicaId, u64)], primary: Option<ReplicaId>) -> Vec<ReplicaId> {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, digest) in shown {
        *votes.entry(*digest).or_default() += 1;
    }
    if votes.len() < 2 {
        return Vec::new();
    }
    let most = votes.values().copied().max().unwrap_or(0);
    let mut winners = votes.iter().filter(|(_, count)| **count == most);
    let right = match (winners.next(), winners.next()) {
        (Some((digest, _)), None) => Some(*digest),
        _ => shown.iter().find(|(id, _)| Some(*id) == primary).map(|(_, digest)| *digest),
    };
    let Some(right) = right else { return Vec::new() };
    shown.iter().filter(|(_, digest)| *digest != right).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(1);
    const B: ReplicaId = ReplicaId(2);
    const C: ReplicaId = ReplicaId(3);

    #[test]
    fn the_minority_is_wrong_even_if_it_leads() {
        assert_eq!(outvoted(&[(A, 7), (B, 8), (C, 8)], Some(A)), vec![A]);
        assert_eq!(outvoted(&[(A, 7), (B, 8), (C, 7)], Some(A)), vec![B]);
        assert_eq!(outvoted(&[(A, 7), (B, 7)], Some(A)), vec![]);
    }

    #[test]
    fn without_a_majority_the_primary_is_believed() {
        assert_eq!(outvoted(&[(A, 7), (B, 8)], Some(B)), vec![A]);
        assert_eq!(outvoted(&[(A, 7), (B, 8)], None), vec![]);
    }
}
