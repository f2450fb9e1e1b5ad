//! The nodes below the root, some now and some later.

use alloc::vec::Vec;

use crate::children::ChildKey;
use crate::node::Node;
use crate::tree::Order;

/// The nodes below the root in [`Order::Quick`], from a place in the tree on. A
/// place is the keys of a node and of those above it, from the top; that of the
/// root is empty.
#[derive(Debug)]
pub(super) struct Below<'t, 'p> {
    /// The nodes from the root to the last that was met, each with the length of
    /// its path.
    levels: Vec<(&'t Node, usize)>,
    /// The place of that node.
    place: &'p mut Vec<ChildKey>,
    path: Vec<u8>,
}

impl<'t, 'p> Below<'t, 'p> {
    /// The nodes after the one at `place`, which moves along. There it can be gone
    /// on later, if the tree is the same and has not come to its end.
    pub(super) fn after(root: &'t Node, place: &'p mut Vec<ChildKey>) -> Self {
        let keys = core::mem::take(place);
        let mut below = Self { levels: Vec::new(), place, path: b"/".to_vec() };
        below.levels.push((root, below.path.len()));
        let mut node = root;
        for key in keys {
            let child = node.children().and_then(|children| children.by_key().get(&key));
            node = child.expect("a snapshot does not change");
            below.enter(key, node);
        }
        below
    }

    /// Steps down to a child of the last node.
    fn enter(&mut self, key: ChildKey, child: &'t Node) {
        if self.path.len() > 1 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(child.name());
        self.place.push(key);
        self.levels.push((child, self.path.len()));
    }

    /// The next node.
    pub(super) fn next(&mut self) -> Option<&'t Node> {
        // The children of the last node, then the later siblings of each above.
        while let Some(&(node, path_len)) = self.levels.last() {
            let depth = self.levels.len() - 1;
            let last = self.place.get(depth).copied();
            self.place.truncate(depth);
            self.path.truncate(path_len);
            let next = node.children().and_then(|children| Order::Quick.next(children, last));
            if let Some((key, child)) = next {
                self.enter(key, child);
                return Some(child);
            }
            self.levels.pop();
        }
        None
    }

    /// The path of the node that [`Self::next`] has yielded.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }
}
