//! A replica on its rings: what [`crate::core::Replica`] hears and says goes
//! through the fabric, and its progress onto its page. It has no clock:
//! whoever drives it, a process or a simulator, tells the time and calls
//! [`Runtime::step`] whenever there may be something to do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consensus::{LogIndex, LogStore};
use hypervisor::fabric::{DigestRecord, ReplicaFabric, Role as PageRole, SleepLimit};
use hypervisor::waiting::Pace;
use hypervisor::{ReplicaId, SlotId};
use state_machine::{CodecError, Digest, Input, InputNo, OutputNo, Reader};
use teeth::Bug;

use crate::core::{Link, Progress, Replica, Role};
use crate::error::Fatal;
use crate::executor::Execute;
use crate::outbox::Watermarks;
use crate::protocol::ToReplica;
use crate::scrubber::Scrubber;
use crate::spec::{LogLimits, ReplicaSpec};

/// Inputs taken in one turn, so that answers are not held up by a long queue.
const INPUTS_PER_TURN: usize = 64;
/// Messages of one peer taken in one turn.
const MESSAGES_PER_TURN: usize = 64;
/// No inputs are taken while this much waits for the host to read.
pub const OUTPUT_BACKLOG_BYTES: usize = 8 * 1024 * 1024;

/// [`Link`] over the rings. What is sent is shown to the receivers, and they are
/// woken, by [`Runtime::flush`].
struct RingLink<'a> {
    fabric: &'a mut ReplicaFabric,
    slots: &'a BTreeMap<ReplicaId, SlotId>,
}

impl Link for RingLink<'_> {
    fn to_host(&mut self, bytes: &[u8]) {
        if let Err(error) = self.fabric.outputs().send(bytes) {
            // Inputs are not taken long before the backlog is full, and losing
            // an output is not an option.
            panic!("output to the host: {error}");
        }
    }

    fn to_peer(&mut self, to: ReplicaId, bytes: &[u8]) -> bool {
        self.slots
            .get(&to)
            .and_then(|slot| self.fabric.peer_tx(*slot))
            .is_some_and(|sender| sender.send(bytes).is_ok())
    }

    fn show_digest(&mut self, index: LogIndex, digest: Digest) {
        let record = DigestRecord { log_index: index.0, digest: digest.0 };
        self.fabric.page().publish_digest(record);
    }

    fn at_work(&mut self) {
        self.fabric.page().beat();
    }
}

/// A running replica.
pub struct Runtime<X: Execute> {
    replica: Replica<X>,
    fabric: ReplicaFabric,
    store: Box<dyn LogStore>,
    slots: BTreeMap<ReplicaId, SlotId>,
    pace: Pace,
    /// Whether there was work since the pace was looked at.
    worked: bool,
    next_beat: Instant,
    scrubber: Scrubber,
    log: LogLimits,
    slow: Duration,
    shown: Option<Progress>,
    buffer: Vec<u8>,
    at_hand: AtHand,
    /// The inputs that are there may have killed a predecessor.
    careful: bool,
}

/// Inputs that were taken, to be executed together.
#[derive(Default)]
struct AtHand {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl AtHand {
    fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn inputs(&self) -> Result<Vec<(InputNo, Input<'_>)>, CodecError> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins
            .zip(&self.ends)
            .map(|(&begin, &end)| Input::decode(&mut Reader::new(&self.bytes[begin..end])))
            .collect()
    }
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Something was done.
    pub moved: bool,
    /// More can be done at once.
    pub go_on: bool,
    /// Others have to act before a batch that is under way can be released.
    pub waits_for_peers: bool,
}

impl<X: Execute> Runtime<X> {
    /// The replica that the host has asked for, on its fabric and its log.
    /// `executor` has a new state machine.
    ///
    /// # Errors
    /// [`Fatal`] when it cannot be that.
    pub fn new(
        spec: &ReplicaSpec,
        fabric: ReplicaFabric,
        mut store: Box<dyn LogStore>,
        executor: X,
        now: Instant,
    ) -> Result<Self, Fatal> {
        let peer = spec.peer(&mut *store)?;
        let mut runtime = Self {
            replica: Replica::new(spec.replica_id(), peer, executor),
            fabric,
            store,
            slots: BTreeMap::new(),
            pace: Pace::new(spec.beat(), spec.idle_beat(), now),
            worked: true,
            next_beat: now,
            scrubber: Scrubber::default(),
            log: spec.log,
            slow: Duration::ZERO,
            shown: None,
            buffer: Vec::new(),
            at_hand: AtHand::default(),
            careful: true,
        };
        for &(id, slot) in &spec.peers {
            if let Some(slot) = SlotId::new(slot) {
                runtime.introduce(ReplicaId(id), slot);
            }
        }
        Ok(runtime)
    }

