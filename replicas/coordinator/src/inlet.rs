//! The way in: numbers inputs and puts them into the intake.

use hypervisor::fabric::{FabricError, HostFabric};
use hypervisor::ring::IntakePushError;
use state_machine::{Class, ConnId, Input, InputNo, OutputNo, Reader, StateMachine};
use xenstore::Xenstore;

use crate::journal::{Mark, Marks};
use crate::ledger::{Ledger, LedgerError};
use crate::service::BeginError;
use crate::trace::Trace;

/// The intake is full; the input was not taken. It can be given again once
/// inputs were released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the intake is full")]
pub struct IntakeFull;

fn awaits_answer(input: &Input<'_>) -> bool {
    matches!(input, Input::Request { .. } | Input::Poison)
}

/// Numbers inputs, notes them in the ledger, writes them into the intake.
pub(crate) struct Inlet {
    /// The shared memory.
    pub(crate) fabric: HostFabric,
    /// What waits for an answer.
    pub(crate) ledger: Ledger,
    /// The same, for the next host.
    pub(crate) marks: Marks,
    /// Where messages are traced, if they are.
    pub(crate) trace: Option<Trace>,
    bytes: Vec<u8>,
    taken: u64,
    fresh: bool,
}

impl Inlet {
    /// The inlet into a new fabric.
    pub(crate) fn new(fabric: HostFabric, marks: Marks) -> Self {
        let ledger = Ledger::new(InputNo(1), OutputNo(0));
        Self { fabric, ledger, marks, trace: None, bytes: Vec::new(), taken: 0, fresh: false }
    }

    /// The inlet of a host that has ended, whose intake this one goes on with;
    /// `pending` is told of each request that is not answered.
    ///
    /// # Errors
    /// When what is in the intake are no inputs.
    pub(crate) fn adopt(
        fabric: HostFabric,
        marks: Marks,
        mut pending: impl FnMut(ConnId, bool),
    ) -> Result<Self, BeginError> {
        let mut inlet = Self::new(fabric, marks);
        let page = inlet.fabric.page();
        let delivered = OutputNo(page.delivered_output());
        let freed = page.freed_input();
        let intake = inlet.fabric.intake();
        // What was freed last may not have been written down.
        let last = intake.last().max(freed);
        let first = intake.oldest().unwrap_or(last + 1);
        inlet.fabric.page().set_freed_input(first - 1);
        inlet.ledger = Ledger::new(InputNo(first), delivered);
        let mut reader = inlet.fabric.observe_intake()?;
        let mut bytes = Vec::new();
        while reader.next(&mut bytes).map_err(FabricError::from)?.is_some() {
            let (no, input) = Input::decode(&mut Reader::new(&bytes))
                .map_err(|_| BeginError::Damaged("an input in the intake"))?;
            let waits = awaits_answer(&input) && !inlet.marks.is_answered(no);
            let (conn, query) = inlet.admit(&input, waits);
            if waits {
                pending(conn, query);
            }
        }
        Ok(inlet)
    }

    /// The number of the last input.
    pub(crate) fn last_no(&self) -> InputNo {
        InputNo(self.ledger.next_no().0 - 1)
    }

    /// Whether an output counts as delivered.
    pub(crate) fn is_marked(&self, mark: Mark) -> bool {
        match mark {
            Mark::Reply(no) => self.marks.is_answered(no),
            Mark::Event(no) => self.fabric.page().delivered_output() >= no.0,
        }
    }

    /// From now on an output counts as delivered.
    pub(crate) fn mark(&self, mark: Mark) {
        match mark {
            Mark::Reply(no) => self.marks.answer(no),
            Mark::Event(no) => self.fabric.page().set_delivered_output(no.0),
        }
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

    /// Whether inputs were taken for which somebody waits, since the last time this was
    /// asked.
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
        self.marks.admit(no);
        self.bytes.clear();
        input.encode(no, &mut self.bytes);
        match self.fabric.intake().push(no.0, &self.bytes) {
            Ok(()) => {}
            Err(IntakePushError::Full) => {
                // Also with what nobody waits for: room must be made.
                self.fresh = true;
                return Err(IntakeFull);
            }
            Err(error) => {
                // Frames are far smaller than the intake, and numbers follow
                // each other by construction.
                tracing::error!(%error, "the intake refused an input");
                return Err(IntakeFull);
            }
        }
        if let Some(trace) = &self.trace {
            trace.input(input);
        }
        self.taken += 1;
        // Nobody waits for these: the primary finds them with the next input, or when it
        // looks around.
        self.fresh |= !matches!(input, Input::Open { .. } | Input::Close { .. });
        self.admit(input, awaits_answer(input));
        Ok(no)
    }

    /// Notes the next input; whose it is, and whether it skips the log.
    fn admit(&mut self, input: &Input<'_>, waits: bool) -> (ConnId, bool) {
        let conn = input.conn().unwrap_or(ConnId::HOST);
        let query = Xenstore::classify(input) == Class::Query;
        self.ledger.admit(conn, query, waits);
        (conn, query)
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
