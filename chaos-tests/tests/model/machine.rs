//! The smallest component whose answers tell in which order its inputs were
//! applied, and what it must answer.

use std::collections::BTreeSet;

use state_machine::{
    Class, ConnId, Corruption, Digest, Input, InputNo, Mixer, Numbered, Output, Outputs, Reader,
    RestoreError, ScrubProgress, StateMachine,
};

/// Somebody who is told of every change.
const WATCHER: ConnId = ConnId(100);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Changes the value, and tells the watcher.
    Put,
    /// Changes the value and tells nobody.
    PutQuietly,
    /// Reads it.
    Get,
}

impl Ask {
    /// As the intake shows it, and whoever asked: each input has a client of its
    /// own.
    pub(crate) fn encode(self, no: InputNo) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.input(no, &self.frame()).encode(no, &mut bytes);
        bytes
    }

    fn frame(self) -> [u8; 1] {
        [match self {
            Self::Put => 1,
            Self::PutQuietly => 2,
            Self::Get => 0,
        }]
    }

    fn input(self, no: InputNo, frame: &[u8; 1]) -> Input<'_> {
        Input::Request { conn: ConnId(no.0), frame }
    }
}

/// A value that remembers every change in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    value: u64,
}

impl StateMachine for Tally {
    type Snapshot = Self;
    type Cursor = ();

    fn classify(input: &Input<'_>) -> Class {
        match input {
            Input::Request { frame: [0], .. } => Class::Query,
            _ => Class::Command,
        }
    }

    fn apply(
        &mut self,
        no: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        if let Input::Request { conn, frame } = input {
            self.value = Mixer::new().word(self.value).word(no.0).finish();
            out.reply(*conn, &self.value.to_le_bytes());
            if *frame == [1] {
                out.event(WATCHER, &self.value.to_le_bytes());
            }
        }
        Ok(())
    }

    fn query(
        &self,
        _: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        out.reply(input.conn().unwrap_or(ConnId::HOST), &self.value.to_le_bytes());
        Ok(())
    }

    fn quarantine(&mut self, _: InputNo, input: &Input<'_>, out: &mut dyn Outputs) {
        out.reply(input.conn().unwrap_or(ConnId::HOST), b"quarantined");
    }

    fn can_answer(_: &Input<'_>, _: &[u8]) -> bool {
        true
    }

    fn can_be_event(_: &[u8]) -> bool {
        true
    }

    fn digest(&self) -> Digest {
        Digest(self.value)
    }

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn encode_part(tally: &Self, (): &mut (), out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&tally.value.to_le_bytes());
        true
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        Ok(Self { value: Reader::new(bytes).u64()? })
    }

    fn scrub(&mut self, _: usize) -> Result<ScrubProgress, Corruption> {
        Ok(ScrubProgress::PassDone)
    }

    fn flip_bit(&mut self, seed: u64) {
        self.value ^= 1 << (seed % 64);
    }
}

/// What clients may see if the inputs are applied in their order, some of them
/// quarantined.
#[derive(Debug)]
struct Story {
    quarantined: BTreeSet<usize>,
    /// A query may be answered from any later state, too: a new primary answers
    /// it anew.
    answers: Vec<Vec<Vec<u8>>>,
    events: Vec<Vec<u8>>,
}

/// Every story that can be told without a fault.
#[derive(Debug)]
pub(crate) struct Stories {
    asks: Vec<Ask>,
    all: Vec<Story>,
}

impl Stories {
    pub(crate) fn of(asks: &[Ask]) -> Self {
        let subsets = 0..1_u32 << asks.len();
        Self { asks: asks.to_vec(), all: subsets.map(|subset| story(asks, subset)).collect() }
    }

    /// Whether the input may be answered anew otherwise than before, which nobody
    /// sees.
    pub(crate) fn may_vary(&self, place: usize) -> bool {
        self.asks.get(place) == Some(&Ask::Get)
    }

    /// Whether clients can have seen this: answers so far, and events in the
    /// order of their numbers. Only what the host let go may be quarantined.
    pub(crate) fn allow(
        &self,
        answers: &[Option<Vec<u8>>],
        events: &[Vec<u8>],
        may_be_quarantined: &BTreeSet<usize>,
    ) -> bool {
        self.all.iter().any(|story| {
            story.quarantined.is_subset(may_be_quarantined)
                && story.events.starts_with(events)
                && answers
                    .iter()
                    .zip(&story.answers)
                    .all(|(seen, told)| seen.as_ref().is_none_or(|seen| told.contains(seen)))
        })
    }
}

fn story(asks: &[Ask], subset: u32) -> Story {
    let is_quarantined = |place: usize| subset >> place & 1 == 1;
    let mut machine = Numbered::<Tally>::default();
    let mut story = Story {
        quarantined: (0..asks.len()).filter(|place| is_quarantined(*place)).collect(),
        answers: vec![Vec::new(); asks.len()],
        events: Vec::new(),
    };
    let mut outputs = Vec::new();
    let all: Vec<_> =
        asks.iter().zip(1..).map(|(ask, no)| (*ask, InputNo(no), ask.frame())).collect();
    for (place, (ask, no, frame)) in all.iter().enumerate() {
        let input = ask.input(*no, frame);
        match (ask, is_quarantined(place)) {
            (Ask::Get, true) => machine.refuse(*no, &input, &mut outputs),
            (Ask::Get, false) => {}
            (_, quarantined) => {
                machine.apply(*no, &input, quarantined, &mut outputs).expect("sound");
            }
        }
        for (place, (ask, no, frame)) in all[..=place].iter().enumerate() {
            if *ask == Ask::Get && !is_quarantined(place) {
                machine.query(*no, &ask.input(*no, frame), &mut outputs).expect("sound");
            }
        }
    }
    for output in outputs {
        match output {
            Output::Reply { input, frame, .. } => {
                let place = usize::try_from(input.0 - 1).expect("small");
                story.answers[place].push(frame.into());
            }
            Output::Event { frame, .. } => story.events.push(frame.into()),
            Output::Effect { .. } => {}
        }
    }
    story
}
