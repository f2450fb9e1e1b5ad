use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use quickcheck::{Arbitrary, Gen, QuickCheck};

use super::*;
use crate::{
    Class, ConnId, Corruption, DomId, Input, InputNo, Output, OutputNo, Outputs, RestoreError,
    ScrubProgress,
};

/// Adds up the lengths of requests; a request of 13 bytes finds it corrupt.
#[derive(Clone, Debug, Default)]
struct Adder {
    sum: u64,
    written: u64,
}

impl StateMachine for Adder {
    type Snapshot = Self;
    /// Bytes that are encoded.
    type Cursor = usize;

    fn classify(_: &Input<'_>) -> Class {
        Class::Command
    }

    fn apply(
        &mut self,
        _: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        if let Input::Request { conn, frame } = *input {
            if frame.len() == 13 {
                return Err(Corruption { what: "13".into() });
            }
            self.sum = self.sum.wrapping_add(frame.len() as u64);
            self.written = self.sum;
            out.reply(conn, frame);
            out.event(conn, b"added");
        }
        Ok(())
    }

    fn query(&self, _: InputNo, _: &Input<'_>, out: &mut dyn Outputs) -> Result<(), Corruption> {
        out.reply(ConnId(9), &self.sum.to_le_bytes());
        Ok(())
    }

    fn quarantine(&mut self, _: InputNo, _: &Input<'_>, out: &mut dyn Outputs) {
        out.reply(ConnId(8), b"no");
    }

    fn can_answer(_: &Input<'_>, _: &[u8]) -> bool {
        true
    }

    fn can_be_event(_: &[u8]) -> bool {
        true
    }

    fn digest(&self) -> Digest {
        Digest(self.written)
    }

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn encode_part(snapshot: &Self, done: &mut usize, out: &mut Vec<u8>) -> bool {
        let left = &snapshot.sum.to_le_bytes()[*done..];
        let part = &left[..left.len().min(3)];
        out.extend_from_slice(part);
        *done += part.len();
        part.len() == left.len()
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut reader = Reader::new(bytes);
        let sum = reader.u64()?;
        reader.finish()?;
        Ok(Self { sum, written: sum })
    }

    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Corruption> {
        match (self.sum == self.written, budget) {
            (false, _) => Err(Corruption { what: "the sum".into() }),
            (true, 0) => Ok(ScrubProgress::Within),
            (true, _) => Ok(ScrubProgress::PassDone),
        }
    }

    fn flip_bit(&mut self, seed: u64) {
        self.sum ^= 1 << (seed % 64);
    }
}

fn request(commands: &[Command<'_>]) -> Vec<u8> {
    let mut request = Vec::new();
    commands.iter().for_each(|command| command.encode(&mut request));
    request
}

fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let mut reader = Reader::new(bytes);
        answers.push(Answer::decode(&mut reader).unwrap());
        bytes = reader.rest();
    }
    answers
}

fn ask(executor: &mut Executor<Adder>, commands: &[Command<'_>]) -> Vec<Answer> {
    let mut bytes = Vec::new();
    executor.execute(&request(commands), &mut bytes);
    answers(&bytes)
}

fn apply(no: u64, frame: &[u8]) -> Command<'_> {
    let input = Input::Request { conn: ConnId(1), frame };
    Command::Apply { no: InputNo(no), quarantined: false, input }
}

fn reply(no: u64, conn: u64, frame: &[u8]) -> Output {
    Output::Reply { input: InputNo(no), conn: ConnId(conn), frame: frame.into() }
}

