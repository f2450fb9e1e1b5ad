//! What many runs showed, as the records that reports are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::checkers::Checker;
use super::many::{Failure, Totals};
use super::verdict::Stats;
use crate::report::record::{
    CheckerVerdict, Counts, FORMAT, FaultTally, Micros, Progress, Record, RecordError, RunBegin,
    RunEnd, RunOutcome, Writer,
};
use crate::report::summary::Summary;
use crate::report::{ReportError, render};

/// How often the progress is written down.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// What is known when it begins.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// The first seed.
    pub first_seed: u64,
    /// The line to copy that runs the same again.
    pub reproduce: String,
    /// Settings worth knowing, by name.
    pub config: BTreeMap<String, String>,
}

/// Writes `history.jsonl` while runs are going on, and the reports afterwards.
#[derive(Debug)]
pub struct Chronicle {
    dir: PathBuf,
    /// None once it could not be written.
    writer: Result<Writer, RecordError>,
    progress_at: Duration,
}

impl Chronicle {
    /// Begins one in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn begin(dir: &Path, opening: Opening) -> Result<Self, ReportError> {
        std::fs::create_dir_all(dir)
            .map_err(|source| ReportError::Io { path: dir.to_owned(), source })?;
        let mut writer = Writer::create(dir)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        writer.write(&Record::RunBegin(RunBegin {
            format: FORMAT,
            profile: "sim".to_owned(),
            seed: opening.first_seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target: "simulator".to_owned(),
            started_unix_us: Some(micros(now)),
            reproduce: Some(opening.reproduce),
            config: opening.config,
        }))?;
        Ok(Self { dir: dir.to_owned(), writer: Ok(writer), progress_at: Duration::ZERO })
    }

    /// Notes how far it is, and a failure. A full disk does not end the runs:
    /// [`Self::end`] tells.
    pub fn note(&mut self, totals: &Totals, fresh: Option<&Failure>) {
        if let Some(failure) = fresh {
            let mut named = BTreeSet::new();
            for flaw in failure.flaws.iter().filter(|flaw| named.insert(flaw.checker)) {
                self.write(&Record::Checker(CheckerVerdict {
                    at_us: micros(totals.elapsed),
                    checker: flaw.checker.to_owned(),
                    passed: false,
                    judged: true,
                    // How much it looked at is known in the end, for all runs.
                    checked: 0,
                    detail: Some(flaw.to_string()),
                    seed: Some(failure.case.seed),
                    reproduce: Some(failure.case.reproduce()),
                }));
            }
        }
        if totals.elapsed >= self.progress_at + PROGRESS_PERIOD {
            self.progress_at = totals.elapsed;
            self.write(&Record::Progress(Progress {
                at_us: micros(totals.elapsed),
                seeds: totals.seeds,
                simulated_us: totals.stats.simulated_us,
                operations: totals.stats.answers,
                faults: totals.stats.faults_total(),
            }));
        }
    }

    /// Writes down what came of it, and makes the reports. `cut_short` says why
    /// less was run than was asked for.
    ///
    /// # Errors
    /// [`ReportError`], also of what could not be written before.
    pub fn end(
        mut self,
        totals: &Totals,
        cut_short: Option<&str>,
        reproduce: String,
    ) -> Result<Summary, ReportError> {
        let stats = &totals.stats;
        let at_us = micros(totals.elapsed);
        for ((class, component, outcome), count) in &stats.faults {
            let (class, component, outcome) = (*class, *component, *outcome);
            self.write(&Record::FaultTally(FaultTally {
                class,
                component,
                outcome,
                count: *count,
            }));
        }
        for &checker in Checker::ALL {
            // One that objected has said so; it held in the other runs, if there
            // are any.
            let objected = stats.broken.contains_key(checker.name());
            if totals.seeds > 0 && (!objected || totals.seeds > totals.failed) {
                self.write(&Record::Checker(CheckerVerdict {
                    at_us,
                    checker: checker.name().to_owned(),
                    passed: true,
                    judged: true,
                    checked: stats.looks.of(checker),
                    detail: None,
                    seed: None,
                    reproduce: None,
                }));
            }
        }
        self.write(&Record::Counts(counts(stats)));
        let (outcome, reason) = match cut_short {
            _ if totals.failed > 0 => {
                let (failed, seeds) = (totals.failed, totals.seeds);
                let reason = format!("{failed} of {seeds} seeds broke a promise");
                (RunOutcome::Failed, Some(reason))
            }
            Some(why) => (RunOutcome::Aborted, Some(why.to_owned())),
            None => (RunOutcome::Passed, None),
        };
        self.write(&Record::RunEnd(RunEnd {
            at_us,
            outcome,
            reason,
            seeds: totals.seeds,
            simulated_us: stats.simulated_us,
            operations: stats.answers,
            faults: stats.faults_by_class(),
            reproduce: Some(reproduce),
        }));
        self.writer?.finish()?;
        render(&self.dir)
    }

    fn write(&mut self, record: &Record) {
        if let Ok(writer) = &mut self.writer
            && let Err(error) = writer.write(record)
        {
            self.writer = Err(error);
        }
    }
}

