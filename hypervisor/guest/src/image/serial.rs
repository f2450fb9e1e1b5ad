//! The serial line, for machines without a monitor that reads the exchange.

use core::fmt;

use super::port;

/// Writes to the serial line. No handshake: the line of a virtual machine is
/// always ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(port::serial);
        Ok(())
    }
}
