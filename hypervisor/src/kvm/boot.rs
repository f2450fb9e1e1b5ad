//! The state in which a PVH guest begins: what Xen's `hvm/start_info.h` lays
//! down, and nothing else. All of it lies below the first MiB.

use kvm_bindings::{CpuId, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::image::IMAGE_GPA_MIN;
use super::memory::Region;
use super::{KvmError, system};

const START_INFO_GPA: u32 = 0x6000;
const MEMORY_MAP_GPA: u32 = 0x7000;
const COMMAND_LINE_GPA: u32 = 0x8000;
/// As much as Linux takes on x86, with the zero at the end.
const COMMAND_LINE_MAX: usize = 2048;

const _: () = assert!(COMMAND_LINE_GPA as u64 + COMMAND_LINE_MAX as u64 <= IMAGE_GPA_MIN);

/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const START_VERSION: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const MEMORY_TYPE_RAM: u32 = 1;

/// Bit 0 of CR0: protected mode.
const CR0_PE: u64 = 1;
/// Bit 1 of the flags is always set.
const FLAGS_RESERVED: u64 = 2;

/// Types of segment descriptors: accessed, and readable code, writable data, or a
/// busy 32-bit task.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const TASK: u8 = 0xb;

/// Tells the guest where its memory is, and what its owner wants to say.
pub(super) fn write_start_info(ram: &Region, command_line: &str) -> Result<(), KvmError> {
    let bytes = command_line.len();
    if bytes >= COMMAND_LINE_MAX || command_line.contains('\0') {
        return Err(KvmError::CommandLine { bytes });
    }
    // The memory is all zeros, so the line ends.
    ram.write(COMMAND_LINE_GPA as usize, command_line.as_bytes())?;
    let command_line_gpa = if bytes == 0 { 0 } else { COMMAND_LINE_GPA };
    // Pairs of 32-bit words are 64-bit ones in the definition.
    let start_info: [u32; 14] = [
        START_MAGIC,
        START_VERSION,
        0, // flags
        0, // number of modules
        0, // modules
        0,
        command_line_gpa,
        0,
        0, // ACPI's root pointer
        0,
        MEMORY_MAP_GPA,
        0,
        1, // number of entries of the map
        0, // reserved
    ];
    // Memory ends below 4 GiB.
    let memory_map: [u32; 6] = [0, 0, ram.len() as u32, 0, MEMORY_TYPE_RAM, 0];
    ram.write(START_INFO_GPA as usize, start_info.map(u32::to_le_bytes).as_flattened())?;
    ram.write(MEMORY_MAP_GPA as usize, memory_map.map(u32::to_le_bytes).as_flattened())
}

/// Lets the processor begin at `entry`: 32-bit protected mode without paging, flat
/// segments, interrupts off, and `ebx` pointing to the start info.
pub(super) fn set_processor(vcpu: &VcpuFd, cpuid: &CpuId, entry: u32) -> Result<(), KvmError> {
    vcpu.set_cpuid2(cpuid).map_err(system("KVM_SET_CPUID2"))?;
    let mut special = vcpu.get_sregs().map_err(system("KVM_GET_SREGS"))?;
    set_protected_mode(&mut special);
    vcpu.set_sregs(&special).map_err(system("KVM_SET_SREGS"))?;
    let registers = kvm_regs {
        rip: entry.into(),
        rbx: START_INFO_GPA.into(),
        rflags: FLAGS_RESERVED,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&registers).map_err(system("KVM_SET_REGS"))
}

fn set_protected_mode(special: &mut kvm_sregs) {
    let flat = |selector, type_| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..kvm_segment::default()
    };
    special.cs = flat(0x08, CODE);
    for segment in
        [&mut special.ds, &mut special.es, &mut special.fs, &mut special.gs, &mut special.ss]
    {
        *segment = flat(0x10, DATA);
    }
    special.tr = kvm_segment {
        limit: 0x67,
        type_: TASK,
        present: 1,
        selector: 0x18,
        ..kvm_segment::default()
    };
    // The guest loads tables of its own; until then an exception finds none.
    special.gdt.limit = 0;
    special.idt.limit = 0;
    special.cr0 = CR0_PE;
    special.cr4 = 0;
    special.efer = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(ram: &Region, gpa: u32) -> u64 {
        ram.load(gpa as usize).unwrap()
    }

    #[test]
    fn the_start_info_points_to_the_map_and_the_command_line() {
        let ram = Region::new(4 << 20).unwrap();
        write_start_info(&ram, "id=1").unwrap();
        assert_eq!(word(&ram, START_INFO_GPA), u64::from(START_MAGIC) | 1 << 32);
        let line = word(&ram, START_INFO_GPA + 24) as u32;
        assert_eq!(word(&ram, line).to_le_bytes(), *b"id=1\0\0\0\0");
        assert_eq!(word(&ram, START_INFO_GPA + 32), 0);
        let map = word(&ram, START_INFO_GPA + 40) as u32;
        assert_eq!(word(&ram, START_INFO_GPA + 48), 1);
        assert_eq!([0, 8, 16].map(|at| word(&ram, map + at)), [0, 4 << 20, 1]);
    }

    #[test]
    fn a_command_line_has_to_fit_and_to_end_where_it_ends() {
        let ram = Region::new(4 << 20).unwrap();
        let long = |bytes| write_start_info(&ram, &"x".repeat(bytes));
        long(COMMAND_LINE_MAX - 1).unwrap();
        assert!(matches!(long(COMMAND_LINE_MAX), Err(KvmError::CommandLine { bytes: 2048 })));
        assert!(matches!(write_start_info(&ram, "a\0b"), Err(KvmError::CommandLine { bytes: 3 })));
        write_start_info(&Region::new(4 << 20).unwrap(), "").unwrap();
    }
}
