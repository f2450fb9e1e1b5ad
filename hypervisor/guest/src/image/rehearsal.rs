//! An exchange whose monitor is played by the guest itself.

use core::ops::ControlFlow;

use super::shared::{SharedExchange, write_word};
use crate::Exchange;
use crate::layout::word;

/// A [`SharedExchange`] without a monitor: everything is as with one, but that a
/// function plays its part. It gets a part of an answer, whether more follows, and
/// room for the next request; it returns the length of that in bytes, or `None` to
/// end the play.
#[derive(Debug)]
pub struct Rehearsal<F> {
    shared: SharedExchange,
    monitor: F,
}

impl<F: FnMut(&[u8], bool, &mut [u8]) -> Option<usize>> Rehearsal<F> {
    /// Has `monitor` play the monitor.
    pub const fn new(shared: SharedExchange, monitor: F) -> Self {
        Self { shared, monitor }
    }
}

impl<F: FnMut(&[u8], bool, &mut [u8]) -> Option<usize>> Exchange for Rehearsal<F> {
    fn request(&self) -> &[u8] {
        self.shared.request()
    }

    fn answer(&mut self) -> &mut [u8] {
        self.shared.answer()
    }

    fn note_command(&mut self, command: u64) {
        self.shared.note_command(command);
    }

    fn hand_over(&mut self, len_bytes: usize, more: bool) -> ControlFlow<()> {
        self.shared.announce(len_bytes, more);
        let (answer, request) = self.shared.areas();
        match (self.monitor)(&answer[..len_bytes], more, request) {
            Some(len_bytes) => {
                write_word(word::REQUEST_LEN, len_bytes as u64);
                self.shared.look();
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }
}