    fn introduce(&mut self, id: ReplicaId, slot: SlotId) {
        if slot != self.fabric.slot() && id != self.replica.id() {
            self.slots.retain(|_, known| *known != slot);
            self.slots.insert(id, slot);
            self.fabric.bind_peer(slot, id);
        }
    }

    /// Does what there is to do at this time.
    ///
    /// # Errors
    /// [`Fatal`]: the replica must stop.
    pub fn step(&mut self, now: Instant) -> Result<Step, Fatal> {
        let mut moved = self.hear()?;
        moved |= self.take_inputs()?;
        moved |= self.turn(false)?;
        self.keep_pace(now);
        // The first beat tells that the replica is up: what it had on disk is in
        // the state by now.
        self.fabric.page().beat();
        if now >= self.next_beat {
            self.tick(now)?;
        }
        Ok(Step {
            moved,
            go_on: self.replica.has_due_batch(),
            waits_for_peers: self.replica.is_waiting_for_peers(),
        })
    }

    /// How often a step is needed even if nobody rings.
    pub fn period(&self) -> Duration {
        self.pace.period()
    }

    /// How much slower every step is to be, an injected fault.
    pub fn slowness(&self) -> Duration {
        self.slow
    }

    /// Whether there will be something to do of which nobody tells.
    pub fn must_look_again(&mut self) -> bool {
        // Nobody rings for an encoded snapshot, nor always for room in a ring.
        self.replica.is_encoding() || self.has_backlog()
    }

    /// Sleeps until somebody rings or the limit is reached, unless something has
    /// come already.
    pub fn sleep<'a>(&mut self, limit: impl Into<SleepLimit<'a>>) {
        let (wants_input, slots) = (self.replica.wants_input(0), &self.slots);
        self.fabric.wait(limit, |fabric| has_come(fabric, wants_input, slots));
    }

    /// The parts of [`Self::sleep`], for who blocks otherwise: the others ring
    /// from here on. Says whether there is nothing to do meanwhile.
    pub fn prepare_sleep(&mut self) -> bool {
        self.fabric.prepare_sleep();
        !has_come(&mut self.fabric, self.replica.wants_input(0), &self.slots)
    }

    /// The others need not ring any more.
    pub fn wake_up(&self) {
        self.fabric.wake_up();
    }

    /// Its side of the shared memory, to look at.
    pub fn fabric(&self) -> &ReplicaFabric {
        &self.fabric
    }

    /// What runs on the rings, to look at.
    pub fn replica(&self) -> &Replica<X> {
        &self.replica
    }

    /// Beats and ticks often while there is work, seldom while there is none.
    fn keep_pace(&mut self, now: Instant) {
        if self.pace.note(std::mem::take(&mut self.worked), now) {
            self.fabric.page().set_idle(self.pace.is_idle());
            self.next_beat = self.next_beat.min(now + self.pace.period());
        }
    }

    /// Takes what host and peers have sent.
    fn hear(&mut self) -> Result<bool, Fatal> {
        let mut moved = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        while receive(self.fabric.control(), &mut buffer)? {
            moved = true;
            self.on_control(ToReplica::decode(&buffer)?)?;
        }
        let peers: [Option<(ReplicaId, SlotId)>; hypervisor::SLOTS] = {
            let mut slots = self.slots.iter();
            std::array::from_fn(|_| slots.next().map(|(&id, &slot)| (id, slot)))
        };
        for (id, slot) in peers.into_iter().flatten() {
            for _ in 0..MESSAGES_PER_TURN {
                let Some(receiver) = self.fabric.peer_rx(slot) else { break };
                match receiver.receive(&mut buffer) {
                    Ok(true) => self.replica.on_peer(id, &buffer),
                    Ok(false) => break,
                    Err(error) => {
                        // The two cannot work together any more: one has to go.
                        tracing::warn!(peer = %id, %error, "stopped reading a peer");
                        self.fabric.page().set_unreadable(id);
                        self.fabric.ring_host();
                        self.fabric.unbind_peer(slot);
                        self.slots.remove(&id);
                        break;
                    }
                }
                moved = true;
            }
            if self.fabric.peer_rx(slot).is_some_and(|receiver| receiver.release()) {
                // It has more to send than the ring had room for.
                self.fabric.ring_peer(slot);
            }
        }
        self.buffer = buffer;
        Ok(moved)
    }

