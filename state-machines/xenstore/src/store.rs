//! The store proper: the tree and who owns how much of it, and the operations
//! on nodes, with the checks that Xen's daemon makes in the order in which it
//! makes them. A transaction works on a copy of the whole, which costs nothing.

use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{Corruption, DomId, Mixer};
use teeth::Bug;

use crate::children::ChildKey;
use crate::domain::Domains;
use crate::node::{Content, Node};
use crate::path::Path;
use crate::perms::{Caller, Perms, Rights};
use crate::pmap::{Measured, PMap};
use crate::quota::{Limits, Quota};
use crate::size::{NODE_BYTES, Room, Wear, of_text};
use crate::tree::{Found, Trail, Tree};
use crate::wire::Errno;

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fail {
    /// The client is told so.
    Errno(Errno),
    /// The client is told nothing: the replica stops.
    Corrupt(Corruption),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Corruption> for Fail {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt(corruption)
    }
}

/// What a domain owns of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) domid: DomId,
    pub(crate) nodes: u64,
    /// As Xen's daemon counts: values, permissions, child lists and paths.
    pub(crate) bytes: u64,
}

impl Measured for Owned {
    /// The nodes, to add them up.
    fn size(&self) -> u64 {
        self.nodes
    }

    fn digest(&self) -> u64 {
        Mixer::new().word(u64::from(self.domid.0)).word(self.nodes).word(self.bytes).finish()
    }
}

/// Who asks, and what an operation needs to know besides the store.
#[derive(Debug)]
pub(crate) struct Env<'a> {
    pub(crate) caller: Caller,
    pub(crate) limits: Limits,
    pub(crate) room: Room,
    pub(crate) domains: &'a Domains,
    /// Counts changes; every changed node gets a number of its own.
    pub(crate) generation: &'a mut u64,
}

impl Env<'_> {
    fn next_generation(&mut self) -> u64 {
        *self.generation += 1;
        *self.generation
    }

    fn refreshed(&self, node: &Node) -> Arc<Perms> {
        node.perms().refreshed(|domid| self.domains.was_live(domid, node.generation()))
    }
}

/// What an operation changed.
#[derive(Clone, Debug)]
pub(crate) enum Changed {
    Nothing,
    /// The node at the operation's path was created or written.
    Written,
    /// The node's permissions changed; these are the old ones.
    Perms {
        old: Arc<Perms>,
        generation: u64,
    },
    /// The node was removed, with everything below.
    Removed(Removed),
}

/// A removed subtree.
#[derive(Clone, Debug)]
pub(crate) struct Removed {
    pub(crate) top: Arc<Node>,
    /// Number of nodes in it.
    pub(crate) nodes: u64,
}

/// New permissions and a new generation for a node, and what that does to its
/// digest.
struct Mark {
    perms: Arc<Perms>,
    generation: u64,
    content: u64,
    delta: u64,
}

impl Mark {
    fn new(node: &Node, hash: u64, perms: Arc<Perms>, generation: u64) -> Self {
        let content = Content { perms: perms.clone(), generation, ..node.as_content() };
        let content = content.digest(hash);
        Self { perms, generation, content, delta: content.wrapping_sub(node.content()) }
    }
}

/// The tree and its accounts.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    tree: Tree,
    owned: PMap<DomId, Owned>,
    /// Sum of the bytes of all accounts.
    bytes: u64,
    wear: Wear,
}

/// Size of the header of a node's record in Xen's daemon, bytes.
const RECORD_HEADER: u64 = 24;

/// Bytes that a node is accounted for besides what is below: Xen's record
/// header, permissions and value.
fn own_bytes(perms: &Perms, value: &[u8]) -> u64 {
    RECORD_HEADER + 8 * perms.entries().len() as u64 + value.len() as u64
}

/// Bytes that a node at a path of `path_len` bytes is accounted for.
fn accounted(node: &Node, path_len: usize) -> u64 {
    own_bytes(node.perms(), node.value()) + node.child_list_len() + path_len as u64
}

/// How much larger a store is with `more` bytes of text.
fn larger(more: i64) -> i64 {
    let larger = of_text(more.unsigned_abs()).cast_signed();
    if more < 0 { -larger } else { larger }
}

