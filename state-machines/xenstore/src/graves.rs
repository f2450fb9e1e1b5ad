//! Freeing removed subtrees bit by bit, so that nobody waits for it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::children::ChildKey;
use crate::node::Node;
use crate::pmap::Piece;

/// How many nodes are freed at once, at least,
const LEAST: u64 = 32;
/// and at least this share of those that wait, so that they cannot pile up.
const SHARE: u64 = 16;

/// Removed nodes whose memory is still to be freed. They are not part of the
/// state.
#[derive(Debug, Default)]
pub(crate) struct Graves {
    /// About how many nodes wait.
    waiting: u64,
    nodes: Vec<Arc<Node>>,
    pieces: Vec<Piece<ChildKey, Arc<Node>>>,
}

impl Clone for Graves {
    /// A copy has nothing to free.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Graves {
    /// Takes a removed subtree, or a tree that was replaced, of which about
    /// `nodes` are not in use elsewhere.
    pub(crate) fn bury(&mut self, node: Arc<Node>, nodes: u64) {
        self.nodes.push(node);
        self.waiting = self.waiting.saturating_add(nodes);
    }

    /// Frees a few.
    pub(crate) fn free(&mut self) {
        let mut budget = LEAST.max(self.waiting / SHARE);
        while budget > 0 {
            if let Some(node) = self.nodes.pop() {
                // What others still share is theirs to free.
                let children = Arc::try_unwrap(node).ok().and_then(Node::into_children);
                let children = children.and_then(|children| Arc::try_unwrap(children).ok());
                self.pieces.extend(children.and_then(|children| children.into_piece()));
                self.waiting = self.waiting.saturating_sub(1);
                budget -= 1;
            } else if let Some(piece) = self.pieces.pop() {
                piece.open(&mut self.nodes, &mut self.pieces);
            } else {
                self.waiting = 0;
                return;
            }
        }
    }

    /// Whether all is freed.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.pieces.is_empty()
    }
}