    fn on_control(&mut self, message: ToReplica) -> Result<(), Fatal> {
        self.worked = true;
        match &message {
            ToReplica::Introduce { id, slot } => self.introduce(*id, *slot),
            ToReplica::Slow { delay_us } => self.slow = Duration::from_micros(*delay_us),
            ToReplica::Isolate { fenced, .. } => {
                // From here on nothing of the dead is read.
                for id in fenced.iter().filter(|_| !teeth::bites(Bug::ReadsTheFenced)) {
                    if let Some(slot) = self.slots.remove(id) {
                        self.fabric.unbind_peer(slot);
                    }
                }
            }
            _ => {}
        }
        self.replica.on_control(message)
    }

    fn take_inputs(&mut self) -> Result<bool, Fatal> {
        if self.replica.take_became_primary() {
            self.careful = true;
            self.fabric.intake().seek_oldest();
            if teeth::bites(Bug::IntakeFromNewest) {
                while let Ok(Some(_)) = self.fabric.intake().next(&mut self.buffer) {}
            }
        }
        let mut moved = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        let at_once = self.inputs_at_once();
        for _ in 0..INPUTS_PER_TURN {
            if !self.replica.wants_input(self.at_hand.bytes.len())
                || self.fabric.outputs().backlog_bytes() > OUTPUT_BACKLOG_BYTES
            {
                break;
            }
            let next = self.fabric.intake().next(&mut buffer);
            if next.map_err(|error| Fatal::Ring(format!("intake: {error}")))?.is_none() {
                self.careful = false;
                break;
            }
            moved = true;
            self.worked = true;
            self.at_hand.push(&buffer);
            if self.at_hand.ends.len() >= at_once {
                self.execute()?;
            }
        }
        self.execute()?;
        self.buffer = buffer;
        Ok(moved)
    }

    /// How many inputs are executed together. An input that hangs its primary is known
    /// only if it was alone. So those that were there when this one became primary
    /// are executed one by one; and all are where there is no second standby, that the
    /// next primary could die for certainty.
    fn inputs_at_once(&self) -> usize {
        let is_standby = |(id, slot): &(&ReplicaId, &SlotId)| {
            let page = self.fabric.peer_page(**slot);
            page.replica() == **id && page.role() == PageRole::Standby
        };
        if self.careful || self.slots.iter().filter(is_standby).count() < 2 {
            return 1;
        }
        self.replica.executor().tasks_at_once()
    }

    /// Executes the inputs at hand; should one of them kill this process, the page
    /// tells which. Where several are executed at once, that is known only when
    /// there is somebody left to tell: whoever hangs does not.
    fn execute(&mut self) -> Result<(), Fatal> {
        if self.at_hand.ends.is_empty() {
            return Ok(());
        }
        let inputs = self.at_hand.inputs()?;
        let is_deadly = |(no, input): &(InputNo, Input<'_>)| {
            matches!(input, Input::Poison) && !self.replica.is_quarantined(*no)
        };
        let deadly = inputs.iter().position(is_deadly);
        let sound = &inputs[..deadly.unwrap_or(inputs.len())];
        if let [(no, _)] = sound {
            self.fabric.page().set_applying_input(no.0);
        }
        let mut link = RingLink { fabric: &mut self.fabric, slots: &self.slots };
        if let Err(fatal) = self.replica.on_inputs(sound, &mut link) {
            let executed = || sound.get(self.replica.executor().culprit()?).map(|(no, _)| *no);
            let culprit = match &fatal {
                Fatal::Implausible(implausible) => Some(implausible.input),
                _ => executed(),
            };
            if let Some(no) = culprit {
                self.fabric.page().set_applying_input(no.0);
            }
            return Err(fatal);
        }
        if let Some(deadly) = deadly {
            // The page goes on telling which input it was.
            self.fabric.page().set_applying_input(inputs[deadly].0.0);
            return Err(Fatal::Poisoned);
        }
        if !teeth::bites(Bug::ApplyingMarkLeft) {
            self.fabric.page().set_applying_input(0);
        }
        self.at_hand.clear();
        Ok(())
    }

    fn watermarks(&self) -> Watermarks {
        let page = self.fabric.host_page();
        Watermarks {
            freed_input: InputNo(page.freed_input()),
            delivered_output: OutputNo(page.delivered_output()),
        }
    }

