//! The whole state, and the events that its changes fire.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{ConnId, Corruption, Digest, DomId, Mixer, Outputs};

use crate::decimal;
use crate::domain::Domains;
use crate::fair::Fair;
use crate::graves::Graves;
use crate::node::Node;
use crate::path::Path;
use crate::perms::{Caller, Perms, Rights};
use crate::pmap::{Measured, PMap};
use crate::quota::{Limits, Quotas};
use crate::size::Room;
use crate::store::{Changed, Env, Fail, Removed, Store};
use crate::transaction::Transaction;
use crate::tree::{Go, Order, walk};
use crate::watch::{Match, Watch, Watches};
use crate::wire::{HEADER_LEN, Header, MAX_PAYLOAD, MessageType};

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) domid: DomId,
    /// The last transaction id that it was given.
    pub(crate) last_transaction: u32,
}

impl Measured for Conn {
    fn digest(&self) -> u64 {
        let word = u64::from(self.domid.0) << 32 | u64::from(self.last_transaction);
        Mixer::new().word(self.id.0).word(word).finish()
    }
}

/// Everything. A copy costs next to nothing: all that grows is shared.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    /// Counts what a transaction's commit has to notice.
    pub(crate) version: u64,
    /// Counts the changes of nodes.
    pub(crate) generation: u64,
    pub(crate) domains: Domains,
    pub(crate) quotas: Quotas,
    /// The most that all of it may take, KiB; 0 for no limit. See [`crate::size`].
    pub(crate) limit_kib: u32,
    pub(crate) conns: PMap<ConnId, Conn>,
    pub(crate) watches: Watches,
    pub(crate) transactions: PMap<(ConnId, u32), Arc<Transaction>>,
    pub(crate) fair: Fair,
    /// Whether CONTROL switched the log on.
    pub(crate) log: bool,
}

impl Default for State {
    /// A new store, with the nodes that Xen's daemon begins with.
    fn default() -> Self {
        let mut state = Self::empty();
        let path = Path::absolute(b"/tool/xenstored").expect("a path");
        let caller = state.domains.caller(DomId(0));
        let (store, mut env) = state.split(caller, Limits::none(), Room::UNLIMITED);
        store.mkdir(&mut env, &path).expect("nothing stands against it");
        state
    }
}

/// Where events go, and what was removed.
pub(crate) struct Events<'a> {
    pub(crate) out: &'a mut dyn Outputs,
    /// Scratch memory for frames.
    pub(crate) frame: &'a mut Vec<u8>,
    /// Where removed nodes go.
    pub(crate) graves: &'a mut Graves,
}

impl Events<'_> {
    /// Sends the event that `path` has changed to the owner of `watch`.
    pub(crate) fn send(&mut self, watch: &Watch, path: &[u8]) {
        let path = path.get(watch.prefix..).unwrap_or(path);
        let len = path.len() + watch.token.len() + 2;
        if len > MAX_PAYLOAD {
            return;
        }
        let kind = MessageType::WatchEvent.to_u32();
        let header = Header { kind, req_id: 0, tx_id: 0, len: len as u32 };
        self.frame.clear();
        self.frame.reserve(HEADER_LEN + len);
        self.frame.extend_from_slice(&header.encode());
        self.frame.extend_from_slice(path);
        self.frame.push(0);
        self.frame.extend_from_slice(&watch.token);
        self.frame.push(0);
        self.out.event(watch.conn, self.frame);
    }
}

/// Permissions and generation of a node that a client must be able to read, to
/// be told of a change.
pub(crate) type Readable<'a> = (&'a Perms, u64);

