//! Watch events: each came, came once, and came in an order that agrees with
//! real time.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::history::{EventOp, Nanos};

/// What is wrong with the events that watchers got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFaults {
    /// Acknowledged requests whose event never came.
    pub missing: u64,
    /// Events beyond the requests that can have caused them.
    pub doubled: u64,
    /// Events behind the event of a request that began later than theirs ended.
    pub reordered: u64,
    /// The first fault, in words.
    pub first: Option<String>,
}

impl EventFaults {
    fn note(&mut self, words: impl FnOnce() -> String) {
        if self.first.is_none() {
            self.first = Some(words());
        }
    }

    fn add(&mut self, other: Self) {
        self.missing += other.missing;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        if self.first.is_none() {
            self.first = other.first;
        }
    }
}

/// Compares what each watcher got, by path, with the requests that fire its
/// watch. The watchers' streams are complete: each was read past the answer to
/// a request that began when all of `ops` were over.
///
/// The n-th event of a path belongs to its n-th request, for paths are written
/// by one client each.
#[must_use]
pub fn check_events(ops: &[EventOp], streams: &[Vec<u64>]) -> EventFaults {
    let mut by_path: HashMap<u64, Vec<&EventOp>> = HashMap::new();
    for op in ops {
        by_path.entry(op.path).or_default().push(op);
    }
    for ops in by_path.values_mut() {
        ops.sort_by_key(|op| op.span.invoked);
    }
    let mut faults = EventFaults::default();
    for (watcher, stream) in streams.iter().enumerate() {
        faults.add(check_stream(watcher, &by_path, stream));
    }
    faults
}

fn check_stream(
    watcher: usize,
    by_path: &HashMap<u64, Vec<&EventOp>>,
    stream: &[u64],
) -> EventFaults {
    let mut faults = EventFaults::default();
    let mut seen: HashMap<u64, usize> = HashMap::new();
    let mut latest_invoke: Nanos = 0;
    for (place, path) in stream.iter().enumerate() {
        let count = seen.entry(*path).or_default();
        let op = by_path.get(path).and_then(|ops| ops.get(*count));
        *count += 1;
        let Some(op) = op else {
            faults.doubled += 1;
            faults.note(|| {
                format!("watcher {watcher}: event {place} for path {path:#x} has no request")
            });
            continue;
        };
        if op.span.returned.is_some_and(|at| at < latest_invoke) {
            faults.reordered += 1;
            faults.note(|| {
                format!(
                    "watcher {watcher}: event {place} for path {path:#x} came behind that of a \
                     later request"
                )
            });
        }
        latest_invoke = latest_invoke.max(op.span.invoked);
    }
    for (path, ops) in by_path {
        // An unanswered request may have fired or not; it is the last of its path.
        let answered = ops.iter().filter(|op| op.span.returned.is_some()).count();
        let missing = answered.saturating_sub(seen.get(path).copied().unwrap_or(0));
        if missing > 0 {
            faults.missing += missing as u64;
            faults.note(|| format!("watcher {watcher}: path {path:#x} lacks {missing} events"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    fn ops() -> Vec<EventOp> {
        // Path 1 is written twice, the others once; 3 and 4 overlap.
        [(1, 1, 2), (2, 3, 4), (1, 5, 6), (3, 7, 9), (4, 8, 10)]
            .map(|(path, invoked, returned)| EventOp {
                path,
                span: Span { invoked, returned: Some(returned) },
            })
            .to_vec()
    }

    fn counts(streams: &[Vec<u64>]) -> (u64, u64, u64) {
        let faults = check_events(&ops(), streams);
        let any = faults.missing + faults.doubled + faults.reordered > 0;
        assert_eq!(faults.first.is_some(), any);
        (faults.missing, faults.doubled, faults.reordered)
    }

    #[test]
    fn complete_streams_pass() {
        assert_eq!(counts(&[vec![1, 2, 1, 3, 4], vec![1, 2, 1, 4, 3]]), (0, 0, 0));
    }

    #[test]
    fn a_missing_event_is_found() {
        assert_eq!(counts(&[vec![1, 2, 1, 3]]), (1, 0, 0));
        assert_eq!(counts(&[vec![1, 2, 3, 4]]), (1, 0, 0));
        assert_eq!(counts(&[vec![1, 2, 1, 3, 4], vec![]]), (5, 0, 0));
    }

    #[test]
    fn a_doubled_event_is_found() {
        assert_eq!(counts(&[vec![1, 2, 1, 3, 4, 4]]), (0, 1, 0));
        assert_eq!(counts(&[vec![1, 1, 2, 1, 3, 4]]).1, 1);
        assert_eq!(counts(&[vec![1, 2, 1, 3, 9, 4]]), (0, 1, 0));
    }

    #[test]
    fn a_reordered_event_is_found() {
        assert_eq!(counts(&[vec![2, 1, 1, 3, 4]]), (0, 0, 1));
        assert_eq!(counts(&[vec![1, 2, 3, 4, 1]]), (0, 0, 1));
    }

    #[test]
    fn an_unanswered_request_may_have_fired_or_not() {
        let mut ops = ops();
        ops[4].span.returned = None;
        for stream in [vec![1, 2, 1, 3], vec![1, 2, 1, 3, 4]] {
            assert_eq!(check_events(&ops, &[stream]), EventFaults::default());
        }
    }
}
