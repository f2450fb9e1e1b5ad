//! The way in: numbers inputs and puts them into the intake.

use hypervisor::{IntakePushError, IntakeWriter};
use state_machine::{Class, ConnId, Input, InputNo, OutputNo, StateMachine};
use xenstore::Xenstore;

use super::ledger::Ledger;

/// The intake is full; the input was not taken. It can be given again once
/// inputs were released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the intake is full")]
pub struct IntakeFull;

/// Numbers inputs, notes them in the ledger, writes them into the intake.
pub struct Inlet {
    writer: IntakeWriter,
    /// What waits for an answer.
    pub ledger: Ledger,
    bytes: Vec<u8>,
    taken: u64,
}

impl Inlet {
    /// The inlet of a component whose next input is `next` and whose outputs up
    /// to `delivered` have been delivered.
    pub fn new(writer: IntakeWriter, next: InputNo, delivered: OutputNo) -> Self {
        Self { writer, ledger: Ledger::new(next, delivered), bytes: Vec::new(), taken: 0 }
    }

    /// Inputs taken since the start.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether an input waits for the primary.
    pub fn is_waiting(&self) -> bool {
        self.ledger.pending() > 0
    }

    /// Whether this request skips the log.
    pub fn is_query(conn: ConnId, frame: &[u8]) -> bool {
        Xenstore::classify(&Input::Request { conn, frame }) == Class::Query
    }

    /// Takes an input; returns its number.
    ///
    /// # Errors
    /// [`IntakeFull`] when it was not taken.
    pub fn push(&mut self, input: &Input<'_>) -> Result<InputNo, IntakeFull> {
        let no = self.ledger.next_no();
        self.bytes.clear();
        input.encode(no, &mut self.bytes);
        match self.writer.push(no.0, &self.bytes) {
            Ok(()) => {}
            Err(IntakePushError::Full) => return Err(IntakeFull),
            Err(error) => {
                // Frames are far smaller than the intake, and numbers follow
                // each other by construction.
                tracing::error!(%error, "the intake refused an input");
                return Err(IntakeFull);
            }
        }
        let conn = input.conn().unwrap_or(ConnId::HOST);
        let query = Xenstore::classify(input) == Class::Query;
        let answer = matches!(input, Input::Request { .. } | Input::Poison);
        self.taken += 1;
        Ok(self.ledger.admit(conn, query, answer))
    }

    /// Frees what the ledger has released.
    pub fn free_through(&mut self, no: InputNo) {
        self.writer.free_through(no.0);
    }
}
