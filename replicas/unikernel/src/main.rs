//! The program of the image.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;
use core::fmt::Write;
use guest::image::{Machine, Serial, debug_exit, SelfTest};

guest::entry!(main);

fn main(machine: Machine) {
    let _ = writeln!(Serial, "{machine:?}");
    let v = alloc::vec![1u8; 100000];
    let _ = writeln!(Serial, "{:?}", v.len());
    match machine.self_test { Some(SelfTest::Panic) => panic!("hi"), _ => {} }
    debug_exit(0x10);
}
