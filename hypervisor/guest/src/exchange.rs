//! The guest's end of the exchange, as its program sees it.

use core::ops::ControlFlow;

/// Where requests come from and answers go to.
pub trait Exchange {
    /// The request that the monitor has left.
    fn request(&self) -> &[u8];

    /// Room for an answer, or for a part of one.
    fn answer(&mut self) -> &mut [u8];

    /// Notes for the monitor which command of the request is about to be executed, by
    /// its index from 0 on: should it be the last, the monitor knows of it.
    fn note_command(&mut self, command: u64);

    /// Gives control to the monitor, with an answer of `len_bytes`; with `more`,
    /// the rest of it follows when the monitor comes back. Returns then; or, where
    /// nobody will come back, with [`ControlFlow::Break`].
    fn hand_over(&mut self, len_bytes: usize, more: bool) -> ControlFlow<()>;
}
