//! A state machine in a virtual machine, alone with the memory that it needs.
//!
//! The replica's process is the monitor of the machine: it enters the guest with a
//! request of commands and is back when they are answered. So nothing in the guest
//! waits, and a guest that does not come back keeps its replica from beating.

use std::marker::PhantomData;

use guest::layout;
use hypervisor::kvm::{Exit, Image, KvmError, Machine, MachineConfig, Outcome};
use state_machine::executor::{Answer, Command, Refusal, State};
use state_machine::{Digest, InputNo, OutputNo, Reader, RestoreError, ScrubProgress, StateMachine};

use super::{Execute, Results, Task, Treatment};
use crate::background::Background;
use crate::error::Fatal;
use crate::snapshot::{Encoded, Head};

/// Inputs in one request: an entry into the guest costs as much as a few of them
/// do, and an input that hangs in company is not found out at once.
const TASKS_AT_ONCE: usize = 32;
/// A request is sent when it is so long: one more input fits in any case.
const REQUEST_BYTES: usize = layout::REQUEST_MAX / 2;
/// Bytes of a snapshot that travel in one request.
const RESTORE_BYTES: usize = REQUEST_BYTES;
/// No answer is longer: a guest that says more is broken.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// No snapshot is longer.
const SNAPSHOT_MAX_BYTES: usize = 1 << 30;

/// A machine that has booted, and whose program waits for its first request.
pub struct Guest(Machine);

impl Guest {
    /// Boots `image` with `memory_bytes` of memory.
    ///
    /// # Errors
    /// [`Fatal::Guest`] when KVM is not to be had, the image is no image, or what
    /// is in it does not come up.
    pub fn boot(image: &[u8], memory_bytes: u64) -> Result<Self, Fatal> {
        let image = Image::parse(image).map_err(|error| Fatal::Guest(error.to_string()))?;
        let config = MachineConfig { memory_bytes, command_line: String::new() };
        let mut machine = Machine::boot(&image, &config).map_err(broken)?;
        match machine.run().map_err(broken)? {
            Exit::Yielded => Ok(Self(machine)),
            Exit::Failed(failure) => Err(Fatal::Guest(format!("does not boot: {failure}"))),
        }
    }
}

fn broken(error: KvmError) -> Fatal {
    Fatal::Guest(error.to_string())
}

fn nonsense(what: &str) -> Fatal {
    Fatal::Guest(format!("answered nonsense: {what}"))
}

/// A snapshot of which the guest has not yet given all parts.
struct Making {
    head: Head,
    state: State,
    machine: Vec<u8>,
}

/// See the module. The guest's program is an executor of an `M`.
pub struct Virtual<M: StateMachine> {
    machine: Machine,
    state: State,
    making: Option<Making>,
    background: Box<dyn Background>,
    culprit: Option<usize>,
    request: Vec<u8>,
    answer: Vec<u8>,
    of: PhantomData<fn() -> M>,
}

impl<M: StateMachine> Virtual<M> {
    /// The machine of `guest`; its snapshots are checked in the background.
    ///
    /// # Errors
    /// [`Fatal::Guest`] when it does not answer.
    pub fn new(guest: Guest, background: Box<dyn Background>) -> Result<Self, Fatal> {
        let nothing = State::of(&state_machine::Numbered::<M>::default());
        let mut executor = Self {
            machine: guest.0,
            state: nothing,
            making: None,
            background,
            culprit: None,
            request: Vec::new(),
            answer: Vec::new(),
            of: PhantomData,
        };
        executor.ask(&Command::State, |_| Ok(()))?;
        if executor.state != nothing {
            return Err(nonsense("a state before the first input"));
        }
        Ok(executor)
    }

    /// Sends the request that was gathered, and gives each answer to `take`. What
    /// the state has come to is asked for with every request.
    fn send(&mut self, mut take: impl FnMut(Answer) -> Result<(), Fatal>) -> Result<(), Fatal> {
        Command::State.encode(&mut self.request);
        self.answer.clear();
        let outcome = self.machine.call(&self.request, &mut self.answer, ANSWER_MAX_BYTES);
        self.request.clear();
        match outcome.map_err(broken)? {
            Outcome::Answered => {}
            Outcome::Failed(failure) => return Err(Fatal::Guest(failure.to_string())),
        }
        let mut reader = Reader::new(&self.answer);
        let mut last = None;
        while !reader.is_empty() {
            let answer = Answer::decode(&mut reader).map_err(|error| nonsense(&error.to_string()));
            if let Some(answer) = last.replace(answer?) {
                take(sound(answer)?)?;
            }
        }
        match last.map(sound).transpose()? {
            Some(Answer::State(state)) => self.state = state,
            _ => return Err(nonsense("no state")),
        }
        Ok(())
    }

