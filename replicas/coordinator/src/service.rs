//! The coordinator itself: what one turn of the host's loop does.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisor::decision::{Cause, DecisionMaker, Event, Phase};
use hypervisor::fabric::{FabricError, HostFabric};
use hypervisor::ring::IntakeReader;
use hypervisor::waiting::Pace;
use hypervisor::{Generation, ReplicaId, SlotId};
use replica::protocol::ToReplica;
use rustix::event::epoll;
use state_machine::{ConnId, DomId, Input, InputNo, OutputNo};
use teeth::Bug;

use crate::events::{Events, Tag};
use crate::failover::Failover;
use crate::front::{ClientLoad, Front, Left, Token};
use crate::group::{Group, Notice};
use crate::holder::{Held, Holder};
use crate::inlet::{Inlet, IntakeFull};
use crate::inner::{Done, InnerClient};
use crate::journal::{Journal, JournalError};
use crate::platform::{Observed, Platform, PlatformError};
use crate::recovery;
use crate::settings::Settings;
use crate::trace::{Reopener, Trace};

/// Whether the component serves, from the clients' point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The first primary is not there yet.
    Starting,
    /// Requests are answered, or will be after a failover.
    Serving,
    /// The state is gone.
    Lost,
}

/// What became of the outputs of primaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Delivered.
    pub delivered: u64,
    /// Dropped, because they had been delivered before or came from a fenced
    /// generation.
    pub dropped: u64,
}

/// What a driver must know of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The component serves for the first time.
    Serves,
    /// It will not: clients' sockets cannot be made, or rings not be served.
    CannotServe(String),
    /// The state is gone, and no disk has it.
    Lost,
    /// A snapshot that was asked for.
    Exported {
        /// As it was asked.
        ticket: u64,
        /// The component's own snapshot encoding.
        snapshot: Vec<u8>,
    },
    /// An input of the host itself was answered.
    Answered {
        /// Which.
        input: InputNo,
        /// The answer.
        frame: Box<[u8]>,
    },
}

