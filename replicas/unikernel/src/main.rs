//! The program of the image: answers its monitor; where there is none, tests
//! itself.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use core::hint::black_box;

use guest::image::{self, Machine, SelfTest, Serial};
use state_machine::executor::Executor;
use unikernel::{Rehearsal, serve};
use xenstore::Xenstore;

/// What a machine without a monitor exits with after a self-test that it survived,
/// and was meant to; see [`image::debug_exit`].
const EXIT_DONE: u8 = 0x10;

guest::entry!(main);

fn main(machine: Machine) {
    // The bytes of a snapshot and the state that is made of them are both there for
    // a moment, beside the state that is replaced.
    let mut executor = Executor::<Xenstore>::new(machine.heap_bytes / 4);
    let mut exchange = machine.exchange;
    match machine.self_test {
        None => serve(&mut exchange, &mut executor),
        Some(SelfTest::Script) => {
            let mut rehearsal = Rehearsal::new(Serial);
            let monitor =
                |answer: &[u8], more, request: &mut [u8]| rehearsal.play(answer, more, request);
            serve(&mut image::Rehearsal::new(exchange, monitor), &mut executor);
            image::debug_exit(EXIT_DONE);
        }
        Some(SelfTest::Panic) => panic!("as the command line asks for"),
        Some(SelfTest::Misdeed(misdeed)) => misdeed.commit(),
        Some(SelfTest::StackOverflow) => {
            black_box(deep(u64::MAX));
        }
        Some(SelfTest::OutOfMemory) => {
            let mut kept = Vec::new();
            loop {
                kept.push(black_box(alloc::vec![1_u8; 100_000]));
            }
        }
    }
}

/// Uses stack without end, in effect.
fn deep(left: u64) -> u64 {
    let kept = black_box([left; 64]);
    if left == 0 { 0 } else { deep(left - 1) + kept[63] }
}
