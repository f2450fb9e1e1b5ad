//! The wire protocol of xenstore: message types, the header, errors by name,
//! and finding frames in a byte stream.
//!
//! Used by the state machine, by the host's front doors and by clients alike.
//! Source: Xen's `docs/misc/xenstore.txt` and `xen/include/public/io/xs_wire.h`.

use alloc::vec::Vec;

/// Length of the header before each payload, bytes.
pub const HEADER_LEN: usize = 16;
/// The longest payload, bytes.
pub const MAX_PAYLOAD: usize = 4096;
/// The longest payload that is skipped, bytes; a longer one means that the
/// stream has lost its framing.
pub const MAX_SKIPPED_PAYLOAD: usize = 1 << 20;
/// The longest absolute path, bytes without the terminating NUL.
pub const ABS_PATH_MAX: usize = 3072;
/// The longest relative path, bytes without the terminating NUL.
pub const REL_PATH_MAX: usize = 2048;

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            /// Every variant, in the order of the wire numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            #[must_use]
            pub const fn to_u32(self) -> u32 {
                self as u32
            }

            /// The variant with this number.
            #[must_use]
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

wire_enum! {
    /// Type of a message.
    MessageType {
        /// Daemon control; privileged.
        Control = 0,
        /// Names of a node's children.
        Directory = 1,
        /// A node's value.
        Read = 2,
        /// A node's permissions.
        GetPerms = 3,
        /// Registers a watch.
        Watch = 4,
        /// Removes a watch.
        Unwatch = 5,
        /// Opens a transaction.
        TransactionStart = 6,
        /// Commits or aborts a transaction.
        TransactionEnd = 7,
        /// Introduces a domain to the store.
        Introduce = 8,
        /// Forgets an introduced domain.
        Release = 9,
        /// The home path of a domain.
        GetDomainPath = 10,
        /// Sets a node's value; creates the node and missing parents.
        Write = 11,
        /// Creates a node and missing parents.
        Mkdir = 12,
        /// Removes a node with its children.
        Rm = 13,
        /// Sets a node's permissions.
        SetPerms = 14,
        /// A watch fired; from the daemon only.
        WatchEvent = 15,
        /// An error; from the daemon only.
        Error = 16,
        /// Whether a domain is introduced.
        IsDomainIntroduced = 17,
        /// A suspended domain has resumed.
        Resume = 18,
        /// Gives a domain the rights of another.
        SetTarget = 19,
        /// Once `RESTRICT`; removed from the protocol.
        Removed = 20,
        /// Drops the connection's watches and transactions.
        ResetWatches = 21,
        /// A part of the names of a node's children.
        DirectoryPart = 22,
        /// Features of the daemon, or of what a domain is told.
        GetFeature = 23,
        /// Sets the features that a domain is told.
        SetFeature = 24,
        /// Names of the quotas, or the value of one.
        GetQuota = 25,
        /// Sets a quota.
        SetQuota = 26,
    }
}

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// An error by its name on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        #[allow(clippy::upper_case_acronyms, reason = "the names of the protocol")]
        pub enum Errno {
            $($(#[$doc])* #[error("{}", stringify!($name))] $name,)*
        }

        impl Errno {
            /// Every error.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name that goes over the wire, without the terminating NUL.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The number of this error on Linux.
            #[must_use]
            pub const fn number(self) -> i32 {
                match self { $(Self::$name => $number,)* }
            }
        }
    };
}

errnos! {
    /// Malformed request.
    EINVAL = 22,
    /// Not permitted.
    EACCES = 13,
    /// Exists already.
    EEXIST = 17,
    /// Is a directory.
    EISDIR = 21,
    /// Does not exist.
    ENOENT = 2,
    /// Out of memory.
    ENOMEM = 12,
    /// A quota is used up.
    ENOSPC = 28,
    /// I/O error.
    EIO = 5,
    /// Directory not empty.
    ENOTEMPTY = 39,
    /// Unknown operation.
    ENOSYS = 38,
    /// Read-only.
    EROFS = 30,
    /// Busy.
    EBUSY = 16,
    /// Try again: a transaction met a conflict.
    EAGAIN = 11,
    /// Already connected.
    EISCONN = 106,
    /// Too long for one message.
    E2BIG = 7,
    /// Operation not permitted.
    EPERM = 1,
    /// Not connected.
    ENOTCONN = 107,
    /// Value out of range.
    ERANGE = 34,
}

