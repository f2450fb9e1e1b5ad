//! The bare-metal image of the unikernel: built before this crate is, from the
//! same sources as everything else, and embedded here.
#![no_std]
#![forbid(unsafe_code)]

/// Whether there is an image: it is built for Linux on `x86_64` alone.
pub const IS_BUILT: bool = cfg!(has_image);

/// The image, an ELF file with a PVH note; empty unless [`IS_BUILT`].
#[cfg(has_image)]
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/unikernel.elf"));
/// The image, an ELF file with a PVH note; empty unless [`IS_BUILT`].
#[cfg(not(has_image))]
pub const IMAGE: &[u8] = &[];
