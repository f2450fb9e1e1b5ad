//! From records to a summary, one record at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::super::record::{
    CheckerVerdict, FaultClass, FaultId, Micros, Progress, Record, RunEnd, RunOutcome,
};
use super::{BoundSum, LatencySum, SteadySum, Summary, append};

/// Takes in the records of one run. Needs no more memory for a long run than
/// for a short one.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    summary: Summary,
    /// Faults that stand in the file, by class.
    listed: BTreeMap<FaultClass, u64>,
    /// Those that were not judged yet: few, unless something is wrong.
    open: BTreeSet<FaultId>,
    /// Faults that stand in the matrix, those that were skipped too.
    judged: u64,
    last_us: Micros,
    progress: Progress,
    end: Option<RunEnd>,
    reproduce: Option<String>,
}

impl Builder {
    /// Takes in a record.
    pub fn add(&mut self, record: &Record) {
        let sum = &mut self.summary;
        match record {
            Record::RunBegin(begin) => {
                sum.runs += 1;
                sum.profiles.insert(begin.profile.clone());
                sum.versions.insert(begin.version.clone());
                sum.targets.insert(begin.target.clone());
                sum.first_seed = sum.first_seed.or(Some(begin.seed));
                sum.started_unix_us = sum.started_unix_us.or(begin.started_unix_us);
                self.reproduce.clone_from(&begin.reproduce);
            }
            Record::Role(role) => self.last_us = self.last_us.max(role.at_us),
            Record::FaultInjected(fault) => {
                *self.listed.entry(fault.class).or_default() += 1;
                self.open.insert(fault.fault);
                self.last_us = self.last_us.max(fault.at_us);
            }
            Record::FaultHealed(healed) => self.last_us = self.last_us.max(healed.at_us),
            Record::FaultJudged(judged) => {
                self.last_us = self.last_us.max(judged.at_us);
                sum.matrix.add(judged.class, judged.component, judged.outcome, 1);
                sum.ends.add(judged);
                self.open.remove(&judged.fault);
                self.judged += 1;
                if judged.outcome.is_failure() {
                    append(&mut sum.failed_faults, std::slice::from_ref(judged));
                }
            }
            Record::FaultTally(tally) => {
                sum.matrix.add(tally.class, tally.component, tally.outcome, tally.count);
                self.judged = self.judged.saturating_add(tally.count);
            }
            Record::Retired(retired) => {
                self.last_us = self.last_us.max(retired.at_us);
                sum.retired += 1;
            }
            Record::Skip(skip) => {
                self.last_us = self.last_us.max(skip.at_us);
                sum.add_skip(&skip.what, &skip.why);
            }
            Record::Stall(stall) => {
                self.last_us = self.last_us.max(stall.at_us.saturating_add(stall.duration_us));
                sum.stalls.add(stall.duration_us);
            }
            Record::Failover(failover) => {
                self.last_us = self.last_us.max(failover.at_us.saturating_add(failover.total_us));
                let phases = &mut sum.failovers;
                phases.detect.add(failover.detect_us);
                phases.fence.add(failover.fence_us);
                phases.promote.add(failover.promote_us);
                phases.replay.add(failover.replay_us);
                phases.total.add(failover.total_us);
            }
            Record::Latency(sample) => {
                self.last_us = self.last_us.max(sample.at_us.saturating_add(sample.interval_us));
                sum.latency.merge(&LatencySum {
                    answers: sample.count,
                    worst_p50_us: sample.p50_us,
                    worst_p99_us: sample.p99_us,
                    max_us: sample.max_us,
                });
            }
            Record::Pause(pause) => {
                self.last_us = self.last_us.max(pause.at_us.saturating_add(pause.duration_us));
                sum.pauses.add(*pause);
            }
            Record::ClientFault(fault) => self.last_us = self.last_us.max(fault.at_us),
            Record::Progress(progress) => {
                self.last_us = self.last_us.max(progress.at_us);
                self.progress = *progress;
            }
            Record::Steady(steady) => {
                self.last_us = self.last_us.max(steady.at_us);
                let held = u64::from(steady.held);
                sum.add_steady(&SteadySum {
                    phase: steady.phase,
                    condition: steady.condition.clone(),
                    held,
                    broken: 1 - held,
                    observed: steady.observed.clone(),
                });
            }
            Record::Bound(bound) => {
                self.last_us = self.last_us.max(bound.at_us);
                sum.add_bound(&BoundSum {
                    bound: bound.bound.clone(),
                    unit: bound.unit.clone(),
                    limit: bound.limit,
                    observed: bound.observed,
                    held: bound.held,
                });
            }
            Record::Checker(verdict) => {
                self.last_us = self.last_us.max(verdict.at_us);
                self.add_verdict(verdict);
            }
            Record::Counts(counts) => sum.counts.add(counts),
            Record::LeftOut(left_out) => {
                *sum.left_out.entry(left_out.of.clone()).or_default() += left_out.count;
            }
            Record::RunEnd(end) => {
                self.last_us = self.last_us.max(end.at_us);
                self.end = Some(end.clone());
            }
        }
    }

