// A PVH guest: 32 bits, no paging, no interrupts.

#include "guest.h"

enum { MEMORY_OP = 12, HVM_OP = 34 };
enum { ADD_TO_PHYSMAP = 7, GET_PARAM = 1 };
enum { STORE_PFN = 1, STORE_EVTCHN = 2, CONSOLE_PFN = 17, CONSOLE_EVTCHN = 18 };
enum { SELF = 0x7ff0 };

__asm__(".section .note.Xen, \"a\", @note\n"
        ".long 4, 4, 18\n" // XEN_ELFNOTE_PHYS32_ENTRY
        ".ascii \"Xen\\0\"\n"
        ".long start\n"
        ".text\n"
        ".globl start\n"
        "start: mov $stack_end, %esp\n"
        "push %ebx\n" // struct hvm_start_info
        "call begin\n");

__attribute__((aligned(PAGE))) static u8 hypercalls[PAGE];
__attribute__((aligned(PAGE))) static u8 shared_info[PAGE];
__attribute__((aligned(16), used)) u8 stack[16384];
__asm__(".globl stack_end\n.set stack_end, stack + 16384");

long hypercall(u32 number, unsigned long first, void *second) {
  long result;
  __asm__ volatile("call *%%eax" : "=a"(result), "+b"(first), "+c"(second)
                   : "a"(hypercalls + 32 * number) : "edx", "esi", "edi", "memory");
  return result;
}

static u32 param(u32 index) {
  struct { u16 domain, pad; u32 index; u64 value; } param = { SELF, 0, index, 0 };
  hypercall(HVM_OP, GET_PARAM, &param);
  return (u32)param.value;
}
static void *param_page(u32 index) { return (void *)(param(index) * PAGE); }

__attribute__((noreturn, used)) void begin(const u32 *start_info) {
  u32 pages, msr;
  // Xen's leaf about the hypercall page.
  __asm__("cpuid" : "=a"(pages), "=b"(msr) : "a"(0x40000002) : "ecx", "edx");
  __asm__ volatile("wrmsr" ::"c"(msr), "a"(hypercalls), "d"(0) : "memory");
  struct { u16 domain, size; u32 space, index, frame; } map = { SELF, 0, 0, 0, (u32)shared_info / PAGE };
  hypercall(MEMORY_OP, ADD_TO_PHYSMAP, &map);
  guest(&(struct given){
    .store = param_page(STORE_PFN),
    .console = param_page(CONSOLE_PFN),
    .store_port = param(STORE_EVTCHN),
    .console_port = param(CONSOLE_EVTCHN),
    .shared_info = shared_info,
    // A 64-bit field of which the upper half is 0 here.
    .command_line = (const char *)start_info[6],
  });
}
