//! The loop.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::Receiver;
use hypervisor::decision::{Cause, DecisionMaker, Event};
use hypervisor::fabric::HostFabric;
use hypervisor::waiting::{CoreChooser, Pace, Spinner, Ticker, Turn};
use hypervisor::{Generation, ReplicaId};
use replica::protocol::FromReplica;
use rustix::event::epoll;
use state_machine::{ConnId, DomId, Input, InputNo, Output, OutputNo};
use xenstore::Effect;

use super::HostStart;
use super::calls::Waiting;
use super::front::{Front, Token};
use super::group::{Group, Notice};
use super::inlet::Inlet;
use super::inner::InnerClient;
use super::recovery;
use super::settings::{IDLE_MONITOR_PERIOD, MONITOR_PERIOD, Settings};
use super::waker::Waker;
use crate::config::Config;
use crate::control::{HostCall, Server};
use crate::events::{Events, Tag};
use crate::status::Counters;

/// Loop token of the doorbell.
const DOORBELL: u32 = 0;
/// Loop token of the monitor's ticker.
const TICKER: u32 = 1;
/// Outputs taken before sockets are looked at again.
const OUTPUTS_PER_TURN: usize = 1024;
/// How often the choice of the core is looked at.
const CORE_PERIOD: Duration = Duration::from_secs(2);

/// Whether the component serves, from the clients' point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// The first primary is not there yet.
    Starting,
    /// Requests are answered, or will be after a failover.
    Serving,
    /// The state is gone.
    Lost,
}

/// See the module.
pub(crate) struct Host {
    pub(super) settings: Arc<Settings>,
    pub(super) events: Arc<Events>,
    pub(super) inlet: Inlet,
    pub(super) front: Front,
    pub(super) group: Group,
    pub(super) inner: InnerClient,
    pub(super) service: Service,
    pub(super) started: Instant,
    pub(super) counters: Counters,
    /// Callers of the control socket that wait for something.
    pub(super) waiting: Waiting,
    epoll: Arc<OwnedFd>,
    calls: Receiver<HostCall>,
    server: Option<Server>,
    ready: Option<Box<dyn FnOnce()>>,
    cores: Option<CoreChooser>,
    next_core_look: Instant,
    last_cpu_time: Duration,
    next_monitor: Instant,
    spinner: Spinner,
    ticker: Ticker,
    pace: Pace,
    buffer: Vec<u8>,
    pub(super) ending: bool,
}

