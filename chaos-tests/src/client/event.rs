//! A watch event as a client gets it.

/// A fired watch: a path and the token the watch was registered with.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    bytes: Box<[u8]>,
    path_len: usize,
}

impl Event {
    /// Reads the payload `path NUL token NUL`; `None` when it is not that.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let path_len = payload.iter().position(|byte| *byte == 0)?;
        let token = payload[path_len + 1..].strip_suffix(b"\0")?;
        if token.contains(&0) {
            return None;
        }
        Some(Self { bytes: payload.into(), path_len })
    }

    /// The node that changed.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.bytes[..self.path_len]
    }

    /// The token of the watch.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.bytes[self.path_len + 1..self.bytes.len() - 1]
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}|{}", self.path().escape_ascii(), self.token().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn path_and_token_come_apart() {
        let event = Event::parse(b"/a/b\0tok\0").expect("well-formed");
        assert_eq!((event.path(), event.token()), (&b"/a/b"[..], &b"tok"[..]));
        assert_eq!(Event::parse(b"/a\0\0").expect("no token").token(), b"");
        for bad in [&b""[..], b"/a", b"/a\0", b"/a\0t", b"/a\0t\0u\0"] {
            assert_eq!(Event::parse(bad), None, "{bad:?}");
        }
    }
}
