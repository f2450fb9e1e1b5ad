//! The loop: waits for something to happen, and has the coordinator act.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use coordinator::events::{Events, Tag};
use coordinator::{Coordinator, News, Reopener, Rim, Token};
use crossbeam_channel::Receiver;
use hypervisor::waiting::{CoreChooser, Manners, Spinner, Ticker, Turn, allowed_cores};
use rustix::event::epoll;
use rustix::process::Pid;

use super::HostStart;
use super::calls::Waiting;
use super::machine::Machine;
use super::settings::{MONITOR_PERIOD, Settings};
use super::takeover;
use super::waker::Waker;
use crate::config::Config;
use crate::control::{Hangup, HostCall, Server};
use crate::holder::{
    About, BEAT, Heart, Inheritance, Line, LineError, Program, Restart, Word, monotonic_ns,
};

/// Loop token of the doorbell.
const DOORBELL: u32 = 0;
/// Loop token of the monitor's ticker.
const TICKER: u32 = 1;
/// How often the choice of the core is looked at.
const CORE_PERIOD: Duration = Duration::from_secs(2);
/// How long killed replicas are waited for in the end.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Host {
    pub(super) settings: Arc<Settings>,
    pub(super) events: Arc<Events>,
    pub(super) coordinator: Coordinator<Machine>,
    pub(super) started: Instant,
    /// Callers of the control socket that wait for something.
    pub(super) waiting: Waiting,
    epoll: Arc<OwnedFd>,
    calls: Receiver<HostCall>,
    server: Option<Server>,
    /// What is to be done when it serves.
    once_ready: Option<Box<dyn FnOnce() -> anyhow::Result<()>>>,
    /// What it serves, for those who wait.
    serves: String,
    line: Arc<Line>,
    heart: Heart,
    _lock: OwnedFd,
    pub(super) holding: Holding,
    cores: Option<CoreChooser>,
    next_core_look: Instant,
    last_cpu_time: Duration,
    spinner: Spinner,
    /// How long to look around for the next request, microseconds.
    front_spin_us: u32,
    /// On the only core.
    manners: Option<Manners>,
    ticker: Ticker,
    /// What the ticker is set to.
    period: Duration,
    pub(super) ending: Option<Ending>,
}

/// How this daemon ends.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Everything ends with it.
    Down,
    /// It leaves everything to this program.
    Upgrade(Program),
}

/// Under whom this daemon runs, and as which one.
#[derive(Debug)]
pub(super) struct Holding {
    /// The holder.
    pub(super) holder: Pid,
    /// Daemons before this one.
    pub(super) restarts: u64,
    /// Why there is this one.
    pub(super) restart: Option<Restart>,
    /// For how long nobody had served when this one did.
    pub(super) pause: Option<Duration>,
}

