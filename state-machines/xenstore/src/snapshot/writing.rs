//! Writing a state.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use state_machine::DomId;

use super::below::Below;
use super::difference::{Step, difference};
use super::tag;
use crate::children::ChildKey;
use crate::domain::Domain;
use crate::node::Node;
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, ROOT_HASH};
use crate::quota::{Named, Quota, Quotas, STORE_LIMIT};
use crate::size::Wear;
use crate::state::{Conn, State};
use crate::store::Store;
use crate::stream::{self, Record, StreamConn, Version, Via, Writer};
use crate::transaction::Transaction;
use crate::tree::{Go, Order, Tree, walk};

/// How many nodes' births go into one record, which begins a part.
pub(crate) const BIRTHS: usize = 256;
const VERSION: Version = Version::Two;

/// Everything in a state fits the format: lengths are bounded by what a request
/// can hold, and no path or token contains a NUL.
fn put(writer: &mut Writer<'_>, record: &Record<'_>) {
    writer.put(record).expect("what a state holds, the format can say");
}

fn own(writer: &mut Writer<'_>, tag: u8, bytes: &[u8]) {
    put(writer, &Record::Own { tag, bytes });
}

/// Words and bytes, little-endian, one after the other.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn wear(self, wear: Wear) -> Self {
        self.u64(wear.copied).u64(wear.removed)
    }
}

/// Quotas as the stream has them.
pub(crate) fn quotas_to(quotas: &Quotas) -> Vec<stream::Quota<'static>> {
    let named = |name: &'static str, named| stream::Quota {
        name: name.as_bytes(),
        value: quotas.value(named),
    };
    let hard = Quota::ALL.iter().map(|quota| named(quota.name(), Named::Hard(*quota)));
    hard.chain([named("soft-memory", Named::SoftMemory)]).collect()
}

/// How much of a state is written. It owns what it knows, so that it outlives a
/// visit to the state.
#[derive(Clone, Debug, Default)]
pub(crate) enum Cursor {
    /// Nothing.
    #[default]
    Start,
    /// All before the nodes, and some of these: the last is the one at this place.
    Nodes(Vec<ChildKey>),
    /// All nodes.
    Rest,
}

/// Writes the next part of a state; tells whether it was the last.
pub(crate) fn encode_part(state: &State, cursor: &mut Cursor, out: &mut Vec<u8>) -> bool {
    match cursor {
        Cursor::Start => {
            put_start(&mut Writer::new(out, VERSION), state);
            *cursor = Cursor::Nodes(Vec::new());
        }
        Cursor::Nodes(place) => {
            if !put_some_nodes(&mut Writer::resume(out, VERSION), state, place) {
                *cursor = Cursor::Rest;
            }
        }
        Cursor::Rest => {
            put_rest(Writer::resume(out, VERSION), state);
            return true;
        }
    }
    false
}

/// The connections, with their numbers in the stream.
fn conns(state: &State) -> Vec<(StreamConn, Conn)> {
    let mut conns = Vec::new();
    state.conns.visit(&mut |_, conn| {
        conns.push((StreamConn(conns.len() as u32 + 1), *conn));
        true
    });
    conns
}

/// Writes all that comes before the nodes, and those that are below no other: in one
/// part, for domains, connections and watches are few beside nodes.
fn put_start(writer: &mut Writer<'_>, state: &State) {
    put(writer, &Record::Global(stream::Global { socket_fd: -1, evtchn_fd: -1 }));
    let core = Bytes::default()
        .u64(state.generation)
        .u64(state.version)
        .u64(state.watches.registered())
        .wear(state.store.wear())
        .u8(u8::from(state.log));
    own(writer, tag::CORE, &core.0);
    let limit = [stream::Quota { name: STORE_LIMIT, value: state.limit_kib }];
    let (per_domain, global) = (Cow::Owned(quotas_to(&state.quotas)), Cow::Borrowed(&limit[..]));
    put(writer, &Record::GlobalQuota(stream::GlobalQuota { per_domain, global }));
    state.domains.visit(&mut |domain| put_domain(writer, domain));
    for (number, conn) in conns(state) {
        put_conn(writer, state, number, &conn);
    }
    let tree = state.store.tree();
    let root = (&b"/"[..], tree.root());
    for (path, node) in specials(tree).chain([root]) {
        put_births(writer, [node]);
        put_node(writer, path, Some(node), None).expect("as above");
    }
}

/// Writes the nodes after the one at `place`, [`BIRTHS`] of them unless fewer are
/// left, and moves `place` to the last; tells whether there may be more.
fn put_some_nodes(writer: &mut Writer<'_>, state: &State, place: &mut Vec<ChildKey>) -> bool {
    let mut below = Below::after(state.store.tree().root(), place);
    // The births come first, so the paths have to wait: one after the other, each
    // with its end.
    let mut paths = Vec::new();
    let mut nodes: Vec<(&Node, usize)> = Vec::with_capacity(BIRTHS);
    while nodes.len() < BIRTHS
        && let Some(node) = below.next()
    {
        paths.extend_from_slice(below.path());
        nodes.push((node, paths.len()));
    }
    put_births(writer, nodes.iter().map(|(node, _)| *node));
    let mut begin = 0;
    for (node, end) in &nodes {
        put_node(writer, &paths[begin..*end], Some(node), None).expect("as above");
        begin = *end;
    }
    nodes.len() == BIRTHS
}

