//! Linearizability of registers whose written values are unique, in
//! O(n log n) after Gibbons and Korach, "Testing Shared Memories" (1997).
//!
//! A value's *cluster* is its write and the reads that saw it. In an order of
//! all requests where every read sees the last write, clusters follow one
//! another. With `f` the earliest return and `s` the latest invocation within a
//! cluster, cluster A must come before B as soon as `f(A) < s(B)`: some request
//! of A was over before some request of B began. So the history is linearizable
//! exactly when no read was over before its own write began, and no two
//! clusters must each precede the other. Longer cycles need no search: take the
//! cluster with the least `f` on one, and its predecessor yields a pair.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Action, Nanos, RegisterOp};

struct Cluster {
    value: Option<u64>,
    write: Option<Nanos>,
    first_return: Nanos,
    last_invoke: Nanos,
}

impl Cluster {
    fn new(value: Option<u64>) -> Self {
        Self { value, write: None, first_return: Nanos::MAX, last_invoke: 0 }
    }

    fn is_forward(&self) -> bool {
        self.first_return < self.last_invoke
    }
}

fn show(value: Option<u64>) -> String {
    value.map_or_else(|| "the initial state".to_owned(), |v| format!("{v:#x}"))
}

/// Checks the history of one register, which starts without a value.
///
/// # Errors
/// The first contradiction, in words.
pub fn check_register(ops: &[RegisterOp]) -> Result<(), String> {
    let mut clusters: HashMap<Option<u64>, Cluster> = HashMap::new();
    // The initial state was written before everything else.
    let initial = clusters.entry(None).or_insert(Cluster::new(None));
    (initial.write, initial.first_return) = (Some(0), 0);
    for op in ops {
        let Action::Write(value) = op.action else {
            continue;
        };
        let cluster = clusters.entry(Some(value)).or_insert(Cluster::new(Some(value)));
        if cluster.write.is_some() {
            return Err(format!("the value {value:#x} was written twice"));
        }
        cluster.write = Some(op.span.invoked);
        cluster.first_return = op.span.returned.unwrap_or(Nanos::MAX);
        cluster.last_invoke = op.span.invoked;
    }
    for op in ops {
        let (Action::Read(value), Some(returned)) = (op.action, op.span.returned) else {
            continue;
        };
        let Some(cluster) = clusters.get_mut(&value) else {
            return Err(format!("a read saw {}, which nobody wrote", show(value)));
        };
        if cluster.write.is_some_and(|invoked| returned < invoked) {
            return Err(format!(
                "a read saw {} at {returned} ns, before its write began",
                show(value)
            ));
        }
        cluster.first_return = cluster.first_return.min(returned);
        cluster.last_invoke = cluster.last_invoke.max(op.span.invoked);
    }
    check_clusters(clusters.into_values())
}

fn check_clusters(clusters: impl Iterator<Item = Cluster>) -> Result<(), String> {
    let (mut forward, backward): (Vec<_>, Vec<_>) = clusters.partition(Cluster::is_forward);
    forward.sort_unstable_by_key(|cluster| cluster.first_return);
    let contradict = |a: &Cluster, b: &Cluster| {
        Err(format!(
            "{} and {} each have to come before the other: \
             a request of the first was over at {} ns and one began at {} ns, \
             of the second at {} ns and {} ns",
            show(a.value),
            show(b.value),
            a.first_return,
            a.last_invoke,
            b.first_return,
            b.last_invoke
        ))
    };
    for pair in forward.windows(2) {
        if pair[1].first_return < pair[0].last_invoke {
            return contradict(&pair[0], &pair[1]);
        }
    }
    // Forward clusters lie apart now, so only the last one that must precede a
    // backward cluster can also have to follow it.
    for cluster in &backward {
        let after = forward.partition_point(|other| other.first_return < cluster.last_invoke);
        if let Some(before) = after.checked_sub(1).map(|at| &forward[at])
            && cluster.first_return < before.last_invoke
        {
            return contradict(before, cluster);
        }
    }
    Ok(())
}

/// Checks the histories of all registers, each by itself: linearizability is
/// local.
///
/// # Errors
/// The contradiction of the first register that has one.
pub fn check_registers(ops: &[RegisterOp]) -> Result<(), String> {
    let mut by_key: BTreeMap<u32, Vec<RegisterOp>> = BTreeMap::new();
    for op in ops {
        by_key.entry(op.key).or_default().push(*op);
    }
    for (key, ops) in by_key {
        check_register(&ops).map_err(|why| format!("register {key}: {why}"))?;
    }
    Ok(())
}

