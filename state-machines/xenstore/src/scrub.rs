//! Checking the tree against its digests, all at once or in slices.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use state_machine::{Corruption, ScrubProgress};
use teeth::Bug;

use crate::children::ChildKey;
use crate::node::Node;
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, ROOT_HASH, child_hash, special_hash};
use crate::store::Store;
use crate::tree::Order;

/// How far a pass has come. Between two slices the tree may change at will: the
/// cursor goes on at the place of the last node checked, whether or not it is
/// still there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    /// The keys of the last node checked and of those above it, from the top;
    /// `None` before the root.
    last: Option<Vec<ChildKey>>,
}

/// Checks a child; tells the hash of its path.
fn check_child(
    parent: &Node,
    parent_hash: u64,
    key: ChildKey,
    child: &Node,
) -> Result<u64, Corruption> {
    child.verify(parent_hash)?;
    let hash = child_hash(parent_hash, child.name());
    let named = hash == key.hash;
    if named && parent.children().is_some_and(|children| children.holds(key, child)) {
        return Ok(hash);
    }
    let name = String::from_utf8_lossy(child.name());
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
        let place = match &mut self.last {
            Some(place) => place,
            none => {
                check_top(store)?;
                none.insert(Vec::new())
            }
        };
        let mut levels = descend(store, place);
        for _ in 0..budget.max(1) {
            if !next(&mut levels, place)? {
                self.last = None;
                return Ok(ScrubProgress::PassDone);
            }
        }
        Ok(ScrubProgress::Within)
    }
}

/// A node and the hash of its path.
type Level<'a> = (&'a Node, u64);

/// The nodes on the way to `place`, from the root, as far as they still exist.
fn descend<'a>(store: &'a Store, place: &[ChildKey]) -> Vec<Level<'a>> {
    let (mut node, mut hash) = (store.tree().root(), ROOT_HASH);
    let mut levels = Vec::with_capacity(place.len() + 2);
    levels.push((node, hash));
    for key in place {
        let Some(child) = node.children().and_then(|children| children.by_key().get(key)) else {
            break;
        };
        node = child;
        hash = child_hash(hash, node.name());
        levels.push((node, hash));
    }
    levels
}

/// Moves `place`, whose nodes are `levels`, to the next node, children before
/// siblings, and checks it; tells whether there was one.
fn next(levels: &mut Vec<Level<'_>>, place: &mut Vec<ChildKey>) -> Result<bool, Corruption> {
    // The children of the last node, then the later siblings of each above.
    while let Some(&(node, hash)) = levels.last() {
        let depth = levels.len() - 1;
        let last = place.get(depth).copied();
        place.truncate(depth);
        let children = node.children();
        let children = children.filter(|_| depth == 0 || !teeth::bites(Bug::ScrubStaysShallow));
        let next = children.and_then(|children| Order::Quick.next(children, last));
        if let Some((key, child)) = next {
            let child_hash = check_child(node, hash, key, child)?;
            place.push(key);
            levels.push((child, child_hash));
            return Ok(true);
        }
        levels.pop();
    }
    Ok(false)
}

/// Checks the tree, or the first `most` nodes of it.
///
/// # Errors
/// [`Corruption`] when one is not what was written.
pub(crate) fn check(store: &Store, most: usize) -> Result<(), Corruption> {
    Cursor::default().advance(store, most).map(|_| ())
}