impl Store {
    /// A store of the root alone.
    pub(crate) fn empty() -> Self {
        let (tree, owned) = (Tree::new(), PMap::default());
        let mut store = Self { tree, owned, bytes: 0, wear: Wear::default() };
        let bytes = accounted(store.tree.root(), 1);
        store.account(DomId(0), 1, bytes);
        store
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn owned(&self, domid: DomId) -> Owned {
        self.owned.get(&domid).copied().unwrap_or(Owned { domid, ..Owned::default() })
    }

    /// Number of nodes, the special ones not counted.
    pub(crate) fn nodes(&self) -> u64 {
        self.owned.total().size
    }

    /// What the nodes take of memory, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.nodes() * NODE_BYTES + of_text(self.bytes)
    }

    pub(crate) fn wear(&self) -> Wear {
        self.wear
    }

    /// Goes on from what a snapshot says.
    pub(crate) fn set_wear(&mut self, wear: Wear) {
        self.wear = wear;
    }

    /// A change has copied nodes of `copied` bytes, and made the store `more` bytes
    /// larger.
    fn wear_off(&mut self, copied: u64, more: i64) {
        let added = u64::try_from(more).unwrap_or(0);
        self.wear.copied = self.wear.copied.wrapping_add(copied + added);
        let gone = u64::try_from(more.saturating_neg()).unwrap_or(0);
        self.wear.removed = self.wear.removed.wrapping_add(gone);
    }

    /// All accounts.
    pub(crate) fn accounts(&self) -> Vec<Owned> {
        let mut all = Vec::new();
        self.owned.visit(&mut |_, owned| {
            all.push(*owned);
            true
        });
        all
    }

    pub(crate) fn digest(&self) -> u64 {
        let mixer = Mixer::new().word(self.tree.digest()).word(self.owned.total().digest);
        mixer.word(self.wear.copied).word(self.wear.removed).finish()
    }

    fn account(&mut self, domid: DomId, nodes: i64, bytes: u64) {
        self.account_by(domid, nodes, bytes.cast_signed());
    }

    fn account_by(&mut self, domid: DomId, nodes: i64, bytes: i64) {
        if nodes == 0 && bytes == 0 {
            return;
        }
        let old = self.owned(domid);
        let new = Owned {
            domid,
            nodes: old.nodes.saturating_add_signed(nodes),
            bytes: old.bytes.saturating_add_signed(bytes),
        };
        self.bytes -= old.bytes;
        if new.nodes == 0 {
            self.owned.remove(&domid);
            return;
        }
        self.bytes += new.bytes;
        self.owned.insert(domid, new);
    }

    /// The node at `path`, which `caller` must have the rights `need` on.
    ///
    /// # Errors
    /// As [`Self::find`], and `ENOENT` for a missing node.
    pub(crate) fn get(
        &self,
        caller: &Caller,
        path: &Path<'_>,
        need: Rights,
    ) -> Result<&Node, Fail> {
        Ok(self.find(caller, path, need)?.node.ok_or(Errno::ENOENT)?)
    }

