//! Looks at the host and the load all the time, and writes down what changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::book::Book;
use super::daemon::Daemon;
use super::run::micros;
use super::stall::{Excused, Stall, excuse};
use super::stop::Stop;
use crate::harness::{ComponentStatus, FailoverLog, FailoverStatus, ReplicaStatus};
use crate::report::record::{
    self, ClientFault, ClientFaultKind, ClientId, Failover, FaultId, LatencySample, Pause,
    Progress, Record, ReplicaId, Role, RoleChange,
};
use crate::soak::{AnswerTimes, SoakCounts, SoakProbe, Wait};

/// How often the host is asked; each time costs it some microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// One sample of answer times for so many looks.
const LOOKS_A_SAMPLE: u32 = 4;
/// One line of progress for so many looks.
const LOOKS_A_PROGRESS: u32 = 20;

/// How a campaign goes, for people who watch it.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Since the first fault could come.
    pub elapsed: Duration,
    /// Faults injected.
    pub faults: u64,
    /// Failovers seen.
    pub failovers: usize,
    /// Requests answered.
    pub answered: u64,
    /// Errors and broken connections of clients.
    pub errors: u64,
    /// The longest that a client waited, microseconds.
    pub longest_us: u64,
    /// What is being done.
    pub doing: String,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) status: Option<ComponentStatus>,
    pub(super) failovers: FailoverLog,
    /// Since when nobody has served, if nobody does.
    unserved_since: Option<Instant>,
    /// The longest that nobody served since this was last taken.
    unserved: Duration,
    /// The longest wait of a client since this was last taken.
    pause_us: u64,
    times: AnswerTimes,
    /// The same for the next sample, which somebody else takes.
    sample: AnswerTimes,
    sample_longest_us: u64,
    /// Waits above the limit.
    too_long: Vec<Wait>,
    stalls: Vec<Stall>,
    /// From rounds that are over.
    answered_before: u64,
    errors_before: u64,
    answered: u64,
    errors: u64,
    live: Live,
    began: Option<Instant>,
    fault: Option<FaultId>,
}

/// What happened since somebody looked last.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    pub(super) unserved: Duration,
    pub(super) pause_us: u64,
    pub(super) times: AnswerTimes,
    pub(super) errors: u64,
}

