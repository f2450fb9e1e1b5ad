//! The tree of nodes: persistent, so that a copy costs nothing and a change
//! costs only the blocks on its path.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{Corruption, Mixer};

use crate::children::{ChildKey, Children};
use crate::node::{Content, Node};
use crate::path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN, ROOT_HASH, child_hash, special_hash};
use crate::perms::Perms;
use crate::pmap::Measured;

/// The tree, and the two special nodes beside it, which have permissions but no
/// place.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: Arc<Node>,
    introduce: Arc<Node>,
    release: Arc<Node>,
}

/// The births of the nodes along a path: with the hashes, their keys.
#[derive(Clone, Debug)]
pub(crate) struct Trail {
    inline: [u64; INLINE],
    more: Vec<u64>,
    len: usize,
}

/// Nodes that a trail holds without an allocation.
const INLINE: usize = 12;

impl Trail {
    fn new() -> Self {
        Self { inline: [0; INLINE], more: Vec::new(), len: 0 }
    }

    fn push(&mut self, born: u64) {
        match self.inline.get_mut(self.len) {
            Some(slot) => *slot = born,
            None => self.more.push(born),
        }
        self.len += 1;
    }

    /// The key of the node at the first `len` components of `path`.
    fn key(&self, path: &Path<'_>, len: usize) -> ChildKey {
        let born = match self.inline.get(len - 1) {
            Some(born) => *born,
            None => self.more[len - 1 - INLINE],
        };
        ChildKey { hash: path.hash_at(len), born }
    }
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(crate) struct Found<'s> {
    /// The node, if it exists.
    pub(crate) node: Option<&'s Node>,
    /// The deepest node above it that exists: the parent of a node that does.
    /// The root is its own.
    pub(crate) above: &'s Node,
    /// Components of the path of `above`.
    pub(crate) depth: usize,
    /// The way to the deepest node found.
    pub(crate) trail: Trail,
    /// What it takes to copy that node and all above, bytes.
    pub(crate) weight: u64,
}

impl Tree {
    /// A tree of the root alone, and the special nodes.
    pub(crate) fn new() -> Self {
        let perms = Arc::new(Perms::initial());
        let node = |hash| {
            let perms = perms.clone();
            let content = Content { name: b"", value: b"", perms, born: 0, generation: 0 };
            Arc::new(Node::new(hash, &content))
        };
        Self {
            root: node(ROOT_HASH),
            introduce: node(special_hash(INTRODUCE_DOMAIN)),
            release: node(special_hash(RELEASE_DOMAIN)),
        }
    }

    pub(crate) fn into_root(self) -> Arc<Node> {
        self.root
    }

    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    /// A special node, by its path.
    pub(crate) fn special(&self, text: &[u8]) -> Option<&Node> {
        match text {
            INTRODUCE_DOMAIN => Some(&self.introduce),
            RELEASE_DOMAIN => Some(&self.release),
            _ => None,
        }
    }

