//! Load that can be judged: clients write, read, create, remove, list and
//! transact without pause while somebody else breaks the daemon; in the end a
//! [`Verdict`](crate::checker::Verdict) tells whether any of them could tell.

mod client;
mod gauge;
mod judge;
mod layout;
mod tally;
mod watcher;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::checker::Verdict;
use crate::client::ClientError;
use crate::history::Clock;

pub use gauge::AnswerTimes;

/// What load to put on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SoakConfig {
    /// Clients that work, each on its own connection and thread.
    pub clients: u16,
    /// Clients that watch what the others create and remove.
    pub watchers: u16,
    /// Registers that all clients write and read.
    pub keys: u32,
    /// Pause of each client between two requests, microseconds.
    pub think_us: u64,
    /// What the clients' choices derive from.
    pub seed: u64,
    /// An answer that takes longer counts as an error, milliseconds.
    pub timeout_ms: u64,
    /// Where in the store the load takes place; removed at the start.
    pub root: String,
}

impl Default for SoakConfig {
    fn default() -> Self {
        Self {
            clients: 8,
            watchers: 2,
            keys: 32,
            think_us: 0,
            seed: 1,
            timeout_ms: 10_000,
            root: "/chaos".to_owned(),
        }
    }
}

/// Why load could not be put on, or not be judged.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    /// Preparing the store failed, or reading it in the end.
    #[error("{what}: {source}")]
    Client {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: ClientError,
    },
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(#[from] io::Error),
    /// A thread ended by a panic.
    #[error("a load thread panicked")]
    Panicked,
}

/// Counters of a run that goes on.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    answered: AtomicU64,
    events: AtomicU64,
    errors: AtomicU64,
    disconnects: AtomicU64,
    longest_ns: AtomicU64,
    times: gauge::Gauge,
    /// Failures that nobody has taken yet.
    failures: Mutex<Vec<Failure>>,
    /// Long waits that nobody has taken yet.
    waits: Mutex<Vec<Wait>>,
}

/// An answer that takes longer is a wait worth noting.
pub const LONG_WAIT: Duration = Duration::from_millis(20);

/// A client that waited longer than [`LONG_WAIT`] for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When the answer came.
    pub until: Instant,
    /// How long it took.
    pub took: Duration,
    /// Which client.
    pub client: u16,
}

/// So many failures and waits are kept until somebody takes them; further ones
/// only count.
const MAX_NOTED: usize = 256;

/// Something that no client should ever see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was noticed.
    pub at: Instant,
    /// Which client, watchers after all others.
    pub client: u16,
    /// Whether it was the connection that broke.
    pub disconnected: bool,
    /// What.
    pub what: String,
}

/// A reading of a run's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoakCounts {
    /// Requests answered.
    pub answered: u64,
    /// Watch events received.
    pub events: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// The longest that any answer took since the last reading, microseconds.
    pub longest_us: u64,
}

pub(crate) struct Shared {
    pub(crate) socket: PathBuf,
    pub(crate) config: SoakConfig,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    pub(crate) stop: AtomicBool,
    /// Nobody could tell the watchers that no event follows.
    pub(crate) endless: AtomicBool,
}

impl Shared {
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Notes what no client should see.
    pub(crate) fn failure(&self, client: u16, error: &ClientError) {
        let disconnected = matches!(error, ClientError::Closed | ClientError::Io(_));
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        if disconnected {
            self.counters.disconnects.fetch_add(1, Ordering::Relaxed);
        }
        let failures = self.counters.failures.lock();
        let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
        if failures.len() < MAX_NOTED {
            let (at, what) = (Instant::now(), error.to_string());
            failures.push(Failure { at, client, disconnected, what });
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.config.timeout_ms)
    }
}

impl Counters {
    pub(crate) fn answer(&self, client: u16, took_ns: u64) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.longest_ns.fetch_max(took_ns, Ordering::Relaxed);
        self.times.record(took_ns);
        let took = Duration::from_nanos(took_ns);
        if took > LONG_WAIT {
            let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            if waits.len() < MAX_NOTED {
                waits.push(Wait { until: Instant::now(), took, client });
            }
        }
    }

    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> SoakCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SoakCounts {
            answered: get(&self.answered),
            events: get(&self.events),
            errors: get(&self.errors),
            disconnects: get(&self.disconnects),
            longest_us: self.longest_ns.swap(0, Ordering::Relaxed) / 1000,
        }
    }
}

