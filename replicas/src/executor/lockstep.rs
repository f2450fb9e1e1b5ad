//! A state machine that is executed twice.
//!
//! Replicas find damage to a state by its digests, which takes them some
//! milliseconds, and a primary answers meanwhile. Where even that is too long, each
//! replica has two executors of the same machine, with memory of their own: what they
//! do not agree on leaves neither.

use state_machine::executor::State;
use state_machine::{Digest, InputNo, OutputNo, ScrubProgress};

use super::{Execute, Implausible, Results, Task};
use crate::error::Fatal;
use crate::snapshot::{Encoded, Head};

/// Two executors of the same machine. Snapshots are made by the second.
pub struct Lockstep<A, B> {
    first: A,
    second: B,
    /// What the second one has yielded.
    again: Results,
    culprit: Option<usize>,
}

impl<A: Execute, B: Execute<Machine = A::Machine>> Lockstep<A, B> {
    /// Both are new.
    pub fn new(first: A, second: B) -> Self {
        Self { first, second, again: Results::default(), culprit: None }
    }
}

impl<A: Execute, B: Execute<Machine = A::Machine>> Execute for Lockstep<A, B> {
    type Machine = A::Machine;

    fn tasks_at_once(&self) -> usize {
        self.first.tasks_at_once().max(self.second.tasks_at_once())
    }

    fn run(&mut self, tasks: &[Task<'_>], results: &mut Results) -> Result<(), Fatal> {
        let done = self.first.run(tasks, results);
        self.culprit = self.first.culprit();
        done?;
        self.again.clear();
        let done = self.second.run(tasks, &mut self.again);
        self.culprit = self.second.culprit();
        done?;
        self.culprit = results.differs_at(&self.again);
        if self.culprit.is_none() && self.first.state() != self.second.state() {
            self.culprit = tasks.len().checked_sub(1);
        }
        match self.culprit.and_then(|at| tasks.get(at)) {
            Some(task) => Err(Implausible::of(task.no, "has two outcomes in lockstep").into()),
            None => Ok(()),
        }
    }

    fn culprit(&self) -> Option<usize> {
        self.culprit
    }

    fn state(&self) -> State {
        self.first.state()
    }

    fn numbers(&self) -> (InputNo, OutputNo) {
        self.first.numbers()
    }

    fn restore(&mut self, bytes: &[u8], digest: Digest) -> Result<(), Fatal> {
        self.first.restore(bytes, digest)?;
        self.second.restore(bytes, digest)
    }

    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Fatal> {
        self.first.scrub(budget)?;
        self.second.scrub(budget)
    }

    /// In the first one alone, as a flipped bit would be.
    fn flip_bit(&mut self, seed: u64) -> Result<(), Fatal> {
        self.first.flip_bit(seed)
    }

    fn freeze(&mut self, head: &Head) -> Result<bool, Fatal> {
        self.second.freeze(head)
    }

    fn encoded(&mut self) -> Result<Option<Encoded>, Fatal> {
        self.second.encoded()
    }
}

#[cfg(test)]
mod tests {
    use state_machine::{ConnId, DomId, Input, StateMachine as _};
    use xenstore::Xenstore;
    use xenstore::wire::{MessageType, frame};

    use super::super::{Local, Treatment};
    use super::*;
    use crate::background::{Background, Job};

    /// Nothing is done in the background here.
    struct Nobody;

    impl Background for Nobody {
        fn give(&mut self, _: Job) -> bool {
            false
        }

        fn take(&mut self) -> Option<Encoded> {
            None
        }
    }

    fn local() -> Local<Xenstore> {
        Local::new(Box::new(Nobody))
    }

    fn run(
        executor: &mut impl Execute<Machine = Xenstore>,
        inputs: &[(u64, Input<'_>)],
    ) -> Result<Vec<usize>, Fatal> {
        let tasks: Vec<_> = inputs
            .iter()
            .map(|&(no, input)| {
                let is_query = Xenstore::classify(&input) == state_machine::Class::Query;
                let treatment = if is_query { Treatment::Query } else { Treatment::Apply };
                Task { no: InputNo(no), input, treatment }
            })
            .collect();
        let mut results = Results::default();
        executor.run(&tasks, &mut results)?;
        let mut outputs = Vec::new();
        results.for_each(|_, _, of_one| outputs.push(of_one.count()));
        Ok(outputs)
    }

    fn request(kind: MessageType, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(kind, 1, 0, payload, &mut bytes);
        bytes
    }

    const CONN: ConnId = ConnId(1);
    const OPEN: Input<'static> = Input::Open { conn: CONN, domid: DomId(0) };

    #[test]
    fn two_that_agree_are_as_one() {
        let mut pair = Lockstep::new(local(), local());
        let write = request(MessageType::Write, b"/a\0b");
        let read = request(MessageType::Read, b"/a\0");
        let ask = |frame| Input::Request { conn: CONN, frame };
        let outputs = run(&mut pair, &[(1, OPEN), (2, ask(&write)), (3, ask(&read))]);
        assert_eq!(outputs.expect("they agree"), [0, 1, 1]);
        assert_eq!(pair.numbers(), (InputNo(2), OutputNo(0)));
        assert_eq!(pair.state(), pair.second.state());
    }

    #[test]
    fn what_two_do_not_agree_on_leaves_neither() {
        let (write, other) =
            (request(MessageType::Write, b"/a\0b"), request(MessageType::Write, b"/a\0c"));
        let read = request(MessageType::Read, b"/a\0");
        let ask = |frame| Input::Request { conn: CONN, frame };
        let mut pair = Lockstep::new(local(), local());
        run(&mut pair.first, &[(1, OPEN), (2, ask(&write))]).expect("sound");
        run(&mut pair.second, &[(1, OPEN), (2, ask(&other))]).expect("sound");
        let failed = run(&mut pair, &[(3, ask(&read)), (4, ask(&read))]);
        assert!(
            matches!(&failed, Err(Fatal::Implausible(what)) if what.input == InputNo(3)),
            "{failed:?}"
        );
        // One has a connection more than the other.
        let mut pair = Lockstep::new(local(), local());
        run(&mut pair.second, &[(1, OPEN)]).expect("sound");
        let failed = run(&mut pair, &[(1, OPEN)]);
        assert!(matches!(failed, Err(Fatal::Implausible(_))), "{failed:?}");
        assert_eq!(pair.culprit(), Some(0));
    }

    #[test]
    fn damage_to_either_is_found_by_scrubbing() {
        for damaged in [0, 1] {
            let mut pair = Lockstep::new(local(), local());
            run(&mut pair, &[(1, OPEN)]).expect("sound");
            match damaged {
                0 => pair.flip_bit(1).expect("is done"),
                _ => pair.second.flip_bit(1).expect("is done"),
            }
            let found = (0..64).find_map(|_| pair.scrub(64).err());
            assert!(matches!(found, Some(Fatal::Corruption(_))), "{damaged}: {found:?}");
        }
    }
}