    fn special_mut(&mut self, text: &[u8]) -> Option<&mut Node> {
        match text {
            INTRODUCE_DOMAIN => Some(Arc::make_mut(&mut self.introduce)),
            RELEASE_DOMAIN => Some(Arc::make_mut(&mut self.release)),
            _ => None,
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        let mixer = Mixer::new().word(self.root.digest());
        mixer.word(self.introduce.content()).word(self.release.content()).finish()
    }

    /// Follows `path` as far as it goes. The nodes found are not verified.
    ///
    /// # Errors
    /// [`Corruption`] of a name on the way.
    pub(crate) fn find(&self, path: &Path<'_>) -> Result<Found<'_>, Corruption> {
        if path.is_special() {
            let node = self.special(path.text());
            let weight = node.map_or(0, Node::weight);
            return Ok(Found { node, above: &self.root, depth: 0, trail: Trail::new(), weight });
        }
        let mut trail = Trail::new();
        let mut weight = self.root.weight();
        let (mut above, mut node) = (&*self.root, &*self.root);
        for depth in 0..path.len() {
            let hash = path.hash_at(depth + 1);
            above = node;
            let child = match node.children() {
                Some(children) => children.get(path.hash_at(depth), hash, path.name(depth))?,
                None => None,
            };
            match child {
                Some((key, child)) => {
                    trail.push(key.born);
                    weight += child.weight();
                    node = child;
                }
                None => return Ok(Found { node: None, above, depth, trail, weight }),
            }
        }
        let depth = path.len().saturating_sub(1);
        Ok(Found { node: Some(node), above, depth, trail, weight })
    }

    /// The node at the first `len` components of `path`, to be changed such that
    /// the digest of everything below the root grows by `delta`. `trail` is the
    /// way there.
    ///
    /// # Errors
    /// [`Corruption`] when it is not there: the caller has just found it.
    pub(crate) fn change(
        &mut self,
        path: &Path<'_>,
        trail: &Trail,
        len: usize,
        delta: u64,
    ) -> Result<&mut Node, Corruption> {
        let lost = || {
            let text = String::from_utf8_lossy(path.text()).into_owned();
            Corruption { what: format!("{text:?} is lost") }
        };
        if path.is_special() {
            return self.special_mut(path.text()).ok_or_else(lost);
        }
        let mut node = Arc::make_mut(&mut self.root);
        for depth in 1..=len {
            node = node.change_child(trail.key(path, depth), delta).ok_or_else(lost)?;
        }
        Ok(node)
    }

    /// A place whose node is to have a bit flipped, as `seed` says.
    pub(crate) fn place_of_flip(&self, seed: u64) -> Flip {
        let mut flip = Flip { place: Vec::new(), seed: state_machine::mix64(seed) };
        let mut node = &self.root;
        loop {
            flip.seed = state_machine::mix64(flip.seed);
            let count = node.children().map_or(0, |children| children.total().count);
            // Deeper nodes are more; a leaf ends the descent in any case.
            if count == 0 || flip.seed.is_multiple_of(8) {
                return flip;
            }
            let mut left = (flip.seed >> 8) % count;
            let mut picked = None;
            if let Some(children) = node.children() {
                children.by_key().visit(&mut |key, child| {
                    picked = Some((*key, child));
                    left = left.wrapping_sub(1);
                    left < count
                });
            }
            let (key, child) = picked.expect("there are so many");
            flip.place.push(key);
            node = child;
        }
    }

    /// Flips a bit in the node at a place, if there is one, behind the back of all digests.
    pub(crate) fn flip_bit(&mut self, flip: &Flip) {
        let mut node = Arc::make_mut(&mut self.root);
        for key in &flip.place {
            match node.change_child(*key, 0) {
                Some(child) => node = child,
                None => return,
            }
        }
        node.flip_bit(flip.seed >> 3);
    }
}

/// A bit to be flipped: below which children, from the root on, and which one there.
#[derive(Clone, Debug)]
pub(crate) struct Flip {
    place: Vec<ChildKey>,
    seed: u64,
}

/// A node met on a [`walk`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met<'a> {
    pub(crate) node: &'a Node,
    pub(crate) hash: u64,
    pub(crate) parent: &'a Node,
    pub(crate) path: &'a [u8],
}

/// When a [`walk`] shows a node, and in which order it goes through children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before its children; these in the order of their creation.
    Before,
    /// After its children; these in the order of their creation.
    After,
    /// Before its children; these in the order that is quickest.
    Quick,
}

impl Order {
    /// The child after the one at `last`, if any is given.
    pub(crate) fn next(
        self,
        children: &Children,
        last: Option<ChildKey>,
    ) -> Option<(ChildKey, &Arc<Node>)> {
        match self {
            Self::Quick => {
                let from = last.map_or(ChildKey::default(), ChildKey::successor);
                children.by_key().next_from(&from).map(|(key, node)| (*key, node))
            }
            _ => children.next_born(last.map_or(0, |last| last.born + 1)),
        }
    }
}

/// Whether a [`walk`] goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    On,
    /// Not into the children of this node; not with [`Order::After`].
    Past,
    Stop,
}

/// Walks over `top`, whose path is `path`, and everything below. Needs no stack,
/// however deep the tree is.
pub(crate) fn walk(
    top: &Node,
    above: &Node,
    path: &[u8],
    hash: u64,
    order: Order,
    meet: &mut dyn FnMut(Met<'_>) -> Go,
) {
    struct Level<'a> {
        node: &'a Node,
        hash: u64,
        path_len: usize,
        last: Option<ChildKey>,
    }
    let mut text = path.to_vec();
    let met = Met { node: top, hash, parent: above, path };
    if order != Order::After && meet(met) != Go::On {
        return;
    }
    let mut levels = alloc::vec![Level { node: top, hash, path_len: path.len(), last: None }];
    while let Some(level) = levels.last_mut() {
        let next = level.node.children().and_then(|children| order.next(children, level.last));
        if let Some((key, child)) = next {
            level.last = Some(key);
            let parent = level.node;
            text.truncate(level.path_len);
            if text.len() > 1 {
                text.push(b'/');
            }
            text.extend_from_slice(child.name());
            // The hash follows from the names, so that a broken name shows.
            let hash = child_hash(level.hash, child.name());
            if order != Order::After {
                match meet(Met { node: child, hash, parent, path: &text }) {
                    Go::On => {}
                    Go::Past => continue,
                    Go::Stop => return,
                }
            }
            if order == Order::After || child.children().is_some() {
                levels.push(Level { node: child, hash, path_len: text.len(), last: None });
            }
            continue;
        }
        let (node, hash) = (level.node, level.hash);
        text.truncate(level.path_len);
        levels.pop();
        let parent = levels.last().map_or(above, |level| level.node);
        if order == Order::After && meet(Met { node, hash, parent, path: &text }) == Go::Stop {
            return;
        }
    }
}
