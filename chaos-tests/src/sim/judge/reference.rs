//! The store as it has to be: all admitted inputs, applied in the order of their
//! numbers, without replicas, logs and failures.
//!
//! Inputs are applied as late as possible, for the quarantine of an input may
//! become known only after later ones were admitted. Should it come too late
//! still, or a host come back without the last inputs, the reference goes back
//! to a checkpoint: a copy of the store costs next to nothing.
//!
//! It is the production's own store, so it is spared deliberate bugs.
//!
//! Deliberate bugs spare it: it would do wrong as the replicas do, and see nothing.

use std::collections::VecDeque;

use state_machine::{Class, Digest, Input, InputNo, Numbered, Output, Reader, StateMachine};
use xenstore::Xenstore;

/// Logged inputs between two checkpoints.
const CHECKPOINT_EVERY: u64 = 64;
/// Digests that are remembered.
const DIGESTS: usize = 1024;

/// An admitted input.
#[derive(Debug)]
struct Kept {
    /// As the host encoded it.
    bytes: Box<[u8]>,
    class: Class,
    quarantined: bool,
    /// The last command up to here, itself included.
    last_command: InputNo,
}

/// What [`Reference::step`] has applied or answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stepped {
    pub(super) no: InputNo,
    /// Whether its answer is that to a query, which leaves no trace.
    pub(super) query: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reference {
    machine: Numbered<Xenstore>,
    /// The inputs behind the oldest checkpoint.
    inputs: VecDeque<Kept>,
    /// Number of the first of them.
    first: InputNo,
    /// The last input that was applied, or answered.
    reached: InputNo,
    /// States after inputs, ascending; the first is at or before `settled`.
    checkpoints: VecDeque<(InputNo, Numbered<Xenstore>)>,
    /// Nothing up to here is ever taken back.
    settled: InputNo,
    /// Settled inputs that are kept for a host that may lose some.
    horizon: u64,
    digests: VecDeque<(InputNo, Digest)>,
    last_command: InputNo,
}

impl Reference {
    pub(super) fn new(horizon: u64) -> Self {
        let machine = Numbered::default();
        Self {
            checkpoints: VecDeque::from([(InputNo(0), machine.clone())]),
            machine,
            inputs: VecDeque::new(),
            first: InputNo(1),
            reached: InputNo(0),
            settled: InputNo(0),
            horizon,
            digests: VecDeque::new(),
            last_command: InputNo(0),
        }
    }

    /// The number that the next input has to have.
    pub(super) fn next_no(&self) -> InputNo {
        InputNo(self.first.0 + self.inputs.len() as u64)
    }

    /// The last input that was applied or answered.
    pub(super) fn reached(&self) -> InputNo {
        self.reached
    }

    /// Inputs that are kept, for the bound.
    pub(super) fn kept(&self) -> usize {
        self.inputs.len()
    }

    fn at(&self, no: InputNo) -> Option<&Kept> {
        let place = no.0.checked_sub(self.first.0)?;
        self.inputs.get(usize::try_from(place).ok()?)
    }

    /// Takes the next input, which `bytes` encode.
    pub(super) fn admit(&mut self, bytes: &[u8], input: &Input<'_>) {
        let class = Xenstore::classify(input);
        if class == Class::Command {
            self.last_command = self.next_no();
        }
        let last_command = self.last_command;
        self.inputs.push_back(Kept {
            bytes: bytes.into(),
            class,
            quarantined: false,
            last_command,
        });
    }

    /// The encoded input, if it is still kept.
    pub(super) fn bytes(&self, no: InputNo) -> Option<&[u8]> {
        self.at(no).map(|kept| &*kept.bytes)
    }

    /// The last command that a state after `no` shows, if it is still kept.
    pub(super) fn last_command(&self, no: InputNo) -> Option<InputNo> {
        self.at(no).map(|kept| kept.last_command)
    }

    pub(super) fn class(&self, no: InputNo) -> Option<Class> {
        self.at(no).map(|kept| kept.class)
    }

    /// Notes that an input is answered with an error; whether that is news.
    pub(super) fn quarantine(&mut self, no: InputNo) -> bool {
        let Some(place) = no.0.checked_sub(self.first.0) else { return false };
        let kept = usize::try_from(place).ok().and_then(|place| self.inputs.get_mut(place));
        kept.is_some_and(|kept| !std::mem::replace(&mut kept.quarantined, true))
    }

    /// What a quarantined request is answered with.
    pub(super) fn refusal(bytes: &[u8]) -> Option<Box<[u8]>> {
        let (no, input) = Input::decode(&mut Reader::new(bytes)).ok()?;
        let mut outputs = Vec::new();
        let mut nobody = Numbered::<Xenstore>::default();
        teeth::spared(|| nobody.apply(no, &input, true, &mut outputs)).ok()?;
        outputs.into_iter().find_map(|output| match output {
            Output::Reply { frame, .. } => Some(frame),
            Output::Event { .. } | Output::Effect { .. } => None,
        })
    }

