//! What a guest's program looks like: read from the image of the very program that
//! the host runs.

use std::cell::OnceCell;
use std::path::Path;
use std::process::{Command, Stdio};

use guest::layout::{IMAGE_GPA, RAM_VIRTUAL};

use super::FaultError;

/// So many bytes at the begin of the image tell it from anything else.
const BEGIN_BYTES: usize = 64;

const PT_LOAD: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SYMBOL_BYTES: usize = 24;

/// Places in a guest's memory; all are guest physical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// The first bytes at [`IMAGE_GPA`], which no guest changes.
    pub(super) begin: Vec<u8>,
    /// Where it goes on when it is entered.
    pub(super) yielded: u64,
    /// The table of gates for exceptions.
    pub(super) idt: u64,
    /// Behind all that ring 3 cannot write.
    pub(super) writable: u64,
}

impl Image {
    /// Reads an ELF file with symbols; nothing when it is none, or not an image.
    fn parse(elf: &[u8]) -> Option<Self> {
        let place = |name| symbol(elf, name)?.checked_sub(RAM_VIRTUAL);
        Some(Self {
            begin: segment(elf, IMAGE_GPA)?.get(..BEGIN_BYTES)?.to_vec(),
            yielded: place("yielded")?,
            idt: place("idt")?,
            writable: place("stack_guard")?,
        })
    }
}

/// The image of a host, read when it is needed for the first time.
#[derive(Debug, Default)]
pub(in crate::campaign) struct HostImage(OnceCell<Result<Image, String>>);

impl HostImage {
    /// The image of the host that is this process.
    pub(super) fn of(&self, host_pid: u32) -> Result<&Image, FaultError> {
        let image = self.0.get_or_init(|| read(host_pid));
        image.as_ref().map_err(|why| FaultError::Unavailable(why.clone()))
    }
}

/// Has the host's own program write its image, whatever has become of its file.
fn read(host_pid: u32) -> Result<Image, String> {
    let failed = |error: std::io::Error| format!("the host's image cannot be read: {error}");
    let dir = tempfile::tempdir().map_err(failed)?;
    let file = dir.path().join("image");
    let program = Path::new("/proc").join(host_pid.to_string()).join("exe");
    let mut command = Command::new(program);
    command.args(["image", "--out"]).arg(&file).stdin(Stdio::null());
    let output = command.output().map_err(failed)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let elf = std::fs::read(&file).map_err(failed)?;
    Image::parse(&elf).ok_or_else(|| "the host's image lacks symbols".to_owned())
}

fn part(elf: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    elf.get(at..at.checked_add(usize::try_from(len).ok()?)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The headers in a table whose place, size and length are at those offsets.
fn headers(elf: &[u8], place: usize, size: usize, count: usize) -> Option<Vec<&[u8]>> {
    let size = u64::from(u16_at(elf, size)?).max(1);
    let table = part(elf, u64_at(elf, place)?, size * u64::from(u16_at(elf, count)?))?;
    Some(table.chunks_exact(usize::try_from(size).ok()?).collect())
}

/// The bytes that are loaded at a physical address.
fn segment(elf: &[u8], gpa: u64) -> Option<&[u8]> {
    let headers = headers(elf, 32, 54, 56)?;
    let found = headers
        .into_iter()
        .find(|header| u32_at(header, 0) == Some(PT_LOAD) && u64_at(header, 24) == Some(gpa))?;
    part(elf, u64_at(found, 8)?, u64_at(found, 32)?)
}

/// The value of a symbol.
fn symbol(elf: &[u8], name: &str) -> Option<u64> {
    let headers = headers(elf, 40, 58, 60)?;
    let bytes = |section: &[u8]| part(elf, u64_at(section, 24)?, u64_at(section, 32)?);
    let table = headers.iter().find(|section| u32_at(section, 4) == Some(SHT_SYMTAB))?;
    let names = bytes(headers.get(usize::try_from(u32_at(table, 40)?).ok()?)?)?;
    let is_called = |symbol: &[u8]| {
        let at = usize::try_from(u32_at(symbol, 0)?).ok()?;
        let rest = names.get(at..)?.strip_prefix(name.as_bytes())?;
        (rest.first() == Some(&0)).then_some(())
    };
    let mut symbols = bytes(table)?.chunks_exact(SYMBOL_BYTES);
    u64_at(symbols.find(|symbol| is_called(symbol).is_some())?, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program header, two section headers, names, symbols and text, in this order.
    fn elf(symbols: &[(&str, u64)]) -> Vec<u8> {
        let (mut names, mut table) = (vec![0], Vec::new());
        for (name, value) in symbols {
            table.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
            table.extend([0; 4]);
            table.extend(value.to_le_bytes());
            table.extend([0; 8]);
            names.extend(name.bytes().chain([0]));
        }
        let text = vec![7; 100];
        let names_at = 64 + 56 + 2 * 64;
        let table_at = names_at + names.len();
        let text_at = table_at + table.len();
        let mut elf = vec![0; names_at];
        let mut put = |at: usize, value: usize, bytes: usize| {
            elf[at..at + bytes].copy_from_slice(&(value as u64).to_le_bytes()[..bytes]);
        };
        for (at, value) in [(54, 56), (56, 1), (58, 64), (60, 2)] {
            put(at, value, 2);
        }
        let (program, strings, symbols) = (64, 64 + 56, 64 + 56 + 64);
        put(program, PT_LOAD as usize, 4);
        put(symbols + 4, SHT_SYMTAB as usize, 4);
        for (at, value) in [
            (32, program),
            (40, strings),
            (program + 8, text_at),
            (program + 24, IMAGE_GPA as usize),
            (program + 32, text.len()),
            (strings + 24, names_at),
            (strings + 32, names.len()),
            (symbols + 24, table_at),
            (symbols + 32, table.len()),
        ] {
            put(at, value, 8);
        }
        [elf, names, table, text].concat()
    }

    const SYMBOLS: &[(&str, u64)] = &[
        ("yielded_not", 1),
        ("yielded", RAM_VIRTUAL + 0x20_c007),
        ("idt", RAM_VIRTUAL + 0x20_6050),
        ("stack_guard", RAM_VIRTUAL + 0x2a_c000),
    ];

    #[test]
    fn places_are_found_by_their_names() {
        let image = Image::parse(&elf(SYMBOLS)).expect("is one");
        assert_eq!(image.begin, [7; BEGIN_BYTES]);
        assert_eq!((image.yielded, image.idt, image.writable), (0x20_c007, 0x20_6050, 0x2a_c000));
        for missing in 1..SYMBOLS.len() {
            let mut fewer = SYMBOLS.to_vec();
            fewer.remove(missing);
            assert_eq!(Image::parse(&elf(&fewer)), None);
        }
    }

    #[test]
    fn no_file_makes_it_panic() {
        let whole = elf(SYMBOLS);
        for at in 0..whole.len() {
            assert_eq!(Image::parse(&whole[..at]).filter(|_| at < 300), None);
            for byte in [0, 1, 0x7f, 0xff] {
                let mut spoilt = whole.clone();
                spoilt[at] = byte;
                let _ = Image::parse(&spoilt);
            }
        }
    }
}
