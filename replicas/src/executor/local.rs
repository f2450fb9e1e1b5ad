//! A state machine in the replica's own process.

use state_machine::executor::State;
use state_machine::{
    Digest, InputNo, Numbered, OutputNo, Reader, RestoreError, ScrubProgress, StateMachine,
};

use super::{Execute, Results, Task, Treatment};
use crate::background::Background;
use crate::error::Fatal;
use crate::snapshot::{Encoded, Head};

/// See the module.
pub struct Local<M: StateMachine> {
    numbered: Numbered<M>,
    background: Box<dyn Background>,
    tasks_at_once: usize,
    culprit: Option<usize>,
}

impl<M: StateMachine> Local<M> {
    /// A new machine; its snapshots are encoded in the background, for that takes
    /// long.
    #[must_use]
    pub fn new(background: Box<dyn Background>) -> Self {
        Self { numbered: Numbered::default(), background, tasks_at_once: 1, culprit: None }
    }

    /// Takes so many tasks at once, as a virtual machine does. Here nothing is saved
    /// by that; it is for whoever tries what follows from it.
    #[must_use]
    pub fn taking(self, tasks_at_once: usize) -> Self {
        Self { tasks_at_once, ..self }
    }

    /// The machine and its numbers, to look at.
    #[must_use]
    pub fn numbered(&self) -> &Numbered<M> {
        &self.numbered
    }
}

impl<M: StateMachine + 'static> Execute for Local<M> {
    type Machine = M;

    fn tasks_at_once(&self) -> usize {
        self.tasks_at_once
    }

    fn run(&mut self, tasks: &[Task<'_>], results: &mut Results) -> Result<(), Fatal> {
        for (at, &Task { no, ref input, treatment }) in tasks.iter().enumerate() {
            self.culprit = Some(at);
            let outputs = results.outputs();
            let applied = match treatment {
                Treatment::Apply => self.numbered.apply(no, input, false, outputs)?,
                Treatment::Quarantine => self.numbered.apply(no, input, true, outputs)?,
                Treatment::Query => {
                    self.numbered.query(no, input, outputs)?;
                    false
                }
                Treatment::Refuse => {
                    self.numbered.refuse(no, input, outputs);
                    false
                }
            };
            results.end_task(applied);
        }
        Ok(())
    }

    fn culprit(&self) -> Option<usize> {
        self.culprit
    }

    fn state(&self) -> State {
        State::of(&self.numbered)
    }

    fn numbers(&self) -> (InputNo, OutputNo) {
        (self.numbered.last_input(), self.numbered.last_output())
    }

    fn restore(&mut self, bytes: &[u8], digest: Digest) -> Result<(), Fatal> {
        self.numbered = restore(bytes, digest)?;
        Ok(())
    }

    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Fatal> {
        Ok(self.numbered.machine_mut().scrub(budget)?)
    }

    fn flip_bit(&mut self, seed: u64) -> Result<(), Fatal> {
        self.numbered.machine_mut().flip_bit(seed);
        Ok(())
    }

    fn freeze(&mut self, head: &Head) -> Result<bool, Fatal> {
        let (head, state) = (head.clone(), self.state());
        let (_, _, snapshot) = self.numbered.freeze();
        Ok(self.background.give(Box::new(move || {
            let mut machine = Vec::new();
            M::encode(&snapshot, &mut machine);
            Encoded::new::<M>(&head, state, machine)
        })))
    }

    fn encoded(&mut self) -> Result<Option<Encoded>, Fatal> {
        Ok(self.background.take())
    }
}

/// The state that [`Numbered::encode`] wrote, if `digest` is its digest.
pub(crate) fn restore<M: StateMachine>(
    bytes: &[u8],
    digest: Digest,
) -> Result<Numbered<M>, RestoreError> {
    let mut reader = Reader::new(bytes);
    let numbered: Numbered<M> = Numbered::restore(&mut reader)?;
    reader.finish()?;
    if numbered.digest() != digest {
        return Err(RestoreError::Content("it was corrupt when it was taken".into()));
    }
    Ok(numbered)
}
