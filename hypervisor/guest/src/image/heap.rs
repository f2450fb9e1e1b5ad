//! The heap: all memory beyond the image.

use core::alloc::{GlobalAlloc, Layout};

use talc::{TalcCell, source::Manual};

use super::failure::fail;
use crate::layout::FailureKind;

struct Heap(TalcCell<Manual>);

// SAFETY: there is one thread, and no interrupt.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Manual));

/// Gives the heap its memory: everything up to `end`.
///
/// # Safety
/// To be called once, with the end of memory that is mapped and nobody's.
pub(super) unsafe fn begin(end: usize) -> usize {
    unsafe extern "C" {
        static mut heap_start: u8;
    }
    let start = &raw mut heap_start;
    let len = end.saturating_sub(start.addr());
    // SAFETY: the linker script puts `heap_start` behind everything else, and the
    // caller says that the memory from there on is the heap's.
    if unsafe { HEAP.0.claim(start, len) }.is_none() {
        fail(FailureKind::OutOfMemory, format_args!("a heap of {len} bytes"));
    }
    len
}

fn or_end(memory: *mut u8, layout: Layout) -> *mut u8 {
    if memory.is_null() {
        fail(FailureKind::OutOfMemory, format_args!("{} bytes wanted", layout.size()));
    }
    memory
}

// SAFETY: all of it is the inner allocator's work; the only difference is that a
// machine without memory ends.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        or_end(unsafe { self.0.alloc(layout) }, layout)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { self.0.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        let memory = unsafe { self.0.realloc(memory, layout, new_size) };
        or_end(memory, Layout::from_size_align(new_size, layout.align()).unwrap_or(layout))
    }
}
