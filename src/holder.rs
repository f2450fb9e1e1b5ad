//! The holder: the process that `rvmm up` is. It starts the daemon as its child, keeps
//! what the daemon wants its successor to have, and starts that successor when the
//! daemon dies, or has made way for another program.
//!
//! ```text
//!  rvmm up ── holder ── daemon (of which there is one after the other)
//!               │          └─ replicas: the holder's children once it is gone
//!               └─ lifeline: when the holder ends, the kernel kills the replicas,
//!                  and the daemon, whose parent it is
//! ```
//!
//! It must not die, so it does nothing else: it waits, feels the daemon's pulse now and then,
//! and never looks at what it holds.

mod handed;
mod kept;
mod line;
mod program;
mod pulse;
mod restarts;

pub use handed::{Cause, Handed, HandedError, Inheritance, Restart, monotonic_ns};
pub(crate) use line::Word;
pub use line::{Line, LineError};
pub(crate) use program::{ABOUT_COMMAND, About};
pub use program::{Program, ProgramError};
pub(crate) use pulse::{BEAT, Heart};

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::events::{Events, Tag};
use hypervisor::domain::{
    self, Bond, DomainError, ErrorOutput, Exit, Lifeline, Limits, ProcessDomain, SpawnSpec, Tether,
    end_children, reap_children,
};
use hypervisor::monitor::HangReason;
use rustix::io::Errno;
use rustix::process::{getpid, pidfd_send_signal, set_child_subreaper};
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::signals::EndSignals;
use crate::start::{Announcer, RunDir};
use handed::hand_down;
use kept::Kept;
use line::{Ear, Heard, line};
use pulse::{FEEL, Pulse, pulse};
use restarts::{Hopeless, Restarts};