#[test]
fn every_command_is_answered_in_its_place() {
    let mut executor = Executor::<Adder>::new(100);
    let input = Input::Boot;
    let [first, again, quarantined, query, refused, state, scrubbed] = &ask(
        &mut executor,
        &[
            apply(3, b"abc"),
            apply(3, b"abc"),
            Command::Apply { no: InputNo(4), quarantined: true, input },
            Command::Query { no: InputNo(5), input },
            Command::Refuse { no: InputNo(2), input },
            Command::State,
            Command::Scrub { budget: u64::MAX },
        ],
    )[..] else {
        panic!("an answer each")
    };
    let event = Output::Event { no: OutputNo(1), conn: ConnId(1), frame: b"added"[..].into() };
    let outputs = vec![reply(3, 1, b"abc"), event];
    assert_eq!(*first, Answer::Outputs { applied: true, outputs });
    assert_eq!(*again, Answer::Outputs { applied: false, outputs: vec![] });
    let outputs = vec![reply(4, 8, b"no")];
    assert_eq!(*quarantined, Answer::Outputs { applied: true, outputs });
    let outputs = vec![reply(5, 9, &3_u64.to_le_bytes())];
    assert_eq!(*query, Answer::Outputs { applied: false, outputs });
    let outputs = vec![reply(2, 8, b"no")];
    assert_eq!(*refused, Answer::Outputs { applied: false, outputs });
    assert_eq!(*state, Answer::State(State::of(&executor.numbered)));
    assert_eq!(executor.numbered.last_input(), InputNo(4));
    assert_eq!(*scrubbed, Answer::Scrubbed(ScrubProgress::PassDone));
}

