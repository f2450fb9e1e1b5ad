//! Where the two daemons are meant to differ. Every rule has a name and a
//! reason, and a report counts how often each was needed; anything that no rule
//! knows is a failure.

use xenstore::wire::MessageType as Type;

use super::endpoint::Answer;
use super::op::Op;

/// A known difference.
#[derive(Debug)]
pub struct Rule {
    /// What reports call it.
    pub name: &'static str,
    /// Why the daemons differ.
    pub reason: &'static str,
    /// Whether their stores differ afterwards, and have to be laid out anew.
    pub desync: bool,
    applies: fn(&Answered<'_>) -> bool,
}

/// A request and both answers.
pub(super) struct Answered<'a> {
    pub(super) op: &'a Op,
    pub(super) ours: &'a Answer,
    pub(super) theirs: &'a Answer,
    /// The request is in a transaction, and since its start somebody else
    /// changed what it is about.
    pub(super) disturbed: bool,
}

/// The rule that explains why the answers differ.
pub(super) fn explain(answered: &Answered<'_>) -> Option<&'static Rule> {
    RULES.iter().find(|rule| (rule.applies)(answered))
}

fn both_refuse(answered: &Answered<'_>) -> bool {
    matches!(answered.ours, Answer::Error(_)) && matches!(answered.theirs, Answer::Error(_))
}

/// The rules, the special ones first.
pub const RULES: &[Rule] = &[
    Rule {
        name: "torn-read",
        reason: "in a transaction C shows what others commit meanwhile; we show the state at its \
                 start",
        desync: false,
        applies: |answered| answered.disturbed,
    },
    Rule {
        name: "newer-operation",
        reason: "features and quotas by request came after 4.17",
        desync: false,
        applies: |answered| {
            let newer = [Type::GetFeature, Type::SetFeature, Type::GetQuota, Type::SetQuota];
            answered.op.kind().is_some_and(|kind| newer.contains(&kind))
                && answered.theirs.is_error("ENOSYS")
        },
    },
    Rule {
        name: "malformed-arguments",
        reason: "C of 4.17 answers a missing NUL or extra arguments of some requests with whatever \
                 error it met last; we say EINVAL, as its later versions do",
        desync: false,
        applies: |answered| {
            let one_path = [Type::Directory, Type::Read, Type::GetPerms, Type::Mkdir, Type::Rm];
            answered.op.kind().is_some_and(|kind| one_path.contains(&kind))
                && !is_path_nul(answered.op.payload())
                && both_refuse(answered)
        },
    },
];

/// Whether the payload is one string and its NUL.
fn is_path_nul(payload: &[u8]) -> bool {
    payload.iter().position(|byte| *byte == 0).is_some_and(|at| at + 1 == payload.len())
}

/// Differences that are found otherwise than by comparing two answers.
pub mod special {
    use super::Rule;

    macro_rules! special {
        ($($(#[$doc:meta])* $id:ident = $name:literal, $desync:literal, $reason:literal;)*) => {
            $($(#[$doc])* pub const $id: &Rule = &Rule {
                name: $name,
                reason: $reason,
                desync: $desync,
                applies: |_| false,
            };)*
            /// All of them.
            pub const ALL: &[&Rule] = &[$($id),*];
        };
    }

    special! {
        /// One side commits, the other has to try again.
        COMMIT_CONFLICT = "commit-conflict", false,
            "C finds a conflict wherever a node was touched by others; we merge siblings and \
             blind writes, but do not commit what saw another state than it would now";
        /// Both tried again differently.
        REPLAY_DIFFERS = "replay-differs", true,
            "a transaction that had to be tried again met another state the second time";
        /// A transaction that changed different things on both sides.
        TORN_TRANSACTION = "torn-transaction", false,
            "a transaction in which C let something else succeed than we do is dropped";
        /// The same children in another order.
        DIRECTORY_ORDER = "directory-order", false,
            "C lists children in the order of their creation, we by name";
        /// The same events in another order.
        EVENT_ORDER = "event-order", false,
            "one request that changes several nodes fires their watches in another order";
    }
}
