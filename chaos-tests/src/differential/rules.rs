//! Where the two daemons are meant to differ. Every rule has a name and a
//! reason, and a report counts how often each was needed; anything that no rule
//! knows is a failure.

use xenstore::wire::MessageType as Type;

use super::SPARE_DOMID;
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
    pub(super) domid: u16,
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
        name: "special-permissions",
        reason: "C of 4.17 does not tell the permissions of an @ path",
        desync: false,
        applies: |answered| {
            answered.op.kind() == Some(Type::GetPerms)
                && answered.op.payload().starts_with(b"@")
                && answered.theirs.is_error("EINVAL")
        },
    },
    Rule {
        name: "lenient-numbers",
        reason: "C reads a number that is none as 0; we refuse it",
        desync: false,
        applies: |answered| {
            let asks = [Type::GetDomainPath, Type::IsDomainIntroduced];
            answered.op.kind().is_some_and(|kind| asks.contains(&kind))
                && !answered.op.payload().first().is_some_and(u8::is_ascii_digit)
                && answered.ours.is_error("EINVAL")
        },
    },
    Rule {
        name: "impossible-domain",
        reason: "C takes domain ids that no domain can have for absent or even valid ones",
        desync: false,
        applies: |answered| {
            let payload = answered.op.payload();
            let impossible = [&b"65535\0"[..], b"70000\0", b"-1\0"];
            impossible.iter().any(|domid| payload.starts_with(domid))
                && answered.ours.is_error("EINVAL")
        },
    },
    Rule {
        name: "long-path",
        reason: "C limits every path to 2048 bytes behind the domain's own; we exempt the control \
                 domain from quotas, this one too, up to the 3072 bytes of the protocol",
        desync: true,
        applies: |answered| {
            let path = answered.op.payload().split(|byte| *byte == 0).next();
            path.is_some_and(|path| path.len() > 2048)
                && answered.domid == 0
                && answered.theirs.is_error("EINVAL")
        },
    },
    Rule {
        name: "unwatch-path",
        reason: "C does not check the path of UNWATCH; we refuse one that no node can have",
        desync: false,
        applies: |answered| {
            answered.op.kind() == Some(Type::Unwatch)
                && answered.ours.is_error("EINVAL")
                && answered.theirs.is_error("ENOENT")
        },
    },
    Rule {
        name: "not-introduced",
        reason: "C asks the hypervisor which domains exist; we know those that were introduced, so \
                 that nodes cannot be given to the spare one before",
        desync: true,
        applies: |answered| {
            let mut strings = answered.op.payload().split(|byte| *byte == 0);
            let owner = strings.nth(1).unwrap_or(b"");
            answered.op.kind() == Some(Type::SetPerms)
                && owner.get(1..) == Some(SPARE_DOMID.to_string().as_bytes())
                && answered.ours.is_error("ENOENT")
        },
    },
];

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
        /// We have a commit wait for somebody else's turn.
        FAIR_TURN = "fair-turn", false,
            "C lets the quickest win every time; we shield the next transaction of whoever lost, \
             so that others who would invalidate it have to try again, a bounded number of times";
        /// C has a transaction fail for one refused request in it.
        HALF_DONE = "half-done", true,
            "C cannot undo a request of a transaction that it refused over quota when half done, \
             and then refuses the commit with ENOMEM; we leave the request out";
        /// Both tried again differently.
        REPLAY_DIFFERS = "replay-differs", true,
            "a transaction that had to be tried again met another state the second time";
        /// A transaction whose changes met those of others.
        MET_CHANGES = "met-changes", true,
            "a transaction whose changes met those of others may come before or after them, or \
             not at all: C judges by what was touched last, we by the state at its start";
        /// A guest is told of another part of a commit.
        COMMIT_PERMISSIONS = "commit-permissions", false,
            "C judges whether a guest may know of a node while it commits node by node, we by the \
             permissions that the whole commit leaves";
        /// The same children in another order.
        DIRECTORY_ORDER = "directory-order", false,
            "both list children in the order of their creation; a transaction that C has \
             tried again creates its children later than ours did";
        /// An event fewer, because an equal one was under way.
        EQUAL_EVENTS = "equal-events", false,
            "C drops an event that equals one which it has not sent yet; we send both";
        /// The same events in another order.
        EVENT_ORDER = "event-order", false,
            "one request that changes several nodes fires their watches in another order";
    }
}