    /// Applies the next input and appends its outputs. `None` when there is
    /// none, or when it kills whoever applies it.
    pub(super) fn step(&mut self, outputs: &mut Vec<Output>) -> Option<Stepped> {
        let no = self.reached.next();
        let place = usize::try_from(no.0 - self.first.0).ok()?;
        let kept = self.inputs.get(place)?;
        let (_, input) = Input::decode(&mut Reader::new(&kept.bytes)).ok()?;
        let query = kept.class == Class::Query;
        if query {
            teeth::spared(|| self.machine.query(no, &input, outputs)).ok()?;
            self.reached = no;
            // It is in no log: who comes back from one may know less, lawfully.
            return Some(Stepped { no, query });
        }
        let quarantined = kept.quarantined;
        teeth::spared(|| self.machine.apply(no, &input, quarantined, outputs)).ok()?;
        self.reached = no;
        if self.digests.len() == DIGESTS {
            self.digests.pop_front();
        }
        self.digests.push_back((no, teeth::spared(|| self.machine.digest())));
        self.checkpoint();
        Some(Stepped { no, query })
    }

    /// Takes a checkpoint if it is time to.
    fn checkpoint(&mut self) {
        let last = self.checkpoints.back().map_or(0, |(at, _)| at.0);
        if self.reached.0 - last >= CHECKPOINT_EVERY {
            self.checkpoints.push_back((self.reached, self.machine.clone()));
        }
    }

    /// The digest after the logged input `no`, if it is remembered.
    pub(super) fn digest_at(&self, no: InputNo) -> Option<Digest> {
        let at = self.digests.binary_search_by_key(&no, |(at, _)| *at).ok()?;
        Some(self.digests[at].1)
    }

    /// The state after all inputs up to `no`, if that can be had.
    fn state_at(&self, no: InputNo) -> Option<Numbered<Xenstore>> {
        let (from, state) = self.checkpoints.iter().rev().find(|(at, _)| *at <= no)?;
        let mut state = state.clone();
        let mut outputs = Vec::new();
        for at in from.0 + 1..=no.0 {
            let kept = self.at(InputNo(at))?;
            if kept.class != Class::Query {
                let (_, input) = Input::decode(&mut Reader::new(&kept.bytes)).ok()?;
                let quarantined = kept.quarantined;
                let applied =
                    teeth::spared(|| state.apply(InputNo(at), &input, quarantined, &mut outputs));
                applied.ok()?;
                outputs.clear();
            }
        }
        Some(state)
    }

    /// The answers to queries, each an encoded input, from the state after `no`.
    pub(super) fn answers_at(&self, no: InputNo, queries: &[&[u8]]) -> Option<Vec<Vec<Output>>> {
        let at_hand = (self.reached == no).then_some(&self.machine);
        let other = if at_hand.is_none() { Some(self.state_at(no)?) } else { None };
        let state = at_hand.or(other.as_ref())?;
        let answer = |bytes: &&[u8]| {
            let (no, input) = Input::decode(&mut Reader::new(bytes)).ok()?;
            let mut outputs = Vec::new();
            teeth::spared(|| state.query(no, &input, &mut outputs)).ok()?;
            Some(outputs)
        };
        queries.iter().map(answer).collect()
    }

    /// Goes back to the state after `no`; whether that can be had.
    pub(super) fn go_back(&mut self, no: InputNo) -> bool {
        if no == InputNo(0) {
            // Nothing has to be remembered for that.
            *self = Self::new(self.horizon);
            return true;
        }
        let Some(machine) = self.state_at(no) else { return false };
        self.machine = machine;
        self.reached = no;
        self.settled = self.settled.min(no);
        self.checkpoints.retain(|(at, _)| *at <= no);
        self.digests.retain(|(at, _)| *at <= no);
        true
    }

    /// Forgets the inputs behind `no`: they never were.
    pub(super) fn forget_after(&mut self, no: InputNo) {
        let keep = (no.0 + 1).saturating_sub(self.first.0);
        self.inputs.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.last_command = self.last_command(no).unwrap_or(no);
    }

    /// Everything up to `no` stays as it is; drops what is needed no more.
    pub(super) fn settle(&mut self, no: InputNo) {
        if no > self.settled {
            self.settled = no;
            if self.reached == no {
                self.checkpoint();
            }
            self.forget();
        }
    }

    fn forget(&mut self) {
        let keep_from = InputNo(self.settled.0.saturating_sub(self.horizon)).min(self.reached);
        while self.checkpoints.get(1).is_some_and(|(at, _)| *at <= keep_from) {
            self.checkpoints.pop_front();
        }
        let oldest = self.checkpoints.front().map_or(InputNo(0), |(at, _)| *at);
        while self.first <= oldest && !self.inputs.is_empty() {
            self.inputs.pop_front();
            self.first = self.first.next();
        }
    }
}