/// Counts acknowledged writes that cannot be explained away at the end of a
/// run: `finals` has each register's last value, read when all writers were
/// done, and a write is lost when the write of that value was answered before
/// the lost one began.
#[must_use]
pub fn lost_writes(ops: &[RegisterOp], finals: &BTreeMap<u32, Option<u64>>) -> u64 {
    let mut final_returned: HashMap<u32, Nanos> = HashMap::new();
    for op in ops {
        if let Action::Write(value) = op.action
            && finals.get(&op.key) == Some(&Some(value))
        {
            final_returned.insert(op.key, op.span.returned.unwrap_or(Nanos::MAX));
        }
    }
    let lost = ops.iter().filter(|op| {
        let acknowledged = matches!(op.action, Action::Write(_)) && op.span.returned.is_some();
        let last = match finals.get(&op.key) {
            None => return false,
            // The register's value is gone, or is one that nobody wrote.
            Some(_) => final_returned.get(&op.key).copied().unwrap_or(0),
        };
        acknowledged && last < op.span.invoked
    });
    lost.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::exhaustive::{MAX_OPS, check_exhaustively};
    use crate::history::Span;
    use quickcheck::{Arbitrary, Gen, QuickCheck};

    fn op(action: Action, invoked: Nanos, returned: Nanos) -> RegisterOp {
        let returned = Some(returned);
        RegisterOp { key: 0, action, span: Span { invoked, returned } }
    }
    fn write(value: u64, invoked: Nanos, returned: Nanos) -> RegisterOp {
        op(Action::Write(value), invoked, returned)
    }
    fn read(value: u64, invoked: Nanos, returned: Nanos) -> RegisterOp {
        op(Action::Read(Some(value)), invoked, returned)
    }

    #[test]
    fn sound_histories_pass() {
        assert_eq!(check_register(&[]), Ok(()));
        let concurrent = [
            op(Action::Read(None), 1, 2),
            write(1, 3, 20),
            read(1, 4, 5),
            write(2, 10, 30),
            read(2, 11, 12),
            read(1, 21, 22),
        ];
        // The last read is stale: both writes overlap, but 2 was seen first.
        assert!(check_register(&concurrent).is_err());
        assert_eq!(check_register(&concurrent[..5]), Ok(()));
    }

    #[test]
    fn a_lost_write_is_found() {
        let history = [write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)];
        assert!(check_register(&history).is_err());
        assert_eq!(lost_writes(&history, &BTreeMap::from([(0, Some(1))])), 1);
        assert_eq!(lost_writes(&history, &BTreeMap::from([(0, Some(2))])), 0);
        assert_eq!(lost_writes(&history, &BTreeMap::from([(0, None)])), 2);
        assert_eq!(lost_writes(&history, &BTreeMap::from([(0, Some(9))])), 2);
        let initial = [write(1, 1, 2), op(Action::Read(None), 3, 4)];
        assert!(check_register(&initial).is_err());
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)];
        assert!(check_register(&history).is_err());
    }

    #[test]
    fn a_read_from_the_future_or_from_nowhere_is_found() {
        assert!(check_register(&[read(1, 1, 2), write(1, 3, 4)]).is_err());
        assert!(check_register(&[write(2, 1, 2), read(1, 3, 4)]).is_err());
        assert!(check_register(&[write(2, 1, 2), write(2, 3, 4)]).is_err());
    }

    #[test]
    fn an_unanswered_write_may_or_may_not_have_happened() {
        let mut unanswered = write(2, 3, 4);
        unanswered.span.returned = None;
        for seen in [1, 2] {
            let history = [write(1, 1, 2), unanswered, read(seen, 50, 60)];
            assert_eq!(check_register(&history), Ok(()), "{seen}");
        }
        let undone = [write(1, 1, 2), unanswered, read(2, 50, 60), read(1, 70, 80)];
        assert!(check_register(&undone).is_err());
    }

    #[test]
    fn registers_are_judged_each_by_itself() {
        let mut other = read(1, 5, 6);
        other.key = 1;
        let history = [write(1, 1, 2), write(2, 3, 4), other];
        let fault = check_registers(&history).expect_err("register 1 has no value 1");
        assert!(fault.starts_with("register 1:"), "{fault}");
    }

    /// A short random history: a few values, overlapping spans, reads that are
    /// often right.
    #[derive(Clone, Debug)]
    struct Short(Vec<RegisterOp>);

    impl Arbitrary for Short {
        fn arbitrary(g: &mut Gen) -> Self {
            let count = usize::arbitrary(g) % MAX_OPS + 1;
            let writes = u64::arbitrary(g) % 4 + 1;
            let mut next = 1;
            let ops = (0..count).map(|_| {
                let invoked = Nanos::arbitrary(g) % 24 + 1;
                let returned = invoked + Nanos::arbitrary(g) % 10;
                let action = if next <= writes && bool::arbitrary(g) {
                    next += 1;
                    Action::Write(next - 1)
                } else {
                    let seen = u64::arbitrary(g) % (writes + 1);
                    Action::Read((seen > 0).then_some(seen))
                };
                let mut op = op(action, invoked, returned);
                if u8::arbitrary(g) < 16 {
                    op.span.returned = None;
                }
                op
            });
            Self(ops.collect())
        }
    }

    #[test]
    fn agrees_with_the_exhaustive_search() {
        fn agree(history: Short) -> bool {
            check_register(&history.0).is_ok() == check_exhaustively(&history.0)
        }
        QuickCheck::new().tests(20_000).max_tests(20_000).quickcheck(agree as fn(Short) -> bool);
        // The agreement means something only when both answers are frequent.
        let mut g = Gen::new(20);
        let sound = (0..2000).filter(|_| check_exhaustively(&Short::arbitrary(&mut g).0)).count();
        assert!((100..1900).contains(&sound), "{sound} of 2000 are sound");
    }
}
