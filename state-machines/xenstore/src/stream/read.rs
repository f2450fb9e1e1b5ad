//! Reading a stream.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::iter::FusedIterator;

use state_machine::DomId;

use super::{
    ALIGN, Access, CONN_FLAG, Connection, DEPTH_UNLIMITED, DOMID_INVALID, Domain, Flaw, Global,
    GlobalQuota, HEADER_LEN, IDENT, Node, PERM_STALE, Pending, Perm, Quota, RECORD_HEADER_LEN,
    Record, StreamConn, StreamError, Transaction, Version, Via, Watch, kind,
};

/// Yields a stream's records up to its END. After an error it yields nothing
/// more.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// The whole stream.
    stream: &'a [u8],
    version: Version,
    /// Where the next record begins; none once the stream is done.
    next: Option<usize>,
}

impl<'a> Reader<'a> {
    /// Reads the stream's header.
    ///
    /// # Errors
    /// [`Flaw::Truncated`], [`Flaw::NotAStream`], [`Flaw::UnknownVersion`] or
    /// [`Flaw::UnknownFlags`].
    pub fn new(stream: &'a [u8]) -> Result<Self, StreamError> {
        let mut fields = Fields { stream, at: 0, end: stream.len() };
        if fields.bytes("stream header", IDENT.len())? != IDENT {
            return Err(StreamError { offset: 0, flaw: Flaw::NotAStream });
        }
        let version = match u32::from_be_bytes(fields.array("version")?) {
            1 => Version::One,
            2 => Version::Two,
            other => return Err(StreamError { offset: 8, flaw: Flaw::UnknownVersion(other) }),
        };
        match u32::from_be_bytes(fields.array("flags")?) {
            0 => Ok(Self { stream, version, next: Some(HEADER_LEN) }),
            flags => Err(StreamError { offset: 12, flaw: Flaw::UnknownFlags(flags) }),
        }
    }

