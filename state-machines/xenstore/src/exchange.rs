//! Taking a store over from Xen's daemon, and handing one over to it, through
//! the stream that it writes and reads at a live update.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use state_machine::{ConnId, DomId};

use crate::domain::Domain;
use crate::machine::Xenstore;
use crate::node::Content;
use crate::path::Path;
use crate::snapshot::{PermsPool, put_nodes, quotas_from, quotas_to, ring};
use crate::state::{Conn, State};
use crate::store::Fail;
use crate::stream::{self, Record, StreamConn, StreamError, Version, Via, Writer};
use crate::watch::Watch;

/// A stream that cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The framing is broken.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A node that the store cannot hold.
    #[error("node {path:?}: {flaw}")]
    Node {
        /// Its path.
        path: String,
        /// What is wrong with it.
        flaw: &'static str,
    },
    /// A watch that the store cannot hold.
    #[error("watch on {path:?}: {flaw}")]
    Watch {
        /// Its path.
        path: String,
        /// What is wrong with it.
        flaw: &'static str,
    },
}

/// A ring connection that was taken over, with its watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedConn {
    /// Its number from now on.
    pub conn: ConnId,
    /// Whose ring it is.
    pub domid: DomId,
    /// The event channel's port on the daemon's side.
    pub evtchn: u32,
    /// Bytes that were read from the ring and not yet processed.
    pub unprocessed: Vec<u8>,
    /// Bytes that are still to be written to the ring.
    pub unsent: Vec<u8>,
}

/// A store that was taken over.
#[derive(Debug)]
pub struct Imported {
    /// The store. Its ring connections are open; an [`state_machine::Input::Boot`] would
    /// close them.
    pub store: Xenstore,
    /// The ring connections.
    pub rings: Vec<ImportedConn>,
    /// Socket connections that were not taken over: they are another process's.
    pub sockets_dropped: usize,
    /// Watches that went with those.
    pub watches_dropped: usize,
    /// Transactions that were not taken over; Xen's daemon writes none.
    pub transactions_dropped: usize,
}

impl Xenstore {
    /// The store as a stream that Xen's daemon can read: nodes, and introduced
    /// domains with their rings and watches. Local connections and open
    /// transactions stay behind.
    ///
    /// # Errors
    /// [`StreamError`] when the format's `version` cannot express something,
    /// such as a watch with a depth in [`Version::One`].
    pub fn export(&self, version: Version) -> Result<Vec<u8>, StreamError> {
        let state = &self.state;
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, version);
        writer.put(&Record::Global(stream::Global { socket_fd: -1, evtchn_fd: -1 }))?;
        let mut domains: Vec<Domain> = Vec::new();
        state.domains.visit(&mut |domain| domains.push(domain.clone()));
        if version >= Version::Two {
            let (per_domain, global) =
                (Cow::Owned(quotas_to(&state.quotas)), Cow::Borrowed(&[][..]));
            writer.put(&Record::GlobalQuota(stream::GlobalQuota { per_domain, global }))?;
        }
        let introduced = domains.iter().filter(|domain| domain.introduced);
        for (number, domain) in (1..).zip(introduced) {
            export_ring(&mut writer, state, StreamConn(number), domain.domid)?;
        }
        if version >= Version::Two {
            for &Domain { domid, features, ref quotas, .. } in &domains {
                let quotas = Cow::Owned(quotas.iter().flat_map(quotas_to).collect());
                writer.put(&Record::Domain(stream::Domain { domid, features, quotas }))?;
            }
        }
        put_nodes(&mut writer, &state.store)?;
        writer.end();
        Ok(out)
    }

    /// The store that Xen's daemon wrote. Its ring connections get the numbers
    /// from `first` on.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn import(bytes: &[u8], first: ConnId) -> Result<Imported, ImportError> {
        let mut importing = Importing {
            state: State::empty(),
            next: first,
            known: BTreeMap::new(),
            perms: PermsPool::default(),
            rings: Vec::new(),
            sockets_dropped: 0,
            watches_dropped: 0,
            transactions_dropped: 0,
        };
        for record in stream::Reader::new(bytes)? {
            importing.record(&record?)?;
        }
        Ok(Imported {
            store: Self::from(importing.state),
            rings: importing.rings,
            sockets_dropped: importing.sockets_dropped,
            watches_dropped: importing.watches_dropped,
            transactions_dropped: importing.transactions_dropped,
        })
    }
}

fn export_ring(
    writer: &mut Writer<'_>,
    state: &State,
    id: StreamConn,
    domid: DomId,
) -> Result<(), StreamError> {
    let via = ring(state, domid);
    let connection =
        stream::Connection { id, via, unprocessed: &[], unsent: &[], unsent_partial: 0 };
    writer.put(&Record::Connection(connection))?;
    for watch in state.conns_of(domid).into_iter().flat_map(|conn| state.watches.of(conn)) {
        let path = watch.path.get(watch.prefix..).unwrap_or(&watch.path);
        let (token, depth) = (&*watch.token, watch.depth);
        writer.put(&Record::Watch(stream::Watch { conn: id, path, token, depth }))?;
    }
    Ok(())
}