/// Why a coordinator cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// No shared memory.
    #[error("the shared memory: {0}")]
    Fabric(#[from] FabricError),
    /// Nothing can be written down for the next host, or read from the last one.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The last host has not left this.
    #[error("the last daemon has not left {0}")]
    Missing(&'static str),
    /// What the last host has left makes no sense.
    #[error("what the last daemon has left is damaged: {0}")]
    Damaged(&'static str),
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] PlatformError),
    /// The trace file cannot be written.
    #[error("the trace file {}: {source}", path.display())]
    Trace {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// By what a coordinator reaches all that is outside.
pub struct Rim<P: Platform> {
    /// The machine.
    pub platform: P,
    /// Where it is told what concerns its clients, with [`Token`]s.
    pub epoll: Arc<OwnedFd>,
    /// Whoever holds what the next host goes on with.
    pub holder: Arc<dyn Holder>,
    /// Where it tells what happens.
    pub events: Arc<Events>,
}

/// See the crate.
pub struct Coordinator<P: Platform> {
    pub(crate) settings: Arc<Settings>,
    pub(crate) events: Arc<Events>,
    pub(crate) inlet: Inlet,
    pub(crate) front: Front,
    pub(crate) group: Group<P>,
    pub(crate) inner: InnerClient,
    pub(crate) service: Service,
    pub(crate) deliveries: Deliveries,
    pub(crate) news: Vec<News>,
    pub(crate) buffer: Vec<u8>,
    next_look: Instant,
    pace: Pace,
}

fn start_trace(settings: &Settings, events: &Arc<Events>) -> Option<Result<Trace, BeginError>> {
    let path = settings.trace_file.as_ref()?;
    let trace = Trace::start(path, Arc::clone(events));
    Some(trace.map_err(|source| BeginError::Trace { path: path.clone(), source }))
}

impl<P: Platform> Coordinator<P> {
    /// A coordinator without replicas, on its own shared memory.
    ///
    /// # Errors
    /// [`BeginError`].
    pub fn new(settings: Settings, mut rim: Rim<P>) -> Result<(Self, Beginning), BeginError> {
        let fuse = rim.platform.fuse();
        let fabric = HostFabric::new_fused(settings.fabric, fuse.clone())?;
        let journal = Journal::new(settings.front, settings.fabric.intake_bytes, fuse)?;
        let trace = start_trace(&settings, &rim.events).transpose()?;
        let found = recovery::find(&mut rim.platform, &rim.events)?;
        let decisions = DecisionMaker::new(
            settings.policy.clone(),
            found.next_id,
            Generation(found.generation),
        );
        rim.holder.hold(Held::Fabric, &fabric.own_descriptors());
        rim.holder.hold(Held::Journal, &[journal.descriptor()]);
        let mut inlet = Inlet::new(fabric, journal.marks());
        inlet.trace = trace;
        let coordinator = Self::of(settings, rim, decisions, journal, inlet, Service::Starting);
        let first = found.recover.map_or(Event::Form, recovery::Recoverable::event);
        Ok((coordinator, Beginning(first)))
    }

    /// A coordinator that goes on where another one has ended, at whatever it was: with
    /// what the `holder` has held for it.
    ///
    /// # Errors
    /// [`BeginError`] when that one had not begun to serve, or has lost the state, or
    /// not everything was held. A replica of that one may live on then.
    pub fn adopt(
        settings: Settings,
        mut rim: Rim<P>,
        mut held: BTreeMap<Held, Vec<OwnedFd>>,
    ) -> Result<Self, BeginError> {
        let fuse = rim.platform.fuse();
        let memory = held.remove(&Held::Fabric).ok_or(BeginError::Missing("its memory"))?;
        let journal = held.remove(&Held::Journal).and_then(|mut fds| fds.pop());
        let journal = journal.ok_or(BeginError::Missing("its journal"))?;
        let fabric = HostFabric::adopt(memory, fuse.clone())?;
        let (journal, seats) = Journal::adopt(journal, fuse)?;
        let decisions = journal.record().read();
        let decisions = decisions.ok_or(BeginError::Damaged("its decisions"))?;
        let is_lost = matches!(decisions.phase(), Phase::Lost { .. });
        if !journal.serves() || (is_lost && !settings.is_durable()) {
            return Err(BeginError::Missing("a component that serves"));
        }
        let mut pending = Vec::new();
        let mut inlet =
            Inlet::adopt(fabric, journal.marks(), |conn, query| pending.push((conn, query)))?;
        // Nobody is to be disconnected for the want of it.
        let tell = |error| rim.events.error(&[Tag::Host], format!("nothing is traced: {error}"));
        inlet.trace = start_trace(&settings, &rim.events).and_then(|t| t.map_err(tell).ok());
        let xen = rim.platform.xen()?;
        let inner = journal.inner();
        let service = if is_lost { Service::Lost } else { Service::Serving };
        let mut coordinator = Self::of(settings, rim, decisions, journal, inlet, service);
        let Self { group, front, inlet, .. } = &mut coordinator;
        group.adopt(&mut held, &mut inlet.fabric);
        let mut abandoned = |conn| group.platform_mut().observe(Observed::Abandoned(conn));
        front
            .adopt(Left { held, seats, pending, inner }, xen, inlet, &mut abandoned)
            .map_err(|error| PlatformError(error.to_string()))?;
        coordinator.step(Event::HostChanged);
        let lost = coordinator.group.fail_the_missing(&mut coordinator.inlet.fabric);
        coordinator.take_notices(lost);
        coordinator.ask_quotas();
        coordinator.news.push(News::Serves);
        Ok(coordinator)
    }

    fn of(
        settings: Settings,
        rim: Rim<P>,
        decisions: DecisionMaker,
        journal: Journal,
        inlet: Inlet,
        service: Service,
    ) -> Self {
        let settings = Arc::new(settings);
        let Rim { platform, epoll, holder, events } = rim;
        let now = platform.now();
        let group = Group::new(
            Arc::clone(&settings),
            decisions,
            platform,
            journal.record(),
            Arc::clone(&holder),
            Arc::clone(&events),
        );
        let front = Front::new(
            epoll,
            &settings.sockets,
            settings.front,
            journal,
            holder,
            Arc::clone(&events),
        );
        Self {
            inner: InnerClient::default(),
            service,
            deliveries: Deliveries::default(),
            news: Vec::new(),
            buffer: Vec::new(),
            next_look: now,
            pace: Pace::new(settings.look_period, settings.idle_look_period, now),
            settings,
            events,
            inlet,
            front,
            group,
        }
    }

    /// The quotas are as they are configured.
    fn ask_quotas(&mut self) {
        let quotas = InnerClient::quota_requests(&self.settings.quotas);
        self.begin_inner(quotas, None);
    }

    fn begin_inner(&mut self, requests: VecDeque<Vec<u8>>, done: Option<Done>) {
        let conn = self.front.take_conn();
        // The next host ends it, whether it has ended or not.
        self.front.journal().set_inner(conn);
        self.inner.begin(conn, requests, done);
        self.inner.go_on(&mut self.inlet);
    }

    /// For whoever moves the trace file away; `None` when nothing is traced.
    pub fn trace_reopener(&self) -> Option<Reopener> {
        self.inlet.trace.as_ref().map(Trace::reopener)
    }

    /// Writes what was traced so far, as long as the disk takes it, and traces no more.
    pub fn end_trace(&mut self) {
        self.inlet.trace = None;
    }

    /// Starts the first replicas.
    pub fn begin(&mut self, beginning: Beginning) {
        self.step(beginning.0);
    }

    /// Moves inputs in and outputs out; whether anything moved. To be followed by
    /// [`Self::look`].
    pub fn turn(&mut self) -> bool {
        let mut moved = self.take_outputs();
        self.front.go_on(&mut self.inlet);
        self.inner.go_on(&mut self.inlet);
        moved |= self.front.flush(&mut self.inlet);
        let alone = self.inlet.ledger.unanswered() == 1;
        if self.wake_primary() && alone && self.take_outputs() {
            // It took the core from us, and has answered. With more clients,
            // their next requests are looked for first: answers that leave
            // together cost less.
            moved = true;
            self.front.flush(&mut self.inlet);
        }
        moved
    }

    /// Looks after the replicas. `moved`: there was work since the last time.
    pub fn look(&mut self, moved: bool) {
        let now = self.group.platform().now();
        if moved || (self.pace.is_idle() && !self.group.is_settled()) {
            self.set_pace(true, now);
        }
        let thorough = now >= self.next_look;
        if thorough {
            let quiet = self.group.is_settled() && !self.inlet.is_waiting();
            self.set_pace(!quiet, now);
            self.next_look = now + self.pace.period();
            self.front.listen_again();
        }
        let inputs_wait = self.inlet.is_waiting();
        let notices = self.group.look(now, thorough, inputs_wait, &mut self.inlet.fabric);
        self.take_notices(notices);
        if thorough && self.group.is_settled() {
            self.replace_outdated();
        }
        if thorough && self.group.take_recovery() {
            self.recover();
        }
        if self.group.failover_runs() && !self.inlet.is_waiting() {
            self.group.answered();
        }
    }

    /// The group is whole: the next one that runs another program is replaced.
    fn replace_outdated(&mut self) {
        let decisions = self.group.decisions();
        let Some(primary) = decisions.primary() else { return };
        let standby = decisions.members().map(|(id, ..)| id).find(|id| *id != primary);
        match (self.group.outdated(), standby) {
            _ if !decisions.policy().rebuild => {}
            (Some(id), Some(standby)) if id == primary => {
                self.step(Event::OperatorPromote { id: standby });
            }
            (Some(id), Some(_)) => self.step(Event::Retire { id }),
            _ => {}
        }
    }

    /// How often a turn is needed even if nothing happens.
    pub fn period(&self) -> Duration {
        self.pace.period()
    }

    fn set_pace(&mut self, work: bool, now: Instant) {
        if self.pace.note(work, now) {
            self.next_look = self.next_look.min(now + self.pace.period());
        }
    }

    /// To be called before the driver blocks: says whether it may. Replicas ring
    /// the doorbell from here on, until [`Self::wake_up`].
    pub fn prepare_sleep(&mut self) -> bool {
        // An answer may have let a request in that had waited for it.
        self.wake_primary();
        if !teeth::bites(Bug::SleepUnannounced) {
            self.inlet.fabric.prepare_sleep();
        }
        let has_output = self
            .group
            .primary_slot()
            .and_then(|slot| self.inlet.fabric.outputs(slot))
            .is_some_and(|outputs| outputs.has_more());
        !has_output && !self.front.has_more()
    }

    /// To be called after the driver has blocked, or instead of it.
    pub fn wake_up(&mut self) {
        self.inlet.fabric.cancel_sleep();
    }

    /// Something happened to a socket or a replica's domain.
    pub fn ready(&mut self, token: Token, flags: epoll::EventFlags) {
        match token {
            Token::Loop(_) => {}
            Token::Replica(id) => {
                let notices = self.group.ended(id, &mut self.inlet.fabric);
                self.take_notices(notices);
            }
            Token::Listener(domid) => {
                let first = self.front.next_conn();
                self.front.accept(domid, &mut self.inlet);
                let end = self.front.next_conn();
                self.group.platform_mut().observe(Observed::Accepted { domid, first, end });
            }
            Token::Conn(conn) => self.front.ready(conn, flags, &mut self.inlet),
            Token::Rings => self.front.rings_ready(&mut self.inlet),
        }
    }

    /// Tells the primary about new inputs, if it sleeps; whether there were any.
    fn wake_primary(&mut self) -> bool {
        let fresh = self.inlet.take_fresh();
        if fresh && let Some(slot) = self.group.primary_slot() {
            self.inlet.fabric.ring_doorbell(slot);
        }
        fresh
    }

    /// After the death of all replicas, once they are gone: back from disk.
    fn recover(&mut self) {
        if !self.settings.is_durable() {
            return;
        }
        match recovery::find(self.group.platform_mut(), &self.events) {
            Ok(found) => match found.recover {
                Some(found) => self.step(found.event()),
                None => self.events.error(
                    &[Tag::Monitor, Tag::Xenstore],
                    "no replica's disk holds a usable state: the state is gone",
                ),
            },
            Err(error) => self.events.error(
                &[Tag::Monitor, Tag::Xenstore],
                format!("looking for the state on disk: {error}"),
            ),
        }
    }

    /// Has the decision maker take an event, such as an operator's wish.
    pub fn step(&mut self, event: Event) {
        let notice = self.group.step(event, &mut self.inlet.fabric);
        self.take_notices(notice);
    }

    pub(crate) fn take_notices(&mut self, notices: impl IntoIterator<Item = Notice>) {
        for notice in notices {
            match notice {
                Notice::Serving { last_input, last_output } => {
                    self.serving(last_input, last_output);
                }
                Notice::Lost => self.lost(),
            }
        }
    }

    /// A primary serves. The first one after a start tells where numbers go on.
    fn serving(&mut self, last_input: InputNo, last_output: OutputNo) {
        self.remember();
        match self.service {
            Service::Serving => {}
            Service::Starting => self.first_serving(last_input, last_output),
            Service::Lost => {
                // Back from disk. The intake still holds what was not answered.
                self.service = Service::Serving;
                self.events.info(
                    &[Tag::Monitor, Tag::Xenstore],
                    "the state is back; requests are answered again",
                );
            }
        }
    }

    /// The component serves for the first time since the daemon started.
    fn first_serving(&mut self, last_input: InputNo, last_output: OutputNo) {
        self.service = Service::Serving;
        self.inlet.begin(last_input.next(), last_output);
        self.front.number_from(ConnId(last_input.0 + 1));
        let boot = self.inlet.push(&Input::Boot);
        debug_assert!(boot.is_ok(), "an empty intake has room");
        self.ask_quotas();
        if let Err(error) = self.front.listen(DomId(0)) {
            let path = self.front.socket_path(DomId(0));
            self.events.error(&[Tag::Host], format!("{}: {error}", path.display()));
            self.news.push(News::CannotServe(error.to_string()));
            return;
        }
        if let Err(why) = self.serve_rings() {
            self.events.error(&[Tag::Host], format!("rings of domains: {why}"));
            self.news.push(News::CannotServe(why.to_string()));
            return;
        }
        self.front.journal().set_serves();
        self.events.info(
            &[Tag::Host, Tag::Xenstore],
            format!("serving at {}", self.front.socket_path(DomId(0)).display()),
        );
        self.news.push(News::Serves);
    }

    /// Connects to the rings of Xen's domains, on a host that has some.
    fn serve_rings(&mut self) -> Result<(), PlatformError> {
        let Some(xen) = self.group.platform_mut().xen()? else { return Ok(()) };
        self.front
            .serve_rings(xen, &mut self.inlet)
            .map_err(|error| PlatformError(error.to_string()))
    }

    fn lost(&mut self) {
        // Who comes back before it has ever served still has to begin: its numbers
        // go on where the log ends.
        if self.service == Service::Serving || !self.settings.is_durable() {
            self.service = Service::Lost;
        }
        if !self.settings.is_durable() {
            // Better no answer than one from a store that forgot everything.
            self.front.close();
            self.news.push(News::Lost);
        }
    }

    fn remember(&mut self) {
        let (platform, decisions) = self.group.platform_and_decisions();
        recovery::remember(platform, &self.events, decisions);
    }

    /// Gives a replica up.
    pub fn give_up(&mut self, id: ReplicaId, cause: Cause) {
        let mut notices = Vec::new();
        self.group.failed(id, cause, &mut self.inlet.fabric, &mut notices);
        self.take_notices(notices);
    }

    /// Ends everything that was started: what is returned was killed, and is to be
    /// waited for where that matters.
    pub fn shut_down(&mut self) -> Vec<P::Domain> {
        self.front.close();
        let killed = self.group.shut_down();
        self.remember();
        killed
    }

    /// What the driver must know, oldest first.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Whether it serves.
    pub fn service(&self) -> Service {
        self.service
    }

    /// The decision maker, to look at.
    pub fn decisions(&self) -> &DecisionMaker {
        self.group.decisions()
    }

    /// The machine.
    pub fn platform(&self) -> &P {
        self.group.platform()
    }

    /// The shared memory, to look at.
    pub fn fabric(&self) -> &HostFabric {
        &self.inlet.fabric
    }

    /// The failovers so far, oldest first; the last [`crate::MAX_FAILOVERS`].
    pub fn failovers(&self) -> impl Iterator<Item = &Failover> {
        self.group.failovers()
    }

    /// Failovers since the start.
    pub fn failover_count(&self) -> u64 {
        self.group.failover_count()
    }

    /// What became of outputs.
    pub fn deliveries(&self) -> Deliveries {
        self.deliveries
    }

    /// Inputs taken since the start.
    pub fn inputs(&self) -> u64 {
        self.inlet.taken()
    }

    /// Inputs that are not released.
    pub fn pending(&self) -> usize {
        self.inlet.ledger.pending()
    }

    /// Whether somebody waits for an answer.
    pub fn is_waiting(&self) -> bool {
        self.inlet.is_waiting()
    }

    /// The oldest input that still gets an answer.
    pub fn oldest_unanswered(&self) -> Option<InputNo> {
        self.inlet.ledger.oldest_unanswered()
    }

    /// How much each connection keeps the host busy with, in no order.
    pub fn client_loads(&self) -> impl Iterator<Item = ClientLoad> {
        self.front.loads()
    }

    /// Connections now.
    pub fn clients(&self) -> usize {
        self.front.clients()
    }

    /// Connections that were turned away.
    pub fn refused(&self) -> u64 {
        self.front.refused()
    }

    /// Inputs quarantined since the start.
    pub fn quarantined(&self) -> impl Iterator<Item = InputNo> {
        self.group.quarantined()
    }

    /// CPU time of all replicas so far.
    pub fn cpu_time(&self) -> Duration {
        self.group.cpu_time()
    }

    /// What a replica runs in, once it was started.
    pub fn domain(&self, id: ReplicaId) -> Option<&P::Domain> {
        self.group.domain(id)
    }

    /// The slot of a replica.
    pub fn slot(&self, id: ReplicaId) -> Option<SlotId> {
        self.group.slot(id)
    }

    /// Notes that a fault was just injected into a replica, of which this should
    /// come.
    pub fn note_injected(&mut self, id: ReplicaId, expected: Cause) {
        self.group.note_injected(id, expected);
    }

    /// The component has another core now: binds its parties to it.
    pub fn move_to_core(&mut self) {
        self.group.move_to_core();
    }

    /// Sends a fault, or a wish, to a replica.
    pub fn order(&mut self, id: ReplicaId, message: &ToReplica) {
        self.group.order(id, message, &mut self.inlet.fabric);
    }

    /// Hands in an input of the host's own; its answer comes as [`News`].
    ///
    /// # Errors
    /// [`IntakeFull`].
    pub fn push(&mut self, input: &Input<'_>) -> Result<InputNo, IntakeFull> {
        self.inlet.push(input)
    }

    /// A reader of all inputs from the oldest on, for an observer.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn observe_intake(&self) -> Result<IntakeReader, FabricError> {
        self.inlet.fabric.observe_intake()
    }

    /// Whether requests of the host itself are under way.
    pub fn asks(&self) -> bool {
        self.inner.is_busy()
    }

    /// Asks something of the component itself, as a client of the control domain
    /// would; `done` hears when all is answered.
    pub fn ask(&mut self, requests: VecDeque<Vec<u8>>, done: Done) {
        self.begin_inner(requests, Some(done));
    }
}

/// What a new coordinator has to do first.
#[derive(Debug)]
pub struct Beginning(Event);
