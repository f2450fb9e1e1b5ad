//! Reading a state.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{CodecError, ConnId, DomId, Reader, RestoreError};

use super::tag;
use crate::domain::Domain;
use crate::fair::{MAX_WAITING, Shield, Waiter};
use crate::node::Content;
use crate::path::Path;
use crate::perms::{Perm, Perms};
use crate::quota::{Named, Quotas, STORE_LIMIT};
use crate::size::{Room, Wear};
use crate::state::{Conn, State};
use crate::store::{Env, Fail, Store};
use crate::stream::{self, Record, StreamConn, StreamError};
use crate::transaction::{Operation, Transaction};
use crate::watch::Watch;
use crate::wire::MessageType;

impl From<StreamError> for Broken {
    fn from(error: StreamError) -> Self {
        Self(error.to_string())
    }
}

impl From<CodecError> for Broken {
    fn from(error: CodecError) -> Self {
        Self(error.to_string())
    }
}

/// What is wrong with a snapshot.
struct Broken(String);

fn broken<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken(what.into()))
}

/// A number that was counted up to, and can still be counted on.
fn counter(reader: &mut Reader<'_>) -> Result<u64, Broken> {
    let count = reader.u64()?;
    if count < 1 << 62 { Ok(count) } else { broken("a counter beyond all counting") }
}

fn wear(reader: &mut Reader<'_>) -> Result<Wear, Broken> {
    Ok(Wear { copied: counter(reader)?, removed: counter(reader)? })
}

/// Permissions that were met before: most nodes share theirs with others.
#[derive(Debug, Default)]
pub(crate) struct PermsPool {
    met: BTreeMap<Vec<u32>, Arc<Perms>>,
    last: Option<Arc<Perms>>,
}

impl PermsPool {
    /// Shared permissions of these entries; `None` when there is no owner.
    pub(crate) fn get(&mut self, entries: &[Perm]) -> Option<Arc<Perms>> {
        if let Some(last) = &self.last
            && last.entries() == entries
        {
            return Some(last.clone());
        }
        let key = entries.iter().map(|entry| {
            let flags = u32::from(entry.access.letter()) << 16 | u32::from(entry.stale) << 24;
            u32::from(entry.domid.0) | flags
        });
        let key: Vec<u32> = key.collect();
        let perms = match self.met.get(&key) {
            Some(perms) => perms.clone(),
            None => {
                let perms = Arc::new(Perms::new(entries.to_vec())?);
                self.met.insert(key, perms.clone());
                perms
            }
        };
        self.last = Some(perms.clone());
        Some(perms)
    }
}

/// Sets the quotas that a stream names; those that we do not know do not
/// matter to us.
pub(crate) fn quotas_from<'q>(
    named: impl Iterator<Item = &'q stream::Quota<'q>>,
    quotas: &mut Quotas,
) {
    for quota in named {
        if let Ok(name) = Named::parse(quota.name) {
            quotas.set(name, quota.value);
        }
    }
}

/// Reads the state that `encode` wrote.
///
/// # Errors
/// [`RestoreError::Content`] when it is not such a state.
pub(crate) fn restore(bytes: &[u8]) -> Result<State, RestoreError> {
    let mut restoring = Restoring {
        state: State::empty(),
        conns: BTreeMap::new(),
        number: None,
        births: VecDeque::new(),
        perms: PermsPool::default(),
        open: None,
    };
    let mut read = || {
        for record in stream::Reader::new(bytes)? {
            restoring.record(&record?)?;
        }
        restoring.close_transaction();
        Ok(())
    };
    match read() {
        Ok(()) => Ok(restoring.state),
        Err(Broken(what)) => Err(RestoreError::Content(what)),
    }
}

struct Restoring {
    state: State,
    /// Connections by their number in the stream.
    conns: BTreeMap<StreamConn, Conn>,
    /// Number of the watch to come.
    number: Option<u64>,
    /// Births and generations of the nodes to come.
    births: VecDeque<(u64, u64)>,
    perms: PermsPool,
    /// The transaction whose records are being read, and its operations.
    open: Option<(Transaction, Vec<Operation>)>,
}

