// A paravirtualized guest: 64 bits, in the page tables that Xen's tools made for it, in
// which its pages stand one after the other from address 0 on; no interrupts.

#include "guest.h"

enum { UPDATE_VA_MAPPING = 14 };
enum { PRESENT_WRITABLE = 3, FLUSH_PAGE = 2 };

// struct start_info, as far as it is of use here.
struct start_info {
  char magic[32];
  u64 pages, shared_info_address;
  u32 flags;
  u64 store_frame;
  u32 store_port;
  u64 console_frame;
  u32 console_port;
  u64 page_table, page_table_frames, frames, module, module_length;
  char command_line[1024];
};

// The number of each of a guest's own pages by that of the machine's: MACH2PHYS_VIRT_START.
#define PAGE_OF_FRAME ((const u64 *)0xffff800000000000)

#define NUMBER(type, value) ".long 4, 8, " #type "\n.ascii \"Xen\\0\"\n.quad " #value "\n"
#define TEXT(type, length, text) ".long 4, " #length ", " #type "\n.ascii \"Xen\\0\"\n.asciz \"" text "\"\n.balign 4\n"
__asm__(".section .note.Xen, \"a\", @note\n"
        NUMBER(1, start)        // XEN_ELFNOTE_ENTRY
        NUMBER(2, hypercalls)   // XEN_ELFNOTE_HYPERCALL_PAGE
        NUMBER(3, 0)            // XEN_ELFNOTE_VIRT_BASE
        NUMBER(4, 0)            // XEN_ELFNOTE_PADDR_OFFSET
        TEXT(5, 8, "xen-3.0")   // XEN_ELFNOTE_XEN_VERSION
        TEXT(6, 5, "bare")      // XEN_ELFNOTE_GUEST_OS
        TEXT(8, 8, "generic")   // XEN_ELFNOTE_LOADER
        ".text\n"
        ".globl start\n"
        "start: mov $stack_end, %esp\n"
        "mov %rsi, %rdi\n"
        "call begin\n");

__attribute__((aligned(PAGE), used)) u8 hypercalls[PAGE];
__attribute__((aligned(PAGE))) static u8 shared_info[PAGE];
__attribute__((aligned(16), used)) u8 stack[16384];
__asm__(".globl stack_end\n.set stack_end, stack + 16384");

static long hypercall_of_three(u32 number, unsigned long first, unsigned long second, unsigned long third) {
  long result;
  __asm__ volatile("call *%%rax" : "=a"(result), "+D"(first), "+S"(second), "+d"(third)
                   : "a"(hypercalls + 32 * number) : "rcx", "r8", "r9", "r10", "r11", "memory");
  return result;
}
long hypercall(u32 number, unsigned long first, void *second) {
  return hypercall_of_three(number, first, (unsigned long)second, 0);
}

static void *page_of(u64 frame) { return (void *)(PAGE_OF_FRAME[frame] * PAGE); }

__attribute__((noreturn, used)) void begin(const struct start_info *info) {
  hypercall_of_three(UPDATE_VA_MAPPING, (unsigned long)shared_info, info->shared_info_address | PRESENT_WRITABLE,
                     FLUSH_PAGE);
  guest(&(struct given){
    .store = page_of(info->store_frame),
    .console = page_of(info->console_frame),
    .store_port = info->store_port,
    .console_port = info->console_port,
    .shared_info = shared_info,
    .command_line = info->command_line,
  });
}
