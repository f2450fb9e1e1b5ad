//! Encodes snapshots in a thread of its own, so that clients do not wait for it.

use consensus::LogIndex;
use crossbeam_channel::{Receiver, Sender, bounded};
use state_machine::StateMachine;

use crate::error::Fatal;
use crate::frozen::{Frozen, Purpose};

/// An encoded snapshot.
pub(crate) struct Encoded {
    pub(crate) purpose: Purpose,
    pub(crate) index: LogIndex,
    pub(crate) bytes: Vec<u8>,
}

/// The thread's two ends. One snapshot at a time.
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
                    let encoded = Encoded {
                        purpose: frozen.purpose(),
                        index: frozen.index(),
                        bytes: frozen.encode(),
                    };
                    if done.send(encoded).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| Fatal::Os { what: "starting the snapshot thread", source })?;
        Ok(Self { frozen, encoded })
    }

    /// Gives a snapshot to encode; whether it was taken.
    pub(crate) fn give(&self, frozen: Frozen<M>) -> bool {
        self.frozen.try_send(frozen).is_ok()
    }

    /// The encoded snapshot, when it is ready.
    pub(crate) fn take(&self) -> Option<Encoded> {
        self.encoded.try_recv().ok()
    }
}
