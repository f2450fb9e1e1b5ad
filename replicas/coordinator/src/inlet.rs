//! The way in: numbers inputs and puts them into the intake.

use hypervisor::fabric::HostFabric;
use hypervisor::ring::IntakePushError;
use state_machine::{Class, ConnId, Input, InputNo, OutputNo, StateMachine};
use xenstore::Xenstore;

use crate::ledger::{Ledger, LedgerError};

/// The intake is full; the input was not taken. It can be given again once
/// inputs were released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the intake is full")]
pub struct IntakeFull;

/// Numbers inputs, notes them in the ledger, writes them into the intake.
pub(crate) struct Inlet {
    /// The shared memory.
    pub(crate) fabric: HostFabric,
    /// What waits for an answer.
    pub(crate) ledger: Ledger,
    bytes: Vec<u8>,
    taken: u64,
    fresh: bool,
}

impl Inlet {
    /// The inlet into a new fabric.
    pub(crate) fn new(fabric: HostFabric) -> Self {
        let ledger = Ledger::new(InputNo(1), OutputNo(0));
        Self { fabric, ledger, bytes: Vec::new(), taken: 0, fresh: false }
    }

    /// Goes on with the numbers of a store that was there before the daemon:
    /// the next input is `next`, and outputs up to `delivered` concern nobody.
    pub(crate) fn begin(&mut self, next: InputNo, delivered: OutputNo) {
        self.ledger = Ledger::new(next, delivered);
        self.fabric.page().set_delivered_output(delivered.0);
        self.fabric.page().set_freed_input(next.0 - 1);
    }

    /// Inputs taken since the start.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether somebody waits for an answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ledger.unanswered() > 0
    }

    /// Whether inputs were taken since the last time this was asked.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Whether this request skips the log.
    pub(crate) fn is_query(conn: ConnId, frame: &[u8]) -> bool {
        Xenstore::classify(&Input::Request { conn, frame }) == Class::Query
    }

    /// Takes an input; returns its number.
    ///
    /// # Errors
    /// [`IntakeFull`] when it was not taken.
    pub(crate) fn push(&mut self, input: &Input<'_>) -> Result<InputNo, IntakeFull> {
        let no = self.ledger.next_no();
        self.bytes.clear();
        input.encode(no, &mut self.bytes);
        match self.fabric.intake().push(no.0, &self.bytes) {
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
        self.fresh = true;
        Ok(self.ledger.admit(conn, query, answer))
    }

    /// The primary says that every input up to `no` is answered and logged.
    ///
    /// # Errors
    /// [`LedgerError`] when that cannot be.
    pub(crate) fn release(&mut self, no: InputNo) -> Result<(), LedgerError> {
        self.ledger.release(no)?;
        self.fabric.intake().free_through(no.0);
        self.fabric.page().set_freed_input(no.0);
        Ok(())
    }
}
