//! What a client leaves beside a counter with each increment, in the same
//! transaction, and nobody else writes: so that an increment that is gone and one
//! that happened twice do not make up for each other.

use std::fmt;

/// A client's part of a counter, as its node holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its increments.
    pub(super) count: u64,
    /// The attempt that made the last of them; no two attempts of a client have
    /// the same.
    pub(super) token: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.token)
    }
}

impl Mark {
    fn parse(text: &[u8]) -> Option<Self> {
        let (count, token) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        Some(Self { count: count.parse().ok()?, token: token.parse().ok()? })
    }
}

/// What a client knows of its part of a counter.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// What the node must hold.
    now: Mark,
    /// What it may hold as well: attempts without an answer.
    doubtful: Vec<Mark>,
    /// Acknowledged increments that were gone.
    pub(super) lost: u64,
    /// Increments beyond those that the client was told of.
    pub(super) doubled: u64,
}

impl Tally {
    /// Increments that there are, as far as the client knows.
    pub(super) fn count(&self) -> u64 {
        self.now.count
    }

    /// What the node is to hold after another increment.
    pub(super) fn next(&self, token: u64) -> Mark {
        Mark { count: self.now.count + 1, token }
    }

    /// An increment was acknowledged.
    pub(super) fn committed(&mut self, mark: Mark) {
        self.now = mark;
        // They have seen another state than this one and can commit no more.
        self.doubtful.clear();
    }

    /// An increment was never answered.
    pub(super) fn doubt(&mut self, mark: Mark) {
        self.doubtful.push(mark);
    }

    /// Compares with what the node holds, and goes on from there; what is wrong,
    /// if anything is.
    pub(super) fn see(&mut self, text: &[u8]) -> Option<String> {
        let was = self.now;
        let Some(seen) = Mark::parse(text) else {
            self.lost += was.count.max(1);
            self.now = Mark::default();
            return Some(format!("holds {:?} in place of {was}", text.escape_ascii().to_string()));
        };
        if seen == was || self.doubtful.contains(&seen) {
            self.now = seen;
            return None;
        }
        self.now = seen;
        if seen.token > was.token {
            // An attempt that was turned down, and happened all the same.
            self.doubled += seen.count.saturating_sub(was.count).max(1);
            Some(format!("holds {seen}, an increment too many, in place of {was}"))
        } else {
            self.lost += was.count.saturating_sub(seen.count).max(1);
            Some(format!("holds {seen}, without what was acknowledged since, in place of {was}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After two increments, the attempts 1 and 3; 2 was turned down.
    fn tally() -> Tally {
        let mut tally = Tally::default();
        let first = tally.next(1);
        tally.committed(first);
        let second = tally.next(3);
        tally.committed(second);
        tally
    }

    #[test]
    fn what_was_acknowledged_must_be_there_once() {
        let mut sound = tally();
        assert_eq!(sound.see(b"2 3"), None);
        assert_eq!((sound.lost, sound.doubled, sound.count()), (0, 0, 2));
        let mut lost = tally();
        assert!(lost.see(b"1 1").is_some());
        assert_eq!((lost.lost, lost.doubled), (1, 0));
        // It goes on from there: the same loss counts once.
        assert_eq!(lost.see(b"1 1"), None);
        let mut doubled = tally();
        assert!(doubled.see(b"3 4").is_some());
        assert_eq!((doubled.lost, doubled.doubled), (0, 1));
        let mut gone = tally();
        assert!(gone.see(b"").is_some());
        assert_eq!((gone.lost, gone.doubled), (2, 0));
    }

    #[test]
    fn a_loss_and_a_doubling_do_not_cancel() {
        let mut tally = tally();
        assert!(tally.see(b"1 1").is_some());
        assert!(tally.see(b"2 4").is_some());
        assert_eq!((tally.lost, tally.doubled, tally.count()), (1, 1, 2));
    }

    #[test]
    fn an_unanswered_increment_may_have_happened_or_not() {
        for text in [b"2 3", b"3 4"] {
            let mut tally = tally();
            let mark = tally.next(4);
            tally.doubt(mark);
            assert_eq!(tally.see(text), None);
            // Also later than the next look.
            assert_eq!(tally.see(b"3 4"), None);
            assert_eq!((tally.lost, tally.doubled), (0, 0));
        }
    }
}
