//! One replica, without its I/O: a state machine, a consensus peer and an
//! outbox. Events come in through methods, what is to be sent goes out through
//! [`Link`]; the process runtime and a simulator drive the same code.
//!
//! ```text
//!            Promote            leads           log finished, released
//!  Standby ───────────▶ Campaigning ───▶ Finishing ───────────▶ Primary
//!     ▲                                                            │ Drain
//!     └──────────── Isolate (newer generation) ◀── Drained ◀── Draining
//! ```
//!
//! The primary **applies before it proposes**. So an input that kills whoever
//! applies it never gets into the log, and a standby only ever applies what a
//! primary survived. The price: the primary's state runs ahead of the log, so a
//! primary that loses its lead without having drained must stop
//! ([`Fatal::Deposed`]) and be built anew.
//!
//! What leaves before it is logged: nothing but replies to opening and tentative
//! inputs (the begin of a transaction, and requests inside it), which reveal only
//! what the transaction itself did on top of a snapshot that *was* released.
//! Should the primary die, the same inputs are still in the intake and yield the
//! same replies.

mod describe;
mod follow;
mod lead;
mod members;
mod snapshots;

use std::collections::{BTreeSet, VecDeque};

use consensus::{Change, FenceEpoch, LogIndex, LogStore, Peer, PeerId, Role as PeerRole, Term};
use hypervisor::{Generation, ReplicaId};
use state_machine::{Class, Digest, Input, InputNo, Output, StateMachine as _};
use teeth::Bug;

use crate::batch::Batch;
use crate::error::Fatal;
use crate::executor::{Execute, Results, Task, Treatment};
use crate::outbox::{BatchNo, Emission, Outbox, Watermarks};
use crate::protocol::{FromReplica, ToReplica, peer_id, replica_id};
use crate::snapshot::Purpose;

use follow::Behind;

/// A batch is closed when its entry reaches this size.
const BATCH_BYTES: usize = 64 * 1024;
/// A batch that takes this much of the intake waits neither for the one before nor
/// for company: the smallest intake has room for four.
const FULL_BATCH_BYTES: usize = 16 * 1024;
/// No new inputs are taken while this much waits in the outbox.
pub const OUTBOX_BYTES: usize = 8 * 1024 * 1024;
/// No new inputs are taken while this many batches are not yet released.
const BATCHES_IN_FLIGHT: usize = 256;
/// Ticks after which a campaign without an outcome is repeated for the first
/// time. After each further one it takes twice as long, so that a peer that
/// refuses its vote gets the time to stand for election itself.
const CAMPAIGN_TICKS: u32 = 2;
/// The longest such wait, in ticks.
const CAMPAIGN_TICKS_MAX: u32 = 1024;
/// Digests are published at log indexes divisible by this, so that replicas
/// publish at the same ones.
const DIGEST_EVERY: u64 = 16;

/// Where a replica sends what it has to say.
pub trait Link {
    /// Sends a [`FromReplica`] message, encoded.
    fn to_host(&mut self, bytes: &[u8]);
    /// Sends a consensus message; whether it was sent.
    fn to_peer(&mut self, to: ReplicaId, bytes: &[u8]) -> bool;
    /// Shows the digest of the state after the log entry `index`.
    fn show_digest(&mut self, index: LogIndex, digest: Digest);
    /// Called between the steps of work that may take long: nobody hangs here.
    fn at_work(&mut self) {}
}

/// A [`Link`] as consensus sees it.
struct PeerLink<'a>(&'a mut dyn Link);

impl consensus::Outbox for PeerLink<'_> {
    fn send(&mut self, to: PeerId, message: &[u8]) -> bool {
        self.0.to_peer(replica_id(to), message)
    }
}

/// The part that a replica plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows.
    Standby,
    /// Wants to lead.
    Campaigning,
    /// Leads; serves once everything up to `barrier` is applied and released.
    Finishing {
        /// The first entry of its own term.
        barrier: LogIndex,
    },
    /// Serves.
    Primary,
    /// Finishes what it has begun.
    Draining,
    /// Has handed over.
    Drained,
}