/// Freezes the state and encodes all of it, as it can be restored.
fn taken(executor: &mut Executor<Adder>) -> (State, Vec<u8>) {
    let [Answer::State(state)] = ask(executor, &[Command::Freeze])[..] else { panic!("a state") };
    let mut machine = Vec::new();
    loop {
        match &ask(executor, &[Command::EncodeSnapshot])[..] {
            [Answer::Snapshot { last, bytes }] => {
                machine.extend_from_slice(bytes);
                if *last {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let mut bytes = Vec::new();
    Numbered::<Adder>::frame(state.last_input, state.last_output, &machine, &mut bytes);
    (state, bytes)
}

#[test]
fn a_snapshot_is_encoded_in_parts_of_what_was_frozen() {
    let mut executor = Executor::<Adder>::new(100);
    let answers = ask(
        &mut executor,
        &[
            apply(1, b"abc"),
            Command::Freeze,
            Command::EncodeSnapshot,
            apply(2, b"later"),
            Command::EncodeSnapshot,
            Command::EncodeSnapshot,
            Command::EncodeSnapshot,
        ],
    );
    let part = |last, bytes: &[u8]| Answer::Snapshot { last, bytes: bytes.to_vec() };
    assert_eq!(answers[2], part(false, &[3, 0, 0]));
    assert_eq!(answers[4..6], [part(false, &[0, 0, 0]), part(true, &[0, 0])]);
    assert_eq!(answers[6], Answer::Refused(Refusal::NothingFrozen), "after the last part");
    // What is frozen anew is encoded from its beginning.
    let [_, _, _, again] = &ask(
        &mut executor,
        &[Command::Freeze, Command::EncodeSnapshot, Command::Freeze, Command::EncodeSnapshot],
    )[..] else {
        panic!("an answer each")
    };
    assert_eq!(*again, part(false, &[8, 0, 0]));
}

#[test]
fn a_snapshot_travels_in_parts() {
    let mut executor = Executor::<Adder>::new(100);
    ask(&mut executor, &[apply(1, b"abc")]);
    let mut wanted = Vec::new();
    Numbered::<Adder>::encode(&executor.numbered.freeze(), &mut wanted);
    let (frozen, bytes) = taken(&mut executor);
    assert_eq!(bytes, wanted);

    let mut other = Executor::<Adder>::new(bytes.len());
    for part in bytes.chunks(5) {
        let done = ask(&mut other, &[Command::RestorePart { bytes: part }]);
        assert_eq!(done, [Answer::Done]);
    }
    let restored = ask(&mut other, &[Command::RestoreEnd { digest: frozen.digest }]);
    assert_eq!(restored, [Answer::State(frozen)]);
}

#[test]
fn what_cannot_be_restored_leaves_the_machine_as_it_was() {
    let mut executor = Executor::<Adder>::new(40);
    ask(&mut executor, &[apply(1, b"abc")]);
    let (state, good) = taken(&mut executor);
    for (bytes, digest) in [
        (&good[..], Digest(1)),
        (&good[1..], state.digest),
        (&[&good[..], b"x"].concat(), state.digest),
        (b"", state.digest),
    ] {
        let answers = ask(
            &mut executor,
            &[Command::RestorePart { bytes }, Command::RestoreEnd { digest }, Command::State],
        );
        let [Answer::Done, Answer::Refused(Refusal::Restore(_)), after] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!(*after, Answer::State(state));
    }
    let long = Command::RestorePart { bytes: &[0; 21] };
    let answers = ask(&mut executor, &[long, long, long]);
    assert_eq!(
        answers,
        [Answer::Done, Answer::Refused(Refusal::TooLong { max_bytes: 40 }), Answer::Done]
    );
}

#[test]
fn corruption_ends_a_request_and_damage_is_not_taught() {
    let mut executor = Executor::<Adder>::new(100);
    let corrupt = |what: &str| Answer::Refused(Refusal::Corrupt(Corruption { what: what.into() }));
    assert_eq!(ask(&mut executor, &[apply(1, &[0; 13]), Command::State]), [corrupt("13")]);
    let flip = Command::FlipBit { seed: 7 };
    let scrub = Command::Scrub { budget: 1 };
    assert_eq!(ask(&mut executor, &[flip, scrub, scrub]), [Answer::Done, corrupt("the sum")]);
    let (State { digest, .. }, bytes) = taken(&mut executor);
    let part = Command::RestorePart { bytes: &bytes };
    let answers = ask(&mut Executor::<Adder>::new(100), &[part, Command::RestoreEnd { digest }]);
    let [Answer::Done, Answer::Refused(Refusal::Restore(found))] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert!(found.contains("corrupt when it was taken"), "{found}");
}

#[test]
fn what_is_no_command_ends_a_request() {
    let mut executor = Executor::<Adder>::new(100);
    let mut bytes = request(&[Command::State]);
    bytes.extend_from_slice(&[99, 4, 4, 4]);
    let mut found = Vec::new();
    executor.execute(&bytes, &mut found);
    let [Answer::State(_), Answer::Refused(refusal @ Refusal::NoCommand(_))] = &answers(&found)[..]
    else {
        panic!("two answers")
    };
    assert!(refusal.is_final());
    found.clear();
    executor.execute(&[], &mut found);
    assert!(found.is_empty());
}

/// Notes after how many answers a command was begun.
#[derive(Default)]
struct Noting {
    bytes: Vec<u8>,
    begun: Vec<(u64, usize)>,
}

impl Sink for Noting {
    fn begin(&mut self, command: u64) {
        self.begun.push((command, answers(&self.bytes).len()));
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.put(bytes);
    }
}

#[test]
fn every_command_is_announced_before_it_is_executed() {
    let mut executor = Executor::<Adder>::new(100);
    for corrupt in 0..4 {
        let mut commands = vec![Command::State; 4];
        commands[corrupt] = apply(1, &[0; 13]);
        let mut sink = Noting::default();
        executor.execute(&request(&commands), &mut sink);
        let wanted: Vec<_> = (0..=corrupt).map(|index| (index as u64, index)).collect();
        assert_eq!(sink.begun, wanted, "and none after the last that was executed");
    }
    let mut sink = Noting::default();
    executor.execute(&[], &mut sink);
    assert!(sink.begun.is_empty());
}

/// A command with its bytes.
#[derive(Clone, Debug)]
struct Any {
    kind: u8,
    no: u64,
    conn: u64,
    bytes: Vec<u8>,
}

impl Any {
    fn command(&self) -> Command<'_> {
        let Self { kind, no, conn, ref bytes } = *self;
        let (no, conn) = (InputNo(no), ConnId(conn));
        let input = match kind / 16 % 8 {
            0 => Input::Boot,
            1 => Input::Open { conn, domid: DomId(conn.0 as u16) },
            2 => Input::Close { conn },
            3 => Input::Request { conn, frame: bytes },
            4 => Input::DomainGone { domid: DomId(conn.0 as u16) },
            5 => Input::DomainShutDown,
            6 => Input::DomainExists { domid: DomId(conn.0 as u16) },
            _ => Input::Poison,
        };
        match kind % 12 {
            0 => Command::Apply { no, quarantined: false, input },
            1 => Command::Apply { no, quarantined: true, input },
            2 => Command::Query { no, input },
            3 => Command::Refuse { no, input },
            4 => Command::State,
            5 => Command::Freeze,
            6 => Command::EncodeSnapshot,
            7 => Command::RestorePart { bytes },
            8 => Command::RestoreEnd { digest: Digest(conn.0) },
            9 => Command::Scrub { budget: conn.0 },
            _ => Command::FlipBit { seed: conn.0 },
        }
    }
}

impl Arbitrary for Any {
    fn arbitrary(g: &mut Gen) -> Self {
        Self {
            kind: u8::arbitrary(g),
            no: u64::arbitrary(g),
            conn: u64::arbitrary(g),
            bytes: Vec::arbitrary(g),
        }
    }
}

#[test]
fn commands_come_back_as_they_were_and_never_cut_off() {
    fn property(any: Any) -> bool {
        let bytes = request(&[any.command()]);
        let mut reader = Reader::new(&bytes);
        Command::decode(&mut reader) == Ok(any.command())
            && reader.is_empty()
            && (0..bytes.len()).all(|len| Command::decode(&mut Reader::new(&bytes[..len])).is_err())
    }
    QuickCheck::new().quickcheck(property as fn(Any) -> bool);
}

#[test]
fn answers_come_back_as_they_were_and_never_cut_off() {
    let outputs = vec![
        reply(1, 2, b"three"),
        Output::Effect { no: OutputNo(7), bytes: Box::from(&b"do"[..]) },
    ];
    let state =
        State { last_input: InputNo(1), last_output: OutputNo(2), digest: Digest(u64::MAX) };
    for answer in [
        Answer::Outputs { applied: true, outputs: outputs.clone() },
        Answer::Outputs { applied: false, outputs },
        Answer::State(state),
        Answer::Snapshot { last: false, bytes: vec![1; 300] },
        Answer::Snapshot { last: true, bytes: vec![] },
        Answer::Scrubbed(ScrubProgress::Within),
        Answer::Scrubbed(ScrubProgress::PassDone),
        Answer::Done,
        Answer::Refused(Refusal::Corrupt(Corruption { what: "bits".into() })),
        Answer::Refused(Refusal::Restore("why".into())),
        Answer::Refused(Refusal::NoCommand("what".into())),
        Answer::Refused(Refusal::NothingFrozen),
        Answer::Refused(Refusal::TooLong { max_bytes: 9 }),
    ] {
        let mut bytes = Vec::new();
        answer.encode(&mut bytes);
        assert_eq!(answers(&bytes), [answer]);
        for len in 0..bytes.len() {
            assert!(Answer::decode(&mut Reader::new(&bytes[..len])).is_err());
        }
    }
}

#[test]
fn garbage_is_answered_and_never_a_panic() {
    fn property(commands: Vec<Any>, at: usize, garbage: Vec<u8>) -> bool {
        let commands: Vec<_> = commands.iter().map(Any::command).collect();
        let mut bytes = request(&commands);
        let at = if bytes.is_empty() { 0 } else { at % bytes.len() };
        let end = (at + garbage.len()).min(bytes.len());
        bytes.splice(at..end, garbage.iter().copied());
        let mut executor = Executor::<Adder>::new(64);
        let mut found = Vec::new();
        executor.execute(&bytes, &mut found);
        // On the other side neither.
        let _ = Answer::decode(&mut Reader::new(&bytes));
        bytes.is_empty() == answers(&found).is_empty()
    }
    QuickCheck::new().tests(500).quickcheck(property as fn(Vec<Any>, usize, Vec<u8>) -> bool);
}