/// The thread that looks; it ends when this is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    end: Stop,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    daemon: Daemon,
    book: Arc<Book>,
    probe: Mutex<Option<SoakProbe>>,
    seen: Mutex<Seen>,
    /// The longest that a client may wait.
    limit: Duration,
    show: Box<dyn Fn(&Live) + Send + Sync>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    pub(super) fn start(
        daemon: Daemon,
        book: Arc<Book>,
        limit: Duration,
        show: Box<dyn Fn(&Live) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let (probe, seen) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { daemon, book, probe, seen, limit, show });
        let (end, looker) = (Stop::default(), Looker::new(&shared));
        let stop = end.clone();
        let thread = std::thread::Builder::new().name("watch".into());
        let thread = Some(thread.spawn(move || looker.run(&stop))?);
        Ok(Self { shared, end, thread })
    }

    /// The load of the next round, or none between two.
    pub(super) fn follow(&self, probe: Option<SoakProbe>) {
        let mut followed = lock(&self.shared.probe);
        if let Some(old) = std::mem::replace(&mut *followed, probe) {
            self.shared.drain(&old);
        }
        let mut seen = self.seen();
        seen.answered_before += std::mem::take(&mut seen.answered);
        seen.errors_before += std::mem::take(&mut seen.errors);
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.shared.seen)
    }

    /// What happened since the last time.
    pub(super) fn window(&self) -> Window {
        self.shared.look_at_load();
        let mut seen = self.seen();
        let now = seen.unserved_since.map_or(Duration::ZERO, |since| since.elapsed());
        Window {
            unserved: std::mem::take(&mut seen.unserved).max(now),
            pause_us: std::mem::take(&mut seen.pause_us),
            times: std::mem::take(&mut seen.times),
            errors: seen.errors_before + seen.errors,
        }
    }

    /// The longest that any client waited, with what stalls of our own excuse.
    pub(super) fn excused(&self) -> Excused {
        let seen = self.seen();
        let longest = Duration::from_micros(seen.live.longest_us);
        excuse(longest, self.shared.limit, &seen.too_long, &seen.stalls)
    }

    /// What is being done, for those who watch.
    pub(super) fn doing(&self, what: impl Into<String>) {
        self.seen().live.doing = what.into();
    }

    /// Faults may come from now on.
    pub(super) fn begin(&self) {
        self.seen().began = Some(Instant::now());
    }

    /// A fault was injected: failovers from now on are its doing.
    pub(super) fn fault(&self, fault: FaultId) {
        let mut seen = self.seen();
        seen.live.faults += 1;
        seen.fault = Some(fault);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Seen {
    /// Takes in what a round's load has counted.
    fn take_in(&mut self, counts: SoakCounts, times: &AnswerTimes) {
        self.pause_us = self.pause_us.max(counts.longest_us);
        self.live.longest_us = self.live.longest_us.max(counts.longest_us);
        self.sample_longest_us = self.sample_longest_us.max(counts.longest_us);
        self.times.add(times);
        self.sample.add(times);
        (self.answered, self.errors) = (counts.answered, counts.errors);
        self.live.answered = self.answered_before + self.answered;
        self.live.errors = self.errors_before + self.errors;
    }

    /// The answers since the last sample, and the longest that one of them took.
    fn take_sample(&mut self) -> (AnswerTimes, u64) {
        (std::mem::take(&mut self.sample), std::mem::take(&mut self.sample_longest_us))
    }
}

impl Shared {
    /// Takes what the load of this round has to tell.
    fn look_at_load(&self) {
        // Held all the while: nobody may take in a round that is over already.
        let probe = lock(&self.probe);
        if let Some(probe) = &*probe {
            self.drain(probe);
        }
    }

    /// Takes all that a load has to tell, for everybody who asks: what one reader
    /// takes, no other sees.
    fn drain(&self, probe: &SoakProbe) {
        let (counts, times, waits) = (probe.counts(), probe.take_times(), probe.take_waits());
        let mut seen = lock(&self.seen);
        seen.take_in(counts, &times);
        seen.too_long.extend(waits.iter().filter(|wait| wait.took > self.limit));
        drop(seen);
        for wait in waits {
            let duration_us = micros(wait.took);
            self.book.put(&Record::Pause(Pause {
                at_us: self.book.at(wait.until).saturating_sub(duration_us),
                duration_us,
                client: Some(ClientId(wait.client.into())),
            }));
        }
        for failure in probe.take_failures() {
            self.book.put(&Record::ClientFault(ClientFault {
                at_us: self.book.at(failure.at),
                client: ClientId(failure.client.into()),
                what: if failure.disconnected {
                    ClientFaultKind::Disconnect
                } else {
                    ClientFaultKind::Error
                },
                detail: failure.what,
            }));
        }
    }
}

/// What the thread knows.
struct Looker {
    shared: Arc<Shared>,
    /// What each replica was when last seen.
    roles: BTreeMap<u64, Role>,
    /// The newest failover that is written down.
    generation: u64,
    sample_began: Instant,
}

fn role(replica: &ReplicaStatus) -> Role {
    match (replica.state.as_str(), replica.role.as_str()) {
        ("dead", _) => Role::Gone,
        ("fencing", _) => Role::Fenced,
        ("starting", _) => Role::Started,
        (_, "primary") => Role::Primary,
        (_, "learner") => Role::Learner,
        _ => Role::Standby,
    }
}

impl Looker {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            roles: BTreeMap::new(),
            generation: 0,
            sample_began: Instant::now(),
        }
    }

    fn run(mut self, end: &Stop) {
        let mut look = 0_u32;
        let first = self.shared.daemon.xenstore().ok();
        // What was before us is none of our failovers.
        self.generation = first.map_or(0, |status| status.generation);
        while !end.is_set() {
            look = look.wrapping_add(1);
            self.look_at_host();
            self.shared.look_at_load();
            if look.is_multiple_of(LOOKS_A_SAMPLE) {
                self.write_sample();
            }
            if look.is_multiple_of(LOOKS_A_PROGRESS) {
                self.write_progress();
            }
            let live = {
                let mut seen = lock(&self.shared.seen);
                seen.live.elapsed = seen.began.map_or(Duration::ZERO, |began| began.elapsed());
                seen.live.clone()
            };
            (self.shared.show)(&live);
            let asleep = Instant::now();
            end.sleep(LOOK_EVERY);
            if let Some(stall) = Stall::in_sleep(LOOK_EVERY, asleep, Instant::now()) {
                self.note_stall(stall);
            }
        }
    }

    fn note_stall(&self, stall: Stall) {
        lock(&self.shared.seen).stalls.push(stall);
        self.shared.book.put(&Record::Stall(record::Stall {
            at_us: self.shared.book.at(stall.from),
            duration_us: micros(stall.duration()),
        }));
    }

    fn look_at_host(&mut self) {
        let status = match self.shared.daemon.xenstore() {
            Err(error) if error.is_silence() => return,
            status => status.ok(),
        };
        let shared = Arc::clone(&self.shared);
        let mut seen = lock(&shared.seen);
        let serves = status.as_ref().is_some_and(|status| status.primary().is_some());
        if serves {
            let unserved = seen.unserved_since.take().map_or(Duration::ZERO, |at| at.elapsed());
            seen.unserved = seen.unserved.max(unserved);
        } else {
            seen.unserved_since.get_or_insert_with(Instant::now);
        }
        if let Some(status) = &status {
            let new = status.failovers.iter().filter(|f| f.generation > self.generation);
            let new: Vec<FailoverStatus> = new.cloned().collect();
            for failover in &new {
                self.generation = self.generation.max(failover.generation);
                self.write_failover(failover, seen.fault);
            }
            seen.failovers.extend(new);
            seen.live.failovers = seen.failovers.len();
            self.write_roles(status);
        }
        seen.status = status;
    }

    fn write_sample(&mut self) {
        let (sample, max_us) = lock(&self.shared.seen).take_sample();
        let began = std::mem::replace(&mut self.sample_began, Instant::now());
        let book = &self.shared.book;
        let at_us = book.at(began);
        book.put(&Record::Latency(LatencySample {
            at_us,
            interval_us: book.now().saturating_sub(at_us),
            count: sample.count(),
            // Buckets reach further than the longest that was in them.
            p50_us: sample.percentile_us(50).min(max_us),
            p99_us: sample.percentile_us(99).min(max_us),
            max_us,
        }));
    }

    fn write_progress(&self) {
        let live = lock(&self.shared.seen).live.clone();
        let book = &self.shared.book;
        book.put(&Record::Progress(Progress {
            at_us: book.now(),
            operations: live.answered,
            faults: live.faults,
            ..Progress::default()
        }));
    }

    fn write_failover(&self, failover: &FailoverStatus, fault: Option<FaultId>) {
        let book = &self.shared.book;
        let id = |id: u64| (id != 0).then_some(ReplicaId(id));
        book.put(&Record::Failover(Failover {
            // It was noticed so long after it happened.
            at_us: at(book, failover.at_unix_ms).saturating_sub(failover.detect_us),
            generation: failover.generation,
            cause: failover.cause.clone(),
            from: id(failover.from),
            to: id(failover.to),
            fault,
            detect_us: failover.detect_us,
            fence_us: failover.fence_us,
            promote_us: failover.promote_us,
            replay_us: failover.replay_us,
            total_us: failover.total_us,
        }));
    }

    fn write_roles(&mut self, status: &ComponentStatus) {
        let now: BTreeMap<u64, Role> =
            status.replicas.iter().map(|replica| (replica.id, role(replica))).collect();
        let gone =
            self.roles.iter().filter(|(id, was)| !now.contains_key(id) && **was != Role::Gone);
        let gone: Vec<_> = gone.map(|(id, _)| (*id, Role::Gone)).collect();
        let new = now.iter().filter(|(id, role)| self.roles.get(id) != Some(role));
        let new: Vec<_> = new.map(|(id, role)| (*id, *role)).collect();
        for (id, role) in gone.into_iter().chain(new) {
            self.shared.book.put(&Record::Role(RoleChange {
                at_us: self.shared.book.now(),
                replica: ReplicaId(id),
                role,
                generation: status.generation,
                cause: None,
            }));
        }
        self.roles = now;
    }
}

/// A time of day on the campaign's clock.
fn at(book: &Book, unix_ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = now.saturating_sub(Duration::from_millis(unix_ms));
    book.now().saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_around_a_fault_is_in_the_samples_too() {
        let mut seen = Seen::default();
        let counts = SoakCounts { longest_us: 7000, answered: 3, ..SoakCounts::default() };
        seen.take_in(counts, &AnswerTimes::of_ns(&[1000, 2000, 7_000_000]));
        // Whoever judges a fault takes his own.
        assert_eq!(std::mem::take(&mut seen.times).count(), 3);
        seen.take_in(SoakCounts::default(), &AnswerTimes::of_ns(&[1000]));
        let (sample, longest_us) = seen.take_sample();
        assert_eq!((sample.count(), longest_us), (4, 7000));
        assert_eq!(seen.take_sample().0.count(), 0);
    }
}
