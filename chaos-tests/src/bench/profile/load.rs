//! Requests for an executor, as a replica's core gives them.

use std::time::{Duration, Instant};

use replica::executor::{Execute, Results, Task, Treatment};
use state_machine::{ConnId, DomId, Input, InputNo, Output};
use xenstore::Xenstore;
use xenstore::wire::{self, MessageType};

use super::super::store::{self, Picker};
use super::{Operation, ProfileError};

const CONN: ConnId = ConnId(1);
/// What the choices of nodes derive from.
const SEED: u64 = 1;
/// Nodes that are created at once.
const BATCH: usize = 32;

/// An executor, and requests for it.
pub(super) struct Load<E> {
    executor: E,
    picker: Picker,
    last_input: InputNo,
    results: Results,
}

impl<E: Execute<Machine = Xenstore>> Load<E> {
    /// One whose store holds the nodes that a measurement has; it has executed
    /// nothing yet.
    pub(super) fn new(executor: E, nodes: u32) -> Result<Self, ProfileError> {
        let picker = Picker::new(nodes, SEED);
        let results = Results::default();
        let mut load = Self { executor, picker, last_input: InputNo(0), results };
        load.execute(
            Treatment::Apply,
            &[Input::Boot, Input::Open { conn: CONN, domid: DomId(0) }],
        )?;
        let frames: Vec<_> =
            (0..nodes).map(|node| request(Operation::Write, &store::path(node))).collect();
        for frames in frames.chunks(BATCH) {
            load.carry_out(Operation::Write, frames)?;
        }
        Ok(load)
    }

    /// Runs so many requests for nodes at random at once; how long the executor took.
    pub(super) fn run(
        &mut self,
        operation: Operation,
        tasks: usize,
    ) -> Result<Duration, ProfileError> {
        let frames: Vec<_> =
            (0..tasks).map(|_| request(operation, &self.picker.next_path())).collect();
        self.carry_out(operation, &frames)
    }

    fn carry_out(
        &mut self,
        operation: Operation,
        frames: &[Vec<u8>],
    ) -> Result<Duration, ProfileError> {
        let inputs: Vec<_> =
            frames.iter().map(|frame| Input::Request { conn: CONN, frame }).collect();
        let treatment = match operation {
            Operation::Read => Treatment::Query,
            Operation::Write => Treatment::Apply,
        };
        let took = self.execute(treatment, &inputs)?;
        let mut answered = 0;
        self.results.for_each(|_, _, outputs| {
            let replies = outputs.filter(|output| is_success(operation, output));
            answered += replies.count();
        });
        if answered == frames.len() { Ok(took) } else { Err(ProfileError::Answer(operation)) }
    }

    fn execute(
        &mut self,
        treatment: Treatment,
        inputs: &[Input<'_>],
    ) -> Result<Duration, ProfileError> {
        // What was left of the last ones.
        self.results.for_each(|_, _, outputs| outputs.for_each(drop));
        let tasks: Vec<_> = inputs
            .iter()
            .map(|&input| {
                self.last_input = self.last_input.next();
                Task { no: self.last_input, input, treatment }
            })
            .collect();
        let begin = Instant::now();
        self.executor.run(&tasks, &mut self.results)?;
        Ok(begin.elapsed())
    }
}

fn request(operation: Operation, path: &str) -> Vec<u8> {
    let (kind, value) = match operation {
        Operation::Read => (MessageType::Read, &b""[..]),
        Operation::Write => (MessageType::Write, store::VALUE),
    };
    let payload = [path.as_bytes(), b"\0", value].concat();
    let mut frame = Vec::new();
    wire::frame(kind, 0, 0, &payload, &mut frame);
    frame
}

/// Whether this is the answer that the request asked for, and no error.
fn is_success(operation: Operation, output: &Output) -> bool {
    let Output::Reply { frame, .. } = output else { return false };
    wire::split(frame).is_some_and(|(header, payload)| match operation {
        Operation::Read => header.kind == MessageType::Read.to_u32() && payload == store::VALUE,
        Operation::Write => header.kind == MessageType::Write.to_u32(),
    })
}

#[cfg(test)]
mod tests {
    use replica::executor::Local;

    use super::*;
    use crate::background::NoSnapshots;

    #[test]
    fn every_task_is_answered_and_what_is_not_there_is_noticed() {
        let mut load = Load::new(Local::new(Box::new(NoSnapshots)), 100).expect("a store");
        for operation in [Operation::Read, Operation::Write, Operation::Read] {
            load.run(operation, 8).expect("is answered");
        }
        let missing = [request(Operation::Read, "/bench/missing")];
        let refused = load.carry_out(Operation::Read, &missing);
        assert!(matches!(refused, Err(ProfileError::Answer(Operation::Read))));
    }
}
