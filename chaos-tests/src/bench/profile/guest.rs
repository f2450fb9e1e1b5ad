//! A virtual machine alone, without an executor of ours on the outside.

use std::time::{Duration, Instant};

use hypervisor::kvm::{Exit, Image, Machine, MachineConfig, Outcome};
use state_machine::executor::Command;

use super::super::row::{histogram, nanos};
use super::{Boots, GUEST_BYTES, ProfileError, Times};

/// How many machines are booted.
const BOOTS: u32 = 50;
/// More than the numbers and the digest of a state.
const STATE_BYTES: usize = 1 << 10;

/// A machine whose guest is ready.
pub(super) struct Ready {
    machine: Machine,
    state_request: Vec<u8>,
    answer: Vec<u8>,
}

/// Boots machines, one after the other: how long that takes, and the last of them.
pub(super) fn boot(image: &[u8]) -> Result<(Boots, Ready), ProfileError> {
    let image = Image::parse(image)?;
    let config = MachineConfig { memory_bytes: GUEST_BYTES, command_line: String::new() };
    let mut times = [histogram(), histogram(), histogram()];
    let mut last = None;
    for _ in 0..BOOTS {
        // The one before gives back what it had at a time that is not measured.
        drop(last.take());
        let begin = Instant::now();
        let mut machine = Machine::boot(&image, &config)?;
        let made = begin.elapsed();
        match machine.run()? {
            Exit::Yielded => {}
            Exit::Failed(failure) => return Err(ProfileError::Guest(failure.to_string())),
        }
        let whole = begin.elapsed();
        for (times, took) in times.iter_mut().zip([made, whole.saturating_sub(made), whole]) {
            times.saturating_record(nanos(took));
        }
        last = Some(machine);
    }
    let machine = last.ok_or_else(|| ProfileError::Guest("none was booted".into()))?;
    let [made, ready, whole] = times.each_ref().map(Times::of);
    let mut state_request = Vec::new();
    Command::State.encode(&mut state_request);
    let ready_machine = Ready { machine, state_request, answer: Vec::new() };
    Ok((Boots { count: BOOTS, made, ready, whole }, ready_machine))
}

impl Ready {
    /// How long an entry takes: an empty request gets an empty answer.
    pub(super) fn enter(&mut self) -> Result<Duration, ProfileError> {
        let begin = Instant::now();
        let outcome = self.machine.call(&[], &mut self.answer, 0)?;
        let took = begin.elapsed();
        answered(outcome)?;
        Ok(took)
    }

    /// How long a request for the state alone takes.
    pub(super) fn ask_for_state(&mut self) -> Result<Duration, ProfileError> {
        self.answer.clear();
        let begin = Instant::now();
        let outcome = self.machine.call(&self.state_request, &mut self.answer, STATE_BYTES)?;
        let took = begin.elapsed();
        answered(outcome)?;
        Ok(took)
    }
}

fn answered(outcome: Outcome) -> Result<(), ProfileError> {
    match outcome {
        Outcome::Answered => Ok(()),
        Outcome::Failed(failure) => Err(ProfileError::Guest(failure.to_string())),
    }
}
