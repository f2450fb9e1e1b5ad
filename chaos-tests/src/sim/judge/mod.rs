//! The log-aware judge of a run. It is told what the host numbered and what left
//! towards the clients, applies the same inputs to a store of its own, and
//! objects to everything that the promises do not allow:
//!
//! - The answer to a logged request, every watch event and every effect is
//!   exactly what the inputs before it yield, comes once, and in that order.
//! - A query is answered from the state that its own primary had at its turn:
//!   after the inputs before it, or, when a later primary answers it anew, after
//!   the log that this primary took over. Its answer stands among the other
//!   outputs of its connection where that state stands.
//! - What was shown is in the log of every later primary, and of a host that
//!   comes back from disk.
//! - Replicas that applied the same inputs have the reference's digest.
//!
//! It works as the run goes on, and forgets what is settled.

mod reference;
mod stats;
mod stream;
#[cfg(test)]
pub(crate) mod toy;
mod violation;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use state_machine::{Class, ConnId, Digest, DomId, Input, InputNo, Output, Reader};
use xenstore::Effect;

use reference::Reference;
use stream::{Item, Stream, Taken};

pub use stats::{Closer, JudgeStats};
pub(crate) use violation::show as show_frame;
pub use violation::{Violation, ViolationKind};
pub use window::{Sampler, WindowFault};

/// Violations that are kept; the first ones tell most.
const MAX_VIOLATIONS: usize = 16;
/// Admitted inputs that may wait to be applied.
const MAX_UNAPPLIED: u64 = 65_536;