    fn add_verdict(&mut self, verdict: &CheckerVerdict) {
        let checker = self.summary.checkers.entry(verdict.checker.clone()).or_default();
        checker.checked = checker.checked.saturating_add(verdict.checked);
        if verdict.passed {
            checker.passed += 1;
        } else {
            checker.failed += 1;
            checker.not_judged += u64::from(!verdict.judged);
            append(&mut checker.findings, std::slice::from_ref(verdict));
        }
    }

    /// The summary of all records so far. `cut_off` says that the file ended
    /// within a line.
    #[must_use]
    pub fn finish(mut self, cut_off: bool) -> Summary {
        let end = self.end.take();
        self.settle_totals(end.as_ref());
        let sum = &mut self.summary;
        let (broken, found) = broken(sum);
        let mut reasons = broken;
        sum.outcome = if reasons.is_empty() { RunOutcome::Passed } else { RunOutcome::Failed };
        match &end {
            Some(end) => {
                sum.outcome = sum.outcome.max(end.outcome);
                if end.outcome != RunOutcome::Passed {
                    let reason = end.reason.as_deref().unwrap_or("the run gave no reason");
                    reasons.insert(0, reason.to_owned());
                }
            }
            None => {
                sum.outcome = sum.outcome.max(RunOutcome::Aborted);
                let cut = if cut_off { ", and the last line is not whole" } else { "" };
                reasons.push(format!("cut off: the run did not come to its end{cut}"));
            }
        }
        if sum.outcome == RunOutcome::Passed && sum.checkers.is_empty() {
            sum.outcome = RunOutcome::Aborted;
            reasons.push("no checker looked at the run".to_owned());
        }
        append(&mut sum.reasons, &reasons);
        let mut lines: Vec<String> = end.and_then(|end| end.reproduce).into_iter().collect();
        lines.extend(found);
        lines.extend(self.reproduce);
        let mut seen = BTreeSet::new();
        lines.retain(|line| seen.insert(line.clone()));
        append(&mut sum.reproduce, &lines);
        self.summary
    }

    /// What the run says at its end, or what is known otherwise.
    fn settle_totals(&mut self, end: Option<&RunEnd>) {
        let sum = &mut self.summary;
        sum.duration_us = self.last_us;
        let ended = |of: fn(&RunEnd) -> u64| end.map_or(0, of);
        sum.seeds = ended(|end| end.seeds).max(self.progress.seeds);
        sum.simulated_us = ended(|end| end.simulated_us).max(self.progress.simulated_us);
        sum.operations = ended(|end| end.operations)
            .max(self.progress.operations)
            .max(sum.counts.answered)
            .max(sum.latency.answers);
        // Each source may lack some: the file details, the end everything.
        let judged = sum.matrix.by_class().into_iter().map(|(class, (trials, _))| (class, trials));
        let said = end.map(|end| end.faults.clone()).unwrap_or_default();
        for (class, count) in said.into_iter().chain(std::mem::take(&mut self.listed)).chain(judged)
        {
            let known = sum.faults.entry(class).or_default();
            *known = count.max(*known);
        }
        sum.faults.retain(|_, count| *count > 0);
        // A full file has the ends of its last open faults in its tallies.
        let full = sum.left_out.contains_key("fault-judged");
        let open = if full { 0 } else { self.open.len() as u64 };
        sum.unjudged = open.max(sum.faults_total().saturating_sub(self.judged));
    }
}

/// What did not hold by the records themselves, and the lines that show it.
fn broken(sum: &Summary) -> (Vec<String>, Vec<String>) {
    let mut reasons = Vec::new();
    let mut lines = Vec::new();
    for (name, checker) in &sum.checkers {
        if let Some(first) = checker.findings.first() {
            let detail = first.detail.as_deref().unwrap_or("found something");
            let seed = first.seed.map(|seed| format!(" (seed {seed})")).unwrap_or_default();
            reasons.push(format!("{name}: {detail}{seed}"));
            lines.extend(checker.findings.iter().filter_map(|finding| finding.reproduce.clone()));
        }
    }
    for row in sum.matrix.rows().filter(|row| row.failures > 0) {
        reasons.push(format!(
            "{} of {} trials of {} on {} broke a promise",
            row.failures, row.trials, row.class, row.component
        ));
    }
    for steady in sum.steady.iter().filter(|steady| steady.broken > 0) {
        let (phase, seen) = (steady.phase.name(), &steady.observed);
        reasons.push(format!("{phase} the faults, {} did not hold: {seen}", steady.condition));
    }
    for broken in sum.bounds.iter().filter(|bound| !bound.held) {
        let BoundSum { bound, unit, limit, observed, .. } = broken;
        let words = if broken.is_from_below() { "are less than" } else { "exceed" };
        let text = format!("{bound}: {observed} {unit} {words} {limit} {unit}");
        // Without a unit there are blanks too many.
        reasons.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    (reasons, lines)
}
