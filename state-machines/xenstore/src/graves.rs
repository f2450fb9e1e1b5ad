//! Freeing removed subtrees bit by bit, so that nobody waits for it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::children::ChildKey;
use crate::node::Node;
use crate::pmap::Piece;

/// Removed nodes whose memory is still to be freed. Each request frees more than
/// it can remove anew, so that they do not pile up. They are not part of the
/// state.
#[derive(Debug, Default)]
pub(crate) struct Graves {
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
    /// Takes a removed subtree, or a tree that was replaced.
    pub(crate) fn bury(&mut self, node: Arc<Node>) {
        self.nodes.push(node);
    }

    /// Frees about `budget` nodes.
    pub(crate) fn free(&mut self, budget: usize) {
        for _ in 0..budget {
            if let Some(node) = self.nodes.pop() {
                // What others still share is theirs to free.
                let children = Arc::try_unwrap(node).ok().and_then(Node::into_children);
                let children = children.and_then(|children| Arc::try_unwrap(children).ok());
                self.pieces.extend(children.and_then(|children| children.into_piece()));
            } else if let Some(piece) = self.pieces.pop() {
                piece.open(&mut self.nodes, &mut self.pieces);
            } else {
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
