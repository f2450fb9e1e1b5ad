//! Checking the tree against its digests, all at once or in slices.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use state_machine::{Corruption, ScrubProgress};

use crate::node::{Child, Node};
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, ROOT_HASH, child_hash, special_hash};
use crate::store::Store;

/// How far a pass has come. Between two slices the tree may change at will: the
/// cursor goes on at the place of the last node checked, whether or not it is
/// still there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    /// The births of the last node checked and of those above it, from the top;
    /// `None` before the root.
    last: Option<Vec<u64>>,
}

fn check_child(
    parent: &Node,
    parent_hash: u64,
    born: u64,
    child: &Child,
) -> Result<(), Corruption> {
    child.node.verify(parent_hash)?;
    let named = child_hash(parent_hash, child.node.name()) == child.hash;
    if named && parent.children().is_some_and(|children| children.holds(born, child)) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(child.node.name());
    Err(Corruption { what: format!("the directory around {name:?} is not what was written") })
}

fn check_top(store: &Store) -> Result<(), Corruption> {
    let tree = store.tree();
    tree.root().verify_at(ROOT_HASH)?;
    for name in [INTRODUCE_DOMAIN, RELEASE_DOMAIN] {
        if let Some(node) = tree.special(name) {
            node.verify_at(special_hash(name))?;
        }
    }
    Ok(())
}

impl Cursor {
    /// Checks about `budget` nodes.
    ///
    /// # Errors
    /// [`Corruption`] when one is not what was written.
    pub(crate) fn advance(
        &mut self,
        store: &Store,
        budget: usize,
    ) -> Result<ScrubProgress, Corruption> {
        for _ in 0..budget.max(1) {
            let Some(last) = &mut self.last else {
                check_top(store)?;
                self.last = Some(Vec::new());
                continue;
            };
            if !next(store, last)? {
                self.last = None;
                return Ok(ScrubProgress::PassDone);
            }
        }
        Ok(ScrubProgress::Within)
    }
}

/// Moves `place` to the next node, children before siblings, and checks it;
/// tells whether there was one.
fn next(store: &Store, place: &mut Vec<u64>) -> Result<bool, Corruption> {
    let mut levels = Vec::with_capacity(place.len() + 1);
    let (mut node, mut hash) = (store.tree().root(), ROOT_HASH);
    levels.push((node, hash));
    for born in place.iter() {
        let Some(child) = node.children().and_then(|children| children.order().get(born)) else {
            break;
        };
        node = &child.node;
        hash = child_hash(hash, node.name());
        levels.push((node, hash));
    }
    // The children of the last node, then the younger siblings of each above.
    while let Some((node, hash)) = levels.pop() {
        let depth = levels.len();
        let from = place.get(depth).map_or(0, |born| born + 1);
        place.truncate(depth);
        let next = node.children().and_then(|children| children.order().next_from(&from));
        if let Some((born, child)) = next {
            check_child(node, hash, *born, child)?;
            place.push(*born);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks everything.
///
/// # Errors
/// [`Corruption`] when anything is not what was written.
pub(crate) fn check(store: &Store) -> Result<(), Corruption> {
    let mut cursor = Cursor::default();
    while cursor.advance(store, usize::MAX)? == ScrubProgress::Within {}
    Ok(())
}
