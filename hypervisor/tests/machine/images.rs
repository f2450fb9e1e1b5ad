//! Images that are truncated, damaged, or made to do harm.

use guest::layout;
use hypervisor::kvm::{Image, ImageError, KvmError, Machine, MachineConfig};
use quickcheck::{Gen, QuickCheck};

use super::{programs, usable};

const NOTE: usize = 64;
const LOAD: usize = 64 + 56;
const NOTES: usize = 64 + 2 * 56;

/// The test's image with some words replaced.
fn with(words: &[(usize, u64)]) -> Result<Image, ImageError> {
    let mut file = programs::elf(programs::yielding());
    for (at, value) in words {
        file[*at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    Image::parse(file)
}

#[test]
fn every_truncation_is_refused() {
    let file = programs::elf(programs::yielding());
    for len in 0..file.len() {
        assert!(Image::parse(&file[..len]).is_err(), "{len} bytes of {}", file.len());
    }
    assert_eq!(Image::parse(file).expect("the whole file").entry(), layout::IMAGE_GPA as u32);
}

#[test]
fn what_is_wrong_is_told() {
    let told = |words: &[(usize, u64)]| with(words).expect_err("it is wrong");
    assert_eq!(told(&[(0, 0)]), ImageError::NotAnExecutable);
    assert_eq!(told(&[(16, 3 | 62 << 16)]), ImageError::NotAnExecutable);
    assert_eq!(told(&[(16, 2 | 183 << 16)]), ImageError::NotAnExecutable);
    assert_eq!(told(&[(32, u64::MAX)]), ImageError::Truncated("table of program headers"));
    assert_eq!(told(&[(52, 64 | 56 << 16 | 65 << 32)]), ImageError::ProgramHeaders);
    assert_eq!(told(&[(52, 64 | 55 << 16 | 2 << 32)]), ImageError::ProgramHeaders);
    assert_eq!(told(&[(52, 64 | 56 << 16)]), ImageError::NoEntry);
    assert_eq!(told(&[(NOTE + 8, u64::MAX)]), ImageError::Truncated("note segment"));
    assert_eq!(told(&[(LOAD + 8, u64::MAX - 1)]), ImageError::Truncated("segment"));
    assert_eq!(told(&[(LOAD + 32, u64::MAX)]), ImageError::Truncated("segment"));
    assert_eq!(told(&[(LOAD + 40, 1)]), ImageError::SegmentSize { index: 1 });
    for gpa in [0, 0xf_ffff, layout::RAM_MAX_BYTES, layout::EXCHANGE_GPA, u64::MAX] {
        assert_eq!(told(&[(LOAD + 24, gpa)]), ImageError::SegmentAddress { index: 1, gpa });
    }
    let gpa = layout::IMAGE_GPA;
    assert_eq!(told(&[(LOAD + 40, u64::MAX)]), ImageError::SegmentAddress { index: 1, gpa });
    // The note's header becomes that of a segment at the same place.
    assert_eq!(told(&[(NOTE, 1 | 7 << 32)]), ImageError::SegmentAddress { index: 1, gpa });
    assert_eq!(told(&[(NOTES, 4 | 9 << 32)]), ImageError::Notes);
    assert_eq!(told(&[(NOTES, 4 | 6 << 32)]), ImageError::Notes);
    assert_eq!(told(&[(NOTES, u64::MAX)]), ImageError::Notes);
    assert_eq!(told(&[(NOTES + 8, 17)]), ImageError::NoEntry);
    for entry in [0, gpa - 1, gpa + (1 << 20), 1 << 32 | gpa, u64::MAX] {
        assert_eq!(told(&[(NOTES + 16, entry)]), ImageError::EntryAddress { entry });
    }
    assert_eq!(told(&[(LOAD, 1 | 6 << 32)]), ImageError::EntryAddress { entry: gpa });
    with(&[(NOTES + 16, gpa + (1 << 20) - 1)]).expect("the last byte is inside");
}

#[test]
fn an_image_has_to_fit_into_the_memory() {
    if !usable("an_image_has_to_fit_into_the_memory") {
        return;
    }
    let boot = |image: &Image| {
        let memory_bytes = layout::RAM_MIN_BYTES;
        Machine::boot(image, &MachineConfig { memory_bytes, command_line: String::new() })
    };
    let room = layout::RAM_MIN_BYTES - layout::IMAGE_GPA;
    boot(&with(&[(LOAD + 40, room)]).expect("possible")).expect("fits");
    let refused = boot(&with(&[(LOAD + 40, room + 1)]).expect("possible"));
    let expected = ImageError::SegmentAddress { index: 1, gpa: layout::IMAGE_GPA };
    assert!(matches!(refused, Err(KvmError::Image(error)) if error == expected));
}

/// Where, how, and with what.
pub(super) type Damage = (u16, u8, u64);

/// Damages: place and new word. Numbers at the edges are more likely than others.
pub(super) fn damage(file: &mut [u8], damages: &[Damage]) {
    for (place, kind, word) in damages {
        let word = match kind % 6 {
            0 => 0,
            1 => u64::MAX - word % 16,
            2 => layout::RAM_MAX_BYTES.wrapping_add(word % 16).wrapping_sub(8),
            3 => word % 4096,
            4 => layout::IMAGE_GPA + word % 4096,
            _ => *word,
        };
        let bytes = &word.to_le_bytes()[..1 << (kind % 4)];
        let at = usize::from(*place) % (file.len() - bytes.len() + 1);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[test]
fn damaged_images_are_refused_or_understood() {
    fn holds(damages: Vec<Damage>, cut: u16) -> bool {
        let mut file = programs::elf(programs::yielding());
        damage(&mut file, &damages);
        let cut = usize::from(cut) % 8;
        file.truncate(file.len() - cut);
        match Image::parse(file) {
            Ok(image) => image.entry() >= 1 << 20,
            Err(_) => cut > 0 || !damages.is_empty(),
        }
    }
    let property: fn(Vec<Damage>, u16) -> bool = holds;
    QuickCheck::new().rng(Gen::new(6)).tests(20_000).quickcheck(property);
}
