//! Snapshots of a replica: the state machine with its numbers, and the outputs
//! that were not delivered when it was taken. A replica that starts from one can
//! become primary and still answer everything.

use consensus::LogIndex;
use state_machine::executor::State;
use state_machine::{Corruption, Digest, Numbered, Output, Reader, RestoreError, StateMachine};

use crate::executor::restore;

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For a joining replica, and to shorten the log.
    Log,
    /// For an operator.
    Export {
        /// As it was asked.
        ticket: u64,
    },
}

/// What a snapshot has beside the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is for.
    pub purpose: Purpose,
    /// The last log entry whose inputs it holds.
    pub index: LogIndex,
    /// Outputs that the host does not have yet.
    pub undelivered: Vec<Output>,
}

/// A snapshot as bytes.
#[derive(Debug)]
pub struct Encoded {
    /// What it is for.
    pub purpose: Purpose,
    /// The last log entry in it.
    pub index: LogIndex,
    /// The component's own encoding alone for an operator, everything for a
    /// replica; or what is wrong with the state that it was taken from.
    pub bytes: Result<Vec<u8>, Corruption>,
}

impl Encoded {
    /// Of a machine that was frozen in `state` and encoded as `machine`.
    ///
    /// It may be all that is left on a disk one day. So it is found out now whether
    /// what can be restored from it is the state that the replica thinks it has.
    #[must_use]
    pub fn new<M: StateMachine>(head: &Head, state: State, machine: Vec<u8>) -> Self {
        let bytes = whole::<M>(head, state, &machine);
        let checked = split(&bytes)
            .and_then(|snapshot| restore::<M>(snapshot.numbered, snapshot.digest))
            .map_err(|error| Corruption { what: format!("a snapshot of it: {error}") });
        let bytes = checked.map(|_| match head.purpose {
            Purpose::Export { .. } => machine,
            Purpose::Log => bytes,
        });
        Self { purpose: head.purpose, index: head.index, bytes }
    }
}

fn whole<M: StateMachine>(head: &Head, state: State, machine: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(machine.len() + 1024);
    out.extend_from_slice(&state.digest.0.to_le_bytes());
    out.extend_from_slice(&(head.undelivered.len() as u64).to_le_bytes());
    for output in &head.undelivered {
        output.encode(&mut out);
    }
    Numbered::<M>::frame(state.last_input, state.last_output, machine, &mut out);
    out
}

/// What is in a snapshot for a replica.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// Outputs that the host may not have.
    pub undelivered: Vec<Output>,
    /// The digest of the state when it was taken.
    pub digest: Digest,
    /// The state, as [`Numbered::encode`] has it.
    pub numbered: &'a [u8],
}

/// Takes a snapshot for a replica apart.
///
/// # Errors
/// [`RestoreError`] when `bytes` are not such a snapshot.
pub fn split(bytes: &[u8]) -> Result<Snapshot<'_>, RestoreError> {
    let mut reader = Reader::new(bytes);
    let digest = Digest(reader.u64()?);
    let count = reader.u64()?;
    let mut undelivered = Vec::new();
    for _ in 0..count {
        undelivered.push(Output::decode(&mut reader)?);
    }
    Ok(Snapshot { undelivered, digest, numbered: reader.rest() })
}

#[cfg(test)]
mod tests {
    use quickcheck::QuickCheck;
    use state_machine::{
        Class, ConnId, Input, InputNo, OutputNo, Outputs, ScrubProgress, StateMachine,
    };

    use super::*;

    /// Counts inputs.
    #[derive(Clone, Debug, Default)]
    struct Counter(u64);

    impl StateMachine for Counter {
        type Snapshot = u64;
        type Cursor = ();

        fn classify(_: &Input<'_>) -> Class {
            Class::Command
        }

        fn apply(
            &mut self,
            _: InputNo,
            _: &Input<'_>,
            out: &mut dyn Outputs,
        ) -> Result<(), Corruption> {
            self.0 += 1;
            out.event(ConnId(1), b"counted");
            Ok(())
        }

        fn query(&self, _: InputNo, _: &Input<'_>, _: &mut dyn Outputs) -> Result<(), Corruption> {
            Ok(())
        }

