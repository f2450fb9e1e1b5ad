//! Xen's xenstore migration stream, in which xenstored hands its state to its
//! successor at a live update: a header, then records, each padded to 8 bytes.
//!
//! The format is that of Xen's `docs/designs/xenstore-migration.md`; where the
//! C daemon does it its own way (a record's length counts its padding; the
//! second field of GLOBAL_DATA is the event channel device), the C daemon's
//! way is written and both are read. Only little-endian streams exist in
//! practice, and only those are read.
//!
//! This module knows the layout, not the meaning: that a watch's connection
//! appears earlier, or that a node's parent exists, is the importer's to check.

mod read;
mod write;

#[cfg(test)]
mod tests;

use alloc::borrow::Cow;

use state_machine::DomId;

pub use read::Reader;
pub use write::Writer;

/// The first 8 bytes of a stream.
const IDENT: [u8; 8] = *b"xenstore";
/// Bytes of the stream's header: ident, version, flags.
const HEADER_LEN: usize = 16;
/// Bytes of a record's header: type, length.
const RECORD_HEADER_LEN: usize = 8;
/// Records begin at multiples of this.
const ALIGN: usize = 8;
/// Stands for "no target" in a ring connection (Xen's `DOMID_INVALID`).
const DOMID_INVALID: u16 = 0x7ff4;
/// CONNECTION_DATA's one defined flag. It says "read-only" of a socket and
/// "the domain's unique id follows" of a ring.
const CONN_FLAG: u16 = 1;
/// A permission entry whose domain is gone, and which grants nothing any more.
const PERM_STALE: u8 = 1;
/// The depth that means "no limit" in WATCH_DATA_EXTENDED.
const DEPTH_UNLIMITED: u16 = 0xffff;

/// Record types.
mod kind {
    pub(super) const END: u32 = 0;
    pub(super) const GLOBAL: u32 = 1;
    pub(super) const CONNECTION: u32 = 2;
    pub(super) const WATCH: u32 = 3;
    pub(super) const TRANSACTION: u32 = 4;
    pub(super) const NODE: u32 = 5;
    pub(super) const GLOBAL_QUOTA: u32 = 6;
    pub(super) const DOMAIN: u32 = 7;
    pub(super) const WATCH_EXTENDED: u32 = 8;
    /// The first of the 256 types that are this project's own: "RVM" and a
    /// byte. Xen reserves everything above 8 "for future use" and counts up.
    pub(super) const OWN_BASE: u32 = 0x5256_4d00;
}

/// The version of the format that a stream's header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Read by every C xenstored since 4.15. Cannot hold a watch's depth or a
    /// domain's features.
    One,
    /// Read by C xenstored since 4.21.
    Two,
}

/// One record. END is not among them: it is where reading ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// State that belongs to no connection, domain or node.
    Global(Global),
    /// A connection.
    Connection(Connection<'a>),
    /// A watch of an earlier connection.
    Watch(Watch<'a>),
    /// A transaction that an earlier connection has open.
    Transaction(Transaction),
    /// A node, or what an open transaction made of it.
    Node(Node<'a>),
    /// The quotas of the whole daemon.
    GlobalQuota(GlobalQuota<'a>),
    /// What is particular to one domain.
    Domain(Domain<'a>),
    /// A record of this project, for state that Xen's format has no place for.
    /// Other daemons log and skip it, or are given a stream without it.
    Own {
        /// Which of the project's 256 own types.
        tag: u8,
        /// The body, without padding.
        bytes: &'a [u8],
    },
    /// A type that this module does not know. Xen's daemon skips those.
    Unknown {
        /// The record's type.
        kind: u32,
        /// The body, with whatever padding its length counts.
        bytes: &'a [u8],
    },
}

/// GLOBAL_DATA. File descriptors mean something only to a process that
/// inherits them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global {
    /// The listening socket, -1 for none.
    pub socket_fd: i32,
    /// The event channel device, -1 for none.
    pub evtchn_fd: i32,
}

/// A connection's number within a stream; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamConn(pub u32);

/// CONNECTION_DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection<'a> {
    /// What later records call it.
    pub id: StreamConn,
    /// How it is connected.
    pub via: Via,
    /// Bytes that were read from it and not yet processed.
    pub unprocessed: &'a [u8],
    /// Bytes that are still to be written to it.
    pub unsent: &'a [u8],
    /// How many of `unsent`'s first bytes are the rest of a half-sent message.
    pub unsent_partial: u16,
}

/// How a connection of a stream is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A guest's shared ring page.
    Ring {
        /// The guest.
        domid: DomId,
        /// The domain whose rights it has besides its own (SET_TARGET).
        target: Option<DomId>,
        /// The event channel's port on the daemon's side.
        evtchn: u32,
        /// Tells the domain from a later one with the same number (Xen 4.20).
        unique_id: Option<u64>,
    },
    /// A local socket.
    Socket {
        /// The connected socket.
        fd: i32,
        /// Whether it may only read.
        read_only: bool,
    },
}

/// WATCH_DATA, or WATCH_DATA_EXTENDED when it has a depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch<'a> {
    /// Whose watch it is.
    pub conn: StreamConn,
    /// The path as the client gave it, perhaps relative, without the NUL.
    pub path: &'a [u8],
    /// The token, without the NUL.
    pub token: &'a [u8],
    /// Levels below the path that still count; none for no limit. Needs
    /// [`Version::Two`].
    pub depth: Option<u16>,
}

