//! A xenstore behind commands is the same as one that is called directly.

use quickcheck::{Arbitrary, Gen, QuickCheck};
use state_machine::executor::{Answer, Command, Executor, Refusal, State};
use state_machine::{
    ConnId, Corruption, DomId, Input, InputNo, Numbered, Output, Reader, StateMachine, mix64,
};
use xenstore::Xenstore;
use xenstore::wire::{MessageType, frame};

/// Bytes of a request from which on it is sent.
const REQUEST_BYTES: usize = 500;

/// Something to do; [`Step::with`] makes a command of it.
#[derive(Clone, Copy, Debug)]
struct Step(u64);

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Self {
        Self(u64::arbitrary(g))
    }
}

impl Step {
    /// A number below `bound`, for the `use_no`th use of this step.
    fn below(self, use_no: u64, bound: u64) -> u64 {
        mix64(self.0 ^ mix64(use_no)) % bound
    }

    fn path(self) -> String {
        let depth = 1 + self.below(1, 3);
        (0..depth)
            .map(|at| format!("/{}", ["a", "b", "c"][self.below(2 + at, 3) as usize]))
            .collect()
    }

    fn request(self) -> Vec<u8> {
        use MessageType::{
            Directory, GetPerms, Introduce, Mkdir, Read, Rm, SetPerms, TransactionEnd,
            TransactionStart, Unwatch, Watch, Write,
        };
        let path = self.path();
        let (kind, payload) = match self.below(10, 15) {
            0 | 1 => (Read, format!("{path}\0")),
            2 => (Directory, format!("{path}\0")),
            3 => (GetPerms, format!("{path}\0")),
            4..=6 => (Write, format!("{path}\0value {}", self.0)),
            7 => (Mkdir, format!("{path}\0")),
            8 => (Rm, format!("{path}\0")),
            9 => (SetPerms, format!("{path}\0r5\0")),
            10 => (Watch, format!("{path}\0token\0")),
            11 => (Unwatch, format!("{path}\0token\0")),
            12 => (TransactionStart, "\0".into()),
            13 => (TransactionEnd, "T\0".into()),
            _ => (Introduce, "5\x001\x002\0".into()),
        };
        let tx =
            if kind == TransactionStart { 0 } else { [0, 0, 1, 2][self.below(11, 4) as usize] };
        let mut bytes = Vec::new();
        frame(kind, self.0 as u32, tx, payload.as_bytes(), &mut bytes);
        if self.below(12, 40) == 0 {
            let at = self.below(13, bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.below(14, 8);
        }
        bytes
    }

    /// Calls `done` with a command; most carry out an input with the number `no`.
    fn with(self, no: u64, done: impl FnOnce(&Command<'_>)) {
        let conn = ConnId([1, 1, 5][self.below(20, 3) as usize]);
        let domid = DomId(if conn.0 == 5 { 5 } else { 0 });
        let frame = self.request();
        let input = match self.below(21, 30) {
            0 => Input::Boot,
            1..=4 => Input::Open { conn, domid },
            5 => Input::Close { conn },
            6 => Input::DomainGone { domid: DomId(5) },
            _ => Input::Request { conn, frame: &frame },
        };
        let no = InputNo(no - self.below(22, 12) / 11);
        done(&match self.below(23, 24) {
            0 => Command::Query { no, input },
            1 => Command::Refuse { no, input },
            2 => Command::Apply { no, quarantined: true, input },
            3 => Command::State,
            4 => Command::Freeze,
            5 => Command::EncodeSnapshot,
            6 => Command::Scrub { budget: self.below(24, 50) },
            _ => Command::Apply { no, quarantined: false, input },
        });
    }
}

type Frozen = (<Xenstore as StateMachine>::Snapshot, <Xenstore as StateMachine>::Cursor);

/// What the answer has to be, from calls of the machine itself.
fn direct(
    machine: &mut Numbered<Xenstore>,
    frozen: &mut Option<Frozen>,
    command: &Command<'_>,
) -> Answer {
    let state = |machine: &Numbered<Xenstore>| State {
        last_input: machine.last_input(),
        last_output: machine.last_output(),
        digest: machine.digest(),
    };
    let mut outputs: Vec<Output> = Vec::new();
    let result = match *command {
        Command::Apply { no, quarantined, input } => machine
            .apply(no, &input, quarantined, &mut outputs)
            .map(|applied| Answer::Outputs { applied, outputs }),
        Command::Query { no, input } => machine
            .query(no, &input, &mut outputs)
            .map(|()| Answer::Outputs { applied: false, outputs }),
        Command::Refuse { no, input } => {
            machine.refuse(no, &input, &mut outputs);
            Ok(Answer::Outputs { applied: false, outputs })
        }
        Command::State => Ok(Answer::State(state(machine))),
        Command::Freeze => {
            *frozen = Some((machine.machine().freeze(), Default::default()));
            Ok(Answer::State(state(machine)))
        }
        Command::EncodeSnapshot => Ok(match frozen {
            Some((snapshot, cursor)) => {
                let mut bytes = Vec::new();
                let last = Xenstore::encode_part(snapshot, cursor, &mut bytes);
                if last {
                    *frozen = None;
                }
                Answer::Snapshot { last, bytes }
            }
            None => Answer::Refused(Refusal::NothingFrozen),
        }),
        Command::Scrub { budget } => {
            machine.machine_mut().scrub(budget as usize).map(Answer::Scrubbed)
        }
        _ => unreachable!("a step is none of these"),
    };
    result.unwrap_or_else(|corruption| Answer::Refused(Refusal::Corrupt(corruption)))
}

fn answers(bytes: &[u8]) -> Vec<Answer> {
    let mut reader = Reader::new(bytes);
    let mut answers = Vec::new();
    while !reader.is_empty() {
        answers.push(Answer::decode(&mut reader).expect("an answer"));
    }
    answers
}

#[test]
fn it_answers_as_the_machine_itself() {
    fn property(steps: Vec<Step>) -> bool {
        let (mut machine, mut frozen) = (Numbered::<Xenstore>::default(), None);
        let mut executor = Executor::<Xenstore>::new(1 << 20);
        let (mut request, mut wanted, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for (no, step) in (1..).zip(&steps) {
            step.with(no, |command| {
                command.encode(&mut request);
                wanted.push(direct(&mut machine, &mut frozen, command));
            });
            if request.len() > REQUEST_BYTES {
                executor.execute(&request, &mut found);
                request.clear();
            }
        }
        Command::State.encode(&mut request);
        wanted.push(direct(&mut machine, &mut frozen, &Command::State));
        executor.execute(&request, &mut found);
        assert_eq!(answers(&found), wanted);
        true
    }
    let mut cases = QuickCheck::new().rng(Gen::new(300)).tests(200);
    cases.quickcheck(property as fn(Vec<Step>) -> bool);
}

/// An executor that has done `steps`, and its state.
fn after(steps: &[Step]) -> (Executor<Xenstore>, State) {
    let mut executor = Executor::new(1 << 20);
    let mut request = Vec::new();
    let open = Input::Open { conn: ConnId(1), domid: DomId(0) };
    Command::Apply { no: InputNo(1), quarantined: false, input: open }.encode(&mut request);
    for (no, step) in (2..).zip(steps) {
        step.with(no, |command| {
            if matches!(command, Command::Apply { .. }) {
                command.encode(&mut request);
            }
        });
    }
    Command::State.encode(&mut request);
    let mut found = Vec::new();
    executor.execute(&request, &mut found);
    let Some(Answer::State(state)) = answers(&found).pop() else { panic!("a state") };
    (executor, state)
}

fn ask(executor: &mut Executor<Xenstore>, commands: &[Command<'_>]) -> Vec<Answer> {
    let (mut request, mut found) = (Vec::new(), Vec::new());
    commands.iter().for_each(|command| command.encode(&mut request));
    executor.execute(&request, &mut found);
    answers(&found)
}

#[test]
fn a_snapshot_makes_another_executor_the_same() {
    fn property(steps: Vec<Step>, others: Vec<Step>, part: usize) -> bool {
        let (mut executor, state) = after(&steps);
        assert_eq!(ask(&mut executor, &[Command::Freeze]), [Answer::State(state)]);
        let mut encoding = Vec::new();
        loop {
            let answers = ask(&mut executor, &[Command::EncodeSnapshot]);
            let [Answer::Snapshot { last, bytes }] = &answers[..] else { panic!("{answers:?}") };
            encoding.extend_from_slice(bytes);
            if *last {
                break;
            }
        }
        let machine = Xenstore::restore(&encoding).unwrap();
        let mut own = Vec::new();
        Xenstore::encode(&machine.freeze(), &mut own);
        assert_eq!(own, encoding);
        let mut bytes = Vec::new();
        Numbered::<Xenstore>::frame(state.last_input, state.last_output, &encoding, &mut bytes);

        let (mut other, _) = after(&others);
        for bytes in bytes.chunks(part % 1000 + 1) {
            assert_eq!(ask(&mut other, &[Command::RestorePart { bytes }]), [Answer::Done]);
        }
        let end = [Command::RestoreEnd { digest: state.digest }, Command::State];
        assert_eq!(ask(&mut other, &end), [Answer::State(state), Answer::State(state)]);
        true
    }
    let mut cases = QuickCheck::new().rng(Gen::new(150)).tests(50);
    cases.quickcheck(property as fn(Vec<Step>, Vec<Step>, usize) -> bool);
}

#[test]
fn a_flipped_bit_is_found_and_poison_is_deadly() {
    let steps: Vec<_> = (0..300).map(Step).collect();
    let (mut executor, _) = after(&steps);
    let flip = Command::FlipBit { seed: 5 };
    let scrub = Command::Scrub { budget: 10_000 };
    let [Answer::Done, Answer::Refused(Refusal::Corrupt(Corruption { .. }))] =
        &ask(&mut executor, &[flip, scrub, Command::State])[..]
    else {
        panic!("corruption")
    };
    let (mut executor, _) = after(&steps);
    let poison =
        |quarantined| Command::Apply { no: InputNo(999), quarantined, input: Input::Poison };
    let refused = ask(&mut executor, &[poison(false), Command::State]);
    assert!(matches!(&refused[..], [Answer::Refused(Refusal::Corrupt(_))]));
    let answered = ask(&mut executor, &[poison(true)]);
    assert!(matches!(&answered[..], [Answer::Outputs { applied: true, .. }]));
}