impl Restoring {
    fn record(&mut self, record: &Record<'_>) -> Result<(), Broken> {
        match record {
            // What a connection is connected by is the host's business.
            Record::Global(_) => Ok(()),
            Record::Connection(connection) => {
                let id = ConnId::HOST;
                let conn = Conn { id, domid: DomId(0), last_transaction: 0 };
                self.conns.insert(connection.id, conn);
                Ok(())
            }
            Record::Watch(watch) => self.watch(watch),
            Record::Transaction(transaction) => self.transaction(*transaction),
            Record::Node(node) => self.node(node),
            Record::GlobalQuota(quotas) => {
                quotas_from(quotas.per_domain.iter(), &mut self.state.quotas);
                for quota in quotas.global.iter().filter(|quota| quota.name == STORE_LIMIT) {
                    self.state.limit_kib = quota.value;
                }
                Ok(())
            }
            Record::Domain(domain) => {
                let mut known = Domain { features: domain.features, ..Domain::new(domain.domid) };
                if !domain.quotas.is_empty() {
                    let mut quotas = self.state.quotas;
                    quotas_from(domain.quotas.iter(), &mut quotas);
                    known.quotas = Some(quotas);
                }
                self.state.domains.put(known);
                Ok(())
            }
            Record::Own { tag, bytes } => self.own(*tag, bytes),
            Record::Unknown { kind, .. } => broken(format!("unknown record type {kind:#x}")),
        }
    }

    fn own(&mut self, tag: u8, bytes: &[u8]) -> Result<(), Broken> {
        let mut reader = Reader::new(bytes);
        match tag {
            tag::CORE => {
                self.state.generation = counter(&mut reader)?;
                self.state.version = counter(&mut reader)?;
                self.state.watches.set_registered(counter(&mut reader)?);
                self.state.store.set_wear(wear(&mut reader)?);
                self.state.log = reader.u8()? != 0;
            }
            tag::DOMAIN => self.domain(&mut reader)?,
            tag::CONN => {
                let Some(mut last) = self.conns.last_entry() else {
                    return broken("a connection's record without one");
                };
                let (id, domid) = (ConnId(reader.u64()?), DomId(reader.u16()?));
                let conn = Conn { id, domid, last_transaction: reader.u32()? };
                last.insert(conn);
                self.state.conns.insert(id, conn);
            }
            tag::WATCH => self.number = Some(reader.u64()?),
            tag::BIRTHS => {
                while !reader.is_empty() {
                    let (born, generation) = (reader.u64()?, reader.u64()?);
                    if born.max(generation) > self.state.generation {
                        return broken("a node from the future");
                    }
                    self.births.push_back((born, generation));
                }
            }
            tag::TRANSACTION => {
                let (began, from, now) = (reader.u64()?, wear(&mut reader)?, wear(&mut reader)?);
                match &mut self.open {
                    Some((transaction, _)) => {
                        (transaction.began, transaction.from) = (began, from);
                        transaction.working.set_wear(now);
                    }
                    None => return broken("a transaction's record without one"),
                }
            }
            tag::OPERATION => self.operation(reader)?,
            tag::FAIR => self.fair(&mut reader)?,
            _ => return broken(format!("unknown record of our own: {tag}")),
        }
        Ok(())
    }

    fn domain(&mut self, reader: &mut Reader<'_>) -> Result<(), Broken> {
        let domid = DomId(reader.u16()?);
        let Some(mut domain) = self.state.domains.get(domid).cloned() else {
            return broken("a domain's record without one");
        };
        let flags = reader.u8()?;
        (domain.live, domain.introduced) = (flags & 1 != 0, flags & 2 != 0);
        domain.since = reader.u64()?;
        domain.gfn = reader.u64()?;
        domain.evtchn = reader.u32()?;
        domain.target = u16::try_from(reader.u32()?).ok().map(DomId);
        self.state.domains.put(domain);
        Ok(())
    }

