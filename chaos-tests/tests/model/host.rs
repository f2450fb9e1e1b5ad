//! The host: the production decision maker, and a ledger as small as can be.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hypervisor::ReplicaId;
use hypervisor::decision::{Decision, DecisionMaker, Event, LogPosition, Phase};
use replica::outbox::Watermarks;
use state_machine::{InputNo, Mixer, Output, OutputNo};

use crate::machine::Stories;
use crate::rules::Flaw;

/// The host as it is, or with a deliberate bug that the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// The first survivor that acknowledges is enough.
    PromotesAfterFirstAcknowledgement,
    /// The shortest log wins.
    PromotesShortestLog,
    /// Survivors are told of the new generation, but not who is dead.
    CertifiesNobody,
    /// A hung primary is given up, but not killed.
    LeavesTheHungAlive,
    /// A repeated output is delivered again.
    DeliversRepetitions,
    /// What the dead have said last is read, whatever generation is in force.
    HearsTheDead,
    /// An input that is answered stays in the intake.
    ForgetsToFree,
}

/// A decision maker that can be told apart from others.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    inner: Arc<DecisionMaker>,
    print: u64,
}

impl Hash for Maker {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.print.hash(hasher);
    }
}

impl PartialEq for Maker {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl std::ops::Deref for Maker {
    type Target = DecisionMaker;

    fn deref(&self) -> &DecisionMaker {
        &self.inner
    }
}

struct Print(Mixer);

impl fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.bytes(text.as_bytes());
        Ok(())
    }
}

impl Maker {
    pub(crate) fn new(inner: DecisionMaker) -> Self {
        let mut print = Print(Mixer::new());
        write!(print, "{inner:?}").expect("a print takes everything");
        Self { inner: Arc::new(inner), print: print.0.finish() }
    }

    /// Takes an event; what is to be done.
    pub(crate) fn step(&mut self, event: Event, bug: Bug) -> Vec<Decision> {
        let mut inner = (*self.inner).clone();
        let decisions = match (bug, event) {
            (Bug::PromotesAfterFirstAcknowledgement, event @ Event::Acknowledged { .. }) => {
                let mut decisions = inner.step(event);
                while let Phase::Electing { waiting, .. } = inner.phase() {
                    let Some(&id) = waiting.first() else { break };
                    let (generation, log) = (inner.generation(), LogPosition::default());
                    decisions.extend(inner.step(Event::Acknowledged { id, generation, log }));
                }
                decisions
            }
            (Bug::PromotesShortestLog, Event::Acknowledged { id, generation, log }) => {
                let log = LogPosition { term: u64::MAX - log.term, index: u64::MAX - log.index };
                inner.step(Event::Acknowledged { id, generation, log })
            }
            (Bug::CertifiesNobody, event) => {
                let mut decisions = inner.step(event);
                for decision in &mut decisions {
                    if let Decision::Isolate { fenced, .. } = decision {
                        fenced.clear();
                    }
                }
                decisions
            }
            (Bug::LeavesTheHungAlive, event) => {
                let mut decisions = inner.step(event);
                decisions.retain(|decision| !matches!(decision, Decision::Kill { .. }));
                decisions
            }
            (_, event) => inner.step(event),
        };
        *self = Self::new(inner);
        decisions
    }

    /// Whose outputs the host reads.
    pub(crate) fn listens_to(&self) -> Option<ReplicaId> {
        match *self.inner.phase() {
            Phase::Serving { primary } | Phase::Draining { primary } => Some(primary),
            Phase::Promoting { candidate } => Some(candidate),
            _ => None,
        }
    }
}

/// What was given in and what came out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    pub(crate) freed: InputNo,
    pub(crate) answers: Vec<Option<Vec<u8>>>,
    pub(crate) events: Vec<Vec<u8>>,
    /// Inputs that the host let a primary quarantine.
    pub(crate) quarantined: BTreeSet<usize>,
}

fn place(no: InputNo) -> usize {
    usize::try_from(no.0 - 1).expect("small")
}

impl Ledger {
    pub(crate) fn new(inputs: usize) -> Self {
        Self {
            freed: InputNo(0),
            answers: vec![None; inputs],
            events: Vec::new(),
            quarantined: BTreeSet::new(),
        }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        Watermarks { freed_input: self.freed, delivered_output: OutputNo(self.events.len() as u64) }
    }

    pub(crate) fn quarantine(&mut self, no: InputNo) {
        self.quarantined.insert(place(no));
    }

    /// Delivers an output, once.
    pub(crate) fn deliver(
        &mut self,
        output: Output,
        stories: &Stories,
        bug: Bug,
    ) -> Result<(), Flaw> {
        match output {
            Output::Reply { input, frame, .. } => {
                let seen = self.answers.get_mut(place(input)).ok_or(Flaw::Answer)?;
                match seen {
                    // Nobody sees it; but it had better be the same.
                    Some(seen) if **seen != *frame && !stories.may_vary(place(input)) => {
                        return Err(Flaw::Answer);
                    }
                    Some(_) if bug == Bug::DeliversRepetitions => return Err(Flaw::Twice),
                    Some(_) => {}
                    None if input <= self.freed => return Err(Flaw::Twice),
                    None => *seen = Some(frame.into()),
                }
            }
            Output::Event { no, frame, .. } => {
                let known = self.events.len() as u64;
                if no.0 == known + 1 {
                    self.events.push(frame.into());
                } else if no.0 > known {
                    return Err(Flaw::Gap);
                } else if self.events[usize::try_from(no.0 - 1).expect("small")] != *frame {
                    return Err(Flaw::Answer);
                } else if bug == Bug::DeliversRepetitions {
                    return Err(Flaw::Twice);
                }
            }
            Output::Effect { .. } => return Err(Flaw::Answer),
        }
        let Self { answers, events, quarantined, .. } = &*self;
        if stories.allow(answers, events, quarantined) { Ok(()) } else { Err(Flaw::Answer) }
    }

    /// Everything up to `no` is answered, says the primary.
    pub(crate) fn release(&mut self, no: InputNo) -> Result<(), Flaw> {
        let count = usize::try_from(no.0).expect("small");
        if count > self.answers.len() || self.answers[..count].iter().any(Option::is_none) {
            return Err(Flaw::Freed);
        }
        self.freed = self.freed.max(no);
        Ok(())
    }

    pub(crate) fn is_done(&self) -> bool {
        place(self.freed.next()) == self.answers.len()
    }

    /// The last input that was answered, whatever came of it.
    pub(crate) fn answered(&self) -> usize {
        self.answers.iter().flatten().count()
    }
}
