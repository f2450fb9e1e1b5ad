# The ring-0 part of the image, all of it: from the entry that the PVH protocol
# knows to ring 3, and from there only to the report of an exception. Everything
# else runs in ring 3, because a hypervisor without hardware support interprets
# every instruction of ring 0.

.set RAM_VIRTUAL, {ram_virtual}
.set EXCHANGE_VIRTUAL, {exchange_virtual}

# Pages of 4 KiB from 2 MiB on, by use. The linker script has the same bounds,
# and checks that they are the same.
.globl page_shim, page_tables, page_ist, page_text, page_rodata, page_stack, page_data
.set page_shim, 0x200
.set page_tables, 0x201
.set page_ist, 0x207
.set page_text, 0x20c
.set page_rodata, 0x28c
.set page_stack, 0x2ac
.set page_data, 0x32d
.set page_end, 0x400

.set PRESENT, 1
.set WRITABLE, 2
.set USER, 4
.set LARGE, 0x80
.set NO_EXECUTE, 1 << 63
# Accessed, and dirty where it may be written: the processor need not do it.
.set READ, PRESENT | 0x20
.set WRITE, PRESENT | WRITABLE | 0x60 | NO_EXECUTE

# The selectors are Linux': with others, a hypervisor that interprets ring 0 may not
# run ring 3 natively.
.set KERNEL_CODE, 0x10
.set KERNEL_DATA, 0x18
.set USER_DATA, 0x2b
.set USER_CODE, 0x33
.set TSS_SELECTOR, 0x40

.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_entry - RAM_VIRTUAL

.section .shim, "ax", @progbits
shim:
.code32
.globl pvh_entry
# %ebx: the start info, physical.
pvh_entry:
    movl $(pml4 - RAM_VIRTUAL), %eax
    movl %eax, %cr3
    movl $0x620, %eax               # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER: LME, NXE
    movl $0x900, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax          # PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt gdt_low - RAM_VIRTUAL
    ljmpl $KERNEL_CODE, $(long_mode - RAM_VIRTUAL)

.code64
long_mode:
    movq $high, %rax
    jmpq *%rax
high:
    lgdt gdt_high(%rip)
    lidt idt_high(%rip)
    movl $TSS_SELECTOR, %eax
    ltr %ax
    movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq %rax, pdpt(%rip)           # memory is no longer at its physical address
    movq %cr3, %rax
    movq %rax, %cr3

    # The entry of the memory map that the image is in.
    movq $RAM_VIRTUAL, %rbp
    movl %ebx, %ebx
    addq %rbp, %rbx
    movl 48(%rbx), %ecx
    movq 40(%rbx), %rax
    addq %rbp, %rax
1:  xorl %edi, %edi
    subl $1, %ecx
    jb 3f
    cmpl $1, 16(%rax)               # RAM
    jne 2f
    cmpq $(page_shim << 12), (%rax)
    ja 2f
    movq (%rax), %rdi
    addq 8(%rax), %rdi
    cmpq $(page_shim << 12), %rdi
    ja 3f
2:  addq $24, %rax
    jmp 1b
3:  # %rdi: where it ends, or 0.

    # A command line that begins with "selftest": there is no exchange, but a piece
    # of the guest's own memory in its place.
    xorl %esi, %esi
    xorl %edx, %edx
    movq 24(%rbx), %rcx
    testq %rcx, %rcx
    jz 4f
    addq %rbp, %rcx
    movabsq $0x74736574666c6573, %rax
    cmpq %rax, (%rcx)
    jne 4f
    movq 8(%rcx), %rdx
    movl $1, %esi
    movb $1, selftest(%rip)
    leaq -{exchange_bytes}(%rdi), %rax
    andq $-0x200000, %rax
    movabsq $(WRITE | USER | LARGE), %rcx
    orq %rcx, %rax
    movq %rax, exchange_pd(%rip)
    addq $0x200000, %rax
    movq %rax, exchange_pd + 8(%rip)
4:
    leaq ist1_top(%rip), %rsp
    movq $guest_entry, %rax

# Goes to ring 3, with an empty stack.
to_ring_3:
    pushq $USER_DATA
    pushq $(stack_top - 8)
    pushq $2
    pushq $USER_CODE
    pushq %rax
    iretq

# One entry each vector, 16 bytes apart; the mask: those that push an error code.
.balign 16
vectors:
.set vector, 0
.rept 32
    .balign 16
    .if (0x60227d00 >> vector) & 1 == 0
    pushq $0
    .endif
    pushq $vector
    jmp exception
    .set vector, vector + 1
.endr

