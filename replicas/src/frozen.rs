//! Snapshots of a replica: the state machine with its numbers, and the outputs
//! that were not delivered when it was taken. A replica that starts from one can
//! become primary and still answer everything.

use consensus::LogIndex;
use state_machine::{InputNo, Numbered, Output, OutputNo, Reader, RestoreError, StateMachine};

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
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.purpose {
            Purpose::Export { .. } => M::encode(&self.numbered.2, &mut out),
            Purpose::Log => {
                out.extend_from_slice(&(self.undelivered.len() as u64).to_le_bytes());
                for output in &self.undelivered {
                    output.encode(&mut out);
                }
                Numbered::<M>::encode(&self.numbered, &mut out);
            }
        }
        out
    }
}

/// The outputs and the state that [`Frozen::encode`] wrote for a replica.
///
/// # Errors
/// [`RestoreError`] when `bytes` are not such a snapshot.
pub fn restore<M: StateMachine>(
    bytes: &[u8],
) -> Result<(Vec<Output>, Numbered<M>), RestoreError> {
    let mut reader = Reader::new(bytes);
    let count = reader.u64()?;
    let mut outputs = Vec::new();
    for _ in 0..count {
        outputs.push(Output::decode(&mut reader)?);
    }
    let machine = Numbered::restore(&mut reader)?;
    reader.finish()?;
    Ok((outputs, machine))
}
