//! Exactly-once: a state machine together with the numbers of what it has
//! taken in and given out.

use alloc::vec::Vec;

use teeth::Bug;

use crate::codec::put_block;
use crate::{
    ConnId, Corruption, Digest, Input, InputNo, Mixer, Output, OutputNo, Outputs, Reader,
    RestoreError, StateMachine,
};

/// A state machine that remembers the last input it applied and the last output
/// it numbered.
///
/// Invariant: `last_input` and `last_output` are functions of the inputs
/// applied, and so the same on every replica at the same input.
#[derive(Clone, Debug, Default)]
pub struct Numbered<M> {
    machine: M,
    last_input: InputNo,
    last_output: OutputNo,
}

/// Numbers what the machine puts out.
struct Numberer<'a> {
    input: InputNo,
    last_output: OutputNo,
    outputs: &'a mut Vec<Output>,
}

impl Outputs for Numberer<'_> {
    fn reply(&mut self, conn: ConnId, frame: &[u8]) {
        self.outputs.push(Output::Reply { input: self.input, conn, frame: frame.into() });
    }

    fn event(&mut self, conn: ConnId, frame: &[u8]) {
        self.last_output = self.last_output.next();
        self.outputs.push(Output::Event { no: self.last_output, conn, frame: frame.into() });
    }

    fn effect(&mut self, bytes: &[u8]) {
        self.last_output = self.last_output.next();
        self.outputs.push(Output::Effect { no: self.last_output, bytes: bytes.into() });
    }
}

impl<M: StateMachine> Numbered<M> {
    /// The last input that was applied.
    #[must_use]
    pub fn last_input(&self) -> InputNo {
        self.last_input
    }

    /// The last output that got a number.
    #[must_use]
    pub fn last_output(&self) -> OutputNo {
        self.last_output
    }

    /// The machine inside.
    #[must_use]
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine inside, for scrubbing and fault injection: what changes the
    /// state goes through [`Self::apply`].
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Applies `input` unless it was applied before; returns whether it did.
    /// With `quarantined`, answers it with an error instead of executing it.
    ///
    /// # Errors
    /// [`Corruption`] as the machine reports it.
    pub fn apply(
        &mut self,
        no: InputNo,
        input: &Input<'_>,
        quarantined: bool,
        outputs: &mut Vec<Output>,
    ) -> Result<bool, Corruption> {
        if no <= self.last_input && !(no == self.last_input && teeth::bites(Bug::AppliedTwice)) {
            return Ok(false);
        }
        let mut numberer = Numberer { input: no, last_output: self.last_output, outputs };
        if quarantined {
            self.machine.quarantine(no, input, &mut numberer);
        } else {
            self.machine.apply(no, input, &mut numberer)?;
        }
        self.last_output = numberer.last_output;
        self.last_input = no;
        Ok(true)
    }

    /// Answers a query from the applied state.
    ///
    /// # Errors
    /// [`Corruption`] as the machine reports it.
    pub fn query(
        &self,
        no: InputNo,
        input: &Input<'_>,
        outputs: &mut Vec<Output>,
    ) -> Result<(), Corruption> {
        let mut numberer = Numberer { input: no, last_output: self.last_output, outputs };
        self.machine.query(no, input, &mut numberer)?;
        debug_assert_eq!(numberer.last_output, self.last_output, "a query only replies");
        Ok(())
    }

    /// Answers a query with an error instead of executing it. Like any query it is
    /// not logged, and may come after inputs of higher numbers.
    pub fn refuse(&mut self, no: InputNo, input: &Input<'_>, outputs: &mut Vec<Output>) {
        let mut numberer = Numberer { input: no, last_output: self.last_output, outputs };
        self.machine.quarantine(no, input, &mut numberer);
        debug_assert_eq!(numberer.last_output, self.last_output, "a query only replies");
    }

    /// The digest of the machine and of its numbers.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mixer = Mixer::new().word(self.last_input.0).word(self.last_output.0);
        Digest(mixer.word(self.machine.digest().0).finish())
    }

    /// Freezes the state and its numbers for [`Self::encode`].
    #[must_use]
    pub fn freeze(&self) -> (InputNo, OutputNo, M::Snapshot) {
        (self.last_input, self.last_output, self.machine.freeze())
    }

    /// Writes a frozen state.
    pub fn encode(frozen: &(InputNo, OutputNo, M::Snapshot), out: &mut Vec<u8>) {
        let (last_input, last_output, snapshot) = frozen;
        let mut machine = Vec::new();
        M::encode(snapshot, &mut machine);
        Self::frame(*last_input, *last_output, &machine, out);
    }

    /// Writes a frozen state as [`Self::encode`] does; `machine` is the machine's own
    /// encoding.
    pub fn frame(last_input: InputNo, last_output: OutputNo, machine: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&last_input.0.to_le_bytes());
        out.extend_from_slice(&last_output.0.to_le_bytes());
        put_block(out, machine);
    }

    /// The state that [`Self::encode`] wrote, taken off the front of `reader`.
    ///
    /// # Errors
    /// [`RestoreError`] when it is not such a state.
    pub fn restore(reader: &mut Reader<'_>) -> Result<Self, RestoreError> {
        let mut last_input = InputNo(reader.u64()?);
        if teeth::bites(Bug::SnapshotForgetsInputs) {
            last_input = InputNo(0);
        }
        let last_output = OutputNo(reader.u64()?);
        let machine = M::restore(reader.block()?)?;
        Ok(Self { machine, last_input, last_output })
    }
}