/// Load that is being put on a daemon. Dropped without [`Self::finish`], it
/// stops without a verdict.
pub struct Soak {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<client::Record>>,
    watchers: Vec<JoinHandle<Result<watcher::Stream, SoakError>>>,
}

impl Soak {
    /// Prepares the store behind `socket` and starts the load.
    ///
    /// # Errors
    /// Any [`SoakError`].
    pub fn start(socket: &Path, config: SoakConfig) -> Result<Self, SoakError> {
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            clock: Clock::start(),
            counters: Counters::default(),
            stop: AtomicBool::new(false),
            endless: AtomicBool::new(false),
            config,
        });
        layout::prepare(&shared)?;
        let mut soak =
            Self { shared: Arc::clone(&shared), workers: Vec::new(), watchers: Vec::new() };
        for number in 0..shared.config.watchers {
            let watcher = watcher::Watcher::register(&shared, number)?;
            let thread = thread::Builder::new().name(format!("watcher-{number}"));
            soak.watchers.push(thread.spawn(move || watcher.run())?);
        }
        for number in 0..shared.config.clients {
            let worker = client::Worker::connect(&shared, number)?;
            let thread = thread::Builder::new().name(format!("client-{number}"));
            soak.workers.push(thread.spawn(move || worker.run())?);
        }
        Ok(soak)
    }

    /// How it goes; resets the longest answer time.
    #[must_use]
    pub fn counts(&self) -> SoakCounts {
        self.shared.counters.read()
    }

    /// A look at the run for somebody else.
    #[must_use]
    pub fn probe(&self) -> SoakProbe {
        SoakProbe { shared: Arc::clone(&self.shared) }
    }

    /// Stops the load, waits until every client has its last answer, and judges
    /// what they saw; what they saw counts also when the store cannot be read in
    /// the end, see [`Verdict::not_judged`].
    ///
    /// # Errors
    /// [`SoakError::Panicked`].
    pub fn finish(mut self) -> Result<Verdict, SoakError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut records = Vec::new();
        for worker in self.workers.drain(..) {
            records.push(worker.join().map_err(|_| SoakError::Panicked)?);
        }
        let ended = layout::end_events(&self.shared);
        self.shared.endless.store(ended.is_err(), Ordering::Relaxed);
        let mut streams = Vec::new();
        for watcher in self.watchers.drain(..) {
            streams.push(watcher.join().map_err(|_| SoakError::Panicked)??);
        }
        let whole = ended.is_ok();
        let (finals, unread) = match ended.and_then(|()| layout::read_finals(&self.shared)) {
            Ok(finals) => (Some(finals), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let mut verdict = judge::judge(&self.shared, &records, (streams, whole), finals.as_ref());
        verdict.not_judged = unread;
        Ok(verdict)
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// A look at a run, also while it is being finished. What one reader takes, no
/// other sees.
#[derive(Clone)]
pub struct SoakProbe {
    shared: Arc<Shared>,
}

impl SoakProbe {
    /// How it goes; resets the longest answer time.
    #[must_use]
    pub fn counts(&self) -> SoakCounts {
        self.shared.counters.read()
    }

    /// How long the answers since the last time took.
    #[must_use]
    pub fn take_times(&self) -> AnswerTimes {
        self.shared.counters.times.take()
    }

    /// Who waited long since the last time.
    #[must_use]
    pub fn take_waits(&self) -> Vec<Wait> {
        let waits = self.shared.counters.waits.lock();
        std::mem::take(&mut *waits.unwrap_or_else(PoisonError::into_inner))
    }

    /// What failed since the last time.
    #[must_use]
    pub fn take_failures(&self) -> Vec<Failure> {
        let failures = self.shared.counters.failures.lock();
        std::mem::take(&mut *failures.unwrap_or_else(PoisonError::into_inner))
    }
}
