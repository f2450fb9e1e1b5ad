//! x
#![no_std]
#![forbid(unsafe_code)]
