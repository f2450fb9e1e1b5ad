//! A guest's program: an ELF file with an entry for PVH, the way in which Xen,
//! QEMU and others start a kernel in 32-bit protected mode.

use std::ops::Range;
use std::sync::Arc;

use guest::layout;
use thiserror::Error;

/// Below, the monitor leaves what it has to tell the guest at its start.
pub(super) const IMAGE_GPA_MIN: u64 = 1 << 20;

/// More segments than any linker makes of a unikernel.
const SEGMENTS_MAX: usize = 64;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const NOTE_HEADER_BYTES: usize = 12;

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// 64 bits, little-endian, the only version.
const ELF_IDENT: &[u8] = &[2, 1, 1];
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;

/// `XEN_ELFNOTE_PHYS32_ENTRY` of Xen's `elfnote.h`.
const NOTE_ENTRY: u32 = 18;
const NOTE_NAME: &[u8] = b"Xen\0";

/// Why an image is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    /// The file ends too early.
    #[error("the image is truncated: its {0} is beyond the end")]
    Truncated(&'static str),
    /// It is no executable for a 64-bit x86 processor.
    #[error("the image is no ELF executable for x86-64")]
    NotAnExecutable,
    /// It has more program headers than 64, or headers of another size.
    #[error("the image's program headers cannot be understood")]
    ProgramHeaders,
    /// A segment has more bytes in the file than in memory.
    #[error("segment {index} of the image has more bytes than room")]
    SegmentSize {
        /// Which program header, counted from 0.
        index: usize,
    },
    /// A segment lies below the first MiB, beyond the memory, or on another one.
    #[error("segment {index} of the image cannot be at {gpa:#x}")]
    SegmentAddress {
        /// Which program header, counted from 0.
        index: usize,
        /// The guest physical address at which it asks to be loaded.
        gpa: u64,
    },
    /// A note is longer than its segment.
    #[error("the image's notes cannot be understood")]
    Notes,
    /// There is no note with an entry for PVH.
    #[error("the image has no PVH entry")]
    NoEntry,
    /// The entry is not in an executable segment.
    #[error("the image's PVH entry {entry:#x} is outside of its code")]
    EntryAddress {
        /// The guest physical address.
        entry: u64,
    },
}

/// Bytes of the file that are loaded, and where.
#[derive(Clone, Debug)]
struct Segment {
    index: usize,
    file: Range<usize>,
    gpa: u64,
    /// Bytes in memory; those that the file lacks are zeros.
    memory_bytes: u64,
    executable: bool,
}

impl Segment {
    /// Cannot overflow: it was compared with the greatest memory.
    fn end(&self) -> u64 {
        self.gpa + self.memory_bytes
    }
}

/// A program that was found to be well-formed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Arc<[u8]>,
    segments: Arc<[Segment]>,
    entry: u32,
}

impl Image {
    /// Examines an ELF file.
    ///
    /// # Errors
    /// When it is anything but a 64-bit x86 executable whose segments lie, without
    /// overlap, between the first MiB and the end of the greatest memory, and
    /// whose PVH entry lies in one that is executable.
    pub fn parse(bytes: impl Into<Arc<[u8]>>) -> Result<Self, ImageError> {
        let bytes = bytes.into();
        let header = part(&bytes, 0, HEADER_BYTES as u64).ok_or(ImageError::Truncated("header"))?;
        let known = header.starts_with(ELF_MAGIC)
            && header[4..].starts_with(ELF_IDENT)
            && u16_at(header, 16) == ET_EXEC
            && u16_at(header, 18) == EM_X86_64;
        if !known {
            return Err(ImageError::NotAnExecutable);
        }
        let count = usize::from(u16_at(header, 56));
        if usize::from(u16_at(header, 54)) != PROGRAM_HEADER_BYTES || count > SEGMENTS_MAX {
            return Err(ImageError::ProgramHeaders);
        }
        let table = part(&bytes, u64_at(header, 32), (count * PROGRAM_HEADER_BYTES) as u64)
            .ok_or(ImageError::Truncated("table of program headers"))?;
        let mut segments: Vec<Segment> = Vec::with_capacity(count);
        let mut entry = None;
        for (index, header) in table.chunks_exact(PROGRAM_HEADER_BYTES).enumerate() {
            match u32_at(header, 0) {
                PT_LOAD => segments.extend(segment(&bytes, index, header, &segments)?),
                PT_NOTE => {
                    let notes = part(&bytes, u64_at(header, 8), u64_at(header, 32))
                        .ok_or(ImageError::Truncated("note segment"))?;
                    entry = entry.or(entry_note(notes)?);
                }
                _ => {}
            }
        }
        let entry = entry.ok_or(ImageError::NoEntry)?;
        let holds =
            |segment: &Segment| segment.executable && (segment.gpa..segment.end()).contains(&entry);
        let narrow = u32::try_from(entry).ok().filter(|_| segments.iter().any(holds));
        let entry = narrow.ok_or(ImageError::EntryAddress { entry })?;
        Ok(Self { bytes, segments: segments.into(), entry })
    }

