//! What requests are about, and answers and events made comparable.

use std::collections::HashSet;

use xenstore::wire::MessageType as Type;

use super::endpoint::Answer;
use super::op::{Act, Op, TxRef};
use crate::client::Event;

/// The transaction that an answer opened.
pub(super) fn tx_id(answer: &Answer) -> Option<u32> {
    let Answer::Ok(text) = answer else {
        return None;
    };
    std::str::from_utf8(text.strip_suffix(b"\0")?).ok()?.parse().ok()
}

/// An answer without particulars.
pub(super) fn class_of(answer: &Answer) -> String {
    match answer {
        Answer::Ok(_) => "ok".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Sorts the NUL-terminated names in both lists; whether that was needed.
pub(super) fn sort_both(ours: &mut Vec<u8>, theirs: &mut Vec<u8>) -> bool {
    if ours == theirs {
        return false;
    }
    for list in [ours, theirs] {
        let mut names: Vec<Vec<u8>> =
            list.split_inclusive(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        *list = names.concat();
    }
    true
}

/// Whether such a request changes nodes.
pub(super) fn is_change(kind: Type) -> bool {
    matches!(kind, Type::Write | Type::Mkdir | Type::Rm | Type::SetPerms)
}

/// Whether a step may fire watches. An event that comes without such a step is
/// found behind the next one.
pub(super) fn may_fire(op: &Op) -> bool {
    let harmless = match &op.act {
        Act::Start(_) => true,
        Act::Reconnect => false,
        Act::Request { kind, tx, .. } => match Type::from_u32(*kind) {
            Some(Type::Read | Type::Directory | Type::DirectoryPart | Type::GetPerms) => true,
            Some(kind) => *tx != TxRef::None && is_change(kind),
            None => false,
        },
    };
    !harmless
}

/// Whether one such request may fire watches of several nodes.
pub(super) fn fires_several(kind: Type) -> bool {
    matches!(kind, Type::Rm | Type::TransactionEnd | Type::Write | Type::Mkdir | Type::Release)
}

/// The events without those that equal an earlier one.
pub(super) fn once(events: &[Event]) -> Vec<&Event> {
    let mut seen = HashSet::new();
    events.iter().filter(|event| seen.insert(*event)).collect()
}

/// The events in an order of their own.
pub(super) fn sorted(mut events: Vec<&Event>) -> Vec<&Event> {
    events.sort();
    events
}

/// The path that a request is about.
pub(super) fn absolute(domid: u16, payload: &[u8]) -> Vec<u8> {
    let path = payload.split(|byte| *byte == 0).next().unwrap_or(b"");
    if path.starts_with(b"/") || path.starts_with(b"@") {
        return path.to_vec();
    }
    let mut absolute = format!("/local/domain/{domid}/").into_bytes();
    absolute.extend_from_slice(path);
    absolute
}

/// Whether a change at one path can show at the other: one lies within the
/// other, or one may have created a node on the way to the other.
pub(super) fn related(a: &[u8], b: &[u8]) -> bool {
    let within = |inner: &[u8], outer: &[u8]| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || outer == b"/")
    };
    within(a, b) || within(b, a) || !is_always_there(common_ancestor(a, b))
}

/// Nodes that every run begins with.
const ALWAYS_THERE: [&[u8]; 7] =
    [b"", b"/t", b"/t/both", b"/local", b"/local/domain", b"/local/domain/1", b"/local/domain/2"];

/// Whether every run begins with this node.
pub(super) fn is_always_there(path: &[u8]) -> bool {
    ALWAYS_THERE.contains(&path)
}

/// The deepest node that both paths lie below.
fn common_ancestor<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let same = std::iter::zip(a, b).take_while(|(a, b)| a == b).count();
    let end = a[..same].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &a[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_is_by_whole_names() {
        for (a, b, wanted) in [
            ("/t/a", "/t/a", true),
            ("/t/a", "/t", true),
            ("/t", "/t/a/b", true),
            ("/", "/t", true),
            ("/t/a", "/t/ab", false),
            ("/t/a", "/t/b", false),
            ("/t/a/b", "/t/a/c", true),
            ("/t/ax/b", "/t/ay/b", false),
            ("/local/domain/1/a/b", "/local/domain/1/c", false),
            ("/local/domain/1/a/b", "/local/domain/2", false),
        ] {
            assert_eq!(related(a.as_bytes(), b.as_bytes()), wanted, "{a} {b}");
        }
        assert_eq!(absolute(2, b"data/x\0v"), b"/local/domain/2/data/x");
    }
}
