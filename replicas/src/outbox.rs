//! Outputs between the moment they are made and the moment they are delivered.
//!
//! As primary, an output is *held* until the acknowledgement policy releases
//! the batch it belongs to; then it is emitted and *kept* until the host says
//! that it was delivered. As standby, it is kept at once. What is kept is
//! emitted again by a new primary; the host drops what it had already.
//!
//! Invariants:
//! - Outputs to one connection leave in the order in which they were made.
//! - `Done(n)` leaves after every output of inputs up to `n`: when the host has
//!   read it, nothing of them is missing.
//! - The answer to a query is never kept: a new primary answers it anew.

use std::collections::{BTreeMap, VecDeque};

use state_machine::{ConnId, InputNo, Output, OutputNo};
use teeth::Bug;

/// Number of a batch of inputs that is proposed as one log entry; starts over
/// with each promotion. 0 is released from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNo(pub u64);

/// What leaves the outbox, in order.
#[derive(Debug)]
pub enum Emission<'a> {
    /// An output.
    Output(&'a Output),
    /// All inputs up to this one are answered.
    Done(InputNo),
}

#[derive(Debug)]
enum Item {
    /// Output of a logged input.
    Logged(Output),
    /// Answer to a query.
    Answer(Output),
}

impl Item {
    fn output(&self) -> &Output {
        match self {
            Self::Logged(output) | Self::Answer(output) => output,
        }
    }
}

#[derive(Debug)]
struct Held {
    release: BatchNo,
    item: Item,
}

/// That all inputs up to one are answered, once that is so. Apart from the outputs:
/// it often waits for inputs that nobody waits for, such as those of an open
/// transaction, and no output has to wait for that.
#[derive(Debug)]
struct Note {
    release: BatchNo,
    done: InputNo,
    /// How many outputs were ever held when it was made.
    behind: u64,
}

/// Up to where the host has delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// Every input up to this one is answered.
    pub freed_input: InputNo,
    /// Every event and effect up to this one is delivered.
    pub delivered_output: OutputNo,
}

