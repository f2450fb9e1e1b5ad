//! Writing a stream.

use alloc::vec::Vec;

use super::{
    ALIGN, CONN_FLAG, Connection, DEPTH_UNLIMITED, DOMID_INVALID, Domain, Flaw, Global,
    GlobalQuota, IDENT, Node, PERM_STALE, Pending, Quota, RECORD_HEADER_LEN, Record, StreamError,
    Transaction, Version, Via, Watch, kind,
};

/// Appends a stream to a byte vector, record by record.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Where in `out` this writer has begun: offsets count from here.
    start: usize,
    version: Version,
}

impl<'a> Writer<'a> {
    /// Begins a stream at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, version: Version) -> Self {
        let start = out.len();
        out.extend_from_slice(&IDENT);
        let number: u32 = match version {
            Version::One => 1,
            Version::Two => 2,
        };
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&0u32.to_be_bytes());
        Self { out, start, version }
    }

    /// Goes on, at the end of `out`, with a stream that was begun before, by another
    /// writer and perhaps elsewhere. The offsets of errors count from here.
    pub fn resume(out: &'a mut Vec<u8>, version: Version) -> Self {
        let start = out.len();
        Self { out, start, version }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`Flaw::TooLong`], [`Flaw::NotAString`] or [`Flaw::BadValue`] when the
    /// format cannot express a field, [`Flaw::NeedsVersionTwo`]; the stream is
    /// then as it was before.
    pub fn put(&mut self, record: &Record<'_>) -> Result<(), StreamError> {
        let begin = self.out.len();
        self.put_at(begin, record).map_err(|flaw| {
            self.out.truncate(begin);
            StreamError { offset: begin - self.start, flaw }
        })
    }

    /// Appends the END record. A stream without one is not whole.
    pub fn end(self) {
        self.out.extend_from_slice(&kind::END.to_le_bytes());
        self.out.extend_from_slice(&0u32.to_le_bytes());
    }

    fn put_at(&mut self, begin: usize, record: &Record<'_>) -> Result<(), Flaw> {
        self.out.extend_from_slice(&[0; RECORD_HEADER_LEN]);
        let kind = self.put_body(begin, record)?;
        self.pad(begin);
        // The C daemon finds the next record at this length, so padding counts.
        let len = self.out.len() - begin - RECORD_HEADER_LEN;
        let len = u32::try_from(len).map_err(|_| Flaw::TooLong { field: "record", len })?;
        self.out[begin..begin + 4].copy_from_slice(&kind.to_le_bytes());
        self.out[begin + 4..begin + 8].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// Pads the record that began at `begin`, itself an aligned place.
    fn pad(&mut self, begin: usize) {
        let len = (self.out.len() - begin).next_multiple_of(ALIGN);
        self.out.resize(begin + len, 0);
    }

    fn put_body(&mut self, begin: usize, record: &Record<'_>) -> Result<u32, Flaw> {
        Ok(match record {
            Record::Global(Global { socket_fd, evtchn_fd }) => {
                self.out.extend_from_slice(&socket_fd.to_le_bytes());
                self.out.extend_from_slice(&evtchn_fd.to_le_bytes());
                kind::GLOBAL
            }
            Record::Connection(connection) => {
                self.put_connection(begin, connection)?;
                kind::CONNECTION
            }
            Record::Watch(watch) => self.put_watch(watch)?,
            Record::Transaction(Transaction { conn, id }) => {
                self.u32(conn.0);
                self.u32(*id);
                kind::TRANSACTION
            }
            Record::Node(node) => {
                self.put_node(node)?;
                kind::NODE
            }
            Record::GlobalQuota(GlobalQuota { per_domain, global }) => {
                self.u16("per-domain quota count", per_domain.len())?;
                self.u16("global quota count", global.len())?;
                self.put_quotas(per_domain.iter().chain(global.iter()))?;
                kind::GLOBAL_QUOTA
            }
            Record::Domain(Domain { domid, features, quotas }) => {
                if *features != 0 && self.version < Version::Two {
                    return Err(Flaw::NeedsVersionTwo("a domain's features"));
                }
                self.out.extend_from_slice(&domid.0.to_le_bytes());
                self.u16("quota count", quotas.len())?;
                self.u32(*features);
                self.put_quotas(quotas.iter())?;
                kind::DOMAIN
            }
            Record::Own { tag, bytes } => {
                let len = u32::try_from(bytes.len())
                    .map_err(|_| Flaw::TooLong { field: "own record", len: bytes.len() })?;
                self.u32(len);
                self.out.extend_from_slice(bytes);
                kind::OWN_BASE | u32::from(*tag)
            }
            Record::Unknown { kind, bytes } => {
                if *kind <= kind::WATCH_EXTENDED || kind & !0xff == kind::OWN_BASE {
                    return Err(Flaw::BadValue { field: "unknown record's type", value: *kind });
                }
                self.out.extend_from_slice(bytes);
                *kind
            }
        })
    }

    fn put_connection(&mut self, begin: usize, connection: &Connection<'_>) -> Result<(), Flaw> {
        if usize::from(connection.unsent_partial) > connection.unsent.len() {
            let value = connection.unsent_partial.into();
            return Err(Flaw::BadValue { field: "partial response length", value });
        }
        let (conn_type, flag) = match connection.via {
            Via::Ring { unique_id, .. } => (0, unique_id.is_some()),
            Via::Socket { read_only, .. } => (1, read_only),
        };
        self.u32(connection.id.0);
        self.u16("connection type", conn_type)?;
        self.u16("connection flags", if flag { usize::from(CONN_FLAG) } else { 0 })?;
        match connection.via {
            Via::Ring { domid, target, evtchn, .. } => {
                let target = target.map_or(DOMID_INVALID, |domid| domid.0);
                self.out.extend_from_slice(&domid.0.to_le_bytes());
                self.out.extend_from_slice(&target.to_le_bytes());
                self.u32(evtchn);
            }
            Via::Socket { fd, .. } => {
                self.out.extend_from_slice(&fd.to_le_bytes());
                self.u32(0);
            }
        }
        self.u16("unprocessed data", connection.unprocessed.len())?;
        self.out.extend_from_slice(&connection.unsent_partial.to_le_bytes());
        let len = connection.unsent.len();
        let unsent = u32::try_from(len).map_err(|_| Flaw::TooLong { field: "unsent data", len })?;
        self.u32(unsent);
        self.out.extend_from_slice(connection.unprocessed);
        self.out.extend_from_slice(connection.unsent);
        if let Via::Ring { unique_id: Some(unique_id), .. } = connection.via {
            self.pad(begin);
            self.out.extend_from_slice(&unique_id.to_le_bytes());
        }
        Ok(())
    }

    fn put_watch(&mut self, watch: &Watch<'_>) -> Result<u32, Flaw> {
        self.u32(watch.conn.0);
        self.u16("watch path", watch.path.len() + 1)?;
        self.u16("watch token", watch.token.len() + 1)?;
        let kind = match watch.depth {
            None => kind::WATCH,
            Some(_) if self.version < Version::Two => {
                return Err(Flaw::NeedsVersionTwo("a watch's depth"));
            }
            Some(DEPTH_UNLIMITED) => {
                let value = DEPTH_UNLIMITED.into();
                return Err(Flaw::BadValue { field: "watch depth", value });
            }
            Some(depth) => {
                self.u32(depth.into());
                kind::WATCH_EXTENDED
            }
        };
        self.string("watch path", watch.path)?;
        self.string("watch token", watch.token)?;
        Ok(kind)
    }

    fn put_node(&mut self, node: &Node<'_>) -> Result<(), Flaw> {
        let (conn, tx, access) = match node.pending {
            None => (0, 0, 0),
            Some(Pending { transaction, read, written }) => {
                let access = usize::from(read) | usize::from(written) << 1;
                (transaction.conn.0, transaction.id, access)
            }
        };
        self.u32(conn);
        self.u32(tx);
        self.u16("node path", node.path.len() + 1)?;
        self.u16("node value", node.value.len())?;
        self.u16("node access", access)?;
        self.u16("node permissions", node.perms.len())?;
        for perm in node.perms.iter() {
            self.out.push(perm.access.letter());
            self.out.push(if perm.stale { PERM_STALE } else { 0 });
            self.out.extend_from_slice(&perm.domid.0.to_le_bytes());
        }
        self.string("node path", node.path)?;
        self.out.extend_from_slice(node.value);
        Ok(())
    }

    fn put_quotas<'q>(
        &mut self,
        quotas: impl Iterator<Item = &'q Quota<'q>> + Clone,
    ) -> Result<(), Flaw> {
        for quota in quotas.clone() {
            self.u32(quota.value);
        }
        for quota in quotas {
            self.string("quota name", quota.name)?;
        }
        Ok(())
    }

    fn u16(&mut self, field: &'static str, len: usize) -> Result<(), Flaw> {
        let value = u16::try_from(len).map_err(|_| Flaw::TooLong { field, len })?;
        self.out.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn string(&mut self, field: &'static str, text: &[u8]) -> Result<(), Flaw> {
        if text.contains(&0) {
            return Err(Flaw::NotAString(field));
        }
        self.out.extend_from_slice(text);
        self.out.push(0);
        Ok(())
    }
}