/// What failing runs have broken, in the words of reports.
fn counts(stats: &Stats) -> Counts {
    let broken = |checkers: &[Checker]| {
        checkers.iter().filter_map(|checker| stats.broken.get(checker.name())).sum()
    };
    Counts {
        answered: stats.answers,
        events: stats.events,
        lost: broken(&[Checker::LostEffect, Checker::LostAcknowledged, Checker::StateLost]),
        doubled: broken(&[Checker::DoubledReply, Checker::DoubledEffect]),
        events_missing: broken(&[Checker::LostEvent]),
        events_doubled: broken(&[Checker::DoubledEvent]),
        events_reordered: broken(&[Checker::Reordered]),
        errors: broken(&[
            Checker::LostReply,
            Checker::WrongReply,
            Checker::StaleAnswer,
            Checker::UnaskedReply,
            Checker::WrongEvent,
            Checker::WrongEffect,
            Checker::AnsweredThenQuarantined,
            Checker::BrokenFrame,
            Checker::Linearizability,
            Checker::Client,
        ]),
        disconnects: broken(&[Checker::BrokenConnection]),
        retries: 0,
        pauses_excused: 0,
    }
}

fn micros(time: Duration) -> Micros {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::{Component, FaultClass, Outcome};
    use crate::sim::{Case, Flaw};

    fn totals() -> Totals {
        let mut totals = Totals { seeds: 5, elapsed: Duration::from_secs(7), ..Totals::default() };
        totals.stats.answers = 900;
        totals.stats.looks.count(Checker::LostEffect, 40);
        totals.stats.simulated_us = 300_000_000;
        let fault = (FaultClass::Crash, Component::Primary, Outcome::Failover);
        totals.stats.faults.insert(fault, 12);
        let skipped = (FaultClass::Scale, Component::Host, Outcome::Skipped);
        totals.stats.faults.insert(skipped, 3);
        totals
    }

    fn summary(totals: &Totals, cut_short: Option<&str>) -> Summary {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("new");
        let mut chronicle = Chronicle::begin(&dir, Opening::default()).expect("begins");
        chronicle.note(totals, None);
        for failure in &totals.failures {
            chronicle.note(totals, Some(failure));
        }
        chronicle.end(totals, cut_short, "again".to_owned()).expect("is rendered")
    }

    #[test]
    fn good_runs_make_a_good_report() {
        let summary = summary(&totals(), None);
        assert!(summary.passed(), "{summary}");
        assert_eq!((summary.seeds, summary.operations), (5, 900));
        assert_eq!(summary.simulated_us, 300_000_000);
        assert_eq!(summary.faults_total(), 12);
        assert_eq!(summary.unjudged, 0);
        assert_eq!(summary.checkers.len(), Checker::ALL.len());
        assert_eq!(summary.checkers["lost-effect"].checked, 40);
        assert_eq!(summary.checkers["stale-answer"].checked, 0);
        let row = summary.matrix.rows().next().expect("a row");
        assert_eq!((row.trials, row.failures), (12, 0));
    }

    #[test]
    fn a_failing_seed_stands_in_the_report_with_the_line_to_copy() {
        let mut totals = totals();
        totals.failed = 1;
        let flaw = |checker, what: &str| Flaw { checker, at_us: 5, what: what.to_owned() };
        let flaws = vec![
            flaw("liveness", "nobody serves"),
            flaw("lost-event", "never came"),
            flaw("lost-event", "nor this one"),
        ];
        totals.stats.broken = BTreeMap::from([("liveness", 1), ("lost-event", 2)]);
        totals.failures.push(Failure { case: Case::of(77), plan: String::new(), flaws });
        let summary = summary(&totals, None);
        assert_eq!(summary.outcome, RunOutcome::Failed);
        let checker = &summary.checkers["liveness"];
        assert_eq!((checker.passed, checker.failed), (1, 1), "it held in the others");
        assert_eq!(summary.checkers["lost-event"].failed, 1);
        assert_eq!(summary.counts.events_missing, 2);
        assert_eq!(summary.checkers.len(), Checker::ALL.len());
        assert!(summary.reproduce.contains(&"rvmm chaos replay 77".to_owned()), "{summary}");
        assert!(summary.reasons.iter().any(|r| r.contains("nobody serves")), "{summary}");
    }

    #[test]
    fn what_was_cut_short_has_not_passed() {
        let summary = summary(&totals(), Some("stopped by hand"));
        assert_eq!(summary.outcome, RunOutcome::Aborted);
        assert_eq!(summary.reasons, ["stopped by hand"]);
    }
}
