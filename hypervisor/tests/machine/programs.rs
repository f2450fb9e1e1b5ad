//! Guests of a few instructions, and the files that hold them.
//!
//! Those in 32-bit protected mode run where PVH begins: in ring 0, without
//! paging. The others run in 64-bit ring 3, behind a prelude that gets there.

use std::arch::global_asm;

use guest::layout::{IMAGE_GPA, RAM_MIN_BYTES};
use hypervisor::kvm::Image;

/// Assembles instructions and makes a function that returns their bytes.
macro_rules! program {
    ($name:ident, $bits:literal, $($line:literal)*) => {
        global_asm!(
            concat!(".section .rodata.guest_", stringify!($name), ",\"a\""),
            concat!(".global guest_", stringify!($name), "_begin"),
            concat!(".global guest_", stringify!($name), "_end"),
            concat!("guest_", stringify!($name), "_begin:"),
            concat!(".code", $bits),
            $($line,)*
            concat!("guest_", stringify!($name), "_end:"),
            ".code64",
            ".text",
            options(att_syntax)
        );

        pub(super) fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("guest_", stringify!($name), "_begin")]
                static BEGIN: u8;
                #[link_name = concat!("guest_", stringify!($name), "_end")]
                static END: u8;
            }
            let (begin, end) = (&raw const BEGIN, &raw const END);
            // SAFETY: the two symbols enclose the bytes assembled above, which
            // are constant.
            unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
        }
    };
}

// Yields for ever.
program!(yielding, 32,
    "2: outb %al, $0xe0"
    "jmp 2b"
);

// Waits for an interrupt that never comes.
program!(halting, 32,
    "cli"
    "hlt"
);

// Raises an exception without a table of handlers.
program!(triple_fault, 32,
    "lidt 0x100000"
    "ud2"
);

program!(wild_write, 32,
    "movl $1, 0x80000010"
    "hlt"
);

program!(wild_read, 32,
    "movl 0x3fffff0, %eax"
    "hlt"
);

program!(wild_output, 32,
    "outw %ax, $0x80"
    "hlt"
);

program!(wild_input, 32,
    "inb $0x60, %al"
    "hlt"
);

program!(wide_yield, 32,
    "outl %eax, $0xe0"
    "hlt"
);

// Yields, and then never again.
program!(looping, 32,
    "outb %al, $0xe0"
    "2: jmp 2b"
);

// Touches every page of `GREEDY_BYTES` of its memory, yields, and then never again.
program!(greedy, 32,
    "movl $0x400000, %edi"
    "2: movl %edi, (%edi)"
    "addl $0x1000, %edi"
    "cmpl $0x10400000, %edi"
    "jb 2b"
    "outb %al, $0xe0"
    "3: jmp 3b"
);

// Shows what it has found at its start: the start info, its memory map, the first
// words of the exchange.
program!(curious, 32,
    "cld"
    "movl $0xc0100000, %edi"
    "movl %ebx, %esi"
    "movl $14, %ecx"
    "rep movsl"
    "movl 40(%ebx), %esi"
    "movl $6, %ecx"
    "rep movsl"
    "movl $0xc0000000, %esi"
    "movl $4, %ecx"
    "rep movsl"
    "movl $96, 0xc0000018"
    "outb %al, $0xe0"
    "hlt"
);

// From PVH's start to ring 3, with tables that `in_ring_3` makes.
program!(prelude, 32,
    "movl $0x202000, %eax"
    "movl %eax, %cr3"
    "movl %cr4, %eax"
    "orl $0x620, %eax" // physical address extension, SSE
    "movl %eax, %cr4"
    "movl $0xc0000080, %ecx"
    "rdmsr"
    "orl $0x101, %eax" // long mode, SYSCALL
    "wrmsr"
    "movl %cr0, %eax"
    "orl $0x80000023, %eax" // paging
    "movl %eax, %cr0"
    "lgdt 0x201000"
    // A far jump to what follows, at a place that the test knows.
    "ljmp $0x10, $0x200100"
    ".org guest_prelude_begin + 0x100"
    ".code64"
    "movl $0x18, %eax"
    "movl %eax, %ss"
    "movl $0x40, %eax"
    "ltr %ax"
    "movl $0x2b, %eax"
    "movl %eax, %ds"
    "movl %eax, %es"
    "movl $0x280000, %esp"
    "pushq $0x2b"
    "pushq $0x280000"
    "pushq $2"
    "pushq $0x33"
    "pushq $0x210000"
    "iretq"
);

// Answers with the request.
program!(echo, 64,
    "movl $0xc0000000, %r8d"
    "2: outb %al, $0xe0"
    "movq 0x10(%r8), %rcx"
    "movq %rcx, 0x18(%r8)"
    "leaq 0x1000(%r8), %rsi"
    "leaq 0x100000(%r8), %rdi"
    "rep movsb"
    "jmp 2b"
);

// Takes a request of words: the length of the whole answer, and that of a part.
// Every part begins with the number of bytes that are left.
program!(parts, 64,
    "movl $0xc0000000, %r8d"
    "2: outb %al, $0xe0"
    "cmpq $0, 0x10(%r8)"
    "je 3f"
    "movq 0x1000(%r8), %r9"
    "movq 0x1008(%r8), %r10"
    "3: movq %r9, 0x100000(%r8)"
    "movq %r9, %rcx"
    "cmpq %r10, %rcx"
    "cmovaq %r10, %rcx"
    "subq %rcx, %r9"
    "movq %rcx, 0x18(%r8)"
    "xorl %eax, %eax"
    "testq %r9, %r9"
    "setnz %al"
    "movq %rax, 0x20(%r8)"
    "jmp 2b"
);