impl Errno {
    /// The error with this wire name (a terminating NUL is allowed).
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        Self::ALL.iter().copied().find(|errno| errno.name().as_bytes() == name)
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message type as it came; see [`MessageType::from_u32`].
    pub kind: u32,
    /// Chosen by the client, repeated in the reply.
    pub req_id: u32,
    /// The transaction, or 0.
    pub tx_id: u32,
    /// Length of the payload, bytes.
    pub len: u32,
}

impl Header {
    /// The header as it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.req_id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.tx_id.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// The header at the front of `bytes`, if they hold a whole one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        Some(Self { kind: word(0), req_id: word(4), tx_id: word(8), len: word(12) })
    }
}

/// Splits one whole frame into its header and payload; `None` when `frame` is
/// not exactly one frame of legal length.
#[must_use]
pub fn split(frame: &[u8]) -> Option<(Header, &[u8])> {
    let header = Header::decode(frame)?;
    let payload = &frame[HEADER_LEN..];
    (payload.len() <= MAX_PAYLOAD && header.len as usize == payload.len())
        .then_some((header, payload))
}

/// Appends a whole frame to `out`.
///
/// # Panics
/// When `payload` is 4 GiB or longer; senders stay within [`MAX_PAYLOAD`].
pub fn frame(kind: MessageType, req_id: u32, tx_id: u32, payload: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(payload.len()).expect("payloads are at most a few KiB");
    out.reserve(HEADER_LEN + payload.len());
    out.extend_from_slice(&Header { kind: kind.to_u32(), req_id, tx_id, len }.encode());
    out.extend_from_slice(payload);
}

/// Appends an error reply to the request with these ids to `out`.
pub fn error_frame(errno: Errno, req_id: u32, tx_id: u32, out: &mut Vec<u8>) {
    let name = errno.name().as_bytes();
    let len = u32::try_from(name.len() + 1).expect("names are short");
    let kind = MessageType::Error.to_u32();
    out.extend_from_slice(&Header { kind, req_id, tx_id, len }.encode());
    out.extend_from_slice(name);
    out.push(0);
}

/// What a [`Framer`] found at the front of a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be done before so many bytes are there.
    NeedMore(usize),
    /// The first so many bytes are one whole frame; take them off.
    Frame(usize),
    /// The first so many bytes belong to an oversized frame; take them off.
    Skip(usize),
    /// A frame with an oversized payload begins: answer its header with
    /// [`Errno::E2BIG`] and take [`HEADER_LEN`] bytes off. The framer has its
    /// payload skipped in the steps that follow.
    Oversized(Header),
    /// The announced length is absurd: close the connection.
    Close(Header),
}

/// Finds frames in a byte stream. The caller owns the buffer; the framer only
/// remembers how much of an oversized frame is still to be skipped.
///
/// ```
/// use xenstore::wire::{Framer, MessageType, Step, frame};
/// let mut bytes = Vec::new();
/// frame(MessageType::Read, 1, 0, b"/a\0", &mut bytes);
/// let mut framer = Framer::default();
/// assert_eq!(framer.step(&bytes[..5]), Step::NeedMore(16));
/// assert_eq!(framer.step(&bytes), Step::Frame(19));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Framer {
    to_skip: usize,
}

impl Framer {
    /// A framer in the middle of a payload of which `to_skip` bytes are to be left out.
    #[must_use]
    pub fn skipping(to_skip: usize) -> Self {
        Self { to_skip }
    }