/// TRANSACTION_DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Who has it open.
    pub conn: StreamConn,
    /// The id that the client knows it by.
    pub id: u32,
}

/// NODE_DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// The transaction that sees this version of the node; none for the
    /// committed node.
    pub pending: Option<Pending>,
    /// The absolute path, without the NUL.
    pub path: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Permissions, the owner's first; none at all marks a node that the
    /// transaction deleted.
    pub perms: Cow<'a, [Perm]>,
}

/// An open transaction's hold on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The transaction.
    pub transaction: Transaction,
    /// Whether it read the node.
    pub read: bool,
    /// Whether it wrote the node.
    pub written: bool,
}

/// One entry of a node's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    /// What is granted.
    pub access: Access,
    /// To whom.
    pub domid: DomId,
    /// The domain is gone: the entry keeps its place but grants nothing.
    pub stale: bool,
}

/// What a permission grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `n`
    None,
    /// `r`
    Read,
    /// `w`
    Write,
    /// `b`
    Both,
}

impl Access {
    /// The letter of the xenstore protocol.
    #[must_use]
    pub fn letter(self) -> u8 {
        match self {
            Self::None => b'n',
            Self::Read => b'r',
            Self::Write => b'w',
            Self::Both => b'b',
        }
    }

    /// What a letter of the xenstore protocol grants.
    #[must_use]
    pub fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'n' => Self::None,
            b'r' => Self::Read,
            b'w' => Self::Write,
            b'b' => Self::Both,
            _ => return None,
        })
    }
}

/// A quota and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota<'a> {
    /// Xen's name for it; soft quotas begin with `soft-`.
    pub name: &'a [u8],
    /// The limit; 0 for none.
    pub value: u32,
}

/// GLOBAL_QUOTA_DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalQuota<'a> {
    /// What every new domain is given.
    pub per_domain: Cow<'a, [Quota<'a>]>,
    /// What limits the daemon as a whole.
    pub global: Cow<'a, [Quota<'a>]>,
}

/// DOMAIN_DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain<'a> {
    /// The domain.
    pub domid: DomId,
    /// The features that it was offered; 0 in [`Version::One`].
    pub features: u32,
    /// Its own quotas, where they differ from the global ones.
    pub quotas: Cow<'a, [Quota<'a>]>,
}

/// A stream that cannot be read, or a record that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("xenstore stream, offset {offset}: {flaw}")]
pub struct StreamError {
    /// Where in the stream: the flawed field, or the record being written.
    pub offset: usize,
    /// What is wrong there.
    pub flaw: Flaw,
}

/// What can be wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The bytes end before the field does.
    #[error("{field} ends early: {wanted} bytes wanted, {left} left")]
    Truncated {
        /// The field.
        field: &'static str,
        /// Bytes it needs.
        wanted: usize,
        /// Bytes that remain.
        left: usize,
    },
    /// The header does not begin with `xenstore`.
    #[error("not a xenstore stream")]
    NotAStream,
    /// A version that this module does not know.
    #[error("version {0} is not known (1 and 2 are)")]
    UnknownVersion(u32),
    /// Header flags other than "little-endian".
    #[error("flags {0:#x}: only little-endian streams are read")]
    UnknownFlags(u32),
    /// No END record.
    #[error("the stream stops without an END record")]
    NoEnd,
    /// Bytes after the END record.
    #[error("{0} bytes after the END record")]
    TrailingBytes(usize),
    /// A number that its field cannot have.
    #[error("{field} cannot be {value}")]
    BadValue {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u32,
    },
    /// Text that does not end in its only NUL.
    #[error("{0} is not a NUL-terminated string")]
    NotAString(&'static str),
    /// Writing: more than the format's length field can say.
    #[error("{field} of {len} is too long for the format")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        len: usize,
    },
    /// Writing: a record that only a later version has.
    #[error("{0} needs version 2 of the format")]
    NeedsVersionTwo(&'static str),
}
