//! From what everybody noted to a verdict.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::Shared;
use super::client::Record;
use super::layout::Finals;
use super::watcher::Stream;
use crate::checker::{Latency, Verdict, check_events, check_registers, lost_writes};
use crate::history::{Action, EventOp, RegisterOp, Span};

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Judges a run that is over.
pub(super) fn judge(
    shared: &Shared,
    records: &[Record],
    streams: Vec<Stream>,
    finals: &Finals,
) -> Verdict {
    let mut verdict = Verdict {
        answered: shared.counters.answered.load(super::Ordering::Relaxed),
        events: shared.counters.events.load(super::Ordering::Relaxed),
        errors: shared.counters.errors.load(super::Ordering::Relaxed),
        disconnects: shared.counters.disconnects.load(super::Ordering::Relaxed),
        retries: records.iter().map(|record| record.retries).sum(),
        linearizable: true,
        latency: latency(records),
        ..Verdict::default()
    };
    judge_registers(&mut verdict, shared, records, finals);
    judge_counters(&mut verdict, records, finals);
    judge_dirs(&mut verdict, records, finals);
    judge_events(&mut verdict, records, streams);
    // What a client saw with its own eyes comes first.
    let seen = records.iter().flat_map(|record| &record.violations).next();
    if let Some(seen) = seen {
        verdict.first_violation = Some(seen.clone());
    }
    verdict
}

impl Verdict {
    fn violate(&mut self, words: impl FnOnce() -> String) {
        if self.first_violation.is_none() {
            self.first_violation = Some(words());
        }
    }
}

fn latency(records: &[Record]) -> Latency {
    let Some(first) = records.first() else {
        return Latency::default();
    };
    let mut all = Histogram::new_from(&first.latency);
    for record in records {
        // Equal bounds, so that adding cannot fail.
        let _ = all.add(&record.latency);
    }
    Latency::of(&all)
}

fn judge_registers(verdict: &mut Verdict, shared: &Shared, records: &[Record], finals: &Finals) {
    let mut ops: Vec<RegisterOp> =
        records.iter().flat_map(|record| &record.registers).copied().collect();
    let mut values = BTreeMap::new();
    for (key, text) in &finals.registers {
        let value = text.as_deref().and_then(number);
        if value.is_none() && text.is_some() {
            verdict.violate(|| format!("register {key} ends as garbage"));
        }
        values.insert(*key, value);
    }
    verdict.lost += lost_writes(&ops, &values);
    // The final reads are reads like any other.
    let now = shared.clock.now();
    let span = Span { invoked: now, returned: Some(now) };
    ops.extend(values.iter().map(|(key, value)| RegisterOp {
        key: *key,
        action: Action::Read(*value),
        span,
    }));
    if let Err(why) = check_registers(&ops) {
        verdict.linearizable = false;
        verdict.violate(|| why);
    }
}

fn judge_counters(verdict: &mut Verdict, records: &[Record], finals: &Finals) {
    for (at, (a, b)) in finals.counters.iter().enumerate() {
        let sum = |part: fn(&(u64, u64)) -> u64| -> u64 {
            records.iter().map(|record| part(&record.increments[at])).sum()
        };
        let (answered, unknown) = (sum(|(done, _)| *done), sum(|(_, unknown)| *unknown));
        let count = number(a).unwrap_or(0);
        if a != b {
            verdict.linearizable = false;
            verdict.violate(|| format!("counter {at} ends torn"));
        }
        verdict.lost += answered.saturating_sub(count);
        verdict.doubled += count.saturating_sub(answered + unknown);
        if !(answered..=answered + unknown).contains(&count) {
            verdict.violate(|| {
                format!("counter {at} ends as {count} after {answered} answered increments")
            });
        }
    }
}

fn judge_dirs(verdict: &mut Verdict, records: &[Record], finals: &Finals) {
    for (client, (record, names)) in records.iter().zip(&finals.own_dirs).enumerate() {
        if let Some(fault) = record.compare_dir(names.iter().map(Vec::as_slice)) {
            verdict.lost += 1;
            verdict.violate(|| format!("directory of client {client}: {fault}"));
        }
    }
}

fn judge_events(verdict: &mut Verdict, records: &[Record], streams: Vec<Stream>) {
    let ops: Vec<EventOp> = records.iter().flat_map(|record| &record.events).copied().collect();
    let mut paths = Vec::new();
    for stream in streams {
        verdict.event_faults.doubled += stream.strays;
        if let Some(why) = &stream.broken {
            verdict.violate(|| format!("a watcher's stream broke off: {why}"));
        }
        paths.push(stream.paths);
    }
    let faults = check_events(&ops, &paths);
    if let Some(first) = &faults.first {
        verdict.violate(|| first.clone());
    }
    let strays = verdict.event_faults.doubled;
    verdict.event_faults = faults;
    verdict.event_faults.doubled += strays;
}
