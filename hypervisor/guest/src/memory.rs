//! The functions that compilers take for granted.
//!
//! None of them has a loop over bytes in Rust: the compiler would see `memcpy` in
//! it, and call it. Up to 64 bytes go through registers, which also makes overlaps
//! harmless; for more the processor's own string instructions are as good as any.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_set1_epi8, _mm_storeu_si128};
use core::ffi::c_int;

/// Copies `len` bytes, 64 at most, by loading everything before storing anything.
///
/// # Safety
/// As for [`core::ptr::copy`].
#[inline(always)]
unsafe fn copy_small(to: *mut u8, from: *const u8, len: usize) {
    /// Copies between one and two times the size of `T`, as two that may overlap.
    ///
    /// # Safety
    /// As for [`core::ptr::copy`], with a length in these bounds.
    #[inline(always)]
    unsafe fn two<T>(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: both parts are within the caller's ranges.
        unsafe {
            let back = len - size_of::<T>();
            let first = from.cast::<T>().read_unaligned();
            let last = from.add(back).cast::<T>().read_unaligned();
            to.cast::<T>().write_unaligned(first);
            to.add(back).cast::<T>().write_unaligned(last);
        }
    }
    // SAFETY: each branch stays within `len` bytes, which are the caller's.
    unsafe {
        match len {
            0 => {}
            1 => to.write(from.read()),
            2..4 => two::<u16>(to, from, len),
            4..8 => two::<u32>(to, from, len),
            8..16 => two::<u64>(to, from, len),
            16..=32 => {
                let first = _mm_loadu_si128(from.cast());
                let last = _mm_loadu_si128(from.add(len - 16).cast());
                _mm_storeu_si128(to.cast(), first);
                _mm_storeu_si128(to.add(len - 16).cast(), last);
            }
            _ => {
                let load = |at: usize| _mm_loadu_si128(from.add(at).cast());
                let parts = [load(0), load(16), load(len - 32), load(len - 16)];
                let store = |at: usize, part| _mm_storeu_si128(to.add(at).cast(), part);
                store(0, parts[0]);
                store(16, parts[1]);
                store(len - 32, parts[2]);
                store(len - 16, parts[3]);
            }
        }
    }
}

/// What [`copy_small`] is for.
const SMALL: usize = 64;

#[cfg_attr(feature = "image", unsafe(no_mangle))]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's ranges; the direction flag is clear, as everywhere.
    unsafe {
        if len <= SMALL {
            copy_small(to, from, len);
        } else {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
    }
    to
}

#[cfg_attr(feature = "image", unsafe(no_mangle))]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    let ahead = to.addr().wrapping_sub(from.addr());
    // SAFETY: the caller's ranges. Copying forwards is right unless `to` is within
    // `from`; then 16 bytes at a time are copied from the end, and what is left at
    // the front goes through registers.
    unsafe {
        if len <= SMALL || ahead >= len {
            return memcpy(to, from, len);
        }
        let left: usize;
        asm!(
            "2:",
            "movups {part}, [{from} + {left} - 16]",
            "movups [{to} + {left} - 16], {part}",
            "sub {left}, 16",
            "cmp {left}, 16",
            "jae 2b",
            part = out(xmm_reg) _, from = in(reg) from, to = in(reg) to, left = inout(reg) len => left,
            options(nostack)
        );
        copy_small(to, from, left);
    }
    to
}

#[cfg_attr(feature = "image", unsafe(no_mangle))]
unsafe extern "C" fn memset(to: *mut u8, byte: c_int, len: usize) -> *mut u8 {
    let byte = byte as u8;
    // SAFETY: the caller's range; the direction flag is clear, as everywhere.
    unsafe {
        if !(16..=SMALL).contains(&len) {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte,
                options(nostack, preserves_flags));
        } else {
            let part: __m128i = _mm_set1_epi8(byte as i8);
            let store = |at: usize| _mm_storeu_si128(to.add(at).cast(), part);
            store(0);
            store((len - 16).min(16));
            store(len.saturating_sub(32));
            store(len - 16);
        }
    }
    to
}