    fn turn(&mut self, idle: bool) -> Result<bool, Fatal> {
        let watermarks = self.watermarks();
        let mut link = RingLink { fabric: &mut self.fabric, slots: &self.slots };
        let moved = self.replica.turn(&mut *self.store, watermarks, idle, &mut link)?;
        self.replica.snapshots(watermarks)?;
        let lengthened = self.publish();
        self.flush(lengthened);
        Ok(moved)
    }

    /// Shows what was sent, and wakes those that sleep. `acknowledges`: a standby
    /// has more log to acknowledge than before.
    fn flush(&mut self, acknowledges: bool) {
        if self.fabric.outputs().flush() {
            self.fabric.ring_host();
        }
        let primary = self.fabric.host_page().primary();
        for (id, slot) in &self.slots {
            if !self.fabric.peer_tx(*slot).is_some_and(|sender| sender.flush()) {
                continue;
            }
            let in_vain =
                || teeth::bites(Bug::StandbyNeverRings) || self.others_are_behind(primary);
            if acknowledges && *id == primary && in_vain() {
                continue;
            }
            self.fabric.ring_peer(*slot);
        }
    }

    /// Whether another standby's acknowledgement is still missing: that one will
    /// wake the primary, for whom this one alone is of no use. Each shows its log
    /// before it looks at the others', so the last one always rings; should it
    /// die instead, the host does.
    fn others_are_behind(&self, primary: ReplicaId) -> bool {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let own = self.fabric.page().last_log_index();
        self.slots.iter().any(|(id, slot)| {
            let page = self.fabric.peer_page(*slot);
            *id != primary
                && page.replica() == *id
                && page.role() == PageRole::Standby
                && page.last_log_index() < own
        })
    }

    /// What is done once a beat, however busy the replica is.
    fn tick(&mut self, now: Instant) -> Result<(), Fatal> {
        self.next_beat = now + self.pace.period();
        // Raft's clock goes slower in an idle replica, which does no harm: its
        // timeouts are many times longer than its heartbeats either way.
        self.replica.tick()?;
        // What could wait for company has waited long enough.
        self.turn(true)?;
        let mut link = RingLink { fabric: &mut self.fabric, slots: &self.slots };
        self.replica.show_digest_now(&mut link);
        self.scrubber.slice(self.replica.executor_mut(), self.pace.stretch())?;
        self.replica.compact(self.log.entries_max, self.log.entries_kept);
        Ok(())
    }

    /// Shows the others where this replica stands; whether, as a standby, it has
    /// more log than before. The generation goes last: with it, the log's end is
    /// acknowledged.
    fn publish(&mut self) -> bool {
        let progress = self.replica.progress();
        if self.shown == Some(progress) {
            return false;
        }
        let page = self.fabric.page();
        let lengthened = progress.last_index.0 > page.last_log_index();
        page.set_last_applied_input(progress.last_input.0);
        page.set_last_log_index(progress.last_index.0);
        page.set_last_log_term(progress.last_term);
        page.set_commit_index(progress.commit.0);
        page.set_applied_index(progress.applied.0);
        page.set_released_index(progress.commit.0);
        page.set_role(match progress.role {
            Role::Primary | Role::Draining => PageRole::Primary,
            _ if progress.is_voter => PageRole::Standby,
            _ => PageRole::Learner,
        });
        if page.generation() != progress.generation {
            page.set_generation(progress.generation);
            self.fabric.ring_host();
        }
        self.worked = true;
        self.shown = Some(progress);
        lengthened && progress.role == Role::Standby
    }

    fn has_backlog(&mut self) -> bool {
        self.fabric.outputs().has_backlog()
            || self
                .slots
                .values()
                .any(|slot| self.fabric.peer_tx(*slot).is_some_and(|sender| sender.has_backlog()))
    }
}

fn receive(receiver: &mut hypervisor::ring::Receiver, buffer: &mut Vec<u8>) -> Result<bool, Fatal> {
    let received = receiver.receive(buffer).map_err(|error| Fatal::Ring(error.to_string()))?;
    if !received {
        receiver.release();
    }
    Ok(received)
}

/// Whether something has come that nobody will ring for any more.
fn has_come(
    fabric: &mut ReplicaFabric,
    wants_input: bool,
    slots: &BTreeMap<ReplicaId, SlotId>,
) -> bool {
    (wants_input && fabric.intake().has_more())
        || fabric.control().has_more()
        || slots
            .values()
            .any(|slot| fabric.peer_rx(*slot).is_some_and(|receiver| receiver.has_more()))
}