        fn quarantine(&mut self, _: InputNo, _: &Input<'_>, _: &mut dyn Outputs) {}

        fn can_answer(_: &Input<'_>, _: &[u8]) -> bool {
            true
        }

        fn can_be_event(_: &[u8]) -> bool {
            true
        }

        fn digest(&self) -> Digest {
            Digest(self.0)
        }

        fn freeze(&self) -> u64 {
            self.0
        }

        fn encode_part(count: &u64, (): &mut (), out: &mut Vec<u8>) -> bool {
            out.extend_from_slice(&count.to_le_bytes());
            true
        }

        fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
            let mut reader = Reader::new(bytes);
            let count = reader.u64()?;
            reader.finish()?;
            Ok(Self(count))
        }

        fn scrub(&mut self, _: usize) -> Result<ScrubProgress, Corruption> {
            Ok(ScrubProgress::PassDone)
        }

        fn flip_bit(&mut self, seed: u64) {
            self.0 ^= seed;
        }
    }

    /// A snapshot as it is, and the state and the outputs that it was taken from.
    fn taken(purpose: Purpose) -> (Head, State, Vec<u8>) {
        let mut numbered = Numbered::<Counter>::default();
        let mut undelivered = Vec::new();
        for no in [3, 4, 9] {
            assert_eq!(
                numbered.apply(InputNo(no), &Input::Boot, false, &mut undelivered),
                Ok(true)
            );
        }
        let mut machine = Vec::new();
        Counter::encode(&numbered.freeze().2, &mut machine);
        (Head { purpose, index: LogIndex(5), undelivered }, State::of(&numbered), machine)
    }

    fn encoded(purpose: Purpose) -> Result<Vec<u8>, Corruption> {
        let (head, state, machine) = taken(purpose);
        Encoded::new::<Counter>(&head, state, machine).bytes
    }

    #[test]
    fn a_replica_gets_state_numbers_and_undelivered_outputs() {
        let (head, state, _) = taken(Purpose::Log);
        let bytes = encoded(Purpose::Log).unwrap();
        let snapshot = split(&bytes).unwrap();
        assert_eq!(snapshot.undelivered, head.undelivered);
        assert_eq!(snapshot.undelivered.len(), 3);
        let numbered = restore::<Counter>(snapshot.numbered, snapshot.digest).unwrap();
        assert_eq!((numbered.last_input(), numbered.last_output()), (InputNo(9), OutputNo(3)));
        assert_eq!(State::of(&numbered), state);
    }

    #[test]
    fn a_state_that_was_damaged_is_not_taught() {
        let (head, state, mut machine) = taken(Purpose::Log);
        // A flipped bit leaves the digest, which only changes with the state.
        machine[0] ^= 1;
        let error = Encoded::new::<Counter>(&head, state, machine.clone()).bytes.unwrap_err();
        assert!(error.to_string().contains("corrupt when it was taken"), "{error}");
        // Nor believed if it was encoded all the same.
        let bytes = whole::<Counter>(&head, state, &machine);
        let snapshot = split(&bytes).unwrap();
        assert!(restore::<Counter>(snapshot.numbered, snapshot.digest).is_err());
        let head = Head { purpose: Purpose::Export { ticket: 1 }, ..head };
        assert!(Encoded::new::<Counter>(&head, state, machine).bytes.is_err());
    }

    #[test]
    fn an_operator_gets_the_components_own_encoding() {
        assert_eq!(encoded(Purpose::Export { ticket: 1 }).unwrap(), 3_u64.to_le_bytes());
    }

    #[test]
    fn what_is_cut_off_or_made_up_is_refused() {
        fn is_sound(bytes: &[u8]) -> bool {
            split(bytes).is_ok_and(|it| restore::<Counter>(it.numbered, it.digest).is_ok())
        }
        let bytes = encoded(Purpose::Log).unwrap();
        assert!(is_sound(&bytes));
        assert!((0..bytes.len()).all(|len| !is_sound(&bytes[..len])));
        assert!(!is_sound(&[&bytes[..], &[0]].concat()));
        assert!(!is_sound(&u64::MAX.to_le_bytes()));
        fn survives(bytes: Vec<u8>) -> bool {
            is_sound(&bytes);
            true
        }
        QuickCheck::new().quickcheck(survives as fn(Vec<u8>) -> bool);
    }
}
