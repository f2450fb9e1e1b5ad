//! Encodes snapshots beside the replica, so that clients do not wait for it.

use consensus::LogIndex;
use crossbeam_channel::{Receiver, Sender, bounded};
use state_machine::{Corruption, StateMachine};

use crate::error::Fatal;
use crate::frozen::{Frozen, Purpose};

/// An encoded snapshot.
#[derive(Debug)]
pub struct Encoded {
    /// What it is for.
    pub purpose: Purpose,
    /// The last log entry in it.
    pub index: LogIndex,
    /// It, or what is wrong with the state that it was taken from.
    pub bytes: Result<Vec<u8>, Corruption>,
}

impl Encoded {
    /// Encodes a frozen state.
    #[must_use]
    pub fn from_frozen<M: StateMachine>(frozen: Frozen<M>) -> Self {
        Self { purpose: frozen.purpose(), index: frozen.index(), bytes: frozen.encode() }
    }
}

/// Encodes one snapshot at a time, while its owner goes on.
pub trait Encode<M: StateMachine> {
    /// Gives a snapshot to encode; whether it was taken.
    fn give(&mut self, frozen: Frozen<M>) -> bool;

    /// The encoded snapshot, when it is ready.
    fn take(&mut self) -> Option<Encoded>;
}

/// Encodes in a thread of its own; its two ends.
pub(crate) struct Encoder<M: StateMachine> {
    frozen: Sender<Frozen<M>>,
    encoded: Receiver<Encoded>,
}

impl<M: StateMachine + 'static> Encoder<M> {
    /// Starts the thread; to be called before the sandbox closes.
    pub(crate) fn start() -> Result<Self, Fatal> {
        let (frozen, to_encode) = bounded::<Frozen<M>>(1);
        let (done, encoded) = bounded(1);
        std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || {
                for frozen in to_encode {
                    if done.send(Encoded::from_frozen(frozen)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| Fatal::Os { what: "starting the snapshot thread", source })?;
        Ok(Self { frozen, encoded })
    }
}

impl<M: StateMachine> Encode<M> for Encoder<M> {
    fn give(&mut self, frozen: Frozen<M>) -> bool {
        self.frozen.try_send(frozen).is_ok()
    }

    fn take(&mut self) -> Option<Encoded> {
        self.encoded.try_recv().ok()
    }
}
