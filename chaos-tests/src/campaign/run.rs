//! A campaign from its start to its verdict.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::book::Book;
use super::choose::Chooser;
use super::fault::{FaultError, Planned, Scene, Told};
use super::profile::ProfileFile;
use super::subject::Subject;
use super::verdict::Sum;
use super::watch::{Live, Watch, Window};
use super::{CampaignError, Options};
use crate::harness::{ComponentStatus, FailoverLog};
use crate::report::summary::Summary;
use crate::report::{
    self,
    record::{
        Bound, CheckerVerdict, Component, FORMAT, FaultClass, FaultHealed, FaultId, FaultInjected,
        FaultJudged, Outcome, Record, RunBegin, RunEnd, RunOutcome, SteadyPhase, SteadyState,
    },
};
use crate::soak::{Soak, SoakConfig};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Nobody has served for so long: an interruption, and no mere failover.
const INTERRUPTION: Duration = Duration::from_secs(1);
/// Damage in a replica's memory that has not been noticed by then harms nobody
/// for now.
const NOTICE: Duration = Duration::from_millis(1500);
/// The group must be seen whole for so long before a fault counts as over.
const SETTLED: Duration = Duration::from_millis(60);

/// What a campaign showed; the rest is in its directory.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub outcome: RunOutcome,
    /// Everything that did not hold, a line each.
    pub failures: Vec<String>,
    /// What was not done, and why, a line each.
    pub skipped: Vec<String>,
    /// What its directory says.
    pub summary: Summary,
}

/// How a campaign ended, what did not hold, and what was skipped.
type Ended = (RunOutcome, Vec<String>, Vec<String>);

/// Runs a campaign. `show` is told how it goes, some twenty times a second.
///
/// # Errors
/// [`CampaignError`] when it could not be carried out. A bound that does not hold
/// is no error.
pub fn run(
    options: &Options,
    show: Box<dyn Fn(&Live) + Send + Sync>,
) -> Result<Finished, CampaignError> {
    std::fs::create_dir_all(&options.out)
        .map_err(CampaignError::io(options.out.display().to_string()))?;
    let subject = Subject::find(options)?;
    let result = Campaign::begin(options, &subject, show).and_then(Campaign::carry_out);
    subject.leave(&options.out);
    let (outcome, failures, skipped) = result?;
    let summary = report::render(&options.out)?;
    Ok(Finished { outcome, failures, skipped, summary })
}

struct Campaign<'a> {
    options: &'a Options,
    subject: &'a Subject,
    book: Arc<Book>,
    watch: Watch,
    soak: Option<Soak>,
    round_began: Instant,
    rounds: u64,
    began: Instant,
    sum: Sum,
    /// Faults by class that were injected.
    injected: std::collections::BTreeMap<FaultClass, u64>,
    worse: u64,
    failures: Vec<String>,
    skipped: Vec<String>,
}

/// What one injection came to.
#[derive(Default)]
struct Injection {
    component: Option<Component>,
    damaged: Option<u64>,
    answered_eio: bool,
}

fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Masked | Outcome::Skipped => 0,
        Outcome::Rebuilt => 1,
        Outcome::Failover => 2,
        Outcome::AnsweredEio => 3,
        Outcome::Recovered => 4,
        Outcome::StateLost => 5,
        Outcome::Failed => 6,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl<'a> Campaign<'a> {
    fn begin(
        options: &'a Options,
        subject: &'a Subject,
        show: Box<dyn Fn(&Live) + Send + Sync>,
    ) -> Result<Self, CampaignError> {
        let book = Arc::new(Book::create(&options.out)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let file = &options.profile.file;
        let duration = options.budget.unwrap_or(file.schedule.duration.0);
        book.put(&Record::RunBegin(RunBegin {
            format: FORMAT,
            profile: options.profile.name.clone(),
            seed: options.seed,
            version: subject.version.clone(),
            target: subject.text.clone(),
            started_unix_us: now.map(micros),
            reproduce: Some(options.reproduce.clone()),
            config: [
                ("clients", file.workload.clients.0.to_string()),
                ("watchers", file.workload.watchers.0.to_string()),
                ("think_us", file.workload.think.0.as_micros().to_string()),
                ("duration_s", duration.as_secs().to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        }));
        let watch = Watch::start(subject.daemon.clone(), Arc::clone(&book), show)
            .map_err(CampaignError::io("starting a thread"))?;
        Ok(Self {
            options,
            subject,
            book,
            watch,
            soak: None,
            round_began: Instant::now(),
            rounds: 0,
            began: Instant::now(),
            sum: Sum::default(),
            injected: Default::default(),
            worse: 0,
            failures: Vec::new(),
            skipped: Vec::new(),
        })
    }

    fn file(&self) -> &'a ProfileFile {
        &self.options.profile.file
    }

    fn carry_out(mut self) -> Result<Ended, CampaignError> {
        let broken = self.try_out();
        let outcome = match &broken {
            Err(_) => RunOutcome::Aborted,
            Ok(()) if !self.failures.is_empty() => RunOutcome::Failed,
            Ok(()) if self.options.stop.is_set() => RunOutcome::Aborted,
            Ok(()) => RunOutcome::Passed,
        };
        let reason = match (&broken, self.failures.first()) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(()), Some(failure)) => Some(failure.clone()),
            (Ok(()), None) => self.options.stop.is_set().then(|| "told to stop".to_owned()),
        };
        let failed = outcome == RunOutcome::Failed;
        self.book.put(&Record::RunEnd(RunEnd {
            at_us: self.book.now(),
            outcome,
            reason,
            seeds: 0,
            simulated_us: 0,
            operations: self.sum.counts.answered,
            faults: self.injected.clone(),
            reproduce: failed.then(|| self.options.reproduce.clone()),
        }));
        self.book.close()?;
        broken?;
        Ok((outcome, self.failures, self.skipped))
    }

    fn try_out(&mut self) -> Result<(), CampaignError> {
        if let Some(lacks) = &self.subject.lacks {
            self.skip(lacks.clone());
        }
        self.begin_round()?;
        let ready = self.steady(SteadyPhase::Before);
        self.began = Instant::now();
        self.watch.begin();
        if ready {
            self.break_it()?;
        }
        self.watch.doing("healing");
        self.steady(SteadyPhase::After);
        self.watch.doing("judging");
        self.end_round()?;
        self.judge();
        Ok(())
    }

    // The load.

    fn begin_round(&mut self) -> Result<(), CampaignError> {
        let workload = &self.file().workload;
        self.rounds += 1;
        let config = SoakConfig {
            clients: u16::try_from(workload.clients.0).unwrap_or(u16::MAX),
            watchers: u16::try_from(workload.watchers.0).unwrap_or(u16::MAX),
            keys: u32::try_from(workload.keys.0).unwrap_or(u32::MAX),
            think_us: micros(workload.think.0),
            timeout_ms: micros(workload.timeout.0) / 1000,
            seed: self.options.seed.wrapping_add(self.rounds),
            root: self.subject.root.clone(),
        };
        let soak = Soak::start(&self.subject.socket, config)?;
        self.watch.follow(Some(soak.probe()));
        self.soak = Some(soak);
        self.round_began = Instant::now();
        Ok(())
    }

    fn end_round(&mut self) -> Result<(), CampaignError> {
        let Some(soak) = self.soak.take() else { return Ok(()) };
        let verdict = soak.finish();
        self.watch.follow(None);
        match verdict {
            Ok(verdict) => self.sum.add(&verdict),
            // The store cannot be read: what clients were promised is not there.
            Err(error) => self.fail(format!("what clients saw cannot be judged: {error}")),
        }
        Ok(())
    }

    // Breaking.

    fn break_it(&mut self) -> Result<(), CampaignError> {
        let mut chooser = Chooser::new(self.options.seed);
        let duration = self.options.budget.unwrap_or(self.file().schedule.duration.0);
        while self.began.elapsed() < duration && !self.options.stop.is_set() {
            if self.round_began.elapsed() > self.file().workload.round.0 {
                self.end_round()?;
                self.begin_round()?;
            }
            let Some((pause, fault)) = chooser.next(&self.options.profile) else {
                self.skip("nothing that the profile asks for can be done here".to_owned());
                break;
            };
            self.watch.doing("waiting");
            self.options.stop.sleep(pause.min(duration.saturating_sub(self.began.elapsed())));
            if self.began.elapsed() >= duration || self.options.stop.is_set() {
                break;
            }
            let Some(status) = self.settle() else {
                self.fail(format!("not ready for another fault: {}", self.describe()));
                break;
            };
            if !self.inject(&fault, &status, &mut chooser) {
                // What is wrong is told already, or by the steady state after.
                break;
            }
        }
        Ok(())
    }

    /// Waits until enough replicas are there for another fault.
    fn settle(&self) -> Option<ComponentStatus> {
        let standbys = self.file().schedule.standbys.as_ref().map(|least| least.get_ref().0);
        let ready = |status: &ComponentStatus| match standbys {
            Some(least) => status.primary().is_some() && status.standbys().count() as u64 >= least,
            None => status.is_complete(),
        };
        let within = self.file().steady.within.0;
        let mut since = None;
        self.options.stop.wait_for(within, LOOK_EVERY, || {
            let status = self.subject.daemon.xenstore().ok().filter(ready);
            // A fault that was not noticed yet leaves the group whole for a moment.
            let status = status.inspect(|_| {
                since.get_or_insert_with(Instant::now);
            });
            if status.is_none() {
                since = None;
            }
            status.filter(|_| since.is_some_and(|since: Instant| since.elapsed() >= SETTLED))
        })
    }

    /// Gives damage that lies still a while to be found: what is found later would
    /// be counted for another fault.
    fn await_notice(&self, fault: &Planned, before: &ComponentStatus) {
        if fault.lies_still() {
            self.options.stop.wait_for(NOTICE, LOOK_EVERY, || {
                let now = self.subject.daemon.xenstore().ok()?;
                let ids = |status: &ComponentStatus| -> Vec<u64> {
                    status.replicas.iter().map(|replica| replica.id).collect()
                };
                (ids(&now) != ids(before)).then_some(())
            });
        }
    }

    /// Injects a fault and says how it ended; whether to go on.
    fn inject(&mut self, fault: &Planned, before: &ComponentStatus, chooser: &mut Chooser) -> bool {
        let errors_before = self.watch.window().errors;
        let id = FaultId(fault.number);
        let name = format!("{} {}", fault.class.class, fault.way);
        self.watch.doing(name.trim());
        let mut injection = Injection::default();
        let result = {
            let (book, watch) = (&self.book, &self.watch);
            let mut tell = |told| match told {
                Told::Injected { component, target, parameters } => {
                    injection.component = Some(component);
                    watch.fault(id);
                    book.put(&Record::FaultInjected(FaultInjected {
                        at_us: book.now(),
                        fault: id,
                        class: fault.class.class,
                        component,
                        target: Some(target),
                        parameters,
                    }));
                }
                Told::Healed => {
                    book.put(&Record::FaultHealed(FaultHealed { at_us: book.now(), fault: id }));
                }
                Told::Damaged(id) => injection.damaged = Some(id),
                Told::AnsweredEio => injection.answered_eio = true,
            };
            self.scene(before, &mut tell).inject(fault)
        };
        if injection.component.is_some() {
            *self.injected.entry(fault.class.class).or_default() += 1;
        }
        let mut note = result.as_ref().err().map(ToString::to_string);
        if let (Err(error), None) = (&result, injection.component) {
            if let FaultError::Unavailable(why) = error {
                chooser.without(fault);
                self.skip(format!("{}: {why}", name.trim()));
            }
            self.judged(fault, Component::Host, Outcome::Skipped, note);
            return true;
        }
        self.await_notice(fault, before);
        let after = self.settle();
        let window = self.watch.window();
        let component = injection.component.unwrap_or(Component::Host);
        let outcome = match &after {
            _ if window.errors > errors_before => {
                let count = window.errors - errors_before;
                note = Some(format!("{count} errors or broken connections of clients"));
                Outcome::Failed
            }
            None if self.options.stop.is_set() => Outcome::Skipped,
            None => {
                note = Some(format!("not whole again: {}", self.describe()));
                Outcome::Failed
            }
            Some(after) => observed(fault.class.class, &injection, before, after, &window),
        };
        let promise = fault.promise();
        if outcome == Outcome::Failed {
            self.fail(format!(
                "fault {} ({}): {}",
                fault.number,
                name.trim(),
                note.clone().unwrap_or_default()
            ));
        } else if rank(outcome) > rank(promise) {
            self.worse += 1;
            let was = format!("{promise} was promised; clients waited {} us", window.pause_us);
            note = Some(note.map_or(was.clone(), |note| format!("{was}; {note}")));
        }
        self.judged(fault, component, outcome, note);
        match (after, injection.damaged) {
            (Some(after), Some(damaged)) => self.retire(id, damaged, &after),
            (after, _) => after.is_some(),
        }
    }

    /// Has a damaged replica replaced that nobody has noticed: damage must not
    /// pile up until more replicas are bad than the host can bear. Whether all is
    /// whole again.
    fn retire(&self, fault: FaultId, damaged: u64, status: &ComponentStatus) -> bool {
        if status.replicas.iter().all(|replica| replica.id != damaged) {
            return true;
        }
        self.scene(status, &mut |_| {}).retire(damaged);
        self.book.put(&Record::FaultHealed(FaultHealed { at_us: self.book.now(), fault }));
        let gone = |status: &ComponentStatus| status.replicas.iter().all(|r| r.id != damaged);
        let gone = self.options.stop.wait_for(self.file().steady.within.0, LOOK_EVERY, || {
            self.subject.daemon.xenstore().ok().filter(gone)
        });
        gone.and_then(|_| self.settle()).is_some()
    }

    fn scene<'s>(
        &'s self,
        status: &'s ComponentStatus,
        tell: &'s mut dyn FnMut(Told),
    ) -> Scene<'s> {
        Scene {
            daemon: &self.subject.daemon,
            socket: &self.subject.socket,
            host_pid: self.subject.pid,
            disk: self.subject.disk.as_deref(),
            status,
            patience: self.file().steady.within.0,
            stop: &self.options.stop,
            tell,
        }
    }

    fn judged(
        &self,
        fault: &Planned,
        component: Component,
        outcome: Outcome,
        note: Option<String>,
    ) {
        self.book.put(&Record::FaultJudged(FaultJudged {
            at_us: self.book.now(),
            fault: FaultId(fault.number),
            class: fault.class.class,
            component,
            outcome,
            note,
            seed: None,
        }));
    }

    /// How the host is, in a line.
    fn describe(&self) -> String {
        match self.subject.daemon.xenstore() {
            Err(error) => error.to_string(),
            Ok(status) => {
                let replicas = status.replicas.iter();
                let replicas: Vec<_> =
                    replicas.map(|r| format!("{} {} {}", r.id, r.role, r.state)).collect();
                let wanted = status.replication_factor;
                format!("of {wanted} replicas there are: {}", replicas.join(", "))
            }
        }
    }

    // Judging.

    /// Waits for everything to be whole, and looks at it for a while.
    fn steady(&mut self, phase: SteadyPhase) -> bool {
        let steady = &self.file().steady;
        let within = steady.within.0;
        let name = if phase == SteadyPhase::Before { "before" } else { "after" };
        let began = Instant::now();
        // Also after a stop: nobody is left with a host that is half healed.
        let whole = super::Stop::default().wait_for(within, LOOK_EVERY, || {
            self.subject.daemon.xenstore().ok().filter(ComponentStatus::is_complete)
        });
        let mut held = true;
        let mut hold = |campaign: &mut Self, condition: String, this: bool, observed: String| {
            campaign.book.put(&Record::Steady(SteadyState {
                at_us: campaign.book.now(),
                phase,
                condition: condition.clone(),
                held: this,
                observed: observed.clone(),
            }));
            if !this {
                campaign.fail(format!("{name} the faults: {condition}: {observed}"));
            }
            held &= this;
        };
        let observed = match whole {
            Some(_) => format!("after {} ms", began.elapsed().as_millis()),
            None => self.describe(),
        };
        let condition = format!("all replicas are there within {} s", within.as_secs());
        hold(self, condition, whole.is_some(), observed);
        if whole.is_none() {
            return false;
        }
        let errors = self.watch.window().errors;
        std::thread::sleep(steady.hold.0);
        let window = self.watch.window();
        let p99_us = window.times.percentile_us(99);
        let limit_us = micros(steady.p99.0);
        let answered = window.times.count();
        let condition = format!("99 of 100 answers take at most {limit_us} us");
        hold(
            self,
            condition,
            p99_us <= limit_us && answered > 0,
            format!("{p99_us} us of {answered}"),
        );
        let new = window.errors - errors;
        hold(self, "no client sees an error".to_owned(), new == 0, format!("{new} errors"));
        held
    }

    fn judge(&mut self) {
        let failovers = self.watch.seen().failovers.clone();
        self.book.put(&Record::Counts(self.sum.counts));
        let counts = self.sum.counts;
        let found = self.sum.first_violation.clone();
        let checkers = [
            ("linearizability", self.sum.linearizable, counts.answered),
            ("exactly-once", counts.lost + counts.doubled == 0, counts.answered),
            ("watch-events", self.sum.event_faults() == 0, counts.events),
            ("no-violation", found.is_none(), counts.answered),
        ];
        for (checker, passed, checked) in checkers {
            let detail = found.clone().filter(|_| !passed);
            if !passed {
                self.fail(format!("{checker}: {}", detail.as_deref().unwrap_or("violated")));
            }
            self.book.put(&Record::Checker(CheckerVerdict {
                at_us: self.book.now(),
                checker: checker.to_owned(),
                passed,
                checked,
                detail,
                seed: None,
                reproduce: (!passed).then(|| self.options.reproduce.clone()),
            }));
        }
        for bound in self.bounds(&failovers) {
            if !bound.held {
                let Bound { bound, unit, limit, observed, .. } = &bound;
                self.fail(format!("bound {bound}: {observed} {unit}, allowed: {limit}"));
            }
            self.book.put(&Record::Bound(bound));
        }
    }

    fn bounds(&self, failovers: &FailoverLog) -> Vec<Bound> {
        let bounds = &self.file().bounds;
        let counts = &self.sum.counts;
        let at_us = self.book.now();
        let most = |bound: &str, unit: &str, limit, observed| Bound {
            at_us,
            bound: bound.to_owned(),
            unit: unit.to_owned(),
            limit,
            observed,
            held: observed <= limit,
        };
        let injected: u64 = self.injected.values().sum();
        let mut all = vec![
            most("longest_pause", "us", micros(bounds.longest_pause.0), self.sum.longest_us),
            most("failover_median", "us", micros(bounds.failover_median.0), failovers.total_us(50)),
            most("failover_p99", "us", micros(bounds.failover_p99.0), failovers.total_us(99)),
            most("lost", "", bounds.lost, counts.lost),
            most("doubled", "", bounds.doubled, counts.doubled),
            most("errors", "", bounds.errors, counts.errors + counts.disconnects),
        ];
        if let Some(worse) = bounds.worse_than_promised {
            all.push(most("worse_than_promised", "", worse, self.worse));
        }
        // One that was stopped on request, or given little time, is not to blame.
        if !self.options.stop.is_set() && self.options.budget.is_none() {
            let least = most("least_faults", "", bounds.least_faults, injected);
            all.push(Bound { held: injected >= bounds.least_faults, ..least });
        }
        all
    }

    fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// Skips are never silent: they are told at the end, and in the history.
    fn skip(&mut self, what: String) {
        self.skipped.push(what);
    }
}

/// What became of a fault that did no harm to clients.
fn observed(
    class: FaultClass,
    injection: &Injection,
    before: &ComponentStatus,
    after: &ComponentStatus,
    window: &Window,
) -> Outcome {
    // With all replicas dead nobody served, however short it was.
    let all_died = class == FaultClass::KillAll && after.generation > before.generation;
    if window.unserved >= INTERRUPTION || all_died {
        Outcome::Recovered
    } else if injection.answered_eio {
        Outcome::AnsweredEio
    } else if after.generation > before.generation {
        Outcome::Failover
    } else if before.replicas.iter().any(|old| after.replicas.iter().all(|new| new.id != old.id)) {
        Outcome::Rebuilt
    } else {
        Outcome::Masked
    }
}