exception:
    cmpb $0, failed(%rip)           # the first one is the one to know
    jne dead
    movb $1, failed(%rip)
    movq $EXCHANGE_VIRTUAL, %rdi
    popq %rax
    movq %rax, {word_vector}(%rdi)
    popq %rax
    movq %rax, {word_error_code}(%rdi)
    popq %rax
    movq %rax, {word_rip}(%rdi)
    popq %rax
    popq %rax
    popq %rax
    movq %rax, {word_rsp}(%rdi)
    movq %cr2, %rax
    movq %rax, {word_cr2}(%rdi)
    movq ${exception}, {word_failure}(%rdi)
    movq $guest_post_mortem, %rax
    cmpb $0, selftest(%rip)
    jne to_ring_3
dead:
    movb $1, %al
    outb %al, ${port_failed}
    cli
    hlt
    jmp dead

# Page tables. What the linker places is of no concern here: bounds are fixed.
.section .tables, "aw", @progbits
.macro pages upto, flags
.rept \upto - page
    .if (\flags) == 0
    .quad 0
    .else
    .quad (page << 12) | (\flags)
    .endif
    .set page, page + 1
.endr
.endm

pml4:                               # entry 0: until the jump to `high`
    .quad pdpt - RAM_VIRTUAL + (PRESENT | WRITABLE)
    .fill 510, 8, 0
    .quad pdpt - RAM_VIRTUAL + (PRESENT | WRITABLE | USER)
pdpt:
    .quad ram_pd - RAM_VIRTUAL + (PRESENT | WRITABLE)
    .fill 509, 8, 0
    .quad ram_pd - RAM_VIRTUAL + (PRESENT | WRITABLE | USER)
    .quad exchange_pd - RAM_VIRTUAL + (PRESENT | WRITABLE | USER)
ram_pd:
    .quad WRITE | LARGE             # not for ring 3: the start info is here
    .quad image_pt - RAM_VIRTUAL + (PRESENT | WRITABLE | USER)
    .set large, 2
.rept 510
    .quad (large << 21) | WRITE | USER | LARGE
    .set large, large + 1
.endr
exchange_pd:
    .quad {exchange_gpa} | WRITE | USER | LARGE
    .quad ({exchange_gpa} + 0x200000) | WRITE | USER | LARGE
    .fill 510, 8, 0
image_pt:
    .set page, page_shim
    pages page_tables, READ
    pages page_ist, WRITE
    pages page_ist + 1, 0           # a guard below each stack
    pages page_ist + 2, WRITE
    pages page_ist + 3, 0
    pages page_ist + 4, WRITE
    pages page_text, 0
    pages page_rodata, READ | USER
    pages page_stack, READ | USER | NO_EXECUTE
    pages page_stack + 1, 0
    pages page_end, WRITE | USER

gdt:
    .quad 0, 0
    .quad 0x00af9b000000ffff        # 0x10: ring-0 code, 64 bits
    .quad 0x00cf93000000ffff        # 0x18: ring-0 data
    .quad 0
    .quad 0x00cff3000000ffff        # 0x2b: ring-3 data
    .quad 0x00affb000000ffff        # 0x33: ring-3 code, 64 bits
    .quad 0
    .word tss_end - tss - 1, tss - pml4 + 0x1000   # 0x40: the TSS
    .byte 0x20, 0x89, 0, 0x80
    .quad 0xffffffff
gdt_end:
.balign 8
idt:
.set vector, 0
.rept 32
    .word vectors - shim + 16 * vector, KERNEL_CODE
    # NMI, double fault, machine check: they may come while another is reported.
    .byte 1 + ((1 << 2 | 1 << 8 | 1 << 18) >> vector & 1), 0x8e
    .word 0x8020
    .quad 0xffffffff
    .set vector, vector + 1
.endr
idt_end:
.balign 16
tss:
    .long 0
    .quad ist1_top, 0, 0, 0
    .quad ist1_top, ist2_top, 0, 0, 0, 0, 0, 0
    .word 0, io_bitmap - tss
io_bitmap:                          # a bit each port: 0 lets ring 3 use it
    .fill {port_yield} / 8, 1, 0xff
    .byte 0xee                      # 0xe0, 0xe4
    .byte 0xff
    .byte 0xef                      # 0xf4
    .fill {port_serial} / 8 - {port_debug_exit} / 8 - 1, 1, 0xff
    .byte 0, 0xff                   # 0x3f8 to 0x3ff; the processor reads one byte more
tss_end:
gdt_low:
    .word gdt_end - gdt - 1
    .long gdt - RAM_VIRTUAL
gdt_high:
    .word gdt_end - gdt - 1
    .quad gdt
idt_high:
    .word idt_end - idt - 1
    .quad idt
selftest:
    .byte 0
failed:
    .byte 0

.text
