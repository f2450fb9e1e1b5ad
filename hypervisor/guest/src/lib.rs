//! The inside of a virtual machine: what it and its monitor agree upon, and what
//! a bare-metal image needs.
#![no_std]

pub mod layout;