/// See the module.
#[derive(Debug)]
pub struct Judge {
    reference: Reference,
    streams: BTreeMap<ConnId, Stream>,
    effects: VecDeque<(InputNo, Box<[u8]>)>,
    /// The last input of which an effect was carried out, and how many of it.
    last_effect: (InputNo, u32),
    skip_effects: Option<(InputNo, u32)>,
    /// The last input whose trace somebody was shown.
    shown: InputNo,
    violations: Vec<Violation>,
    /// Quarantined inputs of the next primary.
    announced: BTreeSet<InputNo>,
    /// Judges no more: the reference and the world have parted.
    stopped: bool,
    stats: JudgeStats,
    outputs: Vec<Output>,
    frames: Vec<Box<[u8]>>,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Judge {
    /// The judge of a component that begins empty. Where a loss of power may take
    /// acknowledged inputs away (durability `process`), `horizon` is how many at
    /// most it has to go back; else 0.
    #[must_use]
    pub fn new(horizon: u64) -> Self {
        Self {
            reference: Reference::new(horizon),
            streams: BTreeMap::new(),
            effects: VecDeque::new(),
            last_effect: (InputNo(0), 0),
            skip_effects: None,
            shown: InputNo(0),
            violations: Vec::new(),
            announced: BTreeSet::new(),
            stopped: false,
            stats: JudgeStats::default(),
            outputs: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// What it objects to so far.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What it has seen so far.
    #[must_use]
    pub fn stats(&self) -> JudgeStats {
        self.stats
    }

    /// Inputs and outputs that it keeps, for a bound on its memory.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.reference.kept() + self.effects.len() + self.waiting()
    }

    /// Outputs and answers that clients still wait for.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.streams.values().map(Stream::waiting).sum()
    }

    fn object(&mut self, violation: Violation) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    /// An objection after which nothing can be judged.
    fn stop(&mut self, kind: ViolationKind, input: InputNo, now_us: u64) {
        self.stopped = true;
        self.object(Violation {
            kind,
            input: Some(input),
            conn: None,
            at_us: now_us,
            expected: Vec::new(),
            found: Vec::new(),
        });
    }

    /// The host has numbered an input; `bytes` is its encoding as it stands in
    /// the intake.
    pub fn admitted(&mut self, no: InputNo, bytes: &[u8], now_us: u64) {
        if self.stopped {
            return;
        }
        let input = match Input::decode(&mut Reader::new(bytes)) {
            Ok((named, input)) if named == no && no == self.reference.next_no() => input,
            _ => {
                self.stop(ViolationKind::BadInput, no, now_us);
                return;
            }
        };
        self.stats.inputs += 1;
        self.reference.admit(bytes, &input);
        match input {
            Input::Open { conn, domid } => {
                self.streams.insert(conn, Stream::new(domid));
            }
            Input::Request { conn, .. } => {
                let query = self.reference.class(no) == Some(Class::Query);
                if let Some(stream) = self.streams.get_mut(&conn) {
                    stream.ask(no, query);
                }
            }
            _ => {}
        }
        if no.0 - self.reference.reached().0 > MAX_UNAPPLIED {
            self.step();
        }
    }

    /// This connection is the host's own: what it is answered leaves towards
    /// nobody.
    pub fn ignore(&mut self, conn: ConnId) {
        self.streams.remove(&conn);
    }

    /// The primary of the next [`Self::promoted`] has this input on its list of
    /// the quarantined. May be told again, and of inputs that its log has.
    pub fn quarantined(&mut self, no: InputNo, _now_us: u64) {
        self.announced.insert(no);
    }

    /// An input that the log of the new primary does not have is answered with an
    /// error from now on, unexecuted; so is a query.
    fn quarantine(&mut self, no: InputNo, last_input: InputNo, now_us: u64) {
        let query = self.reference.class(no) == Some(Class::Query);
        if (no <= last_input && !query) || !self.reference.quarantine(no) {
            return;
        }
        self.stats.quarantined += 1;
        let Some(bytes) = self.reference.bytes(no) else { return };
        let asker = match Input::decode(&mut Reader::new(bytes)) {
            Ok((_, Input::Request { conn, .. })) => Some(conn),
            _ => None,
        };
        if let Some(conn) = asker
            && let Some(stream) = self.streams.get_mut(&conn)
        {
            if query {
                if let Some(refusal) = Reference::refusal(bytes) {
                    stream.refuse(no, refusal);
                }
            } else if !stream.waits_for(no) {
                let kind = ViolationKind::AnsweredThenQuarantined;
                self.object_on(conn, kind, Some(no), Vec::new(), &[], now_us);
            }
        }
        if no <= self.reference.reached() && !query {
            self.go_back(InputNo(no.0 - 1), now_us);
        }
    }

    fn go_back(&mut self, no: InputNo, now_us: u64) {
        if !self.reference.go_back(no) {
            self.stop(ViolationKind::Unjudgeable, no, now_us);
            return;
        }
        for stream in self.streams.values_mut() {
            stream.go_back(no);
        }
        while self.effects.back().is_some_and(|(input, _)| *input > no) {
            self.effects.pop_back();
        }
        if self.last_effect.0 > no {
            self.skip_effects = Some(self.last_effect);
        }
    }

    /// A primary began to serve; `last_input` is the last input in the log that
    /// it took over (its `Promoted`). Queries that are not answered may be
    /// answered from there.
    pub fn promoted(&mut self, last_input: InputNo, now_us: u64) {
        if self.stopped {
            return;
        }
        if last_input < self.shown {
            self.stop(ViolationKind::LostAcknowledged, self.shown, now_us);
            return;
        }
        for no in std::mem::take(&mut self.announced) {
            self.quarantine(no, last_input, now_us);
        }
        while self.reference.reached() < last_input {
            if !self.step() {
                // It has an input that nobody gave, or one that kills.
                self.stop(ViolationKind::BadInput, last_input, now_us);
                return;
            }
        }
        self.answer_anew(last_input);
        self.reference.settle(last_input);
    }

    /// Open queries that stand before the end of the log may be answered from
    /// there.
    fn answer_anew(&mut self, state: InputNo) {
        let mut open = Vec::new();
        for (conn, stream) in &mut self.streams {
            let queries: Vec<InputNo> = stream.open_queries(state).collect();
            for no in queries {
                let question = stream.question(no, || self.reference.bytes(no));
                // One that is not kept was answered long ago, and only waits for
                // its client to read.
                if let Some(question) = question {
                    let question = question.to_vec();
                    match stream.refusal(no) {
                        Some(refusal) => stream.may_answer(no, state, refusal),
                        None => open.push((*conn, no, question)),
                    }
                }
            }
        }
        if open.is_empty() {
            return;
        }
        let questions: Vec<&[u8]> = open.iter().map(|(_, _, question)| &**question).collect();
        let Some(answers) = self.reference.answers_at(state, &questions) else { return };
        for ((conn, no, _), outputs) in open.iter().zip(answers) {
            let Some(stream) = self.streams.get_mut(conn) else { continue };
            for output in outputs {
                if let Output::Reply { frame, .. } = output {
                    stream.may_answer(*no, state, frame);
                }
            }
        }
    }

    /// The primary has said, and the host believed, that everything up to `no` is
    /// answered and logged. Need not be told; it lets the judge forget sooner
    /// when clients write nothing.
    pub fn released(&mut self, no: InputNo) {
        if !self.stopped {
            self.reference.settle(InputNo(no.0.min(self.reference.reached().0)));
        }
    }

    /// Applies the next input; whether there was one.
    fn step(&mut self) -> bool {
        let mut outputs = std::mem::take(&mut self.outputs);
        let stepped = self.reference.step(&mut outputs);
        if let Some(stepped) = stepped {
            for output in outputs.drain(..) {
                self.expect(stepped.no, stepped.query, output);
            }
        }
        outputs.clear();
        self.outputs = outputs;
        stepped.is_some()
    }

    fn expect(&mut self, input: InputNo, query: bool, output: Output) {
        match output {
            Output::Reply { conn, frame, .. } => {
                let Some(stream) = self.streams.get_mut(&conn) else { return };
                if query {
                    stream.answer_is(input, frame);
                } else {
                    stream.push(Item { input, is_reply: true, frame });
                }
            }
            Output::Event { conn, frame, .. } => {
                if let Some(stream) = self.streams.get_mut(&conn) {
                    stream.push(Item { input, is_reply: false, frame });
                }
            }
            Output::Effect { bytes, .. } => {
                if let Ok(Effect::DomainReleased { domid }) = Effect::decode(&bytes) {
                    self.release_domain(domid);
                }
                self.expect_effect(input, bytes);
            }
        }
    }

    fn expect_effect(&mut self, input: InputNo, bytes: Box<[u8]>) {
        if let Some((last, count)) = &mut self.skip_effects {
            if input < *last {
                return;
            }
            if input == *last && *count > 0 {
                *count -= 1;
                return;
            }
            self.skip_effects = None;
        }
        self.effects.push_back((input, bytes));
    }

    fn release_domain(&mut self, domid: DomId) {
        for stream in self.streams.values_mut().filter(|stream| stream.domid == domid) {
            stream.released = true;
        }
    }

    /// Bytes left towards a client, in order; in pieces of any size.
    pub fn delivered(&mut self, conn: ConnId, bytes: &[u8], now_us: u64) {
        if self.stopped {
            return;
        }
        let mut frames = std::mem::take(&mut self.frames);
        if let Some(stream) = self.streams.get_mut(&conn).filter(|stream| !stream.broken) {
            let whole = stream.frames(bytes, &mut frames);
            for frame in frames.drain(..) {
                self.frame(conn, &frame, now_us);
            }
            if whole.is_none() {
                self.object_on(conn, ViolationKind::BrokenFrame, None, Vec::new(), bytes, now_us);
            }
        }
        self.frames = frames;
    }

    fn object_on(
        &mut self,
        conn: ConnId,
        kind: ViolationKind,
        input: Option<InputNo>,
        expected: Vec<u8>,
        found: &[u8],
        at_us: u64,
    ) {
        if let Some(stream) = self.streams.get_mut(&conn) {
            stream.broken = true;
        }
        let conn = Some(conn);
        self.object(Violation { kind, input, conn, at_us, expected, found: found.to_vec() });
    }

    fn frame(&mut self, conn: ConnId, frame: &[u8], now_us: u64) {
        let mut exhausted = false;
        loop {
            let Some(stream) = self.streams.get_mut(&conn) else { return };
            if stream.broken {
                return;
            }
            match stream.take(frame, exhausted) {
                Taken::Logged { input, is_reply } => {
                    self.stats.replies += u64::from(is_reply);
                    self.stats.events += u64::from(!is_reply);
                    self.show_logged(input, is_reply);
                    return;
                }
                Taken::Answer { no, state } => {
                    self.stats.replies += 1;
                    self.stats.answers += 1;
                    self.stats.answers_anew += u64::from(state > no);
                    self.show_state(state);
                    return;
                }
                Taken::TooLong => return,
                Taken::TooEarly => exhausted = !self.step(),
                // What it really is shows when all outputs are known.
                Taken::Wrong { .. } if !exhausted => {
                    while self.step() {}
                    exhausted = true;
                }
                Taken::Wrong { kind, input, expected } => {
                    self.object_on(conn, kind, input, expected, frame, now_us);
                    return;
                }
            }
        }
    }

    /// An output of this input was seen.
    fn show_logged(&mut self, input: InputNo, is_reply: bool) {
        match self.reference.class(input) {
            // Only the request itself is in what was seen.
            Some(Class::Tentative) if is_reply => {}
            Some(Class::Opening) if is_reply => self.show_state(input),
            _ => self.show(input),
        }
    }

    /// The commands up to `state` were seen.
    fn show_state(&mut self, state: InputNo) {
        if let Some(command) = self.reference.last_command(state) {
            self.show(command);
        }
    }

    fn show(&mut self, input: InputNo) {
        if input > self.shown {
            self.shown = input;
            self.reference.settle(input);
        }
    }

    /// The host has carried out an effect.
    pub fn effect(&mut self, bytes: &[u8], now_us: u64) {
        if self.stopped {
            return;
        }
        while self.effects.is_empty() && self.step() {}
        let due = self.effects.front();
        if let Some(input) = due.filter(|(_, due)| **due == *bytes).map(|(input, _)| *input) {
            self.effects.pop_front();
            let count = if self.last_effect.0 == input { self.last_effect.1 + 1 } else { 1 };
            self.last_effect = (input, count);
            self.stats.effects += 1;
            self.show(input);
            // Also who came between the release and its being carried out.
            if let Ok(Effect::DomainReleased { domid }) = Effect::decode(bytes) {
                self.release_domain(domid);
            }
            return;
        }
        let (input, expected) =
            due.map_or((None, Vec::new()), |(input, due)| (Some(*input), due.to_vec()));
        while self.step() {}
        let kind = match self.effects.iter().any(|(_, later)| **later == *bytes) {
            true => ViolationKind::Reordered,
            false if input.is_none() => ViolationKind::DoubledEffect,
            false => ViolationKind::WrongEffect,
        };
        self.object(Violation {
            kind,
            input,
            conn: None,
            at_us: now_us,
            expected,
            found: bytes.to_vec(),
        });
        self.stopped = true;
    }

    /// A connection is over. What it was still to get concerns nobody.
    pub fn closed(&mut self, conn: ConnId, closer: Closer, now_us: u64) {
        if self.stopped {
            return;
        }
        if closer == (Closer::Host { provoked: false }) && self.streams.contains_key(&conn) {
            // Whether its domain was released shows once all is applied.
            while self.step() {}
            if self.streams.get(&conn).is_some_and(|stream| !stream.released && !stream.broken) {
                let kind = ViolationKind::BrokenConnection;
                self.object_on(conn, kind, None, Vec::new(), &[], now_us);
            }
        }
        self.streams.remove(&conn);
    }

    /// The host came back from disk: inputs after `last_input` never were, and
    /// all connections are gone. `may_lose` says that what was acknowledged may
    /// be lost in what has happened (power, with durability `process`).
    pub fn restarted(&mut self, last_input: InputNo, may_lose: bool, now_us: u64) {
        if self.stopped {
            return;
        }
        self.streams.clear();
        if last_input >= self.reference.next_no() {
            self.stop(ViolationKind::BadInput, last_input, now_us);
            return;
        }
        if last_input < self.shown && !may_lose {
            self.stop(ViolationKind::LostAcknowledged, self.shown, now_us);
            return;
        }
        if last_input < self.reference.reached() {
            self.go_back(last_input, now_us);
        } else {
            while self.reference.reached() < last_input {
                if !self.step() {
                    self.stop(ViolationKind::BadInput, last_input, now_us);
                    return;
                }
            }
        }
        if self.stopped {
            return;
        }
        self.reference.forget_after(last_input);
        self.effects.clear();
        self.skip_effects = None;
        self.last_effect = (InputNo(0), 0);
        self.shown = self.shown.min(last_input);
        self.reference.settle(last_input);
    }

    /// A replica that has applied the logged input `last_input` says that its
    /// numbered state has this digest. What is long past is not compared.
    pub fn replica_state(&mut self, last_input: InputNo, digest: Digest, now_us: u64) {
        if self.stopped {
            return;
        }
        while self.reference.reached() < last_input && self.step() {}
        match self.reference.digest_at(last_input) {
            Some(right) if right != digest => {
                self.stop(ViolationKind::Diverged, last_input, now_us);
            }
            Some(_) => self.stats.digests += 1,
            None => {}
        }
    }

    /// The run is over, healed, and clients have read what came for them: what is
    /// missing now is lost.
    pub fn finish(&mut self, now_us: u64) -> &[Violation] {
        while !self.stopped && self.step() {}
        if !self.stopped {
            let mut lost = Vec::new();
            for (conn, stream) in self.streams.iter().filter(|(_, stream)| !stream.broken) {
                for missing in stream.missing() {
                    lost.push(Violation {
                        kind: missing.kind,
                        input: Some(missing.input),
                        conn: Some(*conn),
                        at_us: now_us,
                        expected: missing.expected,
                        found: Vec::new(),
                    });
                }
            }
            if let Some((input, effect)) = self.effects.front() {
                lost.push(Violation {
                    kind: ViolationKind::LostEffect,
                    input: Some(*input),
                    conn: None,
                    at_us: now_us,
                    expected: effect.to_vec(),
                    found: Vec::new(),
                });
            }
            for violation in lost {
                self.object(violation);
            }
        }
        &self.violations
    }
}

#[cfg(test)]
mod tests;
