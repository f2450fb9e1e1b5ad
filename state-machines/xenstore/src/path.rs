//! Paths: what a client may write, and the hashes by which nodes and watches
//! are found.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use state_machine::{DomId, Mixer, mix64};

use crate::decimal;
use crate::wire::{ABS_PATH_MAX, Errno};

/// The hash of `/`.
pub(crate) const ROOT_HASH: u64 = 0x6a09_e667_f3bc_c908;
/// Fires when a domain is introduced.
pub(crate) const INTRODUCE_DOMAIN: &[u8] = b"@introduceDomain";
/// Fires when a domain is released or gone.
pub(crate) const RELEASE_DOMAIN: &[u8] = b"@releaseDomain";

/// Components that a path holds without an allocation.
const INLINE: usize = 12;

/// The hash of a node from that of its parent and its name.
pub(crate) fn child_hash(parent: u64, name: &[u8]) -> u64 {
    let mut state = parent ^ (name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut chunks = name.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        state = mix64(state.rotate_left(7) ^ u64::from_le_bytes(word));
    }
    let tail = chunks.remainder();
    let mut word = [0; 8];
    word[..tail.len()].copy_from_slice(tail);
    mix64(state.rotate_left(7) ^ u64::from_le_bytes(word))
}

/// The hash of a special path such as `@releaseDomain`, which has no place in
/// the tree.
pub(crate) fn special_hash(path: &[u8]) -> u64 {
    Mixer::new().bytes(path).finish()
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// Where the component ends.
    end: u16,
    /// The hash of the path up to there.
    hash: u64,
}

/// A valid absolute path, or a special one beginning with `@`.
#[derive(Clone, Debug)]
pub(crate) struct Path<'a> {
    text: Cow<'a, [u8]>,
    /// Bytes that a client which gave a relative path does not want to see.
    prefix: usize,
    special: bool,
    hash: u64,
    inline: [Part; INLINE],
    more: Vec<Part>,
    len: usize,
}

/// What a byte is in a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Byte {
    Illegal,
    OfName,
    Slash,
}

const fn bytes() -> [Byte; 256] {
    let mut table = [Byte::Illegal; 256];
    let mut byte = 0;
    while byte < 256 {
        let char = byte as u8;
        if char.is_ascii_alphanumeric() || matches!(char, b'-' | b'_' | b'@') {
            table[byte] = Byte::OfName;
        }
        byte += 1;
    }
    table[b'/' as usize] = Byte::Slash;
    table
}

static BYTES: [Byte; 256] = bytes();

/// The home of a domain: what its relative paths begin with.
pub(crate) fn home(domid: DomId, out: &mut Vec<u8>) {
    out.extend_from_slice(b"/local/domain/");
    decimal::put(u64::from(domid.0), out);
}

/// Length of the prefix `/local/domain/N/`, which does not count against a
/// domain's path length quota.
fn home_prefix(text: &[u8]) -> usize {
    let Some(rest) = text.strip_prefix(b"/local/domain/") else { return 0 };
    let digits = rest.iter().take(5).take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits) {
        Some(b'/') if digits > 0 => text.len() - rest.len() + digits + 1,
        _ => 0,
    }
}

impl<'a> Path<'a> {
    /// Checks a path that a client of domain `domid` gave; `max` is the
    /// client's path length quota.
    ///
    /// # Errors
    /// `EINVAL`, as Xen's daemon has it for everything that is not a path.
    pub(crate) fn parse(
        given: &'a [u8],
        domid: DomId,
        max: Option<u32>,
        allow_special: bool,
    ) -> Result<Self, Errno> {
        let special = given.first() == Some(&b'@');
        if special && !allow_special {
            return Err(Errno::EINVAL);
        }
        let (text, prefix) = if special || given.first() == Some(&b'/') {
            (Cow::Borrowed(given), 0)
        } else {
            let mut whole = Vec::with_capacity(given.len() + 20);
            home(domid, &mut whole);
            whole.push(b'/');
            let prefix = whole.len();
            whole.extend_from_slice(given);
            (Cow::Owned(whole), prefix)
        };
        if text.len() > ABS_PATH_MAX {
            return Err(Errno::EINVAL);
        }
        if let Some(max) = max
            && text.len() - home_prefix(&text) > max as usize
        {
            return Err(Errno::EINVAL);
        }
        let mut path = Self {
            text,
            prefix,
            special,
            hash: ROOT_HASH,
            inline: [Part::default(); INLINE],
            more: Vec::new(),
            len: 0,
        };
        path.index()?;
        Ok(path)
    }

    /// An absolute path that the store itself knows to be valid.
    pub(crate) fn absolute(text: &'a [u8]) -> Result<Self, Errno> {
        if text.first() != Some(&b'/') {
            return Err(Errno::EINVAL);
        }
        Self::parse(text, DomId(0), None, false)
    }

