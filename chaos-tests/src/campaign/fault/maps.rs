//! What `/proc/PID/maps` says.

use std::ops::Range;

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Its addresses.
    pub(super) range: Range<u64>,
    /// Whether the process may write it.
    pub(super) writable: bool,
    /// Whether others see what is written.
    pub(super) shared: bool,
    /// What is mapped; empty for plain memory.
    pub(super) name: String,
}

impl Mapping {
    /// Its size in bytes.
    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether it is memory that the process allocated for itself.
    pub(super) fn is_heap(&self) -> bool {
        let plain =
            self.name.is_empty() || self.name == "[heap]" || self.name.starts_with("[anon:");
        self.writable && !self.shared && plain
    }

    /// Whether it is the region of the fabric that this process may write.
    pub(super) fn is_own_region(&self) -> bool {
        self.writable && self.shared && self.name.starts_with("/memfd:rvmm-slot-")
    }
}

/// Reads a line; none when it is not one of the kernel's.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (from, to) = fields.next()?.split_once('-')?;
    let range = u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?;
    let permissions = fields.next()?.as_bytes();
    let name = fields.nth(3).unwrap_or_default().trim();
    let name = name.strip_suffix(" (deleted)").unwrap_or(name).to_owned();
    let flag = |at: usize, wanted| permissions.get(at).is_some_and(|flag| *flag == wanted);
    (range.start < range.end).then(|| Mapping {
        range,
        writable: flag(1, b'w'),
        shared: flag(3, b's'),
        name,
    })
}

/// All mappings.
pub(super) fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
55d000000000-55d000021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000400000 rw-s 00000000 00:01 42                         /memfd:rvmm-slot-2 (deleted)
7f0000400000-7f0000800000 r--s 00000000 00:01 43                         /memfd:rvmm-slot-1 (deleted)
7f0000800000-7f0000900000 rw-p 00000000 00:00 0 
7f0000900000-7f0000901000 r-xp 00000000 fe:00 9                          /usr/lib/my lib.so
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
garbage
";

    #[test]
    fn mappings_are_told_apart() {
        let maps = parse(TEXT);
        assert_eq!(maps.len(), 6);
        let heap: Vec<_> = maps.iter().filter(|map| map.is_heap()).map(Mapping::len).collect();
        assert_eq!(heap, [0x21000, 0x100_000]);
        let own: Vec<_> = maps.iter().filter(|map| map.is_own_region()).collect();
        assert_eq!(own.len(), 1);
        assert_eq!((own[0].name.as_str(), own[0].len()), ("/memfd:rvmm-slot-2", 0x40_0000));
        assert_eq!(maps[4].name, "/usr/lib/my lib.so");
    }

    #[test]
    fn our_own_maps_are_read() {
        let text = std::fs::read_to_string("/proc/self/maps").expect("is there");
        let maps = parse(&text);
        assert_eq!(maps.len(), text.lines().count());
        assert!(maps.iter().any(Mapping::is_heap));
    }
}