impl Host {
    /// Makes everything, and starts the replicas.
    pub(crate) fn new(config: Config, start: HostStart) -> anyhow::Result<Self> {
        let settings = Arc::new(Settings::new(config)?);
        let HostStart { events, inheritance, serves, once_ready } = start;
        let Inheritance { line, heart, tether, mut handed, lock } = inheritance;
        let holding = Holding {
            holder: handed.holder,
            restarts: handed.restarts,
            restart: handed.restart.clone(),
            pause: None,
        };
        let control = takeover::control(&mut handed, &line, &settings.config.run_dir)?;
        let (backend, why) = settings.backends.describe();
        events.info(&[Tag::Host, Tag::Xenstore], format!("backend {backend}: {why}"));
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?);
        let waker = Waker::new().context("the doorbell")?;
        let tether = Arc::new(tether);
        let rim = || {
            let (settings, epoll) = (Arc::clone(&settings), Arc::clone(&epoll));
            let machine =
                Machine::new(settings, Arc::clone(&epoll), waker.clone(), Arc::clone(&tether));
            Ok::<_, anyhow::Error>(Rim {
                platform: machine.context("the launcher")?,
                epoll,
                holder: line.clone(),
                events: Arc::clone(&events),
            })
        };
        let names: Vec<_> = handed.descriptors.keys().copied().collect();
        let taken_over = takeover::take_over(&mut handed, &events, |held| {
            Ok(Coordinator::adopt(settings.coordinator(), rim()?, held)?)
        })?;
        let (mut coordinator, beginning) = match taken_over {
            Some(coordinator) => (coordinator, None),
            None => {
                let is_durable = settings.is_durable();
                takeover::end_leftovers(&handed, &names, is_durable, &line, &events)?;
                let (coordinator, beginning) = Coordinator::new(settings.coordinator(), rim()?)?;
                (coordinator, Some(beginning))
            }
        };
        let reopener = coordinator.trace_reopener();
        // What runs at a terminal ends with it, unless it was told what SIGHUP is for.
        let hangup = (reopener.is_some() || !std::io::stderr().is_terminal())
            .then(|| -> Hangup { Box::new(move || reopener.iter().for_each(Reopener::reopen)) });
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let add = |fd, token| epoll::add(&*epoll, fd, Token::Loop(token).to_data(), edge);
        add(coordinator.fabric().doorbell_fd(), DOORBELL).context("epoll")?;
        add(waker.fd(), DOORBELL).context("epoll")?;
        let ticker = Ticker::new(MONITOR_PERIOD).context("making a timer")?;
        epoll::add(&*epoll, &ticker, Token::Loop(TICKER).to_data(), edge).context("epoll")?;
        let (calls, server) = control
            .serve(Arc::clone(&events), move || waker.wake(), hangup)
            .context("the control socket")?;
        let is_alone = allowed_cores().context("looking at the cores")?.len() < 2;
        let chooses = settings.chooses_core() && !is_alone;
        let cores = if chooses { CoreChooser::new().ok() } else { None };
        // On the only core, the client comes to run when we block.
        let front_spin_us = if is_alone { 0 } else { settings.config.xenstore.front_spin_us };
        // Last: the threads that start replicas and serve operators, and the
        // choice of another core, are not bound to this one.
        settings.pin_this_thread().context("choosing a core (xenstore.affinity)")?;
        if let Some(beginning) = beginning {
            coordinator.begin(beginning);
        }
        let now = Instant::now();
        let manners = if is_alone { Manners::adopt(now) } else { Ok(None) };
        // It serves as well without.
        let manners = manners.unwrap_or_else(|error| {
            events.warn(&[Tag::Host], format!("the scheduling policy: {error}"));
            None
        });
        Ok(Self {
            coordinator,
            started: now,
            waiting: Waiting::default(),
            calls,
            server: Some(server),
            once_ready: Some(once_ready),
            serves,
            line,
            heart,
            _lock: lock,
            holding,
            cores,
            next_core_look: now + CORE_PERIOD,
            last_cpu_time: Duration::ZERO,
            spinner: Spinner::new(),
            front_spin_us,
            manners,
            ticker,
            period: MONITOR_PERIOD,
            ending: None,
            settings,
            events,
            epoll,
        })
    }

    /// Runs until somebody calls `down` or `upgrade`, or there is nothing to be done
    /// any more.
    pub(crate) fn run(&mut self) -> anyhow::Result<Ending> {
        let mut ready = Vec::with_capacity(64);
        loop {
            if let Some(ending) = self.ending.take() {
                return Ok(ending);
            }
            let moved = self.coordinator.turn() | self.take_calls();
            if moved {
                self.spinner.reset();
            }
            self.coordinator.look(moved);
            self.take_news();
            self.tick()?;
            // The primary shares this core: it gets on when we block. Clients do
            // not: the next request may come soon.
            let wait = if self.coordinator.is_waiting() {
                self.settings.config.xenstore.commit_spin_us
            } else {
                self.front_spin_us
            };
            let woken = match self.spinner.turn(wait) {
                Turn::Again => self.poll(&mut ready, Some(Duration::ZERO))?,
                Turn::Block => self.sleep(&mut ready)?,
            };
            if woken {
                self.spinner.reset();
            }
        }
    }

    /// Blocks until there is something to do; whether it is more than a tick.
    fn sleep(&mut self, ready: &mut Vec<epoll::Event>) -> anyhow::Result<bool> {
        let may_block = self.coordinator.prepare_sleep() && self.calls.is_empty();
        // Else until a socket, the doorbell or the ticker.
        let outcome = self.poll(ready, (!may_block).then_some(Duration::ZERO));
        self.coordinator.wake_up();
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
                Token::Loop(TICKER) => {
                    let _ = self.ticker.take();
                    let now = Instant::now();
                    self.heart.beat(now);
                    self.choose_core(now);
                    self.mind_manners(now);
                }
                // A doorbell is edge-triggered: it has woken the loop, that is all.
                token => self.coordinator.ready(token, flags),
            }
        }
        Ok(woken)
    }

    /// Sets the ticker to the coordinator's pace.
    fn tick(&mut self) -> anyhow::Result<()> {
        let period = self.coordinator.period().min(BEAT);
        if period != self.period {
            self.ticker.set_period(period).context("setting the timer")?;
            self.period = period;
        }
        Ok(())
    }

    fn mind_manners(&mut self, now: Instant) {
        let Some(manners) = &mut self.manners else { return };
        if let Err(error) = manners.look(now) {
            self.events.warn(&[Tag::Host], format!("the scheduling policy: {error}"));
            self.manners = None;
        }
    }

    /// On a machine with others, the quietest core changes with time.
    fn choose_core(&mut self, now: Instant) {
        if self.cores.is_none() || now < self.next_core_look {
            return;
        }
        self.next_core_look = now + CORE_PERIOD;
        let (Some(cores), Some(current)) = (&mut self.cores, self.settings.core()) else { return };
        if cores.look().is_err() {
            return;
        }
        let spent = self.coordinator.cpu_time();
        let own = spent.saturating_sub(self.last_cpu_time).as_micros();
        self.last_cpu_time = spent;
        let own_percent = u64::try_from(own * 100 / CORE_PERIOD.as_micros()).unwrap_or(100);
        let Some(better) = cores.better_than(current, own_percent) else { return };
        self.settings.set_core(better);
        if let Err(error) = self.settings.pin_this_thread() {
            self.events.warn(&[Tag::Host], format!("moving to core {}: {error}", better.0));
            return;
        }
        self.coordinator.move_to_core();
        self.events.info(
            &[Tag::Host],
            format!("moved from core {} to core {}: {}", current.0, better.0, cores.describe()),
        );
    }

    fn take_news(&mut self) {
        for news in self.coordinator.take_news() {
            match news {
                News::Serves => self.tell_ready(),
                News::CannotServe(_) => self.ending = Some(Ending::Down),
                News::Lost => self.waiting.refuse_all("the state of the component is gone"),
                News::Exported { ticket, snapshot } => self.exported(ticket, &snapshot),
                News::Answered { input, frame } => self.waiting.answered(input, &frame),
            }
        }
    }

    /// Tells everybody who waits that this daemon serves, once.
    fn tell_ready(&mut self) {
        let Some(once_ready) = self.once_ready.take() else { return };
        if let Err(error) = once_ready() {
            self.events.error(&[Tag::Host], format!("{error:#}"));
        }
        let (serves, version) = (std::mem::take(&mut self.serves), About::own().version);
        if let Err(error) = self.line.insist(&Word::Ready { serves, version }, &[]) {
            self.events.error(&[Tag::Host], error.to_string());
        }
        if let Some(restart) = &self.holding.restart {
            let pause_ns = monotonic_ns().saturating_sub(restart.since_ns);
            let pause = Duration::from_nanos(pause_ns);
            self.holding.pause = Some(pause);
            let text = format!("serves again, after {} ms", pause.as_millis());
            self.events.info(&[Tag::Host], text);
        }
    }

    /// Tells the holder that this daemon is to end.
    pub(super) fn tell_stopping(&self) {
        if let Err(error) = self.line.insist(&Word::Stopping, &[]) {
            self.events.error(&[Tag::Host], error.to_string());
        }
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
        self.waiting.refuse_all("the daemon ends");
        let deadline = Instant::now() + END_PATIENCE;
        for mut replica in self.coordinator.shut_down() {
            replica.wait_until_gone(deadline);
        }
        self.server = None;
    }

    /// Leaves everything to the daemon that is started from `program`.
    ///
    /// # Errors
    /// When the holder cannot be told; everything is left all the same.
    pub(crate) fn make_way(mut self, program: Program) -> Result<(), LineError> {
        let Program { path, file } = program;
        self.waiting.refuse_all("the daemon makes way for another one");
        let upgrade = Word::Upgrade { path, since_ns: monotonic_ns() };
        let told = self.line.insist(&upgrade, &[file.as_fd()]);
        self.leave();
        told
    }

    /// Leaves everything as it is to the next daemon. This process has to end then.
    pub(crate) fn leave(mut self) {
        if let Some(server) = self.server.take() {
            server.leave();
        }
        self.coordinator.end_trace();
        // What replicas and clients are in would be killed and closed.
        std::mem::forget(self);
    }
}
