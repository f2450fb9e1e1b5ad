//! From `boot.s` to the program's `main`.

use core::arch::global_asm;

use super::failure;
use super::heap;
use super::misdeed::Misdeed;
use super::shared::SharedExchange;
use crate::layout::{
    EXCHANGE_BYTES, EXCHANGE_GPA, EXCHANGE_VIRTUAL, FailureKind, PORT_DEBUG_EXIT, PORT_FAILED,
    PORT_SERIAL, PORT_YIELD, RAM_GRAIN_BYTES, RAM_MAX_BYTES, RAM_VIRTUAL, word,
};

global_asm!(
    include_str!("boot.s"),
    ram_virtual = const RAM_VIRTUAL,
    exchange_virtual = const EXCHANGE_VIRTUAL,
    exchange_gpa = const EXCHANGE_GPA,
    exchange_bytes = const EXCHANGE_BYTES,
    word_vector = const word::VECTOR,
    word_error_code = const word::ERROR_CODE,
    word_rip = const word::RIP,
    word_rsp = const word::RSP,
    word_cr2 = const word::CR2,
    word_failure = const word::FAILURE,
    exception = const FailureKind::Exception as u64,
    port_yield = const PORT_YIELD,
    port_failed = const PORT_FAILED,
    port_serial = const PORT_SERIAL,
    port_debug_exit = const PORT_DEBUG_EXIT,
    options(att_syntax)
);

/// What a machine without a monitor is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfTest {
    /// `selftest`: to play a script.
    Script,
    /// `selftest=panic`: to panic.
    Panic,
    /// `selftest=stack-overflow`: to use more stack than there is.
    StackOverflow,
    /// `selftest=out-of-memory`: to use more memory than there is.
    OutOfMemory,
    /// `selftest=write-text`, `=execute-data`, `=read-tables`, `=other-port`: to do
    /// what ring 3 must not be able to.
    Misdeed(Misdeed),
}

impl SelfTest {
    /// The test of the eight characters behind "selftest".
    const fn from_word(word: u64) -> Self {
        match &word.to_le_bytes() {
            [b'=', b'p', b'a', b'n', b'i', b'c', ..] => Self::Panic,
            b"=write-t" => Self::Misdeed(Misdeed::WriteText),
            b"=execute" => Self::Misdeed(Misdeed::ExecuteData),
            b"=read-ta" => Self::Misdeed(Misdeed::ReadTables),
            b"=other-p" => Self::Misdeed(Misdeed::OtherPort),
            b"=stack-o" => Self::StackOverflow,
            b"=out-of-" => Self::OutOfMemory,
            _ => Self::Script,
        }
    }
}

/// The machine as its program finds it.
#[derive(Debug)]
pub struct Machine {
    /// Its exchange.
    pub exchange: SharedExchange,
    /// The size of its heap, in bytes.
    pub heap_bytes: usize,
    /// What it is to do, where there is no monitor.
    pub self_test: Option<SelfTest>,
}

/// Names the program's main function, `fn(Machine)`. A machine whose main function
/// returns has failed.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_entry(ram_end: u64, is_self_test: u64, word: u64) -> ! {
            // SAFETY: `boot.s` comes here, once, with what `start` asks for.
            unsafe { $crate::image::start(ram_end, is_self_test, word, $main) }
        }
    };
}

/// Begins the program. For [`entry!`] alone.
///
/// # Safety
/// To be called once, first of all, with the physical end of RAM in bytes, whether
/// the command line asks for a self-test, and the eight characters behind that.
pub unsafe fn start(ram_end: u64, is_self_test: u64, word: u64, main: impl FnOnce(Machine)) -> ! {
    let mut heap_end = ram_end.min(RAM_MAX_BYTES);
    let self_test = (is_self_test != 0).then(|| SelfTest::from_word(word));
    if self_test.is_some() {
        failure::report_on_serial();
        // `boot.s` has put the exchange at the end of the memory.
        heap_end = heap_end.min(
            (ram_end.saturating_sub(EXCHANGE_BYTES as u64) / RAM_GRAIN_BYTES) * RAM_GRAIN_BYTES,
        );
    }
    // SAFETY: once each, says the caller. `boot.s` has mapped the memory up to
    // `heap_end`, and nothing but the image is in what is beyond 2 MiB of it.
    let (exchange, heap_bytes) = unsafe {
        let exchange = match self_test {
            Some(_) => SharedExchange::make(),
            None => SharedExchange::find(),
        };
        (exchange, heap::begin((RAM_VIRTUAL + heap_end) as usize))
    };
    main(Machine { exchange, heap_bytes, self_test });
    panic!("the program has ended");
}
