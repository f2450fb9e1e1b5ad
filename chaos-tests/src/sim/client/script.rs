//! What makes one sort of client differ from another.

use xenstore::wire::Errno;

use super::RegisterEvent;
use super::line::Line;
use crate::rng::Rng;

/// Tag of the last request of each client; scripts use smaller ones.
pub(super) const FINALE: u64 = u64::MAX;

/// What comes after a script's turn, besides sending what it has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its next turn is then, or when [`Script::eager`] says so.
    Think { until_us: u64 },
    /// The socket is not read until then; the next turn comes at once.
    StopReading { until_us: u64 },
    /// The connection ends, once what was asked is sent.
    HangUp,
    /// From now on the host may close the connection; the next turn comes at
    /// once.
    Provoke,
}

/// The behaviour of a client. Everything is driven from outside; nothing here
/// knows a socket.
pub(super) trait Script {
    /// Asks what it likes to.
    fn turn(
        &mut self,
        line: &mut Line,
        rng: &mut Rng,
        now_us: u64,
        registers: &mut Vec<RegisterEvent>,
    ) -> Turn;

    /// Takes the answer to the request with this tag.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn answer(
        &mut self,
        tag: u64,
        answer: Result<&[u8], Errno>,
        rng: &mut Rng,
        now_us: u64,
        registers: &mut Vec<RegisterEvent>,
    ) -> Result<(), String>;

    /// Takes a watch event.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn event(&mut self, path: &[u8], token: &[u8]) -> Result<(), String> {
        Err(format!("an event {}|{} without a watch", path.escape_ascii(), token.escape_ascii()))
    }

    /// After an answer: the time of its next turn, if it does not want to wait
    /// for the one it has named.
    fn eager(&self, _now_us: u64) -> Option<u64> {
        None
    }

    /// The run comes to its end: whether it is done with what others rely on. If
    /// not, it goes on having turns.
    fn is_settled(&mut self) -> bool {
        true
    }

    /// A new connection stands.
    fn connected(&mut self) {}

    /// The connection is gone, and with it all answers that were due.
    fn lost(&mut self, registers: &mut Vec<RegisterEvent>);
}
