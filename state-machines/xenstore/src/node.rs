//! A node of the store and the directory of its children.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{Corruption, Mixer};

use crate::path::child_hash;
use crate::perms::Perms;
use crate::pmap::{Measured, PMap};

/// Directories larger than this get an index by name.
const INDEX_ABOVE: u64 = 16;
/// An index is given up when the directory is smaller than this.
const INDEX_BELOW: u64 = 8;

/// A node. Its `content` digest covers its path and everything of its own; what
/// a client is told is checked against it first.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The name, then the value: one allocation instead of two.
    text: Box<[u8]>,
    name_len: u16,
    perms: Arc<Perms>,
    /// The store's generation when it was created: its place among its
    /// siblings, who are listed in the order of their creation.
    born: u64,
    /// The store's generation at the last change of the node, or of the list of
    /// its children.
    generation: u64,
    content: u64,
    children: Option<Arc<Children>>,
}

/// What a node says about itself, to make one from.
#[derive(Clone, Debug)]
pub(crate) struct Content<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) perms: Arc<Perms>,
    pub(crate) born: u64,
    pub(crate) generation: u64,
}

impl Content<'_> {
    /// The digest of this content at the path with this hash, which covers the
    /// name.
    pub(crate) fn digest(&self, hash: u64) -> u64 {
        let mixer = Mixer::new().word(hash).word(self.born).word(self.generation);
        self.perms.mix(mixer.bytes(self.value)).finish()
    }
}