impl State {
    /// A store of the root alone.
    pub(crate) fn empty() -> Self {
        Self {
            store: Store::empty(),
            version: 0,
            generation: 0,
            domains: Domains::default(),
            quotas: Quotas::default(),
            limit_kib: 0,
            conns: PMap::default(),
            watches: Watches::default(),
            transactions: PMap::default(),
            fair: Fair::default(),
            log: false,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        let mixer = Mixer::new()
            .word(self.store.digest())
            .word(self.version)
            .word(self.generation)
            .word(self.conns.total().digest)
            .word(self.transactions.total().digest)
            .word(u64::from(self.log) | u64::from(self.limit_kib) << 32);
        let mixer = self.watches.mix(self.domains.mix(mixer));
        Digest(self.fair.mix(self.quotas.mix(mixer)).finish())
    }

    pub(crate) fn limits(&self, domid: DomId) -> Limits {
        self.domains.limits(domid, &self.quotas)
    }

    /// The store, and what its operations need besides.
    pub(crate) fn split(
        &mut self,
        caller: Caller,
        limits: Limits,
        room: Room,
    ) -> (&mut Store, Env<'_>) {
        let (domains, generation) = (&self.domains, &mut self.generation);
        let env = Env { caller, limits, room, domains, generation };
        (&mut self.store, env)
    }

    /// Something has changed that every open transaction has to notice.
    pub(crate) fn touch(&mut self) {
        self.version += 1;
    }

    /// Does an operation that alters the committed store, and tells the watchers.
    ///
    /// # Errors
    /// As the operation has them.
    pub(crate) fn alter(
        &mut self,
        conn: &Conn,
        kind: MessageType,
        payload: &[u8],
        events: &mut Events<'_>,
    ) -> Result<(), Fail> {
        let caller = self.domains.caller(conn.domid);
        let limits = self.limits(conn.domid);
        let room = self.room_to_change();
        let (store, mut env) = self.split(caller, limits, room);
        let (path, changed) = crate::ops::nodes::alter(store, &mut env, kind, payload)?;
        if !matches!(changed, Changed::Nothing) {
            self.touch();
            self.tell(&path, &changed, events)?;
        }
        if let Changed::Removed(Removed { top, nodes }) = changed {
            events.graves.bury(top, nodes);
        }
        Ok(())
    }

    /// Tells the watchers of a change of the committed store.
    pub(crate) fn tell(
        &self,
        path: &Path<'_>,
        changed: &Changed,
        events: &mut Events<'_>,
    ) -> Result<(), Corruption> {
        // An event on a special path says that a domain has come or gone, and
        // never that its permissions have changed.
        if self.watches.is_empty() || path.is_special() {
            return Ok(());
        }
        let mut readable: Vec<Readable<'_>> = Vec::new();
        match changed {
            Changed::Nothing => return Ok(()),
            Changed::Removed(removed) => {
                let above = self.store.tree().find(path)?.above;
                return self.tell_removed(path, removed, above, events);
            }
            Changed::Perms { old, generation } => readable.push((old, *generation)),
            Changed::Written => {}
        }
        let fired = self.watches.firing(path, Match::Subtree);
        if fired.is_empty() {
            return Ok(());
        }
        let found = self.store.tree().find(path)?;
        for node in found.node.into_iter().chain([found.above]) {
            readable.push((node.perms(), node.generation()));
        }
        self.send(&fired, path, &readable, events);
        Ok(())
    }

    /// Tells the watchers of a removed subtree, from the bottom up: above the
    /// top whoever watches from above, below it whoever watches the very node.
    fn tell_removed(
        &self,
        path: &Path<'_>,
        removed: &Removed,
        above: &Node,
        events: &mut Events<'_>,
    ) -> Result<(), Corruption> {
        let top = &*removed.top;
        let readable = |node: &Node, parent: &Node, fire: &mut dyn FnMut(&[Readable<'_>])| {
            fire(&[(&**node.perms(), node.generation()), (&**parent.perms(), parent.generation())]);
        };
        // To look through the watches is quicker than through many nodes.
        let few = self.watches.count() < removed.nodes;
        let alone = removed.nodes == 1 || (few && !self.watches.any_below(path.text()));
        // Whoever watches is told by the permissions of what is removed.
        if !self.watches.firing(path, Match::Subtree).is_empty() {
            top.verify_at(path.hash())?;
        }
        let mut sound = Ok(());
        if !alone {
            walk(top, above, path.text(), path.hash(), Order::After, &mut |met| {
                let is_top = met.path.len() == path.text().len();
                if !is_top && self.watches.any_on(met.hash) {
                    sound = met.node.verify_at(met.hash);
                    if sound.is_err() {
                        return Go::Stop;
                    }
                    if let Ok(path) = Path::absolute(met.path) {
                        readable(met.node, met.parent, &mut |readable| {
                            self.fire(&path, Match::Exact, readable, events);
                        });
                    }
                }
                Go::On
            });
        }
        readable(top, above, &mut |readable| self.fire(path, Match::Subtree, readable, events));
        sound
    }

    /// Sends the events of one change to those who may know of it.
    pub(crate) fn fire(
        &self,
        path: &Path<'_>,
        mode: Match,
        readable: &[Readable<'_>],
        events: &mut Events<'_>,
    ) {
        let fired = self.watches.firing(path, mode);
        self.send(&fired, path, readable, events);
    }

    fn send(
        &self,
        fired: &[&Watch],
        path: &Path<'_>,
        readable: &[Readable<'_>],
        events: &mut Events<'_>,
    ) {
        let mut last: Option<(ConnId, bool)> = None;
        let one_source = fired.iter().all(|watch| watch.hash == fired[0].hash);
        // What the current connection was told already.
        let mut told: BTreeSet<(&[u8], usize)> = BTreeSet::new();
        for watch in fired {
            let allowed = match last {
                Some((conn, allowed)) if conn == watch.conn => allowed,
                _ => {
                    told.clear();
                    self.may_know(watch.conn, readable)
                }
            };
            last = Some((watch.conn, allowed));
            // As Xen's daemon, nothing is told twice: watches of one client on
            // several paths may fire with the same path and token.
            let new = one_source || told.insert((&watch.token, watch.prefix));
            if allowed && new {
                events.send(watch, path.text());
            }
        }
    }

    /// Whether a client may know of a change: it can read the node or its
    /// parent, or could before the change.
    fn may_know(&self, conn: ConnId, readable: &[Readable<'_>]) -> bool {
        let Some(conn) = self.conns.get(&conn) else { return false };
        if conn.domid == DomId(0) {
            return !readable.is_empty();
        }
        let caller = self.domains.caller(conn.domid);
        readable
            .iter()
            .any(|(perms, generation)| perms.rights(&caller, *generation).allow(Rights::READ))
    }

    /// Fires the watches on a special event about a domain. Of one that is not
    /// known, only those hear that do not want to know.
    pub(crate) fn fire_special(&self, name: &[u8], domid: Option<DomId>, events: &mut Events<'_>) {
        let Some(node) = self.store.tree().special(name) else { return };
        // Special nodes have no parent: who reads the root may not know of them.
        let readable = [(&**node.perms(), node.generation())];
        let mut text = name.to_vec();
        let special = |text: &[u8]| Path::parse(text, DomId(0), None, true).map(Path::into_owned);
        if let Ok(path) = special(&text) {
            self.fire(&path, Match::WithoutDepth, &readable, events);
        }
        let Some(domid) = domid else { return };
        text.push(b'/');
        decimal::put(u64::from(domid.0), &mut text);
        if let Ok(path) = special(&text) {
            self.fire(&path, Match::WithDepth, &readable, events);
        }
    }

    /// Forgets a connection and all it holds.
    pub(crate) fn drop_conn(&mut self, conn: ConnId) {
        self.reset_conn(conn);
        self.conns.remove(&conn);
    }

    /// Flips a bit of one node, behind the back of all digests. The trees of open
    /// transactions share the nodes of the store: what flips in one flips in all. So it does
    /// in a version of the node that a transaction has written itself, for it may replace
    /// the other one before anybody can have found it.
    pub(crate) fn flip_bit(&mut self, seed: u64) {
        let flip = self.store.tree().place_of_flip(seed);
        self.store.tree_mut().flip_bit(&flip);
        let mut open = Vec::new();
        self.transactions.visit(&mut |key, _| {
            open.push(*key);
            true
        });
        for key in open {
            if let Some(transaction) = self.transactions.change(&key, 0) {
                Arc::make_mut(transaction).working.tree_mut().flip_bit(&flip);
            }
        }
    }

    /// Drops the watches and transactions of a connection.
    pub(crate) fn reset_conn(&mut self, conn: ConnId) {
        let Some(Conn { domid, .. }) = self.conns.get(&conn).copied() else { return };
        let (mut watches, mut bytes) = (0, 0);
        for watch in self.watches.of(conn) {
            self.watches.remove(&watch);
            watches += 1;
            bytes += watch.accounted();
        }
        self.domains.account(domid, |held| {
            held.watches -= watches;
            held.bytes -= bytes;
        });
        let mut open = Vec::new();
        self.transactions.visit_from(&(conn, 0), &mut |key, _| {
            if key.0 == conn {
                open.push(key.1);
            }
            key.0 == conn
        });
        for id in open {
            self.drop_transaction(domid, conn, id);
        }
        self.fair.forget(conn);
    }

    /// Takes a transaction out, if there is one.
    pub(crate) fn drop_transaction(
        &mut self,
        domid: DomId,
        conn: ConnId,
        id: u32,
    ) -> Option<Arc<Transaction>> {
        let transaction = self.transactions.remove(&(conn, id))?;
        self.domains.account(domid, |held| {
            held.transactions -= 1;
            held.bytes -= transaction.accounted();
        });
        Some(transaction)
    }

    /// The connections of a domain.
    pub(crate) fn conns_of(&self, domid: DomId) -> Vec<ConnId> {
        let mut found = Vec::new();
        self.conns.visit(&mut |id, conn| {
            if conn.domid == domid {
                found.push(*id);
            }
            true
        });
        found
    }
}