    /// Where the processor begins: a guest physical address.
    #[must_use]
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// Hands out what has to be written, and where, to memory that is all zeros
    /// and of this size in bytes.
    pub(super) fn load<E: From<ImageError>>(
        &self,
        memory_bytes: u64,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for segment in &*self.segments {
            if segment.end() > memory_bytes {
                let Segment { index, gpa, .. } = *segment;
                return Err(ImageError::SegmentAddress { index, gpa }.into());
            }
            write(segment.gpa, &self.bytes[segment.file.clone()])?;
        }
        Ok(())
    }
}

/// The segment that a program header describes; nothing when it is empty.
fn segment(
    bytes: &[u8],
    index: usize,
    header: &[u8],
    others: &[Segment],
) -> Result<Option<Segment>, ImageError> {
    let (offset, gpa) = (u64_at(header, 8), u64_at(header, 24));
    let (file_bytes, memory_bytes) = (u64_at(header, 32), u64_at(header, 40));
    let file = range(bytes, offset, file_bytes).ok_or(ImageError::Truncated("segment"))?;
    if file_bytes > memory_bytes {
        return Err(ImageError::SegmentSize { index });
    }
    if memory_bytes == 0 {
        return Ok(None);
    }
    let executable = u32_at(header, 4) & PF_X != 0;
    let segment = Segment { index, file, gpa, memory_bytes, executable };
    let fits = gpa.checked_add(memory_bytes).is_some_and(|end| end <= layout::RAM_MAX_BYTES);
    let free = |other: &Segment| segment.end() <= other.gpa || other.end() <= segment.gpa;
    if gpa < IMAGE_GPA_MIN || !fits || !others.iter().all(free) {
        return Err(ImageError::SegmentAddress { index, gpa });
    }
    Ok(Some(segment))
}

/// The PVH entry among these notes, if it is there. Notes are aligned to 4 bytes.
fn entry_note(notes: &[u8]) -> Result<Option<u64>, ImageError> {
    let mut at = 0_u64;
    while let Some(header) = part(notes, at, NOTE_HEADER_BYTES as u64) {
        let name_bytes = u64::from(u32_at(header, 0));
        let value_bytes = u64::from(u32_at(header, 4));
        // None of these sums can overflow: two 32-bit numbers and a place inside.
        let name_at = at + NOTE_HEADER_BYTES as u64;
        let value_at = name_at + name_bytes.next_multiple_of(4);
        let name = part(notes, name_at, name_bytes).ok_or(ImageError::Notes)?;
        let value = part(notes, value_at, value_bytes).ok_or(ImageError::Notes)?;
        if name == NOTE_NAME && u32_at(header, 8) == NOTE_ENTRY {
            return match value.len() {
                4 => Ok(Some(u32_at(value, 0).into())),
                8 => Ok(Some(u64_at(value, 0))),
                _ => Err(ImageError::Notes),
            };
        }
        at = value_at + value_bytes.next_multiple_of(4);
    }
    Ok(None)
}

fn range(bytes: &[u8], offset: u64, len: u64) -> Option<Range<usize>> {
    let begin = usize::try_from(offset).ok()?;
    let end = begin.checked_add(usize::try_from(len).ok()?)?;
    (end <= bytes.len()).then_some(begin..end)
}

fn part(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    range(bytes, offset, len).map(|range| &bytes[range])
}

// The callers have checked that their headers are whole.

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}