    /// Bytes that are still to be left out.
    #[must_use]
    pub fn to_skip(&self) -> usize {
        self.to_skip
    }

    /// Looks at the front of what has come and was not taken off yet.
    pub fn step(&mut self, buffer: &[u8]) -> Step {
        if self.to_skip > 0 {
            let now = self.to_skip.min(buffer.len());
            if now == 0 {
                return Step::NeedMore(1);
            }
            self.to_skip -= now;
            return Step::Skip(now);
        }
        let Some(header) = Header::decode(buffer) else {
            return Step::NeedMore(HEADER_LEN);
        };
        let len = header.len as usize;
        if len <= MAX_PAYLOAD {
            let whole = HEADER_LEN + len;
            return if buffer.len() < whole { Step::NeedMore(whole) } else { Step::Frame(whole) };
        }
        if len > MAX_SKIPPED_PAYLOAD {
            return Step::Close(header);
        }
        self.to_skip = len;
        Step::Oversized(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn numbers_are_those_of_the_protocol() {
        assert_eq!(MessageType::ALL.len(), 27);
        for (number, kind) in MessageType::ALL.iter().enumerate() {
            assert_eq!(kind.to_u32() as usize, number);
            assert_eq!(MessageType::from_u32(kind.to_u32()), Some(*kind));
        }
        assert_eq!(MessageType::from_u32(27), None);
        assert_eq!(MessageType::SetQuota.to_u32(), 26);
        for errno in Errno::ALL {
            assert_eq!(Errno::from_name(errno.name().as_bytes()), Some(*errno));
        }
        assert_eq!(Errno::from_name(b"ENOENT\0"), Some(Errno::ENOENT));
        assert_eq!(Errno::from_name(b"ENO"), None);
    }

    #[test]
    fn frames_are_found_in_any_split() {
        let mut stream = Vec::new();
        frame(MessageType::Write, 7, 9, b"/a\0value", &mut stream);
        let oversized = Header { kind: 2, req_id: 8, tx_id: 0, len: 4097 };
        stream.extend_from_slice(&oversized.encode());
        stream.extend_from_slice(&vec![b'x'; 4097]);
        frame(MessageType::Read, 9, 0, b"", &mut stream);
        for chunk in [1, 7, 16, 100, 10_000] {
            let (mut framer, mut buffer) = (Framer::default(), Vec::new());
            let (mut frames, mut errors) = (Vec::new(), 0);
            for piece in stream.chunks(chunk) {
                buffer.extend_from_slice(piece);
                loop {
                    let take = match framer.step(&buffer) {
                        Step::NeedMore(len) => {
                            assert!(len > buffer.len());
                            break;
                        }
                        Step::Frame(len) => {
                            frames.push(split(&buffer[..len]).expect("whole").0.req_id);
                            len
                        }
                        Step::Skip(len) => len,
                        Step::Oversized(header) => {
                            assert_eq!(header, oversized);
                            errors += 1;
                            HEADER_LEN
                        }
                        Step::Close(_) => panic!("nothing is absurd here"),
                    };
                    buffer.drain(..take);
                }
            }
            assert_eq!((frames, errors, buffer.len()), (vec![7, 9], 1, 0), "chunk {chunk}");
        }
    }

    #[test]
    fn an_absurd_length_closes() {
        let header = Header { kind: 2, req_id: 8, tx_id: 0, len: u32::MAX };
        assert_eq!(Framer::default().step(&header.encode()), Step::Close(header));
    }

    #[test]
    fn split_takes_whole_frames_only() {
        let mut bytes = Vec::new();
        error_frame(Errno::EAGAIN, 3, 4, &mut bytes);
        let (header, payload) = split(&bytes).expect("a whole frame");
        assert_eq!((header.kind, header.req_id, header.tx_id), (16, 3, 4));
        assert_eq!(payload, b"EAGAIN\0");
        assert!(split(&bytes[..bytes.len() - 1]).is_none());
        bytes.push(0);
        assert!(split(&bytes).is_none());
    }
}