impl Host {
    /// Makes everything, and starts the replicas.
    pub(crate) fn new(config: Config, start: HostStart) -> anyhow::Result<Self> {
        let settings = Arc::new(Settings::new(config)?);
        let events = start.events;
        let fabric = HostFabric::new(settings.fabric()).context("making the shared memory")?;
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?);
        let waker = Waker::new(fabric.doorbell_fd()).context("the doorbell")?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&*epoll, fabric.doorbell_fd(), Token::Loop(DOORBELL).to_data(), edge)
            .context("epoll")?;
        let ticker = Ticker::new(MONITOR_PERIOD).context("making a timer")?;
        epoll::add(&*epoll, &ticker, Token::Loop(TICKER).to_data(), edge).context("epoll")?;
        let (calls, server) = start
            .control
            .serve(Arc::clone(&events), {
                let waker = waker.clone();
                move || waker.wake()
            })
            .context("the control socket")?;
        let found = recovery::find(&settings, &events)?;
        let decisions =
            DecisionMaker::new(settings.policy(), found.next_id, Generation(found.generation));
        let group = Group::new(
            Arc::clone(&settings),
            decisions,
            Arc::clone(&epoll),
            waker,
            Arc::clone(&events),
        )
        .context("the launcher")?;
        let front = Front::new(
            Arc::clone(&epoll),
            &settings.config.run_dir.join("xenstored"),
            settings.front_limits(),
            Arc::clone(&events),
        );
        let cores = if settings.chooses_core() { CoreChooser::new().ok() } else { None };
        let now = Instant::now();
        let mut host = Self {
            inlet: Inlet::new(fabric),
            inner: InnerClient::default(),
            service: Service::Starting,
            started: now,
            counters: Counters::default(),
            waiting: Waiting::default(),
            calls,
            server: Some(server),
            ready: Some(start.ready),
            cores,
            next_core_look: now + CORE_PERIOD,
            last_cpu_time: Duration::ZERO,
            next_monitor: now,
            spinner: Spinner::new(),
            ticker,
            pace: Pace::new(MONITOR_PERIOD, IDLE_MONITOR_PERIOD, now),
            buffer: Vec::new(),
            ending: false,
            settings,
            events,
            front,
            group,
            epoll,
        };
        // Last: the threads that start replicas and serve operators, and the
        // choice of another core, are not bound to this one.
        host.settings.pin_this_thread().context("choosing a core (xenstore.affinity)")?;
        let first = match found.recover {
            Some(found) => found.event(),
            None => Event::Form,
        };
        host.step(first);
        Ok(host)
    }

    /// Runs until somebody calls `down`.
    pub(crate) fn run(&mut self) -> anyhow::Result<ExitCode> {
        let mut ready = Vec::with_capacity(64);
        while !self.ending {
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
            moved |= self.take_calls();
            if moved {
                self.spinner.reset();
            }
            self.monitor(moved)?;
            // The primary shares this core: it gets on when we block. Clients do
            // not: the next request may come soon.
            let wait = if self.inlet.is_waiting() {
                self.settings.config.xenstore.commit_spin_us
            } else {
                self.settings.config.xenstore.front_spin_us
            };
            match self.spinner.turn(wait) {
                Turn::Again => {
                    if self.poll(&mut ready, Some(Duration::ZERO))? {
                        self.spinner.reset();
                    }
                }
                Turn::Block => {
                    if self.sleep(&mut ready)? {
                        self.spinner.reset();
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Blocks until there is something to do; whether it is more than a tick.
    fn sleep(&mut self, ready: &mut Vec<epoll::Event>) -> anyhow::Result<bool> {
        // An answer may have let a request in that had waited for it.
        self.wake_primary();
        self.inlet.fabric.prepare_sleep();
        let slot = self.group.primary_slot();
        let has_output = slot
            .and_then(|slot| self.inlet.fabric.outputs(slot))
            .is_some_and(|outputs| outputs.has_more());
        let look_only = has_output || self.front.has_more() || !self.calls.is_empty();
        // Else until a socket, the doorbell or the ticker.
        let outcome = self.poll(ready, look_only.then_some(Duration::ZERO));
        self.inlet.fabric.cancel_sleep();
        outcome
    }

    /// Looks at the descriptors, waiting for them at most so long; whether
    /// anything but the ticker had to say something.
    fn poll(
        &mut self,
        ready: &mut Vec<epoll::Event>,
        timeout: Option<Duration>,
    ) -> anyhow::Result<bool> {
        ready.clear();
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        match epoll::wait(&*self.epoll, rustix::buffer::spare_capacity(ready), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error).context("epoll_wait"),
        }
        let mut woken = false;
        for event in ready.iter() {
            // The fields of a packed structure are copied out.
            let (data, flags) = (event.data, event.flags);
            let token = Token::from_data(data);
            woken |= token != Token::Loop(TICKER);
            match token {
                Token::Loop(TICKER) => drop(self.ticker.take()),
                // Edge-triggered: it has woken the loop, that is all.
                Token::Loop(_) => {}
                Token::Replica(id) => {
                    let notices = self.group.pidfd_ready(id, &mut self.inlet.fabric);
                    self.take_notices(notices);
                }
                Token::Listener(domid) => self.front.accept(domid, &mut self.inlet),
                Token::Conn(conn) => self.front.ready(conn, flags, &mut self.inlet),
            }
        }
        Ok(woken)
    }

    /// Tells the primary about new inputs, if it sleeps; whether there were any.
    fn wake_primary(&mut self) -> bool {
        let fresh = self.inlet.take_fresh();
        if fresh && let Some(slot) = self.group.primary_slot() {
            self.inlet.fabric.ring_doorbell(slot);
        }
        fresh
    }

    fn set_pace(&mut self, work: bool, now: Instant) -> anyhow::Result<()> {
        if self.pace.note(work, now) {
            self.ticker.set_period(self.pace.period()).context("setting the timer")?;
            self.next_monitor = self.next_monitor.min(now + self.pace.period());
        }
        Ok(())
    }

    fn monitor(&mut self, moved: bool) -> anyhow::Result<()> {
        let now = Instant::now();
        if moved || (self.pace.is_idle() && !self.group.is_settled()) {
            self.set_pace(true, now)?;
        }
        let thorough = now >= self.next_monitor;
        if thorough {
            let quiet = self.group.is_settled() && !self.inlet.is_waiting();
            self.set_pace(!quiet, now)?;
            self.next_monitor = now + self.pace.period();
            self.choose_core(now);
        }
        let inputs_wait = self.inlet.is_waiting();
        let notices = self.group.look(thorough, inputs_wait, &mut self.inlet.fabric);
        self.take_notices(notices);
        if thorough && self.group.take_recovery() {
            self.recover();
        }
        if self.group.failover_runs() && !self.inlet.is_waiting() {
            self.group.answered();
        }
        Ok(())
    }

    /// After the death of all replicas, once they are gone: back from disk.
    fn recover(&mut self) {
        if !self.settings.is_durable() {
            return;
        }
        match recovery::find(&self.settings, &self.events) {
            Ok(found) => match found.recover {
                Some(found) => self.step(found.event()),
                None => self.events.error(
                    &[Tag::Monitor, Tag::Xenstore],
                    "no replica's disk holds a usable state: the state is gone",
                ),
            },
            Err(error) => self.events.error(
                &[Tag::Monitor, Tag::Xenstore],
                format!("looking for the state on disk: {error:#}"),
            ),
        }
    }

    /// On a machine with others, the quietest core changes with time.
    fn choose_core(&mut self, now: Instant) {
        if now < self.next_core_look {
            return;
        }
        self.next_core_look = now + CORE_PERIOD;
        let (Some(cores), Some(current)) = (&mut self.cores, self.settings.core()) else { return };
        if cores.look().is_err() {
            return;
        }
        let spent = self.group.cpu_time();
        let own = spent.saturating_sub(self.last_cpu_time).as_micros();
        self.last_cpu_time = spent;
        let own_percent = u64::try_from(own * 100 / CORE_PERIOD.as_micros()).unwrap_or(100);
        let Some(better) = cores.better_than(current, own_percent) else { return };
        self.settings.set_core(better);
        if let Err(error) = self.settings.pin_this_thread() {
            self.events.warn(&[Tag::Host], format!("moving to core {}: {error}", better.0));
            return;
        }
        self.group.move_to_core();
        self.events.info(
            &[Tag::Host],
            format!("moved from core {} to core {}: {}", current.0, better.0, cores.describe()),
        );
    }

    pub(super) fn step(&mut self, event: Event) {
        let notice = self.group.step(event, &mut self.inlet.fabric);
        self.take_notices(notice);
    }

    fn take_notices(&mut self, notices: impl IntoIterator<Item = Notice>) {
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
        recovery::remember(&self.settings, &self.events, self.group.decisions());
        match self.service {
            Service::Serving => {}
            Service::Starting => self.begin(last_input, last_output),
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
    fn begin(&mut self, last_input: InputNo, last_output: OutputNo) {
        self.service = Service::Serving;
        self.inlet.begin(last_input.next(), last_output);
        self.front.number_from(ConnId(last_input.0 + 1));
        let boot = self.inlet.push(&Input::Boot);
        debug_assert!(boot.is_ok(), "an empty intake has room");
        let quotas = InnerClient::quota_requests(&self.settings.config.xenstore.quotas);
        self.inner.begin(self.front.take_conn(), quotas, None);
        self.inner.go_on(&mut self.inlet);
        if let Err(error) = self.front.listen(DomId(0)) {
            let path = self.front.socket_path(DomId(0));
            self.events.error(&[Tag::Host], format!("{}: {error}", path.display()));
            self.ending = true;
            return;
        }
        self.events.info(
            &[Tag::Host, Tag::Xenstore],
            format!("serving at {}", self.front.socket_path(DomId(0)).display()),
        );
        if let Some(ready) = self.ready.take() {
            ready();
        }
    }

    fn lost(&mut self) {
        self.service = Service::Lost;
        if !self.settings.is_durable() {
            // Better no answer than one from a store that forgot everything.
            self.front.close();
            self.waiting.refuse_all("the state of the component is gone");
        }
    }

    /// Delivers what the primary has put out.
    fn take_outputs(&mut self) -> bool {
        let mut moved = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..OUTPUTS_PER_TURN {
            let Some(slot) = self.group.primary_slot() else { break };
            let Some(outputs) = self.inlet.fabric.outputs(slot) else { break };
            match outputs.receive(&mut buffer) {
                Ok(true) => {}
                Ok(false) => {
                    if outputs.release() {
                        // It has more to say than the ring had room for.
                        self.inlet.fabric.ring_doorbell(slot);
                    }
                    break;
                }
                Err(error) => {
                    self.misbehaved(slot, &error.to_string());
                    break;
                }
            }
            moved = true;
            match FromReplica::decode(&buffer) {
                Ok((generation, message)) if generation == self.group.generation() => {
                    if let Err(why) = self.take_message(slot, generation, message) {
                        self.misbehaved(slot, &why.to_string());
                        break;
                    }
                }
                // Said under an older generation: void.
                Ok(_) => self.counters.outputs_dropped += 1,
                Err(error) => {
                    self.misbehaved(slot, &error.to_string());
                    break;
                }
            }
        }
        self.buffer = buffer;
        if moved {
            let delivered = self.inlet.ledger.delivered();
            self.inlet.fabric.page().set_delivered_output(delivered.0);
        }
        moved
    }

    fn take_message(
        &mut self,
        slot: hypervisor::SlotId,
        generation: Generation,
        message: FromReplica,
    ) -> Result<(), super::ledger::LedgerError> {
        match message {
            FromReplica::Output(output) => self.deliver(output)?,
            FromReplica::Released(no) => self.inlet.release(no)?,
            FromReplica::Exported { ticket, snapshot } => self.exported(ticket, &snapshot),
            message => {
                let id = self.inlet.fabric.occupant(slot);
                let notice = self.group.heard(id, generation, message, &mut self.inlet.fabric);
                self.take_notices(notice);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, output: Output) -> Result<(), super::ledger::LedgerError> {
        match output {
            Output::Reply { input, frame, .. } => {
                let Some(answered) = self.inlet.ledger.answer(input)? else {
                    self.counters.outputs_dropped += 1;
                    return Ok(());
                };
                self.counters.outputs += 1;
                if self.group.failover_runs() {
                    self.group.answered();
                }
                if answered.conn == ConnId::HOST {
                    self.waiting.answered(input, &frame);
                } else if self.inner.owns(answered.conn) {
                    self.inner.answered(&frame, &self.events);
                    self.inner.go_on(&mut self.inlet);
                } else {
                    self.front.answer(answered.conn, answered.query, &frame, &mut self.inlet);
                }
            }
            Output::Event { no, conn, frame } => {
                if self.is_new(no)? {
                    self.front.event(conn, &frame, &mut self.inlet);
                }
            }
            Output::Effect { no, bytes } => {
                if self.is_new(no)? {
                    self.carry_out(&bytes);
                }
            }
        }
        Ok(())
    }

    fn is_new(&mut self, no: OutputNo) -> Result<bool, super::ledger::LedgerError> {
        let new = self.inlet.ledger.deliver(no)?;
        if new {
            self.counters.outputs += 1;
        } else {
            self.counters.outputs_dropped += 1;
        }
        Ok(new)
    }

    /// Does what the component wants done in the world.
    fn carry_out(&mut self, effect: &[u8]) {
        match Effect::decode(effect) {
            Ok(Effect::DomainIntroduced { domid, .. }) => {
                if self.settings.config.xenstore.guest_sockets
                    && let Err(error) = self.front.listen(domid)
                {
                    let path = self.front.socket_path(domid);
                    self.events.warn(&[Tag::Client], format!("{}: {error}", path.display()));
                }
            }
            Ok(Effect::DomainReleased { domid }) => self.front.unlisten(domid, &mut self.inlet),
            Ok(Effect::Print { text }) => {
                self.events.info(&[Tag::Xenstore], String::from_utf8_lossy(&text).into_owned());
            }
            Ok(Effect::Log { on }) => {
                let state = if on { "on" } else { "off" };
                self.events.warn(
                    &[Tag::Xenstore],
                    format!("request log {state}: declined, requests are not logged"),
                );
            }
            Ok(Effect::LogFile { name }) => {
                let name = String::from_utf8_lossy(&name).into_owned();
                self.events.warn(
                    &[Tag::Xenstore],
                    format!("logfile {name:?} declined: the log is read with `rvmm dmesg`"),
                );
            }
            Err(error) => {
                self.events.error(&[Tag::Xenstore], format!("an unknown effect: {error}"));
            }
        }
    }

    /// A primary that says what a correct one cannot say is no primary.
    fn misbehaved(&mut self, slot: hypervisor::SlotId, why: &str) {
        let id = self.inlet.fabric.occupant(slot);
        self.events.error(&[Tag::Monitor, Tag::Xenstore], format!("replica {id}: {why}"));
        self.give_up(id, Cause::Misbehaved);
    }

    pub(super) fn give_up(&mut self, id: ReplicaId, cause: Cause) {
        let mut notices = Vec::new();
        self.group.failed(id, cause, &mut self.inlet.fabric, &mut notices);
        self.take_notices(notices);
    }

    fn take_calls(&mut self) -> bool {
        let mut moved = false;
        while let Ok(call) = self.calls.try_recv() {
            moved = true;
            self.call(call);
        }
        moved | self.settle_waiting()
    }

    /// Ends everything that was started.
    pub(crate) fn shut_down(&mut self) {
        self.front.close();
        self.waiting.refuse_all("the daemon ends");
        self.group.shut_down();
        recovery::remember(&self.settings, &self.events, self.group.decisions());
        self.server = None;
    }
}