/// Writes all that comes after the nodes.
fn put_rest(mut writer: Writer<'_>, state: &State) {
    for (number, conn) in conns(state) {
        state.transactions.visit_from(&(conn.id, 0), &mut |key, transaction| {
            if key.0 == conn.id {
                put_transaction(&mut writer, state, number, transaction);
            }
            key.0 == conn.id
        });
    }
    put_fair(&mut writer, state);
    writer.end();
}

fn put_domain(writer: &mut Writer<'_>, domain: &Domain) {
    let quotas = domain.quotas.iter().flat_map(quotas_to).collect();
    let &Domain { domid, features, .. } = domain;
    put(writer, &Record::Domain(stream::Domain { domid, features, quotas: Cow::Owned(quotas) }));
    let body = Bytes::default()
        .u16(domid.0)
        .u8(u8::from(domain.live) | u8::from(domain.introduced) << 1)
        .u64(domain.since)
        .u64(domain.gfn)
        .u32(domain.evtchn)
        .u32(domain.target.map_or(u32::MAX, |target| u32::from(target.0)));
    own(writer, tag::DOMAIN, &body.0);
}

fn put_conn(writer: &mut Writer<'_>, state: &State, id: StreamConn, conn: &Conn) {
    let via = match conn.domid {
        DomId(0) => Via::Socket { fd: -1, read_only: false },
        domid => ring(state, domid),
    };
    let connection =
        stream::Connection { id, via, unprocessed: &[], unsent: &[], unsent_partial: 0 };
    put(writer, &Record::Connection(connection));
    let body = Bytes::default().u64(conn.id.0).u16(conn.domid.0).u32(conn.last_transaction);
    own(writer, tag::CONN, &body.0);
    for watch in state.watches.of(conn.id) {
        own(writer, tag::WATCH, &Bytes::default().u64(watch.number).0);
        let record = stream::Watch {
            conn: id,
            path: watch.path.get(watch.prefix..).unwrap_or(&watch.path),
            token: &watch.token,
            depth: watch.depth,
        };
        put(writer, &Record::Watch(record));
    }
}

/// The ring of a guest, as far as the store knows of it.
pub(crate) fn ring(state: &State, domid: DomId) -> Via {
    let domain = state.domains.get(domid);
    Via::Ring {
        domid,
        target: domain.and_then(|domain| domain.target),
        evtchn: domain.map_or(0, |domain| domain.evtchn),
        unique_id: None,
    }
}

fn put_births<'n>(writer: &mut Writer<'_>, nodes: impl IntoIterator<Item = &'n Node>) {
    let body = nodes
        .into_iter()
        .fold(Bytes::default(), |body, node| body.u64(node.born()).u64(node.generation()));
    own(writer, tag::BIRTHS, &body.0);
}

fn put_node(
    writer: &mut Writer<'_>,
    path: &[u8],
    node: Option<&Node>,
    pending: Option<stream::Pending>,
) -> Result<(), stream::StreamError> {
    let perms = node.map_or(&[][..], |node| node.perms().entries());
    let value = node.map_or(&[][..], Node::value);
    let record = stream::Node { pending, path, value, perms: Cow::Borrowed(perms) };
    writer.put(&Record::Node(record))
}

/// The nodes that have no place in the tree, with their paths.
fn specials(tree: &Tree) -> impl Iterator<Item = (&'static [u8], &Node)> {
    let names = [INTRODUCE_DOMAIN, RELEASE_DOMAIN].into_iter();
    names.filter_map(|name| Some((name, tree.special(name)?)))
}

/// Writes all nodes of a store, parents before children, and these in the order of
/// their creation.
///
/// # Errors
/// When the format cannot say something.
pub(crate) fn put_nodes(writer: &mut Writer<'_>, store: &Store) -> Result<(), stream::StreamError> {
    let tree = store.tree();
    for (name, node) in specials(tree) {
        put_node(writer, name, Some(node), None)?;
    }
    let mut done = Ok(());
    walk(tree.root(), tree.root(), b"/", ROOT_HASH, Order::Before, &mut |met| {
        done = put_node(writer, met.path, Some(met.node), None);
        if done.is_ok() { Go::On } else { Go::Stop }
    });
    done
}

fn put_transaction(writer: &mut Writer<'_>, state: &State, conn: StreamConn, open: &Transaction) {
    let transaction = stream::Transaction { conn, id: open.id };
    put(writer, &Record::Transaction(transaction));
    let body = Bytes::default().u64(open.began).wear(open.from).wear(open.working.wear());
    own(writer, tag::TRANSACTION, &body.0);
    for operation in open.operations() {
        let mut body = Bytes::default()
            .u32(operation.kind.to_u32())
            .u8(u8::from(operation.changed))
            .u64(operation.outcome);
        body.0.extend_from_slice(&operation.payload);
        own(writer, tag::OPERATION, &body.0);
    }
    let pending = Some(stream::Pending { transaction, read: false, written: true });
    difference(&state.store, &open.working, &mut |path, step| {
        let node = match step {
            Step::Put(node) => {
                put_births(writer, [node]);
                Some(node)
            }
            Step::Gone => None,
        };
        put_node(writer, path, node, pending).expect("as above");
    });
}

fn put_fair(writer: &mut Writer<'_>, state: &State) {
    let fair = &state.fair;
    let mut body = Bytes::default().u64(fair.begun);
    body = match fair.shield {
        Some(shield) => {
            body.u8(1).u64(shield.conn.0).u32(shield.transaction).u32(shield.refusals_left)
        }
        None => body.u8(0),
    };
    body = fair.queue.iter().fold(body, |body, waiter| body.u64(waiter.conn.0).u64(waiter.seen));
    own(writer, tag::FAIR, &body.0);
}