/// What the outside may know of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The generation it follows.
    pub generation: Generation,
    /// Its part.
    pub role: Role,
    /// Last input applied.
    pub last_input: InputNo,
    /// Last log entry whose inputs are applied.
    pub applied: LogIndex,
    /// Last log entry known to be committed.
    pub commit: LogIndex,
    /// End of the log.
    pub last_index: LogIndex,
    /// Term of the end of the log.
    pub last_term: u64,
    /// Whether its acknowledgement counts.
    pub is_voter: bool,
}

/// See the module.
pub struct Replica<X: Execute> {
    id: ReplicaId,
    peer: Peer,
    executor: X,
    generation: Generation,
    role: Role,
    quarantine: BTreeSet<InputNo>,
    batch: Batch,
    /// Newest batch that holds a command: what a query has seen.
    last_command: BatchNo,
    /// Batches proposed and not yet released, with their place in the log.
    in_flight: VecDeque<(BatchNo, LogIndex)>,
    /// Last entry whose inputs are in the state.
    applied: LogIndex,
    /// What is committed behind it: see [`follow`].
    behind: Behind,
    outbox: Outbox,
    changes: VecDeque<Change>,
    /// The change that is in the log and not applied: what the next one begins
    /// with is not known before.
    change_under_way: Option<LogIndex>,
    learners_behind: BTreeSet<ReplicaId>,
    membership_changed: bool,
    membership_told: Option<FromReplica>,
    freeze_wanted: Option<Purpose>,
    /// The executor is making a snapshot.
    encoding: bool,
    /// From freezing the state for the log until the log has the snapshot.
    snapshot_under_way: bool,
    /// An encoded snapshot of state that may not be committed yet.
    early_snapshot: Option<(Purpose, LogIndex, Vec<u8>)>,
    /// The term that it leads.
    led_term: Option<Term>,
    campaign_ticks: u32,
    campaign_patience: u32,
    became_primary: bool,
    /// What it said when it became primary.
    promoted: Option<FromReplica>,
    /// The host wants to hear again what it may have missed.
    repeats: bool,
    commit_announced: LogIndex,
    results: Results,
}