    /// Where `path` leads, for a caller who must have the rights `need` on the
    /// node, or may know that there is none.
    ///
    /// # Errors
    /// `EACCES` without the rights; also for a missing node, when the caller has
    /// none of them on the node above: it is not to learn what is there.
    fn find(&self, caller: &Caller, path: &Path<'_>, need: Rights) -> Result<Found<'_>, Fail> {
        let found = self.tree.find(path)?;
        if let Some(node) = found.node {
            node.verify_at(path.hash())?;
            if !node.perms().rights(caller, node.generation()).allow(need) {
                return Err(Errno::EACCES.into());
            }
        } else if !caller.is_privileged() {
            let above = found.above;
            above.verify_at(path.hash_at(found.depth))?;
            if !above.perms().rights(caller, above.generation()).touch(need) {
                return Err(Errno::EACCES.into());
            }
        }
        Ok(found)
    }

    /// Whether `amount` more bytes would be too much for `owner`. Only those who
    /// are limited themselves are held to it.
    fn check_memory(&self, env: &Env<'_>, owner: DomId, more: i64) -> Result<(), Errno> {
        if more <= 0 || owner != env.caller.own.domid {
            return Ok(());
        }
        let held = env.domains.held(owner).bytes;
        let bytes = self.owned(owner).bytes.saturating_add_signed(more) + held;
        if env.limits.exceeded(Quota::Memory, bytes) { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn check_size(env: &Env<'_>, bytes: u64) -> Result<(), Errno> {
        // This quota is the first size that is too much, as in Xen up to 4.17.
        if env.limits.exceeded(Quota::NodeSize, bytes.saturating_add(1)) {
            Err(Errno::ENOSPC)
        } else {
            Ok(())
        }
    }

    /// WRITE.
    ///
    /// # Errors
    /// As [`Self::get`] and [`Self::create`]; `ENOSPC`, `ENOMEM` over quota, `ENOSPC`
    /// without [`Room`].
    pub(crate) fn write(
        &mut self,
        env: &mut Env<'_>,
        path: &Path<'_>,
        value: &[u8],
    ) -> Result<Changed, Fail> {
        let found = self.find(&env.caller, path, Rights::WRITE)?;
        let Some(node) = found.node else { return self.create(env, path, value) };
        let trail = found.trail;
        let perms = env.refreshed(node);
        Self::check_size(env, own_bytes(&perms, value) + node.child_list_len())?;
        let more = value.len() as i64 - node.value().len() as i64;
        let owner = perms.owner();
        self.check_memory(env, owner, more)?;
        let (copied, larger) = (found.weight, larger(more));
        env.room.admit_change(larger, copied)?;
        let generation = env.next_generation();
        let content = Content { value, perms, generation, ..node.as_content() };
        let new = content.digest(path.hash());
        let (delta, perms) = (new.wrapping_sub(node.content()), content.perms);
        let node = self.tree.change(path, &trail, path.len(), delta)?;
        node.replace(value, perms, generation, new);
        self.account_by(owner, 0, more);
        self.wear_off(copied, larger);
        Ok(Changed::Written)
    }

    /// MKDIR.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn mkdir(&mut self, env: &mut Env<'_>, path: &Path<'_>) -> Result<Changed, Fail> {
        let found = self.find(&env.caller, path, Rights::WRITE)?;
        if found.node.is_some() {
            return Ok(Changed::Nothing);
        }
        self.create(env, path, b"")
    }

    /// Creates a missing node and those missing above it.
    fn create(
        &mut self,
        env: &mut Env<'_>,
        path: &Path<'_>,
        value: &[u8],
    ) -> Result<Changed, Fail> {
        let found = self.tree.find(path)?;
        let (above, depth, trail, copied) = (found.above, found.depth, found.trail, found.weight);
        let above_hash = path.hash_at(depth);
        above.verify_at(above_hash)?;
        let above_perms = env.refreshed(above);
        let perms = above_perms.inherited(&env.caller);
        let owner = perms.owner();
        let levels = path.len() - depth;

        // All checks come first, so that there is nothing to take back.
        let nodes = self.owned(owner).nodes + levels as u64;
        if env.limits.exceeded(Quota::Nodes, nodes) {
            return Err(Errno::ENOSPC.into());
        }
        let mut bytes = 0;
        for level in depth..path.len() {
            let is_last = level + 1 == path.len();
            let below = if is_last { 0 } else { path.name(level + 1).len() as u64 + 1 };
            let size = own_bytes(&perms, if is_last { value } else { b"" }) + below;
            Self::check_size(env, size)?;
            bytes += size + path.text_at(level + 1).len() as u64;
        }
        let entry = path.name(depth).len() as u64 + 1;
        let above_size = own_bytes(&above_perms, above.value()) + above.child_list_len();
        Self::check_size(env, above_size + entry)?;
        self.check_memory(env, owner, bytes.cast_signed())?;
        let more = (levels as u64 * NODE_BYTES + of_text(bytes + entry)).cast_signed();
        env.room.admit_change(more, copied)?;

        let mut child: Option<Arc<Node>> = None;
        for level in (depth..path.len()).rev() {
            let generation = env.next_generation();
            let hash = path.hash_at(level + 1);
            let content = Content {
                name: path.name(level),
                value: if child.is_none() { value } else { b"" },
                perms: perms.clone(),
                born: generation,
                generation,
            };
            let mut node = Node::new(hash, &content);
            if let Some(child) = child.take() {
                node.adopt(path.hash_at(level + 2), child);
            }
            child = Some(Arc::new(node));
        }
        let Some(child) = child else { return Ok(Changed::Nothing) };
        let above_owner = above_perms.owner();
        let mark = Mark::new(above, above_hash, above_perms, env.next_generation());
        let below = child.digest();
        self.remark(path, &trail, depth, mark, below)?.adopt(path.hash_at(depth + 1), child);
        self.account(owner, levels as i64, bytes);
        self.account(above_owner, 0, entry);
        self.wear_off(copied, more);
        Ok(Changed::Written)
    }

    /// Gives the node at the first `depth` components the permissions and
    /// generation of `mark`, where the digest below it is about to grow by
    /// `below`.
    fn remark(
        &mut self,
        path: &Path<'_>,
        trail: &Trail,
        depth: usize,
        mark: Mark,
        below: u64,
    ) -> Result<&mut Node, Corruption> {
        let node = self.tree.change(path, trail, depth, mark.delta.wrapping_add(below))?;
        node.mark(mark.perms, mark.generation, mark.content);
        Ok(node)
    }

    /// RM.
    ///
    /// # Errors
    /// As [`Self::get`]; `EINVAL` for `/`, `ENOENT` when the parent is missing
    /// too.
    pub(crate) fn remove(&mut self, env: &mut Env<'_>, path: &Path<'_>) -> Result<Changed, Fail> {
        let found = self.find(&env.caller, path, Rights::WRITE)?;
        if found.node.is_none() {
            // Gone already is fine, if only there is a parent.
            let has_parent = found.depth + 1 == path.len();
            return if has_parent { Ok(Changed::Nothing) } else { Err(Errno::ENOENT.into()) };
        }
        if path.is_root() {
            return Err(Errno::EINVAL.into());
        }
        env.room.admit_removal(found.weight)?;
        self.cut(env, path).map(Changed::Removed)
    }

    /// Takes an existing node out, with everything below.
    pub(crate) fn cut(&mut self, env: &mut Env<'_>, path: &Path<'_>) -> Result<Removed, Fail> {
        let depth = path.len() - 1;
        let found = self.tree.find(path)?;
        let node = found.node.ok_or(Errno::ENOENT)?;
        found.above.verify_at(path.hash_at(depth))?;
        let (key, digest) = (ChildKey { hash: path.hash(), born: node.born() }, node.digest());
        let perms = env.refreshed(found.above);
        let parent_owner = perms.owner();
        let mark = Mark::new(found.above, path.hash_at(depth), perms, env.next_generation());
        let (trail, copied, before) = (found.trail, found.weight, self.size());
        let parent = self.remark(path, &trail, depth, mark, digest.wrapping_neg())?;
        let top = parent.disown(key).ok_or(Errno::ENOENT)?;
        self.account_by(parent_owner, 0, -(top.size().cast_signed()));
        let nodes = self.unaccount(&top, path);
        self.wear_off(copied, self.size().cast_signed() - before.cast_signed());
        Ok(Removed { top, nodes })
    }

    /// Takes a removed subtree off its owners' accounts; yields the number of its
    /// nodes. Their content is of no use to anybody any more and not verified:
    /// somebody may wait.
    fn unaccount(&mut self, top: &Node, path: &Path<'_>) -> u64 {
        let before = self.nodes();
        let mut gone: Vec<(DomId, i64, i64)> = Vec::new();
        let mut take = |node: &Node, path_len| {
            let (owner, bytes) = (node.perms().owner(), accounted(node, path_len).cast_signed());
            match gone.iter_mut().find(|entry| entry.0 == owner) {
                Some(entry) => *entry = (owner, entry.1 + 1, entry.2 + bytes),
                None => gone.push((owner, 1, bytes)),
            }
        };
        take(top, path.text().len());
        let mut above = alloc::vec![(top, path.text().len())];
        while let Some((node, path_len)) = above.pop() {
            let Some(children) = node.children() else { continue };
            children.by_key().visit(&mut |_, child| {
                let path_len = path_len + 1 + child.name().len();
                if child.children().is_some() {
                    above.push((child, path_len));
                }
                take(child, path_len);
                true
            });
        }
        for (owner, nodes, bytes) in gone {
            self.account_by(owner, -nodes, -bytes);
        }
        before.saturating_sub(self.nodes())
    }

    /// SET_PERMS, to permissions whose owner exists.
    ///
    /// # Errors
    /// As [`Self::get`], `EPERM` for a guest that gives a node away, `ENOSPC` and
    /// `ENOMEM` over quota.
    pub(crate) fn set_perms(
        &mut self,
        env: &mut Env<'_>,
        path: &Path<'_>,
        mut perms: Perms,
    ) -> Result<Changed, Fail> {
        let found = self.find(&env.caller, path, Rights::WRITE_AND_OWN)?;
        let node = found.node.ok_or(Errno::ENOENT)?;
        let old = node.perms().clone();
        if !env.caller.is_privileged() && perms.owner() != old.owner() {
            return Err(Errno::EPERM.into());
        }
        for entry in &mut perms.entries_mut()[1..] {
            entry.stale = !env.domains.is_live(entry.domid);
        }
        Self::check_size(env, own_bytes(&perms, node.value()) + node.child_list_len())?;
        let old_generation = node.generation();
        let before = accounted(node, path.text().len()).cast_signed();
        let more = 8 * (perms.entries().len() as i64 - old.entries().len() as i64);
        self.check_memory(env, perms.owner(), more)?;
        let (copied, larger) = (found.weight, larger(more));
        env.room.admit_change(larger, copied)?;
        let perms = Arc::new(perms);
        let mut mark = Mark::new(node, path.hash(), perms.clone(), env.next_generation());
        if teeth::bites(Bug::PermsDigestStale) {
            mark.delta = 0;
        }
        let trail = found.trail;
        self.remark(path, &trail, path.len(), mark, 0)?;
        if !path.is_special() {
            self.account_by(old.owner(), -1, -before);
            self.account_by(perms.owner(), 1, before + more);
        }
        self.wear_off(copied, larger);
        Ok(Changed::Perms { old, generation: old_generation })
    }

    /// Takes a node out that a snapshot does not have, and nothing else.
    pub(crate) fn erase(&mut self, path: &Path<'_>) -> Result<(), Fail> {
        let found = self.tree.find(path)?;
        let node = found.node.filter(|_| path.len() > 0).ok_or(Errno::ENOENT)?;
        let (key, digest) = (ChildKey { hash: path.hash(), born: node.born() }, node.digest());
        let parent_owner = found.above.perms().owner();
        let trail = found.trail;
        let parent = self.tree.change(path, &trail, path.len() - 1, digest.wrapping_neg())?;
        let child = parent.disown(key).ok_or(Errno::ENOENT)?;
        self.account_by(parent_owner, 0, -(child.size().cast_signed()));
        self.unaccount(&child, path);
        Ok(())
    }

    /// Puts back a node of a snapshot, as a child of one that is there.
    pub(crate) fn restore(&mut self, path: &Path<'_>, content: &Content<'_>) -> Result<(), Fail> {
        let found = self.tree.find(path)?;
        let hash = path.hash();
        if found.node.is_some() || path.len() != found.depth + 1 {
            return Err(Errno::EINVAL.into());
        }
        let siblings = found.above.children();
        if siblings.is_some_and(|siblings| {
            siblings.next_born(content.born).is_some_and(|(key, _)| key.born == content.born)
        }) {
            return Err(Errno::EEXIST.into());
        }
        let above_owner = found.above.perms().owner();
        let node = Arc::new(Node::new(hash, content));
        let bytes = accounted(&node, path.text().len());
        let delta = node.digest();
        let (depth, trail) = (found.depth, found.trail);
        let parent = self.tree.change(path, &trail, depth, delta)?;
        parent.adopt(hash, node);
        self.account(content.perms.owner(), 1, bytes);
        self.account(above_owner, 0, content.name.len() as u64 + 1);
        Ok(())
    }

    /// Makes an existing node what `content` says, its birth and children apart.
    pub(crate) fn rewrite(&mut self, path: &Path<'_>, content: &Content<'_>) -> Result<(), Fail> {
        let found = self.tree.find(path)?;
        let node = found.node.ok_or(Errno::ENOENT)?;
        let content = Content { born: node.born(), ..content.clone() };
        let new = content.digest(path.hash());
        let (old, len) = (node.perms().owner(), path.text().len());
        let before = accounted(node, len).cast_signed();
        let delta = new.wrapping_sub(node.content());
        let perms = content.perms.clone();
        let (value, generation) = (content.value, content.generation);
        let owner = perms.owner();
        let trail = found.trail;
        let node = self.tree.change(path, &trail, path.len(), delta)?;
        node.replace(value, perms, generation, new);
        if !path.is_special() {
            let after = accounted(node, len).cast_signed();
            self.account_by(old, -1, -before);
            self.account_by(owner, 1, after);
        }
        Ok(())
    }

    /// The tree's root, to be freed.
    pub(crate) fn into_root(self) -> Arc<Node> {
        self.tree.into_root()
    }

    pub(crate) fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }
}
