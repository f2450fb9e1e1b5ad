//! From what everybody noted to a verdict.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::Shared;
use super::client::Record;
use super::layout::{COUNTERS, Finals};
use super::watcher::Stream;
use crate::checker::{Latency, Verdict, check_events, check_registers, lost_writes};
use crate::history::{Action, EventOp, RegisterOp, Span};

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Judges a run that is over. The streams are `whole` when they were read to
/// their end; without `finals`, what clients were told along the way is all that
/// there is.
pub(super) fn judge(
    shared: &Shared,
    records: &[Record],
    (streams, whole): (Vec<Stream>, bool),
    finals: Option<&Finals>,
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
    if let Some(finals) = finals {
        judge_dirs(&mut verdict, records, finals);
    }
    judge_events(&mut verdict, records, streams, whole);
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

fn judge_registers(
    verdict: &mut Verdict,
    shared: &Shared,
    records: &[Record],
    finals: Option<&Finals>,
) {
    let mut ops: Vec<RegisterOp> =
        records.iter().flat_map(|record| &record.registers).copied().collect();
    let mut values = BTreeMap::new();
    for (key, text) in finals.into_iter().flat_map(|finals| &finals.registers) {
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

fn judge_counters(verdict: &mut Verdict, records: &[Record], finals: Option<&Finals>) {
    for at in 0..COUNTERS as usize {
        let counter = finals.map(|finals| &finals.counters[at]);
        let mut recorded = 0;
        for (client, record) in records.iter().enumerate() {
            let mut tally = record.tallies[at].clone();
            if let Some(counter) = counter
                && let Some(fault) = tally.see(&counter.parts[client])
            {
                verdict.violate(|| format!("counter {at}: the part of client {client} {fault}"));
            }
            verdict.lost += tally.lost;
            verdict.doubled += tally.doubled;
            recorded += tally.count();
        }
        let Some(counter) = counter else { continue };
        let [a, b] = &counter.halves;
        if a != b {
            verdict.linearizable = false;
            verdict.violate(|| format!("counter {at} ends torn"));
        }
        // Written in the same transactions, so that both must agree.
        let count = number(a).unwrap_or(0);
        verdict.lost += recorded.saturating_sub(count);
        verdict.doubled += count.saturating_sub(recorded);
        if count != recorded {
            verdict.violate(|| {
                format!("counter {at} ends as {count}, its writers recorded {recorded} increments")
            });
        }
    }
}

fn judge_dirs(verdict: &mut Verdict, records: &[Record], finals: &Finals) {
    for (client, (record, names)) in records.iter().zip(&finals.own_dirs).enumerate() {
        let faults = record.compare_dir(names.iter().map(Vec::as_slice));
        verdict.lost += faults.missing;
        verdict.doubled += faults.again;
        if let Some(fault) = faults.first {
            verdict.violate(|| format!("directory of client {client}: {fault}"));
        }
    }
}

fn judge_events(verdict: &mut Verdict, records: &[Record], streams: Vec<Stream>, whole: bool) {
    let ops: Vec<EventOp> = records.iter().flat_map(|record| &record.events).copied().collect();
    let mut paths = Vec::new();
    for stream in streams {
        verdict.event_faults.doubled += stream.strays;
        if let Some(why) = &stream.broken {
            verdict.violate(|| format!("a watcher's stream broke off: {why}"));
        }
        paths.push(stream.paths);
    }
    if !whole {
        // What has not come might still come.
        return;
    }
    let faults = check_events(&ops, &paths);
    if let Some(first) = &faults.first {
        verdict.violate(|| first.clone());
    }
    let strays = verdict.event_faults.doubled;
    verdict.event_faults = faults;
    verdict.event_faults.doubled += strays;
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::super::layout::FinalCounter;
    use super::super::tally::Tally;
    use super::super::{Counters, SoakConfig};
    use super::*;
    use crate::history::Clock;

    fn shared() -> Shared {
        Shared {
            socket: "nowhere".into(),
            config: SoakConfig { keys: 0, ..SoakConfig::default() },
            clock: Clock::start(),
            counters: Counters::default(),
            stop: true.into(),
            endless: false.into(),
        }
    }

    /// A client with one increment of each counter, and the node 1 of two.
    fn record() -> Record {
        let mut tally = Tally::default();
        let mark = tally.next(1);
        tally.committed(mark);
        Record {
            registers: Vec::new(),
            events: Vec::new(),
            tallies: vec![tally; COUNTERS as usize],
            live: VecDeque::from([1]),
            unknown: BTreeSet::new(),
            next_node: 2,
            retries: 0,
            violations: Vec::new(),
            latency: Histogram::new(3).expect("three digits are allowed"),
        }
    }

    fn finals(sums: [&str; COUNTERS as usize], names: &[&str]) -> Finals {
        let counter = |sum: &str| FinalCounter {
            halves: [sum.into(), sum.into()],
            parts: vec![b"1 1".to_vec()],
        };
        Finals {
            registers: BTreeMap::new(),
            counters: sums.map(counter).into(),
            own_dirs: vec![names.iter().map(|name| name.as_bytes().to_vec()).collect()],
        }
    }

    fn verdict(finals: Option<&Finals>) -> Verdict {
        judge(&shared(), &[record()], (Vec::new(), true), finals)
    }

    #[test]
    fn a_lost_and_a_doubled_increment_both_count() {
        let sound = verdict(Some(&finals(["1"; 4], &["1"])));
        assert!(sound.is_clean(), "{sound}");
        let both = verdict(Some(&finals(["0", "2", "1", "1"], &["1"])));
        assert_eq!((both.lost, both.doubled), (1, 1));
    }

    #[test]
    fn a_node_that_comes_back_is_not_lost() {
        let again = verdict(Some(&finals(["1"; 4], &["0", "1"])));
        assert_eq!((again.lost, again.doubled), (0, 1));
        let words = again.first_violation.expect("it is told");
        assert!(words.contains("node 0 is there again after its removal"), "{words}");
        let missing = verdict(Some(&finals(["1"; 4], &[])));
        assert_eq!((missing.lost, missing.doubled), (1, 0));
        let stray = verdict(Some(&finals(["1"; 4], &["1", "7"]))).first_violation;
        assert!(stray.is_some_and(|words| words.contains("node 7 was never created")));
    }

    #[test]
    fn what_clients_saw_counts_also_when_the_store_cannot_be_read() {
        let shared = shared();
        shared.counters.errors.store(3, super::super::Ordering::Relaxed);
        let mut record = record();
        assert!(record.tallies[0].see(b"0 0").is_some());
        let verdict = judge(&shared, &[record], (Vec::new(), false), None);
        assert_eq!((verdict.errors, verdict.lost, verdict.doubled), (3, 1, 0));
    }
}
