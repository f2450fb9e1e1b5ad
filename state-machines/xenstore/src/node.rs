//! A node of the store.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{Corruption, Mixer};

use crate::children::{ChildKey, Children};
use crate::path::child_hash;
use crate::perms::Perms;
use crate::pmap::Measured;
use crate::size::of_copy;

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

    /// What is left of the node when it goes.
    pub(crate) fn into_children(self) -> Option<Arc<Children>> {
        self.children
    }

    pub(crate) fn children(&self) -> Option<&Children> {
        self.children.as_deref()
    }

    /// Whether its children are those of `other`, in one place in memory, or both have none.
    pub(crate) fn shares_children(&self, other: &Self) -> bool {
        match (&self.children, &other.children) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            (own, others) => own.is_none() && others.is_none(),
        }
    }

    /// Length of the list of children as DIRECTORY gives it, bytes.
    pub(crate) fn child_list_len(&self) -> u64 {
        self.children.as_ref().map_or(0, |children| children.total().size)
    }

    /// What it takes to copy the node for a change, bytes.
    pub(crate) fn weight(&self) -> u64 {
        let children = self.children.as_ref().map_or(0, |children| children.total().count);
        of_copy(self.text.len() as u64, children)
    }

    /// The digest of the node alone.
    pub(crate) fn content(&self) -> u64 {
        self.content
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

    /// What is reported of a node that is not what was written.
    pub(crate) fn corruption(&self) -> Corruption {
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

    /// Adds a child, which must not be there yet; `hash` is that of its path.
    pub(crate) fn adopt(&mut self, hash: u64, child: Arc<Self>) {
        let children = self.children.get_or_insert_with(Arc::default);
        Arc::make_mut(children).insert(hash, child);
    }

    /// Takes a child out.
    pub(crate) fn disown(&mut self, key: ChildKey) -> Option<Arc<Self>> {
        let children = self.children.as_mut()?;
        let child = Arc::make_mut(children).remove(key);
        if children.total().count == 0 {
            self.children = None;
        }
        child
    }

    /// A child, to be changed such that its digest grows by `delta`; by 0 is
    /// behind the back of all digests.
    pub(crate) fn change_child(&mut self, key: ChildKey, delta: u64) -> Option<&mut Self> {
        let children = Arc::make_mut(self.children.as_mut()?);
        Some(Arc::make_mut(children.change(key, delta)?))
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

impl Measured for Node {
    /// Its length in the list that DIRECTORY gives: the name and a NUL.
    fn size(&self) -> u64 {
        u64::from(self.name_len) + 1
    }

    /// The digest of the node and everything below it.
    fn digest(&self) -> u64 {
        let below = self.children.as_ref().map_or(0, |children| children.total().digest);
        self.content.wrapping_add(below)
    }
}
