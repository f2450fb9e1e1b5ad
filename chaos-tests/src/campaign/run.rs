//! A campaign from its start to its verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::book::Book;
use super::choose::Chooser;
use super::digests::Shown;
use super::profile::ProfileFile;
use super::stop::Stop;
use super::subject::Subject;
use super::verdict::Sum;
use super::watch::{Live, Watch};
use super::{CampaignError, Options};
use crate::bench;
use crate::report;
use crate::report::record::{
    FILE_NAME, FORMAT, FaultClass, Record, RunBegin, RunEnd, RunOutcome, Skip, SteadyPhase,
};
use crate::report::summary::Summary;
use crate::soak::{Soak, SoakConfig};

/// How often the host is asked while something is waited for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Within so long idle replicas show the digest of the same place of the log.
const LEVEL_WITHIN: Duration = Duration::from_secs(5);

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
    if options.out.join(FILE_NAME).exists() {
        // Whatever it shows must not be lost.
        return Err(CampaignError::Taken(options.out.clone()));
    }
    std::fs::create_dir_all(&options.out)
        .map_err(CampaignError::io(options.out.display().to_string()))?;
    let subject = Subject::find(options)?;
    let result = Campaign::begin(options, &subject, show).and_then(Campaign::carry_out);
    subject.leave(&options.out);
    let (outcome, failures, skipped) = result?;
    let summary = report::render(&options.out)?;
    Ok(Finished { outcome, failures, skipped, summary })
}

/// A campaign that is under way.
pub(super) struct Campaign<'a> {
    pub(super) options: &'a Options,
    pub(super) subject: &'a Subject,
    pub(super) book: Arc<Book>,
    pub(super) watch: Watch,
    soak: Option<Soak>,
    round_began: Instant,
    rounds: u64,
    began: Instant,
    pub(super) sum: Sum,
    /// Faults by class that were injected.
    pub(super) injected: BTreeMap<FaultClass, u64>,
    pub(super) worse: u64,
    pub(super) unnoticed: u64,
    /// The last line of the host's log that was looked at.
    pub(super) log_seen: u64,
    failures: Vec<String>,
    skipped: Vec<String>,
}

pub(super) fn micros(time: Duration) -> u64 {
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
        let limit = file.bounds.longest_pause.0;
        let watch = Watch::start(subject.daemon.clone(), Arc::clone(&book), limit, show)
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
            injected: BTreeMap::new(),
            worse: 0,
            unnoticed: 0,
            log_seen: 0,
            failures: Vec::new(),
            skipped: Vec::new(),
        })
    }

    pub(super) fn file(&self) -> &'a ProfileFile {
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
            (Ok(()), None) => {
                self.options.stop.is_set().then(|| "interrupted: told to stop".to_owned())
            }
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
            self.skip("disk", lacks.clone());
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
            Err(error) => self.sum.not_judged = Some(error.to_string()),
        }
        if let Some(why) = self.sum.not_judged.clone() {
            // It would take as long again to learn the same.
            if self.subject.prefilled > 0 {
                self.sum.prefilled.miss(why.clone());
            }
            self.sum.digests.miss(why);
        } else {
            self.read_back();
            self.compare_digests();
        }
        Ok(())
    }

    /// Whether what the campaign put into the store beforehand is there.
    fn read_back(&mut self) {
        let nodes = self.subject.prefilled;
        match bench::first_difference(&self.subject.socket, nodes) {
            Ok(difference) => self.sum.prefilled.add(nodes.into(), difference),
            Err(error) => self.sum.prefilled.miss(format!("the store cannot be read: {error}")),
        }
    }

    /// Whether replicas that have applied the same hold the same.
    fn compare_digests(&mut self) {
        let mut shown = Shown::default();
        // Idle ones come to the same place before long.
        let level = Stop::default().wait_for(LEVEL_WITHIN, LOOK_EVERY, || {
            let status = self.subject.daemon.xenstore().ok()?;
            shown.add(&status);
            (shown.difference().is_some() || shown.is_complete(&status)).then_some(())
        });
        self.sum.digests.add(shown.compared(), shown.difference());
        match level {
            Some(()) => {}
            None if self.subject.is_own() => {
                self.sum.digests.miss("the replicas never showed the digest of the same place");
            }
            None => {
                let why = "others keep this host busy: the replicas never showed the same place";
                self.skip("equal-digests", why.into());
            }
        }
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
                self.skip(
                    "all faults",
                    "nothing of what the profile asks for can be done here".into(),
                );
                break;
            };
            self.watch.doing("waiting");
            self.options.stop.sleep(pause.min(duration.saturating_sub(self.began.elapsed())));
            if self.began.elapsed() >= duration || self.options.stop.is_set() {
                break;
            }
            let Some(status) = self.settle() else {
                // A host that was not given the time is not to blame.
                if !self.options.stop.is_set() {
                    self.fail(format!("not ready for another fault: {}", self.describe()));
                }
                break;
            };
            if !self.inject(&fault, &status, &mut chooser) {
                // What is wrong is told already, or by the steady state after.
                break;
            }
        }
        Ok(())
    }

    /// How the host is, in a line.
    pub(super) fn describe(&self) -> String {
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

    pub(super) fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// Skips are never silent: they are told at the end, and in the history.
    pub(super) fn skip(&mut self, what: &str, why: String) {
        self.skipped.push(format!("{what}: {why}"));
        let at_us = self.book.now();
        self.book.put(&Record::Skip(Skip { at_us, what: what.to_owned(), why }));
    }
}
