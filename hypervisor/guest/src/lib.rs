//! The inside of a virtual machine: what it and its monitor agree upon, and what
//! a bare-metal image needs.
//!
//! An image is a program without an operating system, linked by `link.ld`. Its
//! `main` is named with the macro `entry` and gets an `image::Machine`; all of it
//! runs in ring 3. What goes wrong there ends the machine, with a report in the
//! exchange.
#![no_std]

mod exchange;
#[cfg(feature = "image")]
pub mod image;
pub mod layout;
#[cfg(any(feature = "image", test))]
mod memory;

pub use exchange::Exchange;
