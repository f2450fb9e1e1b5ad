//! A directory: the children of a node, found by path hash, and listed in the
//! order of their creation.

use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::Corruption;

use crate::node::Node;
use crate::path::child_hash;
use crate::pmap::{Measure, Measured, PMap, Piece};

/// Directories larger than this keep the order of creation in a map of its own;
/// that of smaller ones is sorted out when it is asked for.
const ORDERED_ABOVE: u64 = 16;
/// The map is given up when the directory is smaller than this.
const ORDERED_BELOW: u64 = 8;

/// A child's key in its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChildKey {
    /// The hash of the child's path.
    pub(crate) hash: u64,
    pub(crate) born: u64,
}

impl ChildKey {
    /// The lowest key above this one.
    pub(crate) fn successor(self) -> Self {
        Self { born: self.born + 1, ..self }
    }
}

/// A child in the order of creation.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u64,
    /// Bytes in the list that DIRECTORY gives.
    len: u64,
}

impl Measured for Place {
    fn size(&self) -> u64 {
        self.len
    }

    fn digest(&self) -> u64 {
        self.hash
    }
}

/// The children of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children {
    by_key: PMap<ChildKey, Arc<Node>>,
    /// By birth; empty for small directories.
    order: PMap<u64, Place>,
}

impl Children {
    /// Number of children, bytes of the list that DIRECTORY gives, and the
    /// digest of everything below.
    pub(crate) fn total(&self) -> Measure {
        self.by_key.total()
    }

    /// The children by key.
    pub(crate) fn by_key(&self) -> &PMap<ChildKey, Arc<Node>> {
        &self.by_key
    }

    /// The children as a part to be taken apart.
    pub(crate) fn into_piece(self) -> Option<Piece<ChildKey, Arc<Node>>> {
        self.by_key.into_piece()
    }

    /// The child `name` of the parent with the hash `parent`; `hash` is the
    /// child's.
    ///
    /// # Errors
    /// [`Corruption`] when there is one for this hash whose name is not what it
    /// was.
    pub(crate) fn get(
        &self,
        parent: u64,
        hash: u64,
        name: &[u8],
    ) -> Result<Option<(ChildKey, &Node)>, Corruption> {
        let mut key = ChildKey { hash, born: 0 };
        while let Some((&found, node)) = self.by_key.next_from(&key) {
            if found.hash != hash {
                break;
            }
            if node.name() == name {
                return Ok(Some((found, node)));
            }
            // Either two names have one hash, or this name is not what it was.
            if child_hash(parent, node.name()) != hash {
                return Err(node.corruption());
            }
            key = found.successor();
        }
        Ok(None)
    }

    /// The first child born at `from` or later.
    pub(crate) fn next_born(&self, from: u64) -> Option<(ChildKey, &Arc<Node>)> {
        if !self.order.is_empty() {
            let (&born, place) = self.order.next_from(&from)?;
            let key = ChildKey { hash: place.hash, born };
            return Some((key, self.by_key.get(&key)?));
        }
        let mut first: Option<(ChildKey, &Arc<Node>)> = None;
        self.by_key.visit(&mut |key, node| {
            if key.born >= from && first.is_none_or(|(first, _)| key.born < first.born) {
                first = Some((*key, node));
            }
            true
        });
        first
    }

    /// Hands over the children in the order of their creation, from the one in
    /// which the byte at `offset` of DIRECTORY's list lies, until `visit` says
    /// false. With the child comes the number of its bytes before `offset`.
    ///
    /// # Errors
    /// [`Corruption`] when a name is not what it was.
    pub(crate) fn list(
        &self,
        parent: u64,
        offset: u64,
        visit: &mut dyn FnMut(&Node, u64) -> bool,
    ) -> Result<(), Corruption> {
        let mut checked = Ok(());
        let mut visit = |hash, node: &Node, before| {
            if child_hash(parent, node.name()) != hash {
                checked = Err(node.corruption());
            }
            checked.is_ok() && visit(node, before)
        };
        if self.order.is_empty() {
            let mut all: Vec<(ChildKey, &Arc<Node>)> = Vec::new();
            self.by_key.visit(&mut |key, node| {
                all.push((*key, node));
                true
            });
            all.sort_unstable_by_key(|(key, _)| key.born);
            let mut start = 0;
            for (key, node) in all {
                let end = start + node.size();
                if offset < end && !visit(key.hash, node, offset.saturating_sub(start)) {
                    break;
                }
                start = end;
            }
            return checked;
        }
        let Some((first, start)) = self.order.at_offset(offset) else { return Ok(()) };
        self.order.visit_from(&first, &mut |&born, place| {
            let before = if born == first { offset - start } else { 0 };
            match self.by_key.get(&ChildKey { hash: place.hash, born }) {
                Some(node) => visit(place.hash, node, before),
                // A list that is too short is noticed by whoever asked.
                None => true,
            }
        });
        checked
    }

    pub(crate) fn insert(&mut self, hash: u64, node: Arc<Node>) {
        let (born, len) = (node.born(), node.size());
        self.by_key.insert(ChildKey { hash, born }, node);
        if !self.order.is_empty() {
            self.order.insert(born, Place { hash, len });
        } else if self.total().count > ORDERED_ABOVE {
            let order = &mut self.order;
            self.by_key.visit(&mut |key, node| {
                order.insert(key.born, Place { hash: key.hash, len: node.size() });
                true
            });
        }
    }

    pub(crate) fn remove(&mut self, key: ChildKey) -> Option<Arc<Node>> {
        let node = self.by_key.remove(&key)?;
        if !self.order.is_empty() {
            self.order.remove(&key.born);
            if self.total().count < ORDERED_BELOW {
                self.order = PMap::default();
            }
        }
        Some(node)
    }

    /// The child, to be changed such that its digest grows by `delta`.
    pub(crate) fn change(&mut self, key: ChildKey, delta: u64) -> Option<&mut Arc<Node>> {
        self.by_key.change(&key, delta)
    }

    /// Whether the sums around a child are right, and its place in the order is
    /// known.
    pub(crate) fn holds(&self, key: ChildKey, node: &Node) -> bool {
        let in_order = |place: &Place| place.hash == key.hash && place.len == node.size();
        node.born() == key.born
            && self.by_key.sums_hold(&key)
            && (self.order.is_empty() || self.order.get(&key.born).is_some_and(in_order))
    }
}
