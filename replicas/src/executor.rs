//! Where the state machine of a replica is executed.
//!
//! Everything that a replica wants of its state machine goes through [`Execute`].
//! [`Local`] has the machine in the replica's own process; [`Virtual`] has it in a
//! virtual machine, where nothing but the machine is.

mod local;
mod lockstep;
mod plausible;
#[cfg(target_arch = "x86_64")]
mod virtual_machine;

use state_machine::executor::State;
use state_machine::{Digest, Input, InputNo, Output, OutputNo, ScrubProgress, StateMachine};

use crate::error::Fatal;
use crate::snapshot::{Encoded, Head};

pub use local::Local;
pub(crate) use local::restore;
pub use lockstep::Lockstep;
pub use plausible::Implausible;
#[cfg(target_arch = "x86_64")]
pub use virtual_machine::{Guest, Virtual};

/// What is done with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is applied.
    Apply,
    /// It has killed primaries: it takes its place among those that are applied,
    /// and is answered with an error.
    Quarantine,
    /// It is answered from the state.
    Query,
    /// It is a query that has killed primaries, and answered with an error.
    Refuse,
}

/// An input to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task<'a> {
    /// Its number.
    pub no: InputNo,
    /// What it is.
    pub input: Input<'a>,
    /// What is done with it.
    pub treatment: Treatment,
}

/// What executing tasks has yielded, to be used again and again.
#[derive(Debug, Default)]
pub struct Results {
    outputs: Vec<Output>,
    /// Of each task: whether it was applied, and how many outputs there were
    /// after it.
    each: Vec<(bool, usize)>,
}

impl Results {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.outputs.clear();
        self.each.clear();
    }

    /// Where the outputs of the next task go.
    fn outputs(&mut self) -> &mut Vec<Output> {
        &mut self.outputs
    }

    /// All outputs of a task are there; `applied`: it was, and not before.
    fn end_task(&mut self, applied: bool) {
        self.each.push((applied, self.outputs.len()));
    }

    /// The first task that has yielded something else in `other`, of the same tasks.
    fn differs_at(&self, other: &Self) -> Option<usize> {
        let mut begin = 0;
        let differs = |(&(applied, end), theirs): (&(bool, usize), &(bool, usize))| {
            let range = std::mem::replace(&mut begin, end)..end;
            (applied, end) != *theirs || self.outputs[range.clone()] != other.outputs[range]
        };
        let at = self.each.iter().zip(&other.each).position(differs);
        let lengths = (self.each.len(), other.each.len());
        at.or((lengths.0 != lengths.1).then_some(lengths.0.min(lengths.1)))
    }

    /// Gives what each task has yielded to `take`, in their order: its place among the
    /// tasks, whether it was applied, its outputs. Nothing is left.
    pub fn for_each(
        &mut self,
        mut take: impl FnMut(usize, bool, &mut dyn Iterator<Item = Output>),
    ) {
        let mut outputs = self.outputs.drain(..);
        let mut begin = 0;
        for (task, (applied, end)) in self.each.drain(..).enumerate() {
            take(task, applied, &mut outputs.by_ref().take(end - begin));
            begin = end;
        }
    }
}

/// A state machine, wherever it is. What it cannot do is fatal to its replica.
pub trait Execute {
    /// What is executed.
    type Machine: StateMachine;

    /// How many tasks are worth waiting for to have them executed together.
    fn tasks_at_once(&self) -> usize;

    /// Executes `tasks`, in their order; `results` has been cleared.
    ///
    /// # Errors
    /// [`Fatal`]; see [`Self::culprit`].
    fn run(&mut self, tasks: &[Task<'_>], results: &mut Results) -> Result<(), Fatal>;

    /// After a failure of [`Self::run`] with several tasks: the one that was being
    /// executed, if that is known.
    fn culprit(&self) -> Option<usize>;

    /// The numbers and the digest of the state.
    fn state(&self) -> State;

    /// The last input that was applied, and the last output that got a number: those of
    /// [`Self::state`], without what a digest costs.
    fn numbers(&self) -> (InputNo, OutputNo);

    /// Replaces the state by one that [`state_machine::Numbered::encode`] wrote,
    /// if `digest` is its digest: damage that is not found yet must not be taught.
    ///
    /// # Errors
    /// [`Fatal::Restore`] when the bytes are not such a state.
    fn restore(&mut self, bytes: &[u8], digest: Digest) -> Result<(), Fatal>;

    /// Checks about `budget` items of the state.
    ///
    /// # Errors
    /// [`Fatal::Corruption`] when an item is not what was written.
    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Fatal>;

    /// Fault injection: see [`StateMachine::flip_bit`].
    ///
    /// # Errors
    /// [`Fatal`], when the machine has come to its end.
    fn flip_bit(&mut self, seed: u64) -> Result<(), Fatal>;

    /// Begins a snapshot of the state as it is now; one at a time. Whether it has
    /// begun: what is wanted is asked for again otherwise.
    ///
    /// # Errors
    /// [`Fatal`], when the machine has come to its end.
    fn freeze(&mut self, head: &Head) -> Result<bool, Fatal>;

    /// Goes on with the snapshot that was begun; gives it once it is there.
    ///
    /// # Errors
    /// [`Fatal::Corruption`] when the state was not what was written.
    fn encoded(&mut self) -> Result<Option<Encoded>, Fatal>;
}