    /// Has one command executed.
    fn ask(
        &mut self,
        command: &Command<'_>,
        take: impl FnMut(Answer) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        command.encode(&mut self.request);
        self.send(take)
    }

    /// Sends the tasks that were gathered, of which the first is the `begin`th.
    fn send_tasks(
        &mut self,
        begin: usize,
        count: usize,
        results: &mut Results,
    ) -> Result<(), Fatal> {
        let mut answered = 0;
        let sent = self.send(|answer| {
            let Answer::Outputs { applied, outputs } = answer else {
                return Err(nonsense("to an input"));
            };
            results.outputs().extend(outputs);
            results.end_task(applied);
            answered += 1;
            Ok(())
        });
        if sent.is_err() {
            let at = self.machine.command().ok().and_then(|at| usize::try_from(at).ok());
            let at = at.filter(|at| *at < count);
            self.culprit = at.map(|at| begin + at);
        }
        sent?;
        if answered == count { Ok(()) } else { Err(nonsense("not to every input")) }
    }

    fn next_part(&mut self) -> Result<(), Fatal> {
        let Some(mut making) = self.making.take() else { return Ok(()) };
        let mut was_last = false;
        self.ask(&Command::EncodeSnapshot, |answer| {
            let Answer::Snapshot { last, bytes } = answer else {
                return Err(nonsense("no snapshot"));
            };
            if making.machine.len() + bytes.len() > SNAPSHOT_MAX_BYTES {
                return Err(nonsense("a snapshot without end"));
            }
            making.machine.extend_from_slice(&bytes);
            was_last = last;
            Ok(())
        })?;
        if was_last {
            let Making { head, state, machine } = making;
            let job = Box::new(move || Encoded::new::<M>(&head, state, machine));
            if !self.background.give(job) {
                return Err(Fatal::Guest("a snapshot beside another".into()));
            }
        } else {
            self.making = Some(making);
        }
        Ok(())
    }
}

/// An answer that is no refusal.
fn sound(answer: Answer) -> Result<Answer, Fatal> {
    match answer {
        Answer::Refused(Refusal::Corrupt(corruption)) => Err(corruption.into()),
        Answer::Refused(Refusal::Restore(why)) => Err(RestoreError::Content(why).into()),
        Answer::Refused(refusal) => Err(Fatal::Guest(format!("refuses: {refusal}"))),
        answer => Ok(answer),
    }
}

impl<M: StateMachine> Execute for Virtual<M> {
    type Machine = M;

    fn tasks_at_once(&self) -> usize {
        TASKS_AT_ONCE
    }

    fn run(&mut self, tasks: &[Task<'_>], results: &mut Results) -> Result<(), Fatal> {
        self.culprit = None;
        let mut begin = 0;
        for (at, &Task { no, input, treatment }) in tasks.iter().enumerate() {
            let command = match treatment {
                Treatment::Apply => Command::Apply { no, quarantined: false, input },
                Treatment::Quarantine => Command::Apply { no, quarantined: true, input },
                Treatment::Query => Command::Query { no, input },
                Treatment::Refuse => Command::Refuse { no, input },
            };
            command.encode(&mut self.request);
            if self.request.len() >= REQUEST_BYTES || at + 1 == tasks.len() {
                self.send_tasks(begin, at + 1 - begin, results)?;
                begin = at + 1;
            }
        }
        Ok(())
    }

    fn culprit(&self) -> Option<usize> {
        self.culprit
    }

    fn state(&self) -> State {
        self.state
    }

    fn numbers(&self) -> (InputNo, OutputNo) {
        (self.state.last_input, self.state.last_output)
    }

    fn restore(&mut self, bytes: &[u8], digest: Digest) -> Result<(), Fatal> {
        for bytes in bytes.chunks(RESTORE_BYTES) {
            self.ask(&Command::RestorePart { bytes }, |_| Ok(()))?;
        }
        self.ask(&Command::RestoreEnd { digest }, |_| Ok(()))
    }

    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Fatal> {
        let mut progress = None;
        self.ask(&Command::Scrub { budget: budget as u64 }, |answer| {
            if let Answer::Scrubbed(how_far) = answer {
                progress = Some(how_far);
            }
            Ok(())
        })?;
        progress.ok_or_else(|| nonsense("to scrubbing"))
    }

    fn flip_bit(&mut self, seed: u64) -> Result<(), Fatal> {
        self.ask(&Command::FlipBit { seed }, |_| Ok(()))
    }

    fn freeze(&mut self, head: &Head) -> Result<bool, Fatal> {
        self.ask(&Command::Freeze, |_| Ok(()))?;
        self.making = Some(Making { head: head.clone(), state: self.state, machine: Vec::new() });
        Ok(true)
    }

    fn encoded(&mut self) -> Result<Option<Encoded>, Fatal> {
        self.next_part()?;
        Ok(self.background.take())
    }
}