#[cfg_attr(feature = "image", unsafe(no_mangle))]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> c_int {
    let mut at = 0;
    // SAFETY: nothing beyond `len` bytes is read.
    unsafe {
        while at + 8 <= len {
            let a = left.add(at).cast::<u64>().read_unaligned();
            let b = right.add(at).cast::<u64>().read_unaligned();
            if a != b {
                return if a.swap_bytes() < b.swap_bytes() { -1 } else { 1 };
            }
            at += 8;
        }
        while at < len {
            let (a, b) = (left.add(at).read(), right.add(at).read());
            if a != b {
                return c_int::from(a) - c_int::from(b);
            }
            at += 1;
        }
    }
    0
}

#[cfg_attr(feature = "image", unsafe(no_mangle))]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> c_int {
    // SAFETY: the caller's ranges.
    unsafe { memcmp(left, right, len) }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn pattern() -> Vec<u8> {
        (0..1000_u32).map(|at| (at * 7 % 251) as u8).collect()
    }

    const LENS: [usize; 16] = [0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 47, 64, 65, 200];

    #[test]
    fn copies_are_whole_and_touch_nothing_else() {
        let from = pattern();
        for len in (0..130).chain([500, 900]) {
            for at in [0, 1, 7] {
                let mut to = std::vec![0xaa_u8; 1000];
                let mut wanted = to.clone();
                wanted[at..at + len].copy_from_slice(&from[3..3 + len]);
                // SAFETY: both ranges are within their vectors.
                let end = unsafe { memcpy(to[at..].as_mut_ptr(), from[3..].as_ptr(), len) };
                assert_eq!(end, to[at..].as_mut_ptr());
                assert_eq!(to, wanted, "{len} bytes");
            }
        }
    }

    #[test]
    fn moves_survive_every_overlap() {
        for len in (0..130).chain([500]) {
            for (from, to) in
                [(0, 0), (0, 1), (1, 0), (0, 8), (8, 0), (0, 16), (3, 40), (70, 5), (0, 300)]
            {
                let mut memory = pattern();
                let mut wanted = memory.clone();
                wanted.copy_within(from..from + len, to);
                let base = memory.as_mut_ptr();
                // SAFETY: both ranges are within the vector.
                unsafe { memmove(base.add(to), base.add(from), len) };
                assert_eq!(memory, wanted, "{len} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn fills_are_whole_and_touch_nothing_else() {
        for len in (0..130).chain([500]) {
            let mut memory = pattern();
            let mut wanted = memory.clone();
            wanted[5..5 + len].fill(0x9c);
            // SAFETY: the range is within the vector.
            unsafe { memset(memory[5..].as_mut_ptr(), 0x129c, len) };
            assert_eq!(memory, wanted, "{len} bytes");
        }
    }

    #[test]
    fn comparisons_are_by_the_first_byte_that_differs() {
        let left = pattern();
        for len in LENS {
            // SAFETY: the ranges are within their vectors, here and below.
            assert_eq!(unsafe { memcmp(left.as_ptr(), left.as_ptr(), len) }, 0);
            for at in 0..len {
                for change in [1_u8, 0x80, 0xff] {
                    let mut right = left.clone();
                    right[at] = right[at].wrapping_add(change);
                    if at + 1 < len {
                        right[at + 1] = !right[at + 1];
                    }
                    let wanted = left[..len].cmp(&right[..len]) as i32;
                    // SAFETY: as above.
                    let found = unsafe { memcmp(left.as_ptr(), right.as_ptr(), len) };
                    assert_eq!(found.signum(), wanted, "{len} bytes, the one at {at}");
                    // SAFETY: as above.
                    assert_ne!(unsafe { bcmp(left.as_ptr(), right.as_ptr(), len) }, 0);
                }
            }
        }
    }
}
