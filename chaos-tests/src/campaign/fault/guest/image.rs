//! What a guest's program looks like: read from the image of the very program that
//! the host runs.

use std::cell::OnceCell;
use std::path::Path;
use std::process::{Command, Stdio};

use guest::layout::{IMAGE_GPA, RAM_VIRTUAL};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSegment as _, ObjectSymbol as _};

use super::FaultError;

/// So many bytes at the begin of the image tell it from anything else.
const BEGIN_BYTES: usize = 64;

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
        let elf = ElfFile64::<LittleEndian>::parse(elf).ok()?;
        let place = |name| elf.symbol_by_name(name)?.address().checked_sub(RAM_VIRTUAL);
        let first = elf.segments().find(|it| it.address() == RAM_VIRTUAL + IMAGE_GPA)?;
        Some(Self {
            begin: first.data().ok()?.get(..BEGIN_BYTES)?.to_vec(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_none() {
        assert_eq!(Image::parse(b"no image"), None);
        let own = std::fs::read("/proc/self/exe").expect("this program");
        assert_eq!(Image::parse(&own), None, "an ELF file without these symbols");
    }
}