impl Node {
    /// A node without children, for the path with this hash.
    pub(crate) fn new(hash: u64, content: &Content<'_>) -> Self {
        let mut text = Vec::with_capacity(content.name.len() + content.value.len());
        text.extend_from_slice(content.name);
        text.extend_from_slice(content.value);
        Self {
            text: text.into_boxed_slice(),
            name_len: u16::try_from(content.name.len()).expect("paths are at most 3 KiB"),
            perms: content.perms.clone(),
            born: content.born,
            generation: content.generation,
            content: content.digest(hash),
            children: None,
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.text[..usize::from(self.name_len)]
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.text[usize::from(self.name_len)..]
    }

    pub(crate) fn perms(&self) -> &Arc<Perms> {
        &self.perms
    }

    pub(crate) fn born(&self) -> u64 {
        self.born
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn children(&self) -> Option<&Children> {
        self.children.as_deref()
    }

    /// Length of the list of children as DIRECTORY gives it, bytes.
    pub(crate) fn child_list_len(&self) -> u64 {
        self.children.as_ref().map_or(0, |children| children.order.total().bytes)
    }

    /// The digest of the node alone.
    pub(crate) fn content(&self) -> u64 {
        self.content
    }

    /// The digest of the node and everything below it.
    pub(crate) fn digest(&self) -> u64 {
        let below = self.children.as_ref().map_or(0, |children| children.order.total().digest);
        self.content.wrapping_add(below)
    }

    /// The node's content, borrowed from it.
    pub(crate) fn as_content(&self) -> Content<'_> {
        Content {
            name: self.name(),
            value: self.value(),
            perms: self.perms.clone(),
            born: self.born,
            generation: self.generation,
        }
    }

    /// Whether the content is what was written to the path with this hash.
    ///
    /// # Errors
    /// [`Corruption`] if not.
    pub(crate) fn verify(&self, parent_hash: u64) -> Result<(), Corruption> {
        self.verify_at(child_hash(parent_hash, self.name()))
    }

    /// As [`Self::verify`], for a node whose name was compared with the one that
    /// went into `hash`, and for the nodes that are nobody's children.
    ///
    /// # Errors
    /// [`Corruption`] if not.
    pub(crate) fn verify_at(&self, hash: u64) -> Result<(), Corruption> {
        let mixer = Mixer::new().word(hash).word(self.born).word(self.generation);
        if self.perms.mix(mixer.bytes(self.value())).finish() == self.content {
            return Ok(());
        }
        Err(self.corruption())
    }

    fn corruption(&self) -> Corruption {
        let name = String::from_utf8_lossy(self.name());
        Corruption { what: format!("node {name:?} is not what was written") }
    }

    /// Replaces value, permissions and generation; `content` is the digest of
    /// what the node becomes.
    pub(crate) fn replace(
        &mut self,
        value: &[u8],
        perms: Arc<Perms>,
        generation: u64,
        content: u64,
    ) {
        let name_len = usize::from(self.name_len);
        if self.text.len() == name_len + value.len() {
            self.text[name_len..].copy_from_slice(value);
        } else {
            let mut text = Vec::with_capacity(name_len + value.len());
            text.extend_from_slice(self.name());
            text.extend_from_slice(value);
            self.text = text.into_boxed_slice();
        }
        self.mark(perms, generation, content);
    }

    /// Replaces permissions and generation.
    pub(crate) fn mark(&mut self, perms: Arc<Perms>, generation: u64, content: u64) {
        self.perms = perms;
        self.generation = generation;
        self.content = content;
    }

    /// Adds a child, which must not be there yet.
    pub(crate) fn adopt(&mut self, child: Child) {
        let children = self.children.get_or_insert_with(Arc::default);
        Arc::make_mut(children).insert(child);
    }

    /// Takes the child with this birth out.
    pub(crate) fn disown(&mut self, born: u64) -> Option<Child> {
        let children = self.children.as_mut()?;
        let child = Arc::make_mut(children).remove(born);
        if children.order.is_empty() {
            self.children = None;
        }
        child
    }

    /// The child with this birth, to be changed such that its digest grows by
    /// `delta`.
    pub(crate) fn change_child(&mut self, born: u64, delta: u64) -> Option<&mut Self> {
        let children = Arc::make_mut(self.children.as_mut()?);
        Some(Arc::make_mut(&mut children.order.change(&born, delta)?.node))
    }

    /// As [`Self::change_child`], behind the back of all digests.
    pub(crate) fn tamper_child(&mut self, born: u64) -> Option<&mut Self> {
        let children = Arc::make_mut(self.children.as_mut()?);
        Some(Arc::make_mut(&mut children.order.tamper(&born)?.node))
    }

    /// Flips one bit, of the value if there is one, else of the permissions,
    /// without touching any digest.
    pub(crate) fn flip_bit(&mut self, seed: u64) {
        let name_len = usize::from(self.name_len);
        let pick = |len: usize| usize::try_from(seed % (len as u64)).unwrap_or(0);
        let value = &mut self.text[name_len..];
        if value.is_empty() {
            Arc::make_mut(&mut self.perms).entries_mut()[0].domid.0 ^= 1 << pick(16);
        } else {
            let bit = pick(value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// A child in its parent's directory.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// The hash of the child's path.
    pub(crate) hash: u64,
    pub(crate) node: Arc<Node>,
}

impl Child {
    /// This child if it has that name.
    fn is_called(&self, parent: u64, hash: u64, name: &[u8]) -> Result<Option<&Self>, Corruption> {
        if self.hash != hash {
            return Ok(None);
        }
        if self.node.name() == name {
            return Ok(Some(self));
        }
        // Either two names have one hash, or this name is not what it was.
        if child_hash(parent, self.node.name()) == hash {
            return Ok(None);
        }
        Err(self.node.corruption())
    }
}

impl Measured for Child {
    /// Its length in the list that DIRECTORY gives: the name and a NUL.
    fn bytes(&self) -> u64 {
        u64::from(self.node.name_len) + 1
    }

    fn digest(&self) -> u64 {
        self.node.digest()
    }
}

/// A directory: the children in the order of their birth, and for the larger
/// ones an index by path hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children {
    order: PMap<u64, Child>,
    /// Path hash in the upper, birth in the lower half.
    index: PMap<u128, ()>,
}

fn index_key(hash: u64, born: u64) -> u128 {
    u128::from(hash) << 64 | u128::from(born)
}

impl Children {
    /// Number of children.
    pub(crate) fn count(&self) -> u64 {
        self.order.total().count
    }

    /// The children in the order of their creation.
    pub(crate) fn order(&self) -> &PMap<u64, Child> {
        &self.order
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
    ) -> Result<Option<&Child>, Corruption> {
        let mut hit = Ok(None);
        if self.index.is_empty() {
            self.order.visit(&mut |_, child| {
                hit = child.is_called(parent, hash, name);
                matches!(hit, Ok(None))
            });
        } else {
            self.index.visit_from(&index_key(hash, 0), &mut |key, ()| {
                if (key >> 64) as u64 != hash {
                    return false;
                }
                let Some(child) = self.order.get(&(*key as u64)) else { return true };
                hit = child.is_called(parent, hash, name);
                matches!(hit, Ok(None))
            });
        }
        hit
    }

    fn insert(&mut self, child: Child) {
        let (hash, born) = (child.hash, child.node.born);
        self.order.insert(born, child);
        if !self.index.is_empty() {
            self.index.insert(index_key(hash, born), ());
        } else if self.count() > INDEX_ABOVE {
            let index = &mut self.index;
            self.order.visit(&mut |born, child| {
                index.insert(index_key(child.hash, *born), ());
                true
            });
        }
    }

    fn remove(&mut self, born: u64) -> Option<Child> {
        let child = self.order.remove(&born)?;
        if !self.index.is_empty() {
            self.index.remove(&index_key(child.hash, born));
            if self.count() < INDEX_BELOW {
                self.index = PMap::default();
            }
        }
        Some(child)
    }

    /// Whether the sums around `born` are right and the index knows `child`.
    pub(crate) fn holds(&self, born: u64, child: &Child) -> bool {
        let key = index_key(child.hash, born);
        child.node.born == born
            && self.order.sums_hold(&born)
            && (self.index.is_empty() || self.index.get(&key).is_some())
    }
}
