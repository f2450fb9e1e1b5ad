//! The host's half of "exactly once": it numbers inputs, delivers each answer and
//! each output number once, and believes nothing of an older generation. What a
//! correct primary never says makes it panic.

use std::collections::BTreeMap;

use state_machine::{
    Class, ConnId, Input, InputNo, Numbered, Output, OutputNo, Reader, StateMachine,
};

use crate::machine::{Board, seen};

struct Pending {
    bytes: Vec<u8>,
    conn: ConnId,
    class: Class,
    answer: Option<Box<[u8]>>,
    wants_answer: bool,
    /// The newest command that was answered before this was asked.
    after: u64,
}

impl Pending {
    fn is_query(&self) -> bool {
        self.class == Class::Query
    }

    fn input(&self) -> Input<'_> {
        Input::decode(&mut Reader::new(&self.bytes)).expect("encoded here").1
    }
}

#[derive(Default)]
pub(crate) struct Host {
    /// All inputs ever given; input n is at n - 1.
    inputs: Vec<Pending>,
    pub(crate) freed: InputNo,
    pub(crate) delivered: OutputNo,
    newest_answered: u64,
    /// What each connection was sent, answers to queries left out.
    sent: BTreeMap<ConnId, Vec<Output>>,
    effects: Vec<Output>,
}

impl Host {
    pub(crate) fn admit(&mut self, input: &Input<'_>) -> InputNo {
        let no = InputNo(self.inputs.len() as u64 + 1);
        let mut bytes = Vec::new();
        input.encode(no, &mut bytes);
        self.inputs.push(Pending {
            bytes,
            conn: input.conn().unwrap_or(ConnId::HOST),
            class: Board::classify(input),
            answer: None,
            wants_answer: matches!(input, Input::Request { .. } | Input::Poison),
            after: self.newest_answered,
        });
        no
    }

    fn waits(&self) -> impl Iterator<Item = &Pending> {
        let freed = usize::try_from(self.freed.0).expect("small");
        self.inputs[freed..].iter().filter(|p| p.wants_answer && p.answer.is_none())
    }

    /// Requests of `conn` that wait, and whether a query is among them.
    pub(crate) fn under_way(&self, conn: ConnId) -> (usize, bool) {
        let waits: Vec<_> = self.waits().filter(|p| p.conn == conn).collect();
        (waits.len(), waits.iter().any(|p| p.is_query()))
    }

    pub(crate) fn is_answered(&self, no: InputNo) -> bool {
        self.inputs[usize::try_from(no.0).expect("small") - 1].answer.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.freed.0 == self.inputs.len() as u64
    }

    /// As the intake shows it to replicas.
    pub(crate) fn input(&self, no: InputNo) -> Option<&[u8]> {
        assert!(no > self.freed, "input {no} is freed");
        let place = usize::try_from(no.0).expect("small") - 1;
        self.inputs.get(place).map(|pending| pending.bytes.as_slice())
    }

    pub(crate) fn deliver(&mut self, output: Output) {
        match &output {
            Output::Reply { input, conn, frame } => {
                let place = usize::try_from(input.0).expect("small") - 1;
                let pending = self.inputs.get_mut(place).expect("an input that was given");
                assert_eq!(pending.conn, *conn, "the answer to {input} goes elsewhere");
                if pending.answer.is_some() {
                    return;
                }
                assert!(*input > self.freed, "an answer comes after all are");
                pending.answer = Some(frame.clone());
                let (conn, class) = (*conn, pending.class);
                let earlier = self.waits().filter(|p| p.conn == conn);
                assert!(
                    earlier.map(|p| p.bytes[..8].to_vec()).all(|no| number(&no) > *input),
                    "the answer to {input} overtakes another of its connection"
                );
                match class {
                    Class::Query => return,
                    Class::Tentative | Class::Opening => {}
                    Class::Command => {
                        self.newest_answered = self.newest_answered.max(input.0);
                    }
                }
                self.sent.entry(conn).or_default().push(output);
            }
            Output::Event { no, conn, .. } => {
                if self.is_next(*no) {
                    self.sent.entry(*conn).or_default().push(output);
                }
            }
            Output::Effect { no, .. } => {
                if self.is_next(*no) {
                    self.effects.push(output);
                }
            }
        }
    }

    fn is_next(&mut self, no: OutputNo) -> bool {
        if no <= self.delivered {
            return false;
        }
        assert_eq!(no, self.delivered.next(), "an output is missing");
        self.delivered = no;
        true
    }

    pub(crate) fn release(&mut self, no: InputNo) {
        assert!(no.0 <= self.inputs.len() as u64, "{no} was never given");
        self.freed = self.freed.max(no);
        let all = self.inputs.iter().take(usize::try_from(no.0).expect("small"));
        for (pending, no) in all.zip(1_u64..) {
            assert!(!pending.wants_answer || pending.answer.is_some(), "{no} is unanswered");
        }
    }

    /// Compares all that was sent with a machine that never failed.
    pub(crate) fn judge(&self) {
        let mut reference = Numbered::<Board>::default();
        let mut sent: BTreeMap<ConnId, Vec<Output>> = BTreeMap::new();
        let mut effects = Vec::new();
        let mut outputs = Vec::new();
        // Values after each input, for what queries have seen.
        let mut boards = vec![Board::default()];
        for (pending, no) in self.inputs.iter().zip(1_u64..) {
            let input = pending.input();
            if !pending.is_query() {
                let quarantined = input == Input::Poison;
                reference.apply(InputNo(no), &input, quarantined, &mut outputs).expect("sound");
            }
            boards.push(reference.machine().clone());
            for output in outputs.drain(..) {
                match &output {
                    Output::Reply { conn, .. } | Output::Event { conn, .. } => {
                        sent.entry(*conn).or_default().push(output);
                    }
                    Output::Effect { .. } => effects.push(output),
                }
            }
        }
        assert_eq!(self.delivered, reference.last_output());
        assert_eq!(self.effects, effects);
        assert_eq!(self.sent, sent);
        let mut newest: BTreeMap<ConnId, u64> = BTreeMap::new();
        for (pending, no) in self.inputs.iter().zip(1_u64..).filter(|(p, _)| p.is_query()) {
            let (key, value, as_of) = seen(pending.answer.as_ref().expect("answered"));
            let board = &boards[usize::try_from(as_of).expect("small")];
            assert_eq!(value, board.value(key), "query {no} saw what never was");
            assert!(as_of >= pending.after, "query {no} missed what was answered before");
            let before = newest.entry(pending.conn).or_default();
            assert!(as_of >= *before, "query {no} saw less than the one before");
            *before = as_of;
        }
    }
}

fn number(bytes: &[u8]) -> InputNo {
    InputNo(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}
