//! Snapshots of a replica: the state machine with its numbers, and the outputs
//! that were not delivered when it was taken. A replica that starts from one can
//! become primary and still answer everything.

use consensus::LogIndex;
use state_machine::{
    Corruption, Digest, InputNo, Numbered, Output, OutputNo, Reader, RestoreError, StateMachine,
};

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

/// A frozen replica: cheap to take, encoded in another thread.
pub struct Frozen<M: StateMachine> {
    pub(crate) purpose: Purpose,
    pub(crate) index: LogIndex,
    pub(crate) undelivered: Vec<Output>,
    pub(crate) numbered: (InputNo, OutputNo, M::Snapshot),
    /// The state's digest, which was kept up as the state changed.
    pub(crate) digest: Digest,
}

impl<M: StateMachine> Frozen<M> {
    /// What it is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The last log entry whose inputs it holds.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The snapshot as bytes: the component's own encoding alone for an
    /// operator, everything for a replica.
    ///
    /// # Errors
    /// [`Corruption`] when what can be restored from it is not the state that the
    /// replica thinks it has. It may be all that is left on a disk one day, so that
    /// is found out now.
    pub fn encode(&self) -> Result<Vec<u8>, Corruption> {
        let mut bytes = self.whole();
        restore::<M>(&bytes)
            .map_err(|error| Corruption { what: format!("a snapshot of it: {error}") })?;
        if let Purpose::Export { .. } = self.purpose {
            bytes.clear();
            M::encode(&self.numbered.2, &mut bytes);
        }
        Ok(bytes)
    }

    fn whole(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.digest.0.to_le_bytes());
        out.extend_from_slice(&(self.undelivered.len() as u64).to_le_bytes());
        for output in &self.undelivered {
            output.encode(&mut out);
        }
        Numbered::<M>::encode(&self.numbered, &mut out);
        out
    }
}

/// The outputs and the state that [`Frozen::encode`] wrote for a replica.
///
/// # Errors
/// [`RestoreError`] when `bytes` are not such a snapshot, or were taken from a
/// state that had been damaged: its digest, made anew from the content, is
/// another then. Damage that is not found yet must not be taught.
pub fn restore<M: StateMachine>(bytes: &[u8]) -> Result<(Vec<Output>, Numbered<M>), RestoreError> {
    let mut reader = Reader::new(bytes);
    let digest = Digest(reader.u64()?);
    let count = reader.u64()?;
    let mut outputs = Vec::new();
    for _ in 0..count {
        outputs.push(Output::decode(&mut reader)?);
    }
    let machine: Numbered<M> = Numbered::restore(&mut reader)?;
    reader.finish()?;
    if machine.digest() != digest {
        return Err(RestoreError::Content("it was corrupt when it was taken".into()));
    }
    Ok((outputs, machine))
}

#[cfg(test)]
mod tests {
    use quickcheck::QuickCheck;
    use state_machine::{Class, ConnId, Corruption, Input, Outputs, ScrubProgress, StateMachine};

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

    fn frozen(purpose: Purpose) -> (Frozen<Counter>, Digest) {
        let mut numbered = Numbered::<Counter>::default();
        let mut undelivered = Vec::new();
        for no in [3, 4, 9] {
            assert_eq!(
                numbered.apply(InputNo(no), &Input::Boot, false, &mut undelivered),
                Ok(true)
            );
        }
        let digest = numbered.digest();
        let numbered = numbered.freeze();
        (Frozen { purpose, index: LogIndex(5), undelivered, numbered, digest }, digest)
    }

    #[test]
    fn a_replica_gets_state_numbers_and_undelivered_outputs() {
        let (frozen, digest) = frozen(Purpose::Log);
        let (outputs, numbered) = restore::<Counter>(&frozen.encode().unwrap()).unwrap();
        assert_eq!(outputs, frozen.undelivered);
        assert_eq!(outputs.len(), 3);
        assert_eq!((numbered.last_input(), numbered.last_output()), (InputNo(9), OutputNo(3)));
        assert_eq!(numbered.digest(), digest);
    }

    #[test]
    fn a_state_that_was_damaged_is_not_taught() {
        let (mut frozen, _) = frozen(Purpose::Log);
        // A flipped bit leaves the digest, which only changes with the state.
        frozen.numbered.2 ^= 1;
        let error = frozen.encode().unwrap_err();
        assert!(error.to_string().contains("corrupt when it was taken"), "{error}");
        // Nor believed if it was encoded all the same.
        assert!(restore::<Counter>(&frozen.whole()).is_err());
        frozen.purpose = Purpose::Export { ticket: 1 };
        assert!(frozen.encode().is_err());
    }

    #[test]
    fn an_operator_gets_the_components_own_encoding() {
        let (frozen, _) = frozen(Purpose::Export { ticket: 1 });
        assert_eq!(frozen.encode().unwrap(), 3_u64.to_le_bytes());
    }

    #[test]
    fn what_is_cut_off_or_made_up_is_refused() {
        let (frozen, _) = frozen(Purpose::Log);
        let bytes = frozen.encode().unwrap();
        assert!((0..bytes.len()).all(|len| restore::<Counter>(&bytes[..len]).is_err()));
        assert!(restore::<Counter>(&[&bytes[..], &[0]].concat()).is_err());
        assert!(restore::<Counter>(&u64::MAX.to_le_bytes()).is_err());
        fn survives(bytes: Vec<u8>) -> bool {
            let _ = restore::<Counter>(&bytes);
            true
        }
        QuickCheck::new().quickcheck(survives as fn(Vec<u8>) -> bool);
    }
}
