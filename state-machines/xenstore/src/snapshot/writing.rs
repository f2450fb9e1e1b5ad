//! Writing a state.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use state_machine::DomId;

use super::difference::{Step, difference};
use super::tag;
use crate::children::ChildKey;
use crate::domain::Domain;
use crate::node::Node;
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, ROOT_HASH};
use crate::quota::{Named, Quota, Quotas};
use crate::state::{Conn, State};
use crate::store::Store;
use crate::stream::{self, Record, StreamConn, Version, Via, Writer};
use crate::transaction::Transaction;
use crate::tree::{Go, Order, walk};

/// How many nodes' births go into one record.
const BIRTHS: usize = 1024;

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

/// Writes a state.
pub(crate) fn encode(state: &State, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out, Version::Two);
    put(&mut writer, &Record::Global(stream::Global { socket_fd: -1, evtchn_fd: -1 }));
    let core = Bytes::default()
        .u64(state.generation)
        .u64(state.version)
        .u64(state.watches.registered())
        .u8(u8::from(state.log));
    own(&mut writer, tag::CORE, &core.0);
    let (per_domain, global) = (Cow::Owned(quotas_to(&state.quotas)), Cow::Borrowed(&[][..]));
    put(&mut writer, &Record::GlobalQuota(stream::GlobalQuota { per_domain, global }));
    state.domains.visit(&mut |domain| put_domain(&mut writer, domain));
    let mut conns: Vec<Conn> = Vec::new();
    state.conns.visit(&mut |_, conn| {
        conns.push(*conn);
        true
    });
    for (number, conn) in (1..).zip(&conns) {
        put_conn(&mut writer, state, StreamConn(number), conn);
    }
    let births = |nodes: &[&Node], writer: &mut Writer<'_>| put_births(writer, nodes);
    put_nodes(&mut writer, &state.store, Some(&births)).expect("as above");
    for (number, conn) in (1..).zip(&conns) {
        state.transactions.visit_from(&(conn.id, 0), &mut |key, transaction| {
            if key.0 == conn.id {
                put_transaction(&mut writer, state, StreamConn(number), transaction);
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

fn put_births(writer: &mut Writer<'_>, nodes: &[&Node]) {
    let body = nodes
        .iter()
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

type PutBirths<'f> = &'f dyn Fn(&[&Node], &mut Writer<'_>);

/// Writes all nodes of a store, parents before children. With `births`, that is
/// called with the nodes of the records that follow.
///
/// # Errors
/// When the format cannot say something.
pub(crate) fn put_nodes(
    writer: &mut Writer<'_>,
    store: &Store,
    births: Option<PutBirths<'_>>,
) -> Result<(), stream::StreamError> {
    let tree = store.tree();
    for name in [INTRODUCE_DOMAIN, RELEASE_DOMAIN] {
        if let Some(node) = tree.special(name) {
            if let Some(births) = births {
                births(&[node], writer);
            }
            put_node(writer, name, Some(node), None)?;
        }
    }
    let mut done = Ok(());
    let mut left = 0;
    let mut ahead = births.map(|_| Ahead::new(tree.root()));
    // With births, the order of the records does not matter.
    let order = if births.is_some() { Order::Quick } else { Order::Before };
    walk(tree.root(), tree.root(), b"/", ROOT_HASH, order, &mut |met| {
        if let (Some(births), Some(ahead)) = (births, &mut ahead) {
            if left == 0 {
                let nodes: Vec<&Node> = ahead.take(BIRTHS).collect();
                left = nodes.len();
                births(&nodes, writer);
            }
            left -= 1;
        }
        done = put_node(writer, met.path, Some(met.node), None);
        if done.is_ok() { Go::On } else { Go::Stop }
    });
    done
}

/// The nodes in the order of [`walk`], ahead of it.
struct Ahead<'a> {
    root: Option<&'a Node>,
    levels: Vec<(&'a Node, Option<ChildKey>)>,
}

impl<'a> Ahead<'a> {
    fn new(root: &'a Node) -> Self {
        Self { root: Some(root), levels: Vec::new() }
    }
}

impl<'a> Iterator for &mut Ahead<'a> {
    type Item = &'a Node;

    fn next(&mut self) -> Option<&'a Node> {
        if let Some(root) = self.root.take() {
            self.levels.push((root, None));
            return Some(root);
        }
        while let Some((node, last)) = self.levels.last_mut() {
            let node: &'a Node = node;
            match node.children().and_then(|children| Order::Quick.next(children, *last)) {
                Some((key, child)) => {
                    *last = Some(key);
                    self.levels.push((child, None));
                    return Some(child);
                }
                None => {
                    self.levels.pop();
                }
            }
        }
        None
    }
}

fn put_transaction(writer: &mut Writer<'_>, state: &State, conn: StreamConn, open: &Transaction) {
    let transaction = stream::Transaction { conn, id: open.id };
    put(writer, &Record::Transaction(transaction));
    own(writer, tag::TRANSACTION, &Bytes::default().u64(open.began).0);
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
                put_births(writer, &[node]);
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