    fn watch(&mut self, record: &stream::Watch<'_>) -> Result<(), Broken> {
        let Some(conn) = self.conns.get(&record.conn) else {
            return broken("a watch of an unknown connection");
        };
        let Ok(path) = Path::parse(record.path, conn.domid, None, true) else {
            return broken("a watch on what is no path");
        };
        let Some(number) = self.number.take() else { return broken("a watch without number") };
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

    fn node(&mut self, record: &stream::Node<'_>) -> Result<(), Broken> {
        let no_path = || Broken("a node on what is no path".to_string());
        let path = Path::parse(record.path, DomId(0), None, true).map_err(|_| no_path())?;
        if path.prefix() > 0 {
            return Err(no_path());
        }
        let store = match (&mut self.open, record.pending) {
            (_, None) => &mut self.state.store,
            (Some((transaction, _)), Some(_)) => &mut transaction.working,
            (None, Some(_)) => return broken("a pending node without transaction"),
        };
        let place = |_: Fail| Broken("a node without parent, or twice".to_string());
        let Some(perms) = self.perms.get(&record.perms) else {
            return store.erase(&path).map_err(place);
        };
        let Some((born, generation)) = self.births.pop_front() else {
            return broken("a node without birth");
        };
        let name =
            if path.is_special() || path.is_root() { b"" } else { path.name(path.len() - 1) };
        let content = Content { name, value: record.value, perms, born, generation };
        put(store, &path, &content).map_err(place)
    }

    fn transaction(&mut self, record: stream::Transaction) -> Result<(), Broken> {
        self.close_transaction();
        let Some(conn) = self.conns.get(&record.conn) else {
            return broken("a transaction of an unknown connection");
        };
        let store = self.state.store.clone();
        self.open = Some((Transaction::new(conn.id, record.id, 0, store), Vec::new()));
        Ok(())
    }

    fn operation(&mut self, mut reader: Reader<'_>) -> Result<(), Broken> {
        let kind = reader.u32()?;
        let (Some(kind), Some((_, operations))) = (MessageType::from_u32(kind), &mut self.open)
        else {
            return broken("an operation of no kind or no transaction");
        };
        let (changed, outcome) = (reader.u8()? != 0, reader.u64()?);
        operations.push(Operation { kind, payload: reader.rest().into(), outcome, changed });
        Ok(())
    }

    /// All records of a transaction are read.
    fn close_transaction(&mut self) {
        let Some((mut transaction, operations)) = self.open.take() else { return };
        let state = &mut self.state;
        let domid = state.conns.get(&transaction.conn).map_or(DomId(0), |conn| conn.domid);
        let (caller, limits) = (state.domains.caller(domid), state.limits(domid));
        let domains = &state.domains;
        // What is there is there.
        let room = Room::UNLIMITED;
        let env = Env { caller, limits, room, domains, generation: &mut state.generation };
        transaction.restore(&env, operations);
        state.domains.account(domid, |held| {
            held.transactions += 1;
            held.bytes += transaction.accounted();
        });
        state.transactions.insert((transaction.conn, transaction.id), Arc::new(transaction));
    }

    fn fair(&mut self, reader: &mut Reader<'_>) -> Result<(), Broken> {
        let fair = &mut self.state.fair;
        fair.begun = counter(reader)?;
        if reader.u8()? != 0 {
            fair.shield = Some(Shield {
                conn: ConnId(reader.u64()?),
                transaction: reader.u32()?,
                refusals_left: reader.u32()?,
            });
        }
        while !reader.is_empty() {
            if fair.queue.len() == MAX_WAITING {
                return broken("too many wait");
            }
            fair.queue.push(Waiter { conn: ConnId(reader.u64()?), seen: counter(reader)? });
        }
        Ok(())
    }
}

/// Makes the node at `path` what `content` says, whether or not there is one.
fn put(store: &mut Store, path: &Path<'_>, content: &Content<'_>) -> Result<(), Fail> {
    match store.tree().find(path)?.node {
        Some(_) => store.rewrite(path, content),
        None => store.restore(path, content),
    }
}
