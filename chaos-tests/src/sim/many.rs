//! Many runs, on several threads: each of them takes one case after another and
//! runs it alone; what came of them is added up.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::case::Case;
use super::checkers::Checker;
use super::host::panic_text;
use super::plan::{Overrides, Plan};
use super::verdict::{Flaw, RunVerdict, Stats};
use crate::campaign::Stop;

/// Of failing runs, so many are kept; all are counted.
pub const MAX_FAILURES: usize = 100;

/// A run that takes longer does not come to an end: most need less than a second.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How often the observer hears of the totals if nothing else happens.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// How much is run.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Threads, or as many as there are descriptors for.
    pub jobs: usize,
    /// When this much time is over, no further run begins.
    pub budget: Option<Duration>,
    /// How long one run may take; its thread is left behind then.
    pub patience: Duration,
    /// Ends it before.
    pub stop: Stop,
}

impl Effort {
    /// As long as there are cases, on so many threads.
    #[must_use]
    pub fn on(jobs: usize) -> Self {
        Self { jobs, budget: None, patience: PATIENCE, stop: Stop::default() }
    }
}

/// A run in which a promise was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was run.
    pub case: Case,
    /// Its plan, for people.
    pub plan: String,
    /// What was broken.
    pub flaws: Vec<Flaw>,
}

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs that came to their end, or should have.
    pub seeds: u64,
    /// Those in which a promise was broken.
    pub failed: u64,
    /// The first [`MAX_FAILURES`] of these, by seed.
    pub failures: Vec<Failure>,
    /// What happened in all.
    pub stats: Stats,
    /// How long it took.
    pub elapsed: Duration,
}

impl Totals {
    /// Whether every promise was kept, and there was one to keep.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.seeds > 0
    }

    /// Runs a second, so far.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn seeds_per_s(&self) -> f64 {
        self.seeds as f64 / self.elapsed.as_secs_f64().max(1e-3)
    }
}

/// A first seed that was not used before: no two of them are closer than ten
/// thousand if they are drawn more than a second apart.
#[must_use]
pub fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() * 10_000
}

/// The cases of all seeds from `first` on, up to `count` of them.
pub fn seeds(
    first: u64,
    count: Option<u64>,
    overrides: Overrides,
) -> impl Fn(u64) -> Option<Case> + Send + Sync + 'static {
    move |nth| {
        let wanted = count.is_none_or(|count| nth < count);
        let seed = first.checked_add(nth).filter(|_| wanted)?;
        Some(Case { seed, overrides: overrides.clone() })
    }
}

/// Descriptors that a run may need at once: half of them are in use at most.
const DESCRIPTORS: u64 = 200;

/// So many runs have descriptors enough. One that lacks some would seem to break
/// a promise, so that this process takes as many as it is allowed to have.
fn jobs_with_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, ..limit };
    let granted = if setrlimit(Resource::Nofile, all).is_ok() { all } else { limit };
    let jobs = granted.current.map_or(u64::MAX, |descriptors| descriptors / DESCRIPTORS);
    usize::try_from(jobs).unwrap_or(usize::MAX).max(1)
}

enum Told {
    Begins(Case),
    Ended(Box<RunVerdict>),
    Idle,
}