/// Encodes what the outbox lets go and sends it to the host.
fn emitter<'a>(
    link: &'a mut dyn Link,
    generation: Generation,
) -> impl FnMut(Emission<'_>) + use<'a> {
    let mut bytes = Vec::with_capacity(256);
    move |emission| {
        bytes.clear();
        match emission {
            Emission::Output(output) => {
                FromReplica::encode_output(output, generation, &mut bytes);
            }
            Emission::Done(no) => FromReplica::Released(no).encode(generation, &mut bytes),
        }
        link.to_host(&bytes);
    }
}

impl<X: Execute> Replica<X> {
    /// A replica around a peer that was bootstrapped, joins, or was recovered.
    /// A recovered peer's snapshot and log come back through [`Self::turn`].
    #[must_use]
    pub fn new(id: ReplicaId, peer: Peer, executor: X) -> Self {
        Self {
            id,
            peer,
            executor,
            generation: Generation(0),
            role: Role::Standby,
            quarantine: BTreeSet::new(),
            batch: Batch::first(),
            last_command: BatchNo(0),
            in_flight: VecDeque::new(),
            applied: LogIndex(0),
            behind: Behind::default(),
            outbox: Outbox::default(),
            changes: VecDeque::new(),
            change_under_way: None,
            learners_behind: BTreeSet::new(),
            membership_changed: false,
            membership_told: None,
            freeze_wanted: None,
            encoding: false,
            snapshot_under_way: false,
            early_snapshot: None,
            led_term: None,
            campaign_ticks: 0,
            campaign_patience: CAMPAIGN_TICKS,
            became_primary: false,
            promoted: None,
            repeats: false,
            commit_announced: LogIndex(0),
            results: Results::default(),
        }
    }

    /// What the outside may know.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let (last_index, last_term) = self.peer.log_end();
        Progress {
            generation: self.generation,
            role: self.role,
            last_input: self.executor.numbers().0,
            applied: self.applied,
            commit: self.peer.released(),
            last_index,
            last_term: last_term.0,
            is_voter: !matches!(self.peer.role(), PeerRole::Learner | PeerRole::Outsider),
        }
    }

    /// The part it plays.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The last input that the state holds, and the digest of both.
    #[must_use]
    pub fn state(&self) -> (InputNo, Digest) {
        let state = self.executor.state();
        (state.last_input, state.digest)
    }

    /// What executes the inputs, to look at.
    #[must_use]
    pub fn executor(&self) -> &X {
        &self.executor
    }

    /// The same, for scrubbing and fault injection.
    pub fn executor_mut(&mut self) -> &mut X {
        &mut self.executor
    }

    /// Whether something is unreleased, so that waiting for it is worth a spin.
    #[must_use]
    pub fn is_waiting_for_peers(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether the replica has just become primary: the intake is to be read
    /// anew from its oldest input.
    pub fn take_became_primary(&mut self) -> bool {
        std::mem::take(&mut self.became_primary)
    }

    /// Whether the next input may be given, beside inputs of `at_hand_bytes` that
    /// were taken and not given yet.
    #[must_use]
    pub fn wants_input(&self, at_hand_bytes: usize) -> bool {
        self.role == Role::Primary
            && self.batch.len() + at_hand_bytes < BATCH_BYTES
            && self.in_flight.len() < BATCHES_IN_FLIGHT
            && self.outbox.bytes() < OUTBOX_BYTES
    }

    /// Whether executing this input is forbidden.
    #[must_use]
    pub fn is_quarantined(&self, no: InputNo) -> bool {
        self.quarantine.contains(&no)
    }

    /// Takes a message of the host.
    ///
    /// # Errors
    /// [`Fatal`]: the replica must stop.
    pub fn on_control(&mut self, message: ToReplica) -> Result<(), Fatal> {
        match message {
            ToReplica::Isolate { generation, certificate, fenced } => {
                self.isolate(generation, FenceEpoch(certificate), &fenced)?;
            }
            // Said again by a host that does not know whether it was heard.
            ToReplica::Promote { generation, .. }
                if generation == self.generation && self.role != Role::Standby =>
            {
                self.repeats = true;
            }
            ToReplica::Drain if self.role == Role::Drained => self.repeats = true,
            ToReplica::Promote { generation, quarantine } if generation == self.generation => {
                let refused = |_: &InputNo| !teeth::bites(Bug::QuarantineSkipped);
                self.quarantine = quarantine.into_iter().filter(refused).collect();
                self.role = Role::Campaigning;
                self.campaign_patience = CAMPAIGN_TICKS;
                self.campaign()?;
            }
            ToReplica::Drain if self.role == Role::Primary => self.role = Role::Draining,
            ToReplica::AddLearner(id) => {
                self.learners_behind.insert(id);
                self.changes.push_back(Change::AddLearner(peer_id(id)));
            }
            ToReplica::AddVoter(id) => {
                self.changes.push_back(Change::PromoteToVoter(peer_id(id)));
            }
            ToReplica::Remove(id) => {
                self.learners_behind.remove(&id);
                self.changes.push_back(Change::Remove(peer_id(id)));
            }
            ToReplica::Export { ticket } => self.freeze_wanted = Some(Purpose::Export { ticket }),
            ToReplica::Corrupt { seed } => self.executor.flip_bit(seed)?,
            // The runtime's own, or out of date.
            ToReplica::Introduce { .. }
            | ToReplica::Slow { .. }
            | ToReplica::Promote { .. }
            | ToReplica::Drain => {}
        }
        Ok(())
    }

    /// Takes a consensus message of another replica. What makes no sense is
    /// dropped: consensus repeats what matters.
    pub fn on_peer(&mut self, from: ReplicaId, bytes: &[u8]) {
        if let Err(error) = self.peer.step(peer_id(from), bytes) {
            tracing::debug!(%from, %error, "dropped a message of a peer");
        }
    }

    /// A tick of the consensus clock.
    ///
    /// # Errors
    /// [`Fatal`]: the replica must stop.
    pub fn tick(&mut self) -> Result<(), Fatal> {
        self.peer.tick();
        if self.role == Role::Campaigning && !teeth::bites(Bug::CampaignNotRepeated) {
            self.campaign_ticks += 1;
            if self.campaign_ticks >= self.campaign_patience {
                self.campaign_patience = (self.campaign_patience * 2).min(CAMPAIGN_TICKS_MAX);
                self.campaign()?;
            }
        }
        Ok(())
    }

    /// As primary: takes the next inputs of the intake.
    ///
    /// # Errors
    /// [`Fatal::Corruption`] when the state is not what it should be; or what
    /// executes them has come to its end.
    pub fn on_inputs(
        &mut self,
        inputs: &[(InputNo, Input<'_>)],
        link: &mut dyn Link,
    ) -> Result<(), Fatal> {
        debug_assert_eq!(self.role, Role::Primary);
        let tasks: Vec<_> = inputs.iter().map(|&(no, input)| self.task(no, input)).collect();
        let mut results = std::mem::take(&mut self.results);
        self.execute(&tasks, &mut results)?;
        let mut emit = emitter(link, self.generation);
        results.for_each(|task, applied, outputs| {
            self.on_result(&tasks[task], applied, outputs, &mut emit);
        });
        self.results = results;
        Ok(())
    }

    /// Has tasks executed, and believes nothing that cannot be.
    fn execute(&mut self, tasks: &[Task<'_>], results: &mut Results) -> Result<(), Fatal> {
        results.clear();
        let before = self.executor.numbers();
        self.executor.run(tasks, results)?;
        results.check::<X::Machine>(tasks, before, self.executor.numbers())?;
        Ok(())
    }

    fn task<'a>(&self, no: InputNo, input: Input<'a>) -> Task<'a> {
        let quarantined = self.is_quarantined(no);
        let treatment = match (X::Machine::classify(&input), quarantined) {
            (Class::Query, false) => Treatment::Query,
            (Class::Query, true) => Treatment::Refuse,
            (_, false) => Treatment::Apply,
            (_, true) => Treatment::Quarantine,
        };
        Task { no, input, treatment }
    }

    /// Takes what an input has yielded.
    fn on_result(
        &mut self,
        task: &Task<'_>,
        applied: bool,
        outputs: &mut dyn Iterator<Item = Output>,
        emit: &mut dyn FnMut(Emission<'_>),
    ) {
        let Task { no, ref input, treatment } = *task;
        if matches!(treatment, Treatment::Query | Treatment::Refuse) {
            let dirty = teeth::bites(Bug::DirtyRead);
            let seen = if dirty { BatchNo(0) } else { self.last_command };
            for output in outputs {
                self.outbox.answer(seen, output, emit);
            }
            self.outbox.done(self.last_command, no, emit);
            self.batch.hold_up(input);
            return;
        }
        if !applied {
            // Applied before the promotion: its outputs were kept.
            self.outbox.done(BatchNo(0), no, emit);
            return;
        }
        let batch = self.batch.no();
        let quarantined = treatment == Treatment::Quarantine;
        let class = if quarantined { Class::Command } else { X::Machine::classify(input) };
        let is_command = class == Class::Command;
        self.batch.push(no, input, quarantined, is_command);
        for output in outputs {
            let release = match (class, &output) {
                (Class::Tentative, Output::Reply { .. }) => BatchNo(0),
                (Class::Opening, Output::Reply { .. }) => self.last_command,
                _ => batch,
            };
            self.outbox.logged(release, output, emit);
        }
        let freed = if teeth::bites(Bug::FreedBeforeLogged) { BatchNo(0) } else { batch };
        self.outbox.done(freed, no, emit);
        if is_command {
            self.last_command = batch;
        }
    }

    /// Whether the inputs at hand should be proposed now rather than wait for
    /// more. While one batch is on its way the next one fills: on a core that
    /// all replicas share, a second one under way would only make more work.
    fn batch_is_due(&self, idle: bool) -> bool {
        !self.batch.is_empty()
            && (idle
                || (self.is_batch_awaited() && self.in_flight.is_empty())
                || self.batch.intake_bytes() >= FULL_BATCH_BYTES
                || self.role == Role::Draining)
    }

    /// A client waits for it, or a snapshot, which there is only of what is logged.
    fn is_batch_awaited(&self) -> bool {
        self.batch.is_urgent() || self.freeze_wanted.is_some()
    }

    /// Whether the next [`Self::turn`] has something to propose.
    #[must_use]
    pub fn has_due_batch(&self) -> bool {
        self.leads() && self.batch_is_due(false)
    }

    /// Proposes, persists, sends, applies, releases. Call it after events were
    /// given; with `idle` once a beat: then nothing is left to wait for company. Returns
    /// whether anything moved.
    ///
    /// # Errors
    /// [`Fatal`]: the replica must stop.
    pub fn turn(
        &mut self,
        store: &mut dyn LogStore,
        watermarks: Watermarks,
        idle: bool,
        link: &mut dyn Link,
    ) -> Result<bool, Fatal> {
        let mut moved = false;
        if self.batch_is_due(idle) && self.leads() {
            moved |= self.propose(link)?;
        }
        self.outbox.prune(watermarks);
        self.request_change();
        if idle && self.leads() {
            let commit = self.peer.released();
            if commit > self.commit_announced {
                self.commit_announced = commit;
                self.peer.announce_commit();
            }
        }
        let actions = self.peer.poll(store, &mut PeerLink(link))?;
        if let Some(install) = actions.install {
            self.install(install.index, &install.data)?;
            moved = true;
        }
        moved |= !actions.committed.is_empty();
        self.commit(actions.committed);
        self.apply(idle, link)?;
        self.follow_peer()?;
        self.tell_of_campaign(link);
        if actions.snapshot_wanted && !self.snapshot_under_way && self.freeze_wanted.is_none() {
            self.freeze_wanted = Some(Purpose::Log);
        }
        self.take_up_snapshot(link);
        moved |= self.release(link)?;
        self.say_again(link);
        self.tell_host(link);
        Ok(moved)
    }

    fn leads(&self) -> bool {
        matches!(self.role, Role::Primary | Role::Draining)
    }

    fn propose(&mut self, link: &mut dyn Link) -> Result<bool, Fatal> {
        let (no, entry) = self.batch.take();
        let index = self.peer.propose(entry)?;
        self.in_flight.push_back((no, index));
        self.applied = index;
        self.show_digest(index.0.is_multiple_of(DIGEST_EVERY), link);
        Ok(true)
    }

    fn show_digest(&self, due: bool, link: &mut dyn Link) {
        if due && self.batch.is_empty() {
            link.show_digest(self.applied, self.executor.state().digest);
        }
    }

    /// Shows the digest of the state as it stands; for when nothing is going on.
    pub fn show_digest_now(&self, link: &mut dyn Link) {
        self.show_digest(true, link);
    }

    /// Lets go what the acknowledgement policy allows.
    fn release(&mut self, link: &mut dyn Link) -> Result<bool, Fatal> {
        let released = self.peer.released();
        let early = teeth::bites(Bug::ReplyBeforeCommit);
        let through = if early { self.peer.log_end().0 } else { released };
        let mut newest = None;
        while self.in_flight.front().is_some_and(|(_, index)| *index <= through) {
            newest = self.in_flight.pop_front().map(|(batch, _)| batch);
        }
        if let Some(batch) = newest {
            self.outbox.release_through(batch, &mut emitter(link, self.generation));
        }
        match self.role {
            Role::Finishing { barrier } if released >= barrier && self.applied >= barrier => {
                self.begin_primary(link);
                return Ok(true);
            }
            Role::Draining
                if self.batch.is_empty()
                    && self.in_flight.is_empty()
                    && self.outbox.nothing_held()
                    // Or the one that takes over would have the shorter log.
                    && released == self.peer.log_end().0 =>
            {
                self.role = Role::Drained;
                self.say(&FromReplica::Drained, link);
            }
            _ => {}
        }
        Ok(newest.is_some())
    }

    /// Repeats what a host may have heard that has ended since.
    fn say_again(&mut self, link: &mut dyn Link) {
        let message = match self.role {
            _ if !std::mem::take(&mut self.repeats) => None,
            Role::Primary => self.promoted.clone(),
            Role::Drained => Some(FromReplica::Drained),
            // It will say so in time.
            Role::Standby | Role::Campaigning | Role::Finishing { .. } | Role::Draining => None,
        };
        if let Some(message) = message {
            self.say(&message, link);
        }
    }

    fn say(&self, message: &FromReplica, link: &mut dyn Link) {
        let mut bytes = Vec::new();
        message.encode(self.generation, &mut bytes);
        link.to_host(&bytes);
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }
}