struct Importing {
    state: State,
    next: ConnId,
    /// Connections by their number in the stream; `None` for dropped ones.
    known: BTreeMap<StreamConn, Option<Conn>>,
    perms: PermsPool,
    rings: Vec<ImportedConn>,
    sockets_dropped: usize,
    watches_dropped: usize,
    transactions_dropped: usize,
}

impl Importing {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ImportError> {
        match record {
            // Descriptors of another process, and what other daemons have added.
            Record::Global(_) | Record::Own { .. } | Record::Unknown { .. } => {}
            Record::Connection(connection) => self.connection(connection),
            Record::Watch(watch) => self.watch(watch)?,
            Record::Transaction(_) => self.transactions_dropped += 1,
            Record::Node(node) if node.pending.is_some() => {}
            Record::Node(node) => self.node(node)?,
            Record::GlobalQuota(quotas) => {
                quotas_from(quotas.per_domain.iter(), &mut self.state.quotas);
            }
            Record::Domain(domain) => self.domain(domain),
        }
        Ok(())
    }

    fn edit(&mut self, domid: DomId, edit: impl FnOnce(&mut Domain)) {
        if domid == DomId(0) {
            return;
        }
        let mut domain =
            self.state.domains.get(domid).cloned().unwrap_or_else(|| Domain::new(domid));
        edit(&mut domain);
        self.state.domains.put(domain);
    }

    fn domain(&mut self, record: &stream::Domain<'_>) {
        let mut quotas = self.state.quotas;
        quotas_from(record.quotas.iter(), &mut quotas);
        self.edit(record.domid, |domain| {
            domain.features = record.features;
            domain.quotas = (!record.quotas.is_empty()).then_some(quotas);
        });
    }

    fn connection(&mut self, record: &stream::Connection<'_>) {
        let Via::Ring { domid, target, evtchn, .. } = record.via else {
            self.sockets_dropped += 1;
            self.known.insert(record.id, None);
            return;
        };
        self.edit(domid, |domain| {
            domain.live = true;
            domain.introduced = true;
            domain.evtchn = evtchn;
            domain.target = target;
        });
        let conn = Conn { id: self.next, domid, last_transaction: 0 };
        self.next = ConnId(self.next.0 + 1);
        self.known.insert(record.id, Some(conn));
        self.state.conns.insert(conn.id, conn);
        self.rings.push(ImportedConn {
            conn: conn.id,
            domid,
            evtchn,
            unprocessed: record.unprocessed.to_vec(),
            unsent: record.unsent.to_vec(),
        });
    }

    fn watch(&mut self, record: &stream::Watch<'_>) -> Result<(), ImportError> {
        let flawed = |flaw| {
            let path = String::from_utf8_lossy(record.path).into_owned();
            Err(ImportError::Watch { path, flaw })
        };
        let conn = match self.known.get(&record.conn) {
            Some(Some(conn)) => *conn,
            Some(None) => {
                self.watches_dropped += 1;
                return Ok(());
            }
            None => return flawed("of an unknown connection"),
        };
        let Ok(path) = Path::parse(record.path, conn.domid, None, true) else {
            return flawed("not a path");
        };
        let number = self.state.watches.next_number();
        let watch = Watch {
            conn: conn.id,
            number,
            path: path.text().into(),
            hash: path.hash(),
            prefix: path.prefix(),
            token: record.token.into(),
            depth: record.depth,
        };
        self.state.domains.account(conn.domid, |held| {
            held.watches += 1;
            held.bytes += watch.accounted();
        });
        self.state.watches.add(watch);
        Ok(())
    }