/// What tells a started process that a holder has started it.
pub(crate) const HELD_FLAG: &str = "--held";
/// How long a program that takes over may take to be ready.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);
/// Words that are heard before something else is looked at.
const WORDS_AT_ONCE: u32 = 256;
/// How long those that are killed may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no daemon any more.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// The system refuses what a holder needs.
    #[error("{what}: {why}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        why: io::Error,
    },
    /// A process cannot be started or ended.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// What is held cannot be handed down.
    #[error(transparent)]
    Handed(#[from] HandedError),
    /// Daemons end again and again.
    #[error("the daemon is given up: it ended {when}, the last time so: {how}")]
    GivenUp {
        /// Why that is too much.
        when: String,
        /// How it ended.
        how: String,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> HolderError {
    move |why| HolderError::System { what, why: why.into() }
}

/// What a holder starts.
#[derive(Debug)]
pub struct Order {
    /// The run directory, for as long as there is a holder or a daemon.
    pub run_dir: RunDir,
    /// The daemon's command line.
    pub args: Vec<OsString>,
    /// Whom to tell that the daemon is ready.
    pub announcer: Announcer,
    /// Where it logs.
    pub events: Arc<Events>,
}

/// Holds until a daemon has ended as it should, and returns its exit code. The calling
/// process should do nothing else.
///
/// # Errors
/// When no daemon can be started any more; nothing of it is left running then.
pub fn run(order: Order) -> Result<ExitCode, HolderError> {
    set_child_subreaper(Some(getpid())).map_err(system("prctl(PR_SET_CHILD_SUBREAPER)"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the event loop"))?;
    let outcome = runtime.block_on(async { Holder::new(order)?.live().await });
    // Whoever is left dies with this process; but the next one may come at once.
    end_children(getpid(), &[], END_PATIENCE)?;
    outcome
}

/// See the module.
struct Holder {
    order: Order,
    /// Go on to the daemon.
    end_signals: EndSignals,
    child_signals: Signal,
    _lifeline: Lifeline,
    tether: Tether,
    kept: Kept,
    /// What daemons are started from.
    program: Program,
    /// What they were started from before, until the new one is ready.
    before: Option<Program>,
    /// The version of the last daemon that was ready.
    version: String,
    /// Since when nobody has served, once somebody did.
    down_since_ns: Option<u64>,
    restarts: Restarts,
    /// Daemons after the first one.
    count: u64,
    told_to_end: bool,
    is_full: bool,
}

/// A daemon that runs.
struct Running {
    domain: ProcessDomain,
    ear: Ear,
    pulse: Pulse,
    /// It has said that it is ready, and nothing since of an end.
    is_to_serve: bool,
    /// Why it was killed, if it was.
    hung: Option<HangReason>,
    /// It has something in it when there is something to hear.
    bell: Receiver,
    /// The bell does not work. What the daemon says is heard when it has ended.
    is_deaf: bool,
    /// By when it has to be ready.
    deadline: Option<tokio::time::Instant>,
    /// What it made way for, and since when nobody serves.
    upgrade: Option<(Program, u64)>,
}

impl Holder {
    fn new(order: Order) -> Result<Self, HolderError> {
        let (lifeline, tether) = Lifeline::new()?;
        Ok(Self {
            order,
            end_signals: EndSignals::new().map_err(system("signals"))?,
            child_signals: signal(SignalKind::child()).map_err(system("signals"))?,
            _lifeline: lifeline,
            tether,
            kept: Kept::new(),
            program: Program::own().map_err(system("finding this program"))?,
            before: None,
            version: String::new(),
            down_since_ns: None,
            restarts: Restarts::default(),
            count: 0,
            told_to_end: false,
            is_full: false,
        })
    }

    async fn live(mut self) -> Result<ExitCode, HolderError> {
        let mut restart = None;
        loop {
            let cause = match self.start(restart) {
                Ok(mut daemon) => {
                    let exit = self.attend(&mut daemon).await?;
                    let how = describe(exit, daemon.hung);
                    match self.next(exit, how, daemon.upgrade)? {
                        Next::End(code) => return Ok(code),
                        Next::Again(cause) => cause,
                    }
                }
                Err(error) => self.go_back(error.to_string()).ok_or(error)?,
            };
            self.count += 1;
            self.order.announcer.status(&format!("restarts: {cause}"));
            let since_ns = *self.down_since_ns.get_or_insert_with(monotonic_ns);
            restart = Some(Restart { cause, from_version: self.version.clone(), since_ns });
        }
    }

    fn start(&self, restart: Option<Restart>) -> Result<Running, HolderError> {
        let (ear, bell, mouth) = line().map_err(system("the line to the daemon"))?;
        let bell = Receiver::from_owned_fd(bell).map_err(system("the line to the daemon"))?;
        let (pulse, heart) = pulse().map_err(system("the daemon's pulse"))?;
        let lock = self.order.run_dir.lock();
        let is_upgrade = self.before.is_some();
        let descriptors =
            hand_down(mouth, heart, &self.tether, lock, &self.kept, self.count, restart)?;
        let file = self.program.file.try_clone().map_err(system("the daemon's program"))?;
        let domain = ProcessDomain::spawn(SpawnSpec {
            program: domain::Program::File(file),
            name: "rvmm: daemon".into(),
            args: self.order.args.iter().cloned().chain([HELD_FLAG.into()]).collect(),
            env: std::env::vars_os().collect(),
            descriptors,
            error_output: ErrorOutput::Inherit,
            limits: Limits::INHERITED,
            bond: Bond::Host,
        })?;
        Ok(Running {
            domain,
            ear,
            pulse,
            is_to_serve: false,
            hung: None,
            bell,
            is_deaf: false,
            deadline: is_upgrade.then(|| tokio::time::Instant::now() + UPGRADE_PATIENCE),
            upgrade: None,
        })
    }

    /// Waits for the daemon's end, and does what it wants until then. What it has sent
    /// counts also if it is dead by now.
    async fn attend(&mut self, daemon: &mut Running) -> Result<Exit, HolderError> {
        let mut has_more = false;
        let mut pulse = tokio::time::interval(FEEL);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(exit) = daemon.domain.try_wait()? {
                while self.hear(daemon) {}
                return Ok(exit);
            }
            tokio::select! {
                (signal, _) = self.end_signals.next() => {
                    // What the daemon does at a hangup is its own affair; it says if it ends.
                    self.told_to_end |= signal != rustix::process::Signal::HUP;
                    // It may have ended just now.
                    let _ = pidfd_send_signal(daemon.domain.pidfd(), signal);
                }
                _ = self.child_signals.recv() => {
                    // The next look finds whom this one has missed.
                    let _ = reap_children(&[daemon.domain.pid()]);
                }
                _ = pulse.tick(), if daemon.is_to_serve => self.feel(daemon)?,
                () = until(daemon.deadline) => {
                    daemon.deadline = None;
                    daemon.domain.kill()?;
                }
                rung = daemon.rings(), if !has_more && !daemon.is_deaf => match rung {
                    Ok(()) => has_more = self.hear(daemon),
                    Err(error) => {
                        daemon.is_deaf = true;
                        self.warn(format!("the line to the daemon: {error}"));
                    }
                },
                () = tokio::task::yield_now(), if has_more => has_more = self.hear(daemon),
            }
        }
    }

    /// Kills a daemon that hangs: the next one goes on where it stands.
    fn feel(&mut self, daemon: &mut Running) -> Result<(), HolderError> {
        if let Some(reason) = daemon.pulse.feel(&daemon.domain) {
            self.warn(format!("the daemon hangs: {reason}"));
            daemon.hung = Some(reason);
            daemon.is_to_serve = false;
            daemon.domain.kill()?;
        }
        Ok(())
    }

    /// Takes what the daemon has said, but not more than some; whether there may be more.
    fn hear(&mut self, daemon: &mut Running) -> bool {
        for _ in 0..WORDS_AT_ONCE {
            match daemon.ear.hear() {
                Ok(Heard::End) | Err(Errno::AGAIN) => return false,
                Ok(heard) => self.take(heard, daemon),
                Err(error) => {
                    self.warn(format!("the line to the daemon: {error}"));
                    return false;
                }
            }
        }
        true
    }

    fn take(&mut self, heard: Heard, daemon: &mut Running) {
        match heard {
            Heard::Word(Word::Hold(name), descriptors) => {
                if let Err(full) = self.kept.hold(name, descriptors) {
                    self.warn_full(&full.to_string());
                }
            }
            Heard::Word(Word::LetGo(name), _) => self.kept.let_go(name),
            Heard::Word(Word::Ready { serves, version }, _) => {
                self.restarts.ready();
                self.version = version;
                self.before = None;
                self.down_since_ns = None;
                daemon.deadline = None;
                daemon.is_to_serve = true;
                self.order.announcer.ready(&serves);
            }
            Heard::Word(Word::Stopping, _) => {
                self.told_to_end = true;
                daemon.is_to_serve = false;
                self.order.announcer.stopping();
            }
            Heard::Word(Word::Upgrade { path, since_ns }, descriptors) => {
                match <[_; 1]>::try_from(descriptors) {
                    Ok([file]) => daemon.upgrade = Some((Program { path, file }, since_ns)),
                    Err(_) => self.warn("an upgrade without a program"),
                }
            }
            Heard::Noise(why) => self.warn(format!("the daemon says what is no word: {why}")),
            Heard::Full(name) => {
                self.kept.let_go(name);
                self.warn_full("this process can have no more open");
            }
            Heard::End => {}
        }
    }

    /// What comes after a daemon that has ended, perhaps for an upgrade.
    fn next(
        &mut self,
        exit: Exit,
        how: String,
        upgrade: Option<(Program, u64)>,
    ) -> Result<Next, HolderError> {
        if self.told_to_end {
            return Ok(Next::End(exit_code(exit)));
        }
        if let Some((program, since_ns)) = upgrade {
            self.down_since_ns = Some(since_ns);
            let path = program.path.clone();
            self.before = Some(std::mem::replace(&mut self.program, program));
            return Ok(Next::Again(Cause::Upgrade { program: path }));
        }
        // Whatever it ended with: it was never ready.
        if let Some(cause) = self.go_back(how.clone()) {
            return Ok(Next::Again(cause));
        }
        if exit == Exit::Code(0) {
            return Ok(Next::End(exit_code(exit)));
        }
        match self.restarts.ended(Instant::now()) {
            Ok(()) => Ok(Next::Again(Cause::Died { how })),
            // It has said itself why it cannot start.
            Err(Hopeless::NeverReady) if matches!(exit, Exit::Code(_)) => {
                Ok(Next::End(exit_code(exit)))
            }
            Err(hopeless) => Err(HolderError::GivenUp { when: hopeless.to_string(), how }),
        }
    }

    /// Takes up the program before, if the one that is to take over is not ready yet;
    /// `how` that one failed.
    fn go_back(&mut self, how: String) -> Option<Cause> {
        let failed = std::mem::replace(&mut self.program, self.before.take()?);
        Some(Cause::UpgradeFailed { program: failed.path, how })
    }

    fn warn(&self, text: impl Into<String>) {
        self.order.events.warn(&[Tag::Host], format!("holder: {}", text.into()));
    }

    /// Once: more may come with every client.
    fn warn_full(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_full, true) {
            self.warn(format!("not all is held for the next daemon: {why}"));
        }
    }
}

/// What comes after a daemon that has ended.
enum Next {
    /// The end.
    End(ExitCode),
    /// Another one.
    Again(Cause),
}

fn describe(exit: Exit, hung: Option<HangReason>) -> String {
    if let Some(reason) = hung {
        return format!("hung ({reason})");
    }
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        Exit::Unknown => "nobody knows how".into(),
    }
}

/// The daemon's own, or what a shell makes of a signal.
fn exit_code(exit: Exit) -> ExitCode {
    let code = match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
        Exit::Unknown => 1,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

impl Running {
    /// Waits until the bell was rung, and takes the signal away.
    async fn rings(&self) -> io::Result<()> {
        loop {
            self.bell.readable().await?;
            match self.bell.try_read(&mut [0; 64]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The daemon is about to end.
                Ok(0) => return pending().await,
                rung => return rung.map(drop),
            }
        }
    }
}
