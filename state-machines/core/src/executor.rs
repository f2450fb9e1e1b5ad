//! A state machine that is somewhere else: commands go there, answers come back.
//!
//! An [`Executor`] takes requests of any number of commands and answers each of
//! them, in their order. It is the inside of what a [`crate::Numbered`] is to its
//! caller, and no command does more than one call of it.

mod answer;
mod command;
#[cfg(test)]
mod tests;

use alloc::string::ToString;
use alloc::vec::Vec;

pub use answer::{Answer, Refusal, State};
pub use command::Command;

use crate::{Digest, Numbered, Reader, StateMachine};

/// Takes answers, a piece at a time.
pub trait Sink {
    /// The command with this index in the request, from 0 on, is about to be
    /// executed.
    fn begin(&mut self, _command: u64) {}

    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// See the module.
///
/// It never panics, whatever a request holds. What it keeps between requests is
/// the machine, one frozen state and one unfinished snapshot; the latter is
/// bounded.
pub struct Executor<M: StateMachine> {
    numbered: Numbered<M>,
    /// The state that is to be encoded, and how much of it is.
    frozen: Option<(M::Snapshot, M::Cursor)>,
    /// The parts of a snapshot that is to be restored.
    parts: Vec<u8>,
    parts_max: usize,
    scratch: Vec<u8>,
}

impl<M: StateMachine> Executor<M> {
    /// An executor of a new machine, which takes snapshots of at most
    /// `snapshot_max_bytes`.
    #[must_use]
    pub fn new(snapshot_max_bytes: usize) -> Self {
        Self {
            numbered: Numbered::default(),
            frozen: None,
            parts: Vec::new(),
            parts_max: snapshot_max_bytes,
            scratch: Vec::new(),
        }
    }

    /// Executes the commands of a request, and answers each of them.
    ///
    /// A refusal after which nothing can be relied on ([`Refusal::is_final`]) is the
    /// last answer; the commands behind it are neither executed nor answered.
    pub fn execute(&mut self, request: &[u8], answers: &mut dyn Sink) {
        let mut reader = Reader::new(request);
        for index in 0.. {
            if reader.is_empty() {
                return;
            }
            answers.begin(index);
            let answer = match Command::decode(&mut reader) {
                Ok(command) => self.answer(&command),
                Err(error) => Err(Refusal::NoCommand(error.to_string())),
            };
            let answer = answer.unwrap_or_else(Answer::Refused);
            self.scratch.clear();
            answer.encode_head(&mut self.scratch);
            answers.put(&self.scratch);
            match &answer {
                Answer::Snapshot { bytes, .. } => answers.put(bytes),
                Answer::Refused(refusal) if refusal.is_final() => return,
                _ => {}
            }
        }
    }

    fn answer(&mut self, command: &Command<'_>) -> Result<Answer, Refusal> {
        let mut outputs = Vec::new();
        Ok(match *command {
            Command::Apply { no, quarantined, ref input } => {
                let applied = self.numbered.apply(no, input, quarantined, &mut outputs)?;
                Answer::Outputs { applied, outputs }
            }
            Command::Query { no, ref input } => {
                self.numbered.query(no, input, &mut outputs)?;
                Answer::Outputs { applied: false, outputs }
            }
            Command::Refuse { no, ref input } => {
                self.numbered.refuse(no, input, &mut outputs);
                Answer::Outputs { applied: false, outputs }
            }
            Command::State => Answer::State(State::of(&self.numbered)),
            Command::Freeze => {
                self.frozen = Some((self.numbered.machine().freeze(), M::Cursor::default()));
                Answer::State(State::of(&self.numbered))
            }
            Command::EncodeSnapshot => self.encode_part()?,
            Command::RestorePart { bytes } => {
                self.take_part(bytes)?;
                Answer::Done
            }
            Command::RestoreEnd { digest } => {
                let bytes = core::mem::take(&mut self.parts);
                self.numbered = restore(&bytes, digest)?;
                Answer::State(State::of(&self.numbered))
            }
            Command::Scrub { budget } => {
                let budget = usize::try_from(budget).unwrap_or(usize::MAX);
                Answer::Scrubbed(self.numbered.machine_mut().scrub(budget)?)
            }
            Command::FlipBit { seed } => {
                self.numbered.machine_mut().flip_bit(seed);
                Answer::Done
            }
        })
    }

    fn encode_part(&mut self) -> Result<Answer, Refusal> {
        let (snapshot, cursor) = self.frozen.as_mut().ok_or(Refusal::NothingFrozen)?;
        let mut bytes = Vec::new();
        let last = M::encode_part(snapshot, cursor, &mut bytes);
        if last {
            self.frozen = None;
        }
        Ok(Answer::Snapshot { last, bytes })
    }

    fn take_part(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.len() > self.parts_max - self.parts.len() {
            self.parts = Vec::new();
            return Err(Refusal::TooLong { max_bytes: self.parts_max as u64 });
        }
        self.parts.extend_from_slice(bytes);
        Ok(())
    }
}

/// The machine of a snapshot, if `digest` is its digest: damage that is not found
/// yet must not be taught.
fn restore<M: StateMachine>(bytes: &[u8], digest: Digest) -> Result<Numbered<M>, Refusal> {
    let mut reader = Reader::new(bytes);
    let numbered = Numbered::restore(&mut reader);
    let numbered = numbered.map_err(|error| Refusal::Restore(error.to_string()))?;
    reader.finish().map_err(|error| Refusal::Restore(error.to_string()))?;
    if numbered.digest() != digest {
        return Err(Refusal::Restore("it was corrupt when it was taken".into()));
    }
    Ok(numbered)
}