// Takes a request of pairs of words, offset and value, and stores the values in the
// exchange; does so again when asked for more. Says that it has failed when the
// word for it is not 0.
program!(obedient, 64,
    "movl $0xc0000000, %r8d"
    "xorl %r9d, %r9d"
    "2: outb %al, $0xe0"
    "3: movq 0x10(%r8), %rcx"
    "testq %rcx, %rcx"
    "cmovnzq %rcx, %r9"
    "leaq 0x1000(%r8), %rsi"
    "leaq (%rsi,%r9), %rdx"
    "4: cmpq %rdx, %rsi"
    "jae 5f"
    "movq (%rsi), %rax"
    "movq 8(%rsi), %rbx"
    "movq %rbx, (%r8,%rax)"
    "addq $16, %rsi"
    "jmp 4b"
    "5: cmpq $0, 0x28(%r8)"
    "je 2b"
    "outb %al, $0xe4"
    "ud2"
);

// Takes a number, counts up to it, and answers with what it has come to.
program!(counting, 64,
    "movl $0xc0000000, %r8d"
    "2: outb %al, $0xe0"
    "xorl %ecx, %ecx"
    "3: incq %rcx"
    "cmpq 0x1000(%r8), %rcx"
    "jb 3b"
    "movq %rcx, 0x100000(%r8)"
    "movq $8, 0x18(%r8)"
    "jmp 2b"
);

// Yields, and then never again.
program!(looping_in_ring_3, 64,
    "outb %al, $0xe0"
    "2: pause"
    "jmp 2b"
);

/// Memory enough for all of them but `greedy`, in bytes.
pub(super) const MEMORY_BYTES: u64 = RAM_MIN_BYTES;
/// What `greedy` takes beside that, in bytes.
pub(super) const GREEDY_BYTES: u64 = 256 << 20;

const FILE_HEADERS_BYTES: usize = 64 + 2 * 56 + 24;

/// An ELF file with these bytes at the image's place, where they begin to run.
pub(super) fn elf(code: &[u8]) -> Vec<u8> {
    let room = 1_u64 << 20;
    let mut file = Vec::new();
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&[2, 0, 62, 0, 1, 0, 0, 0]);
    put(&IMAGE_GPA.to_le_bytes());
    put(&64_u64.to_le_bytes());
    put(&[0; 8]);
    put(&[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let words: [u64; 14] = [
        4 | 4 << 32, // a note
        64 + 2 * 56,
        IMAGE_GPA,
        IMAGE_GPA,
        24,
        24,
        4,
        1 | 7 << 32, // to be loaded
        FILE_HEADERS_BYTES as u64,
        IMAGE_GPA,
        IMAGE_GPA,
        code.len() as u64,
        room.max(code.len() as u64),
        4096,
    ];
    put(words.map(u64::to_le_bytes).as_flattened());
    put(&[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]);
    put(b"Xen\0");
    put(&IMAGE_GPA.to_le_bytes());
    put(code);
    assert_eq!(file.len(), FILE_HEADERS_BYTES + code.len());
    file
}

/// An image that runs this program from PVH's start on.
pub(super) fn image(code: &[u8]) -> Image {
    Image::parse(elf(code)).expect("the test's own image")
}

/// An image that runs this program in ring 3.
pub(super) fn in_ring_3(code: &[u8]) -> Image {
    Image::parse(elf_in_ring_3(code)).expect("the test's own image")
}

/// An ELF file that runs this program in ring 3.
pub(super) fn elf_in_ring_3(code: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x10000];
    let mut put = |gpa: usize, contents: &[u8]| {
        let at = gpa - IMAGE_GPA as usize;
        bytes[at..at + contents.len()].copy_from_slice(contents);
    };
    let mut put_words = |gpa: usize, words: &[u64]| {
        for (index, word) in words.iter().enumerate() {
            put(gpa + 8 * index, &word.to_le_bytes());
        }
    };
    // The limit and the address of the descriptors, which are as in Linux: kernel
    // code, kernel data, user data, user code, task.
    put_words(0x201000, &[0x0020_1010_004f]);
    let task: u64 = 0x201100;
    let descriptors = [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        0x0000_8900_0000_00ff | (task & 0xff_ffff) << 16,
        0,
    ];
    put_words(0x201010, &descriptors);
    // The task: a stack for ring 0, and all of the first ports permitted.
    put(task as usize + 4, &0x27_0000_u64.to_le_bytes());
    put(task as usize + 102, &104_u16.to_le_bytes());
    put(task as usize + 0xff, &[0xff]);
    // Four levels of page tables: present, writable, for users; 2 MiB pages.
    let mut put_entry = |table: usize, index: usize, entry: u64| {
        put(table + 8 * index, &entry.to_le_bytes());
    };
    put_entry(0x202000, 0, 0x203007);
    put_entry(0x203000, 0, 0x204007);
    put_entry(0x203000, 3, 0x205007);
    for page in 0..2 {
        put_entry(0x204000, page, (page as u64) << 21 | 0x87);
        put_entry(0x205000, page, 0xc000_0000 | (page as u64) << 21 | 0x87);
    }
    put(IMAGE_GPA as usize, prelude());
    bytes.extend_from_slice(code);
    elf(&bytes)
}
