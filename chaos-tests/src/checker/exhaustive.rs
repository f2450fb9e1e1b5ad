//! Linearizability of one short register history by trying every order, after
//! Wing and Gong. Slow and simple: the judge of the fast checker.

use crate::history::{Action, RegisterOp};

/// More requests than this are too many to try every order of.
pub const MAX_OPS: usize = 12;

/// Whether the history of one register, which starts without a value, is
/// linearizable.
///
/// # Panics
/// With more than [`MAX_OPS`] requests.
#[must_use]
pub fn check_exhaustively(ops: &[RegisterOp]) -> bool {
    assert!(ops.len() <= MAX_OPS, "too long for trying every order");
    place(ops, 0, None)
}

/// Whether the requests that are not in the set `placed` can follow, the
/// register holding `value`.
fn place(ops: &[RegisterOp], placed: u32, value: Option<u64>) -> bool {
    let left = || (0..ops.len()).filter(|at| placed & (1 << at) == 0);
    // What was never answered need not have happened.
    if left().all(|at| ops[at].span.returned.is_none()) {
        return true;
    }
    left().any(|at| {
        let op = &ops[at];
        let must_wait = left().any(|other| ops[other].span.precedes(&op.span));
        if must_wait {
            return false;
        }
        let then = placed | 1 << at;
        match op.action {
            Action::Write(new) => place(ops, then, Some(new)),
            Action::Read(seen) if seen == value => place(ops, then, value),
            // Nobody knows what an unanswered read saw.
            Action::Read(_) => op.span.returned.is_none() && place(ops, then, value),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    #[test]
    fn tells_sound_from_unsound() {
        let op = |action, invoked, returned| RegisterOp {
            key: 0,
            action,
            span: Span { invoked, returned: Some(returned) },
        };
        let write = op(Action::Write(1), 1, 4);
        let sees = |value, invoked, returned| op(Action::Read(value), invoked, returned);
        assert!(check_exhaustively(&[write, sees(None, 2, 3)]));
        assert!(check_exhaustively(&[write, sees(Some(1), 2, 3)]));
        assert!(!check_exhaustively(&[write, sees(None, 5, 6)]));
        let back_again = [write, sees(Some(1), 2, 3), sees(None, 4, 5)];
        assert!(!check_exhaustively(&back_again));
    }
}