    /// The version that the stream is of.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The record at `begin` and where the one after it begins; none at END.
    fn record(&self, begin: usize) -> Result<Option<(Record<'a>, usize)>, StreamError> {
        if begin >= self.stream.len() {
            return Err(StreamError { offset: begin, flaw: Flaw::NoEnd });
        }
        let mut header = Fields { stream: self.stream, at: begin, end: self.stream.len() };
        let kind = header.u32("record type")?;
        let len = header.u32("record length")? as usize;
        let body = begin + RECORD_HEADER_LEN;
        if kind == kind::END {
            let after = self.stream.len() - body;
            return match (len, after) {
                (0, 0) => Ok(None),
                (0, after) => Err(StreamError { offset: body, flaw: Flaw::TrailingBytes(after) }),
                (len, _) => {
                    let flaw =
                        Flaw::BadValue { field: "length of the END record", value: len as u32 };
                    Err(StreamError { offset: begin + 4, flaw })
                }
            };
        }
        header.bytes("record", len)?;
        let mut fields = Fields { stream: self.stream, at: body, end: body + len };
        let record = fields.record(kind)?;
        // A length may or may not count the padding.
        Ok(Some((record, (body + len).next_multiple_of(ALIGN))))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Record<'a>, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self.next.take()?;
        match self.record(begin) {
            Ok(None) => None,
            Ok(Some((record, next))) => {
                self.next = Some(next);
                Some(Ok(record))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl FusedIterator for Reader<'_> {}

/// Takes fields off a stretch of the stream.
struct Fields<'a> {
    stream: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn bytes(&mut self, field: &'static str, wanted: usize) -> Result<&'a [u8], StreamError> {
        let left = self.end - self.at;
        if wanted > left {
            return Err(self.flaw(Flaw::Truncated { field, wanted, left }));
        }
        let bytes = &self.stream[self.at..self.at + wanted];
        self.at += wanted;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], StreamError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, StreamError> {
        self.array(field).map(u16::from_le_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, StreamError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, StreamError> {
        self.array(field).map(i32::from_le_bytes)
    }

    fn flaw(&self, flaw: Flaw) -> StreamError {
        StreamError { offset: self.at, flaw }
    }

    /// An error about the field of `len` bytes that was just read.
    fn bad(&self, len: usize, field: &'static str, value: u32) -> StreamError {
        StreamError { offset: self.at - len, flaw: Flaw::BadValue { field, value } }
    }

    /// A string whose length field counts its NUL.
    fn string(&mut self, field: &'static str, len: u16) -> Result<&'a [u8], StreamError> {
        let at = self.at;
        let bytes = self.bytes(field, len.into())?;
        match bytes.split_last() {
            Some((0, text)) if !text.contains(&0) => Ok(text),
            _ => Err(StreamError { offset: at, flaw: Flaw::NotAString(field) }),
        }
    }

    fn conn(&mut self) -> Result<StreamConn, StreamError> {
        match self.u32("connection id")? {
            0 => Err(self.bad(4, "connection id", 0)),
            id => Ok(StreamConn(id)),
        }
    }

    fn record(&mut self, kind: u32) -> Result<Record<'a>, StreamError> {
        Ok(match kind {
            kind::GLOBAL => Record::Global(Global {
                socket_fd: self.i32("socket descriptor")?,
                evtchn_fd: self.i32("event channel descriptor")?,
            }),
            kind::CONNECTION => Record::Connection(self.connection()?),
            kind::WATCH => Record::Watch(self.watch(false)?),
            kind::WATCH_EXTENDED => Record::Watch(self.watch(true)?),
            kind::TRANSACTION => Record::Transaction(Transaction {
                conn: self.conn()?,
                id: self.u32("transaction id")?,
            }),
            kind::NODE => Record::Node(self.node()?),
            kind::GLOBAL_QUOTA => {
                let per_domain = self.u16("per-domain quota count")?;
                let global = self.u16("global quota count")?;
                let mut quotas = self.quotas(usize::from(per_domain) + usize::from(global))?;
                let global = quotas.split_off(per_domain.into());
                Record::GlobalQuota(GlobalQuota {
                    per_domain: Cow::Owned(quotas),
                    global: Cow::Owned(global),
                })
            }
            kind::DOMAIN => {
                let domid = DomId(self.u16("domain id")?);
                let count = self.u16("quota count")?;
                let features = self.u32("features")?;
                let quotas = Cow::Owned(self.quotas(count.into())?);
                Record::Domain(Domain { domid, features, quotas })
            }
            own if own & !0xff == kind::OWN_BASE => {
                let len = self.u32("own record's length")? as usize;
                Record::Own { tag: own as u8, bytes: self.bytes("own record", len)? }
            }
            unknown => {
                let bytes = &self.stream[self.at..self.end];
                Record::Unknown { kind: unknown, bytes }
            }
        })
    }

    fn connection(&mut self) -> Result<Connection<'a>, StreamError> {
        let begin = self.at;
        let id = self.conn()?;
        let conn_type = self.u16("connection type")?;
        if conn_type > 1 {
            return Err(self.bad(2, "connection type", conn_type.into()));
        }
        let flags = self.u16("connection flags")?;
        if flags & !CONN_FLAG != 0 {
            return Err(self.bad(2, "connection flags", flags.into()));
        }
        let flag = flags == CONN_FLAG;
        let mut via = if conn_type == 0 {
            let domid = DomId(self.u16("domain id")?);
            let target = Some(self.u16("target domain id")?).filter(|&id| id != DOMID_INVALID);
            let evtchn = self.u32("event channel")?;
            Via::Ring { domid, target: target.map(DomId), evtchn, unique_id: None }
        } else {
            let fd = self.i32("connection's descriptor")?;
            self.u32("padding")?;
            Via::Socket { fd, read_only: flag }
        };
        let unprocessed_len = self.u16("unprocessed data's length")?;
        let unsent_partial = self.u16("partial response's length")?;
        if u32::from(unsent_partial) > self.peek_u32("unsent data's length")? {
            return Err(self.bad(2, "partial response's length", unsent_partial.into()));
        }
        let unsent_len = self.u32("unsent data's length")?;
        let unprocessed = self.bytes("unprocessed data", unprocessed_len.into())?;
        let unsent = self.bytes("unsent data", unsent_len as usize)?;
        if let Via::Ring { unique_id, .. } = &mut via
            && flag
        {
            let used = self.at - begin;
            self.bytes("padding", used.next_multiple_of(ALIGN) - used)?;
            *unique_id = Some(self.array("unique domain id").map(u64::from_le_bytes)?);
        }
        Ok(Connection { id, via, unprocessed, unsent, unsent_partial })
    }

    fn peek_u32(&mut self, field: &'static str) -> Result<u32, StreamError> {
        let at = self.at;
        let value = self.u32(field)?;
        self.at = at;
        Ok(value)
    }

    fn watch(&mut self, extended: bool) -> Result<Watch<'a>, StreamError> {
        let conn = self.conn()?;
        let path_len = self.u16("watch path's length")?;
        let token_len = self.u16("watch token's length")?;
        let mut depth = None;
        if extended {
            depth = Some(self.u16("watch depth")?).filter(|&depth| depth != DEPTH_UNLIMITED);
            self.u16("padding")?;
        }
        let path = self.string("watch path", path_len)?;
        let token = self.string("watch token", token_len)?;
        Ok(Watch { conn, path, token, depth })
    }

    fn node(&mut self) -> Result<Node<'a>, StreamError> {
        let conn = self.u32("node's connection id")?;
        let tx = self.u32("node's transaction id")?;
        let path_len = self.u16("node path's length")?;
        let value_len = self.u16("node value's length")?;
        let access = self.u16("node access")?;
        let pending = (conn != 0).then_some(Pending {
            transaction: Transaction { conn: StreamConn(conn), id: tx },
            read: access & 1 != 0,
            written: access & 2 != 0,
        });
        if pending.is_some() && access > 3 {
            return Err(self.bad(2, "node access", access.into()));
        }
        let perm_count = self.u16("permission count")?;
        if pending.is_none() && perm_count == 0 {
            return Err(self.bad(2, "permission count of a committed node", 0));
        }
        let perms = self.perms(perm_count.into())?;
        let path = self.string("node path", path_len)?;
        let value = self.bytes("node value", value_len.into())?;
        Ok(Node { pending, path, value, perms: Cow::Owned(perms) })
    }

    fn perms(&mut self, count: usize) -> Result<Vec<Perm>, StreamError> {
        // Nothing is reserved for entries that are not there.
        let mut perms = Vec::with_capacity(count.min((self.end - self.at) / 4));
        for _ in 0..count {
            let [letter, flags, low, high] = self.array("permission")?;
            let access = Access::from_letter(letter)
                .ok_or_else(|| self.bad(4, "permission letter", letter.into()))?;
            if flags & !PERM_STALE != 0 {
                return Err(self.bad(3, "permission flags", flags.into()));
            }
            let domid = DomId(u16::from_le_bytes([low, high]));
            perms.push(Perm { access, domid, stale: flags == PERM_STALE });
        }
        Ok(perms)
    }

    fn quotas(&mut self, count: usize) -> Result<Vec<Quota<'a>>, StreamError> {
        let mut quotas = Vec::with_capacity(count.min((self.end - self.at) / 4));
        for _ in 0..count {
            quotas.push(Quota { name: &[], value: self.u32("quota value")? });
        }
        for quota in &mut quotas {
            let rest = &self.stream[self.at..self.end];
            let Some(len) = rest.iter().position(|&byte| byte == 0) else {
                return Err(self.flaw(Flaw::NotAString("quota name")));
            };
            quota.name = &rest[..len];
            self.at += len + 1;
        }
        Ok(quotas)
    }
}
