//! Fairness between transactions. Under contention the quickest client wins
//! every time; so whoever loses queues up, and whoever is first in the queue
//! has its next transaction shielded: others that would invalidate it are told
//! to try again instead. A shield wears off, so that a client that falls asleep
//! in its transaction cannot hold up others.

use alloc::vec::Vec;

use state_machine::{ConnId, Mixer};

/// How many commits of others a shield refuses before it is gone.
const REFUSALS: u32 = 32;
/// A waiting connection is forgotten when others began this many transactions
/// since its last.
const PATIENCE: u64 = 64;
/// The most connections that queue. When as many wait, one more that loses is
/// just told to try again.
pub(crate) const MAX_WAITING: usize = 64;

/// A shielded transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shield {
    pub(crate) conn: ConnId,
    pub(crate) transaction: u32,
    pub(crate) refusals_left: u32,
}

/// A connection whose last transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) conn: ConnId,
    /// The count of transactions begun when it last began one.
    pub(crate) seen: u64,
}

/// Who waits and who is shielded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fair {
    pub(crate) shield: Option<Shield>,
    pub(crate) queue: Vec<Waiter>,
    /// Transactions begun so far.
    pub(crate) begun: u64,
}

impl Fair {
    /// A transaction begins.
    pub(crate) fn begin(&mut self, conn: ConnId, transaction: u32) {
        self.begun += 1;
        if self.queue.is_empty() {
            return;
        }
        let begun = self.begun;
        if let Some(waiter) = self.queue.iter_mut().find(|waiter| waiter.conn == conn) {
            waiter.seen = begun;
        }
        self.queue.retain(|waiter| waiter.seen + PATIENCE >= begun);
        if self.shield.is_none() && self.queue.first().is_some_and(|first| first.conn == conn) {
            self.shield = Some(Shield { conn, transaction, refusals_left: REFUSALS });
        }
    }

    /// A transaction has ended, with `lost` because of a conflict.
    pub(crate) fn end(&mut self, conn: ConnId, transaction: u32, lost: bool) {
        self.shield.take_if(|shield| (shield.conn, shield.transaction) == (conn, transaction));
        let place = self.queue.iter().position(|waiter| waiter.conn == conn);
        match (place, lost) {
            (Some(at), false) => {
                self.queue.remove(at);
            }
            (None, true) if self.queue.len() < MAX_WAITING => {
                self.queue.push(Waiter { conn, seen: self.begun });
            }
            _ => {}
        }
    }

    /// The shield has refused somebody.
    pub(crate) fn refused(&mut self) {
        let Some(shield) = &mut self.shield else { return };
        shield.refusals_left = shield.refusals_left.saturating_sub(1);
        if shield.refusals_left == 0 {
            let conn = shield.conn;
            self.forget(conn);
        }
    }

    /// The connection is gone, or has slept in its transaction.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        self.shield.take_if(|shield| shield.conn == conn);
        self.queue.retain(|waiter| waiter.conn != conn);
    }

    pub(crate) fn mix(&self, mixer: Mixer) -> Mixer {
        let mixer = mixer.word(self.begun).word(self.queue.len() as u64);
        let mixer = self
            .queue
            .iter()
            .fold(mixer, |mixer, waiter| mixer.word(waiter.conn.0).word(waiter.seen));
        self.shield.iter().fold(mixer, |mixer, shield| {
            let id = u64::from(shield.transaction) << 32 | u64::from(shield.refusals_left);
            mixer.word(shield.conn.0).word(id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_waiting_is_shielded_and_the_shield_wears_off() {
        let mut fair = Fair::default();
        let (one, two) = (ConnId(1), ConnId(2));
        fair.begin(one, 1);
        fair.begin(two, 1);
        fair.end(one, 1, true);
        fair.end(two, 1, true);
        fair.begin(two, 2);
        assert_eq!(fair.shield, None);
        fair.begin(one, 2);
        assert_eq!(fair.shield.map(|shield| shield.conn), Some(one));
        fair.end(one, 2, false);
        assert_eq!(fair.shield, None);
        fair.begin(two, 3);
        for _ in 0..REFUSALS {
            assert_eq!(fair.shield.map(|shield| shield.conn), Some(two));
            fair.refused();
        }
        assert_eq!((fair.shield, fair.queue.len()), (None, 0));
    }

    #[test]
    fn who_stays_away_is_forgotten() {
        let mut fair = Fair::default();
        fair.end(ConnId(1), 1, true);
        fair.end(ConnId(2), 1, true);
        for number in 0..=PATIENCE {
            fair.begin(ConnId(2), number as u32);
        }
        assert_eq!(fair.shield.map(|shield| shield.conn), Some(ConnId(2)));
    }
}