/// Runs what `cases` names, from 0 on to the first that it does not: in this
/// order, but side by side. `observe` hears of the totals now and then, and of
/// each failure. A run that panics has failed.
pub fn many(
    effort: &Effort,
    cases: impl Fn(u64) -> Option<Case> + Send + Sync + 'static,
    run: impl Fn(&Case) -> RunVerdict + Send + Sync + 'static,
    mut observe: impl FnMut(&Totals, Option<&Failure>),
) -> Totals {
    let began = Instant::now();
    let ends = effort.budget.map(|budget| began + budget);
    let stop = effort.stop.clone();
    let next = AtomicU64::new(0);
    // Nothing more is begun once there is none: `cases` may not be a line.
    let hand_out = move || {
        let over = stop.is_set() || ends.is_some_and(|ends| Instant::now() >= ends);
        if over { None } else { cases(next.fetch_add(1, Ordering::Relaxed)) }
    };
    let shared = Arc::new((hand_out, run));
    let jobs = effort.jobs.clamp(1, jobs_with_descriptors());
    let (tell, told) = sync_channel::<(usize, Told)>(2 * jobs);
    let mut workers = Vec::with_capacity(jobs);
    for worker in 0..jobs {
        let (shared, tell) = (Arc::clone(&shared), tell.clone());
        let work = move || worker_life(worker, &shared.0, &shared.1, &tell);
        let name = format!("sim {worker}");
        workers.push(match std::thread::Builder::new().name(name).spawn(work) {
            Ok(_) => Worker::Idle,
            Err(_) => Worker::Done,
        });
    }
    drop(tell);
    let mut totals = Totals::default();
    let mut shown = began;
    while workers.iter().any(|worker| !matches!(worker, Worker::Done)) {
        let mut fresh = None;
        match told.recv_timeout(PROGRESS_PERIOD) {
            // One that was given up is not listened to any more.
            Ok((worker, _)) if matches!(workers[worker], Worker::Done) => {}
            Ok((worker, Told::Begins(case))) => {
                workers[worker] = Worker::Runs(case, Instant::now());
            }
            Ok((worker, Told::Idle)) => workers[worker] = Worker::Done,
            Ok((worker, Told::Ended(verdict))) => {
                let before = std::mem::replace(&mut workers[worker], Worker::Idle);
                if let Worker::Runs(case, _) = before {
                    fresh = totals.add(case, *verdict);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        for worker in &mut workers {
            if let Worker::Runs(case, since) = worker
                && since.elapsed() > effort.patience
            {
                let verdict = broken(case, "endless", "the run does not come to its end".into());
                fresh = totals.add(case.clone(), verdict);
                *worker = Worker::Done;
            }
        }
        totals.elapsed = began.elapsed();
        if fresh.is_some() || shown.elapsed() >= PROGRESS_PERIOD {
            shown = Instant::now();
            observe(&totals, fresh.as_ref());
        }
    }
    totals.elapsed = began.elapsed();
    totals.failures.sort_by_key(|failure| failure.case.seed);
    totals
}

enum Worker {
    Idle,
    Runs(Case, Instant),
    /// There is nothing left for it, or it was given up.
    Done,
}

fn worker_life(
    worker: usize,
    next: &impl Fn() -> Option<Case>,
    run: &impl Fn(&Case) -> RunVerdict,
    tell: &SyncSender<(usize, Told)>,
) {
    // Once nobody listens, this thread was given up, or the program ends.
    while let Some(case) = next() {
        if tell.send((worker, Told::Begins(case.clone()))).is_err() {
            return;
        }
        let mut verdict = guarded(&case, run);
        verdict.trace = String::new();
        if tell.send((worker, Told::Ended(Box::new(verdict)))).is_err() {
            return;
        }
    }
    let _ = tell.send((worker, Told::Idle));
}

impl Totals {
    /// Adds a run; the failure if it is one.
    fn add(&mut self, case: Case, verdict: RunVerdict) -> Option<Failure> {
        self.seeds += 1;
        self.stats.add(&verdict.stats);
        if verdict.is_clean() {
            return None;
        }
        self.failed += 1;
        let failure = Failure { case, plan: verdict.plan, flaws: verdict.flaws };
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(failure.clone());
        }
        Some(failure)
    }
}

thread_local! {
    /// Whether panics of this thread are caught, and what the last one said.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static LAST_WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a case; a panic is a flaw of the run, and is not printed.
pub fn guarded(case: &Case, run: impl Fn(&Case) -> RunVerdict) -> RunVerdict {
    keep_last_words();
    GUARDED.set(true);
    let ran = catch_unwind(AssertUnwindSafe(|| run(case)));
    GUARDED.set(false);
    let words = LAST_WORDS.take();
    ran.unwrap_or_else(|panic: Box<dyn Any + Send>| {
        broken(case, "panic", words.unwrap_or_else(|| panic_text(&*panic)))
    })
}

/// What there is to say about a run that has no verdict.
fn broken(case: &Case, checker: &'static str, what: String) -> RunVerdict {
    let plan = Plan::draw(case.seed, &case.overrides);
    let mut stats = Stats { broken: BTreeMap::from([(checker, 1)]), ..Stats::default() };
    stats.looks.count(Checker::Endless, 1);
    stats.looks.count(Checker::Panic, 1);
    RunVerdict {
        seed: case.seed,
        plan: plan.describe(),
        clients: plan.population.clients,
        flaws: vec![Flaw { checker, at_us: 0, what }],
        stats,
        due: Vec::new(),
        trace_digest: 0,
        trace_lines: 0,
        trace: String::new(),
    }
}

/// From now on, the panics of guarded threads are kept instead of printed:
/// simulated replicas may panic, and thousands of runs would fill the screen.
fn keep_last_words() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                LAST_WORDS.set(Some(info.to_string()));
            } else {
                next(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A run that takes no time: every tenth seed fails, and every thirteenth
    /// panics.
    fn fake(case: &Case) -> RunVerdict {
        assert!(!case.seed.is_multiple_of(13), "seed {} is unlucky", case.seed);
        let mut verdict = broken(case, "tens", "is a ten".to_owned());
        if !case.seed.is_multiple_of(10) {
            verdict.flaws.clear();
            verdict.stats.broken.clear();
        }
        verdict.stats.requests = case.seed;
        verdict
    }

    #[test]
    fn every_case_is_run_once_and_added_up() {
        for jobs in [1, 3] {
            let ran = Arc::new(Mutex::new(Vec::new()));
            let run = {
                let ran = Arc::clone(&ran);
                move |case: &Case| {
                    ran.lock().expect("nobody panics with it").push(case.seed);
                    fake(case)
                }
            };
            let mut heard = 0;
            let cases = seeds(1, Some(100), Overrides::default());
            let totals = many(&Effort::on(jobs), cases, run, |totals, fresh| {
                heard += u64::from(fresh.is_some());
                assert!(totals.failed >= heard);
            });
            let mut ran = ran.lock().expect("nobody panics with it").clone();
            ran.sort_unstable();
            assert!(ran.iter().copied().eq(1..=100));
            let failed: Vec<_> =
                (1..=100).filter(|seed| seed % 10 == 0 || seed % 13 == 0).collect();
            assert_eq!(
                (totals.seeds, totals.failed, heard),
                (100, failed.len() as u64, totals.failed)
            );
            let seeds = totals.failures.iter().map(|failure| failure.case.seed);
            assert!(seeds.eq(failed.iter().copied()));
            let sum: u64 = (1..=100).filter(|seed| seed % 13 != 0).sum();
            assert_eq!(totals.stats.requests, sum);
            assert!(!totals.is_clean());
        }
    }

    #[test]
    fn a_panic_is_a_flaw_of_its_seed_and_says_where() {
        let cases = seeds(13, Some(1), Overrides::default());
        let totals = many(&Effort::on(1), cases, fake, |_, _| {});
        let flaw = &totals.failures[0].flaws[0];
        assert_eq!(flaw.checker, "panic");
        assert!(flaw.what.contains("seed 13 is unlucky"), "{flaw}");
        assert!(flaw.what.contains("many.rs:"), "{flaw}");
    }

    #[test]
    fn failures_are_kept_up_to_a_bound_and_counted_beyond() {
        let cases = move |nth| (nth < 250).then(|| Case::of(nth * 10));
        let totals = many(&Effort::on(2), cases, fake, |_, _| {});
        assert_eq!((totals.failed, totals.failures.len()), (250, MAX_FAILURES));
    }

    #[test]
    fn it_ends_when_it_is_told_to_or_the_time_is_over() {
        let slow = |case: &Case| {
            std::thread::sleep(Duration::from_millis(2));
            assert_ne!(case.seed, u64::MAX);
            fake(&Case::of(1))
        };
        let effort = Effort::on(2);
        let stop = effort.stop.clone();
        let totals = many(&effort, seeds(0, None, Overrides::default()), slow, |totals, _| {
            if totals.seeds > 5 {
                stop.set();
            }
        });
        assert!(totals.seeds > 5 && totals.is_clean());
        let effort = Effort { budget: Some(Duration::from_millis(30)), ..Effort::on(2) };
        let totals = many(&effort, seeds(0, None, Overrides::default()), slow, |_, _| {});
        assert!((1..=32).contains(&totals.seeds), "{}", totals.seeds);
    }

    #[test]
    fn a_run_without_an_end_is_left_behind_with_its_seed() {
        let run = |case: &Case| {
            if case.seed == 3 {
                std::thread::sleep(Duration::from_secs(3600));
            }
            fake(&Case::of(1))
        };
        let effort = Effort { patience: Duration::from_millis(50), ..Effort::on(2) };
        let totals = many(&effort, seeds(1, Some(9), Overrides::default()), run, |_, _| {});
        assert_eq!((totals.seeds, totals.failed), (9, 1));
        let failure = &totals.failures[0];
        assert_eq!((failure.case.seed, failure.flaws[0].checker), (3, "endless"));
    }
}