    fn node(&mut self, record: &stream::Node<'_>) -> Result<(), ImportError> {
        let flawed = |flaw| {
            let path = String::from_utf8_lossy(record.path).into_owned();
            Err(ImportError::Node { path, flaw })
        };
        let path = match Path::parse(record.path, DomId(0), None, true) {
            Ok(path) if path.prefix() == 0 => path,
            _ => return flawed("not an absolute path"),
        };
        let Some(perms) = self.perms.get(&record.perms) else { return flawed("has no owner") };
        // An owner exists, introduced or not: the daemon removes what others owned.
        self.edit(perms.owner(), |domain| domain.live = true);
        self.state.generation += 1;
        let generation = self.state.generation;
        let is_fixed = path.is_special() || path.is_root();
        let name = if is_fixed { b"" } else { path.name(path.len() - 1) };
        let content = Content { name, value: record.value, perms, born: generation, generation };
        let store = &mut self.state.store;
        let done = match is_fixed {
            true => store.rewrite(&path, &content),
            false => store.restore(&path, &content),
        };
        match done {
            Ok(()) => Ok(()),
            Err(Fail::Corrupt(_)) => flawed("lost while being read"),
            Err(Fail::Errno(_)) => flawed("has no parent, or comes twice"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rig, text};
    use crate::wire::MessageType::*;

    fn rig() -> Rig {
        let mut rig = Rig::new();
        rig.introduce(5, 5);
        rig.ok(Write, b"/local/domain/5/x\0value");
        rig.ok(SetPerms, b"/local/domain/5\0n5\0r7\0");
        rig.ok(SetPerms, b"@releaseDomain\0n0\0r5\0");
        for payload in [&b"rel\0t\0"[..], b"@releaseDomain\0u\0"] {
            rig.ask(5, Watch, 0, payload).expect("allowed");
        }
        rig.ok(Watch, b"/local\0v\0");
        rig
    }

    #[test]
    fn what_is_exported_is_imported() {
        for version in [Version::One, Version::Two] {
            let rig = rig();
            let bytes = rig.machine.export(version).expect("expressible");
            let imported = Xenstore::import(&bytes, ConnId(70)).expect("sound");
            let ring = &imported.rings[..];
            assert!(matches!(
                ring,
                [ImportedConn { conn: ConnId(70), domid: DomId(5), evtchn: 5, .. }]
            ));
            let mut rig = Rig::new();
            rig.machine = imported.store;
            rig.open(1, 0);
            assert_eq!(rig.ask(70, Read, 0, b"x\0"), Err(crate::wire::Errno::EACCES));
            assert_eq!(rig.read(b"/local/domain/5/x"), Ok(b"value".to_vec()));
            assert_eq!(rig.ask(1, GetPerms, 0, b"/local/domain/5\0"), Ok(text(&[b"n5", b"r7"])));
            assert_eq!(rig.ask(1, GetPerms, 0, b"@releaseDomain\0"), Ok(text(&[b"n0", b"r5"])));
            rig.ok(Write, b"/local/domain/5/rel/y\0");
            rig.introduce(6, 6);
            rig.ok(Release, b"6\0");
            let fired = [
                (70, b"rel/y".to_vec(), b"t".to_vec()),
                (70, b"@releaseDomain".to_vec(), b"u".to_vec()),
            ];
            assert_eq!(rig.fired(), fired);
            assert_eq!(rig.machine.node_count(), 9);
            rig.ok(Control, b"check\0");
        }
    }

    #[test]
    fn what_cannot_be_taken_over_is_counted_or_refused() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, Version::One);
        let id = StreamConn(1);
        let via = Via::Socket { fd: 3, read_only: false };
        let connection =
            stream::Connection { id, via, unprocessed: &[], unsent: &[], unsent_partial: 0 };
        writer.put(&Record::Connection(connection)).expect("fits");
        let watch = stream::Watch { conn: id, path: b"/a", token: b"t", depth: None };
        writer.put(&Record::Watch(watch)).expect("fits");
        writer.put(&Record::Transaction(stream::Transaction { conn: id, id: 1 })).expect("fits");
        writer.end();
        let imported = Xenstore::import(&bytes, ConnId(1)).expect("sound");
        assert_eq!((imported.sockets_dropped, imported.watches_dropped), (1, 1));
        assert_eq!((imported.transactions_dropped, imported.rings.len()), (1, 0));
        let node = |path: &'static [u8], perms: &'static [stream::Perm]| {
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes, Version::One);
            let perms = Cow::Borrowed(perms);
            let record = stream::Node { pending: None, path, value: b"", perms };
            writer.put(&Record::Node(record)).expect("fits");
            writer.end();
            Xenstore::import(&bytes, ConnId(1)).map(|_| ())
        };
        const OWNER: &[stream::Perm] =
            &[stream::Perm { access: stream::Access::None, domid: DomId(0), stale: false }];
        assert_eq!(node(b"/a", OWNER), Ok(()));
        for (path, perms) in [(&b"/a/b"[..], OWNER), (b"a", OWNER), (b"/a", &[]), (b"@foo", OWNER)]
        {
            assert!(node(path, perms).is_err(), "{path:?}");
        }
        assert!(matches!(Xenstore::import(b"junk", ConnId(1)), Err(ImportError::Stream(_))));
    }

    #[test]
    fn an_old_format_says_what_it_cannot_express() {
        let mut rig = rig();
        rig.ask(5, Watch, 0, b"deep\0t\x001\0").expect("allowed");
        assert!(rig.machine.export(Version::One).is_err());
        assert!(rig.machine.export(Version::Two).is_ok());
    }
}