    /// Finds the components; refuses `//`, a trailing `/` and what no path may have.
    fn index(&mut self) -> Result<(), Errno> {
        if self.special {
            self.hash = special_hash(&self.text);
            let text = &self.text;
            let illegal = text.iter().any(|byte| BYTES[usize::from(*byte)] == Byte::Illegal);
            let doubled = text.windows(2).any(|pair| pair == b"//");
            let refused = illegal || doubled || text.ends_with(b"/");
            return if refused { Err(Errno::EINVAL) } else { Ok(()) };
        }
        if self.text.len() == 1 {
            return Ok(());
        }
        let mut start = 1;
        loop {
            let rest = &self.text[start..];
            let end = rest.iter().position(|byte| BYTES[usize::from(*byte)] != Byte::OfName);
            let len = end.unwrap_or(rest.len());
            if len == 0 || end.is_some_and(|at| rest[at] != b'/') {
                return Err(Errno::EINVAL);
            }
            self.hash = child_hash(self.hash, &rest[..len]);
            let end = start + len;
            let part =
                Part { end: u16::try_from(end).map_err(|_| Errno::EINVAL)?, hash: self.hash };
            match self.inline.get_mut(self.len) {
                Some(slot) => *slot = part,
                None => self.more.push(part),
            }
            self.len += 1;
            if end == self.text.len() {
                return Ok(());
            }
            start = end + 1;
        }
    }

    fn part(&self, number: usize) -> Part {
        match self.inline.get(number) {
            Some(part) => *part,
            None => self.more[number - INLINE],
        }
    }

    /// The whole path.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Bytes of the home prefix that a relative path got; 0 for absolute ones.
    pub(crate) fn prefix(&self) -> usize {
        self.prefix
    }

    /// Whether the path begins with `@`.
    pub(crate) fn is_special(&self) -> bool {
        self.special
    }

    /// Whether the path is `/`.
    pub(crate) fn is_root(&self) -> bool {
        !self.special && self.len == 0
    }

    /// Components; 0 for `/`.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The hash of the whole path.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The hash of the path's first `len` components.
    pub(crate) fn hash_at(&self, len: usize) -> u64 {
        match len {
            0 => ROOT_HASH,
            _ => self.part(len - 1).hash,
        }
    }

    /// The text of the path's first `len` components.
    pub(crate) fn text_at(&self, len: usize) -> &[u8] {
        match len {
            0 => b"/",
            _ => &self.text[..usize::from(self.part(len - 1).end)],
        }
    }

    /// Component number `number`.
    pub(crate) fn name(&self, number: usize) -> &[u8] {
        let start = match number {
            0 => 1,
            _ => usize::from(self.part(number - 1).end) + 1,
        };
        &self.text[start..usize::from(self.part(number).end)]
    }

    /// The same path, owning its text.
    pub(crate) fn into_owned(self) -> Path<'static> {
        Path {
            text: Cow::Owned(self.text.into_owned()),
            prefix: self.prefix,
            special: self.special,
            hash: self.hash,
            inline: self.inline,
            more: self.more,
            len: self.len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn parse(text: &[u8]) -> Result<Path<'_>, Errno> {
        Path::parse(text, DomId(7), None, true)
    }

    #[test]
    fn components_and_hashes() {
        let path = parse(b"/a/bc/d").expect("valid");
        assert_eq!(
            (path.len(), path.name(0), path.name(1), path.name(2)),
            (3, &b"a"[..], &b"bc"[..], &b"d"[..])
        );
        assert_eq!((path.text_at(0), path.text_at(2)), (&b"/"[..], &b"/a/bc"[..]));
        assert_eq!(path.hash_at(2), parse(b"/a/bc").expect("valid").hash());
        assert_eq!(path.hash(), child_hash(path.hash_at(2), b"d"));
        let root = parse(b"/").expect("valid");
        assert!(root.is_root());
        assert_eq!(root.hash(), ROOT_HASH);
    }

    #[test]
    fn deep_paths_spill() {
        let text = b"/x".repeat(600);
        let path = parse(&text).expect("valid");
        assert_eq!((path.len(), path.name(599), path.text_at(599).len()), (600, &b"x"[..], 1198));
    }

    #[test]
    fn relative_paths_begin_at_home() {
        let path = parse(b"x/y").expect("valid");
        assert_eq!((path.text(), path.prefix()), (&b"/local/domain/7/x/y"[..], 16));
    }

    #[test]
    fn what_is_not_a_path() {
        for bad in [
            &b""[..],
            b"//",
            b"/a/",
            b"/a//b",
            b"a/",
            b"/a b",
            b"/a+",
            b"/a:",
            b"/\xff",
            b"/a\0",
            b"@a/",
            b"@a//b",
        ] {
            assert_eq!(parse(bad).err(), Some(Errno::EINVAL), "{bad:?}");
        }
        assert!(parse(b"@foo").expect("valid").is_special());
        assert_eq!(Path::parse(b"@foo", DomId(0), None, false).err(), Some(Errno::EINVAL));
        assert!(parse(b"/a@b-_9").is_ok());
    }

    #[test]
    fn lengths_are_limited() {
        let mut text = vec![b'a'; ABS_PATH_MAX];
        text[0] = b'/';
        assert!(parse(&text).is_ok());
        text.push(b'a');
        assert!(parse(&text).is_err());
        let quota = |text: &[u8]| Path::parse(text, DomId(7), Some(4), false).is_ok();
        assert!(quota(b"/abc") && !quota(b"/abcd"));
        assert!(quota(b"abcd") && !quota(b"abcde"));
        assert!(quota(b"/local/domain/7/abcd") && !quota(b"/local/domain/abcd"));
    }
}
