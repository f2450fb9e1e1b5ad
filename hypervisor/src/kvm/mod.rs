//! Small virtual machines on KVM, for unikernels: a [`Machine`] has one virtual
//! processor, memory of its own, and the exchange (see [`guest::layout`]), and no
//! device whatsoever. It runs only while its owner's thread is inside
//! [`Machine::run`] or [`Machine::call`]: control comes back when the guest yields
//! or fails. A guest that does neither is fenced by the end of the process, with
//! which its processor and its memory go.
//!
//! The guest is taken to be hostile. All it can reach is its memory and the
//! exchange; whatever it writes there is read once and checked, it never makes
//! the host panic or grow without bound, and after any misdeed the machine does
//! not run again.
//!
//! # System calls
//! A process that locks itself in after [`Machine::boot`] needs, for
//! [`Machine::run`] and [`Machine::call`]: `ioctl` with the request [`KVM_RUN`], and
//! what the allocator needs (`mmap`, `mremap`, `munmap`, `brk`). For dropping a
//! machine: `munmap` and `close`, and `fcntl` with `F_GETFD` in debug builds. For
//! [`Machine::resident_bytes`]: `mincore`. Booting opens `/dev/kvm` and makes many
//! other requests; it has to happen before.

mod availability;
#[cfg(target_arch = "x86_64")]
mod boot;
#[cfg(target_arch = "x86_64")]
mod exchange;
#[cfg(target_arch = "x86_64")]
mod failure;
#[cfg(target_arch = "x86_64")]
mod image;
#[cfg(target_arch = "x86_64")]
mod machine;
#[cfg(target_arch = "x86_64")]
mod memory;

pub use availability::{Availability, Underneath};
#[cfg(target_arch = "x86_64")]
pub use {
    failure::{BadAnswer, Failure, LastWords},
    image::{Image, ImageError},
    machine::{Exit, Machine, MachineConfig, Outcome},
    memory::MemoryView,
};

/// The `ioctl` request that enters a guest, from `linux/kvm.h`: `_IO(0xAE, 0x80)`.
/// The only one that a machine makes after its boot.
pub const KVM_RUN: u64 = 0xae80;

/// Why a machine could not be made or entered. What a guest does wrong is no
/// error but a [`Failure`].
#[cfg(target_arch = "x86_64")]
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// This process cannot use KVM at all.
    #[error("{0}")]
    Unavailable(Availability),
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// What was attempted.
        call: &'static str,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// Memory for the guest cannot be had.
    #[error("guest memory of {bytes} bytes: {source}")]
    Memory {
        /// How much was asked for.
        bytes: u64,
        /// Why not.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// A guest cannot have so much memory; see [`guest::layout`].
    #[error("a guest cannot have {bytes} bytes of memory")]
    MemorySize {
        /// How much was asked for.
        bytes: u64,
    },
    /// The image does not fit.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The command line is too long, or contains a zero byte.
    #[error("a command line of {bytes} bytes cannot be handed over")]
    CommandLine {
        /// Its length.
        bytes: usize,
    },
    /// The request does not fit into the exchange. The machine is as it was.
    #[error("a request of {bytes} bytes does not fit into the exchange")]
    RequestTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nothing can be asked of a guest before its first yield.
    #[error("the guest has not yielded for the first time yet")]
    NotReady,
    /// The guest has failed before; its machine never runs again.
    #[error("the guest has failed before")]
    Spent,
    /// An access outside a guest's memory.
    #[error("{len} bytes at {offset:#x} are outside of the memory")]
    OutOfBounds {
        /// Where the access begins, in bytes.
        offset: usize,
        /// Its length in bytes.
        len: usize,
    },
}

#[cfg(target_arch = "x86_64")]
fn system<E: Into<std::io::Error>>(call: &'static str) -> impl Fn(E) -> KvmError {
    move |source| KvmError::System { call, source: source.into() }
}