impl Watermarks {
    fn passed(&self, output: &Output) -> bool {
        match output {
            Output::Reply { input, .. } => *input <= self.freed_input,
            Output::Event { no, .. } | Output::Effect { no, .. } => *no <= self.delivered_output,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    held: VecDeque<Held>,
    /// How many outputs were ever held.
    held_ever: u64,
    notes: VecDeque<Note>,
    /// How many outputs are held, by whom they are for.
    held_for: BTreeMap<Option<ConnId>, usize>,
    kept: VecDeque<Output>,
    released: BatchNo,
    bytes: usize,
}

fn conn_of(output: &Output) -> Option<ConnId> {
    match output {
        Output::Reply { conn, .. } | Output::Event { conn, .. } => Some(*conn),
        Output::Effect { .. } => None,
    }
}

/// Memory of an output beyond its payload, for the bound.
const OUTPUT_OVERHEAD_BYTES: usize = 64;

impl Outbox {
    /// What a joining replica starts from.
    #[must_use]
    pub fn from_kept(outputs: Vec<Output>) -> Self {
        let bytes = outputs.iter().map(|o| o.payload_len() + OUTPUT_OVERHEAD_BYTES).sum();
        Self { kept: outputs.into(), bytes, ..Self::default() }
    }

    /// Bytes of memory that wait here, for the bound on new inputs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether something is still kept that the host had long ago, if it has what
    /// these say.
    #[must_use]
    pub fn keeps_delivered(&self, watermarks: Watermarks) -> bool {
        self.kept.front().is_some_and(|output| watermarks.passed(output))
    }

    /// Whether nothing waits for its release.
    #[must_use]
    pub fn nothing_held(&self) -> bool {
        self.held.is_empty() && self.notes.is_empty()
    }

    /// As standby: keeps an output.
    pub fn keep(&mut self, output: Output) {
        self.bytes += output.payload_len() + OUTPUT_OVERHEAD_BYTES;
        self.kept.push_back(output);
    }

    /// Whether an output to the same connection waits, which this one must not
    /// overtake.
    fn must_queue(&self, output: &Output) -> bool {
        self.held_for.contains_key(&conn_of(output)) && !teeth::bites(Bug::Overtaking)
    }

    fn hold(&mut self, release: BatchNo, item: Item) {
        let output = item.output();
        self.bytes += output.payload_len() + OUTPUT_OVERHEAD_BYTES;
        *self.held_for.entry(conn_of(output)).or_default() += 1;
        self.held_ever += 1;
        self.held.push_back(Held { release, item });
    }

    /// The oldest that is held, if it may leave.
    fn take_released(&mut self) -> Option<Item> {
        if self.held.front()?.release > self.released {
            return None;
        }
        let Held { item, .. } = self.held.pop_front()?;
        let conn = conn_of(item.output());
        let left = self.held_for.get(&conn).map_or(0, |held| held - 1);
        if left == 0 {
            self.held_for.remove(&conn);
        } else {
            self.held_for.insert(conn, left);
        }
        Some(item)
    }

    /// The newest note that may leave; those before it are told with it.
    fn take_note(&mut self) -> Option<InputNo> {
        let gone = self.held_ever - self.held.len() as u64;
        let mut done = None;
        while let Some(note) =
            self.notes.front().filter(|note| note.release <= self.released && note.behind <= gone)
        {
            done = Some(note.done);
            self.notes.pop_front();
        }
        done
    }

    /// As primary: takes an output of a logged input; it leaves once `release` is
    /// released.
    pub fn logged(&mut self, release: BatchNo, output: Output, emit: &mut dyn FnMut(Emission<'_>)) {
        if release <= self.released && !self.must_queue(&output) {
            emit(Emission::Output(&output));
            self.keep(output);
        } else {
            self.hold(release, Item::Logged(output));
        }
    }

    /// As primary: takes the answer to a query that saw the state of `release`.
    pub fn answer(&mut self, release: BatchNo, output: Output, emit: &mut dyn FnMut(Emission<'_>)) {
        if release <= self.released && !self.must_queue(&output) {
            emit(Emission::Output(&output));
        } else {
            self.hold(release, Item::Answer(output));
        }
    }

    /// As primary: every output of `no` has been taken.
    pub fn done(&mut self, release: BatchNo, no: InputNo, emit: &mut dyn FnMut(Emission<'_>)) {
        if release <= self.released && self.nothing_held() {
            return emit(Emission::Done(no));
        }
        let behind = self.held_ever;
        match self.notes.back_mut() {
            // It leaves with this one in any case.
            Some(last) if last.release >= release && last.behind == behind => last.done = no,
            _ => self.notes.push_back(Note { release, done: no, behind }),
        }
    }

    /// Lets everything leave that waited for batches up to `batch`.
    pub fn release_through(&mut self, batch: BatchNo, emit: &mut dyn FnMut(Emission<'_>)) {
        self.released = self.released.max(batch);
        while let Some(item) = self.take_released() {
            match item {
                Item::Logged(output) => {
                    emit(Emission::Output(&output));
                    self.kept.push_back(output);
                }
                Item::Answer(output) => {
                    self.bytes -= output.payload_len() + OUTPUT_OVERHEAD_BYTES;
                    emit(Emission::Output(&output));
                }
            }
        }
        if let Some(no) = self.take_note() {
            emit(Emission::Done(no));
        }
    }

    /// Forgets what the host has delivered.
    pub fn prune(&mut self, watermarks: Watermarks) {
        while self.kept.front().is_some_and(|output| watermarks.passed(output)) {
            if let Some(output) = self.kept.pop_front() {
                self.bytes -= output.payload_len() + OUTPUT_OVERHEAD_BYTES;
            }
        }
    }

    /// On promotion: everything kept leaves again, and batch numbers start over.
    pub fn emit_again(&mut self, emit: &mut dyn FnMut(Emission<'_>)) {
        debug_assert!(self.nothing_held(), "only a primary holds");
        if !teeth::bites(Bug::ReleasedMarkKept) {
            self.released = BatchNo(0);
        }
        if teeth::bites(Bug::NothingEmittedAgain) {
            return;
        }
        for output in &self.kept {
            emit(Emission::Output(output));
        }
    }

    /// What a joining replica must be able to emit: all that is not delivered.
    #[must_use]
    pub fn undelivered(&self, watermarks: Watermarks) -> Vec<Output> {
        let held = self.held.iter().filter_map(|held| match &held.item {
            Item::Logged(output) => Some(output),
            Item::Answer(_) => None,
        });
        self.kept.iter().chain(held).filter(|o| !watermarks.passed(o)).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
