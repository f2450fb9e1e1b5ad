//! Checking the trees against their digests, all at once or in slices.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use state_machine::{ConnId, Corruption, ScrubProgress};
use teeth::Bug;

use crate::children::{ChildKey, Children};
use crate::node::Node;
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, ROOT_HASH, child_hash, special_hash};
use crate::state::State;
use crate::tree::{Order, Tree};

/// How far a pass has come: through the store, then through what each open
/// transaction holds of its own. Between two slices all of it may change at will: the
/// cursor goes on at the place of the last node checked, whether or not it is
/// still there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    /// Whose tree it is in; `None` for the store's.
    transaction: Option<(ConnId, u32)>,
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

fn check_top(tree: &Tree) -> Result<(), Corruption> {
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
        state: &State,
        budget: usize,
    ) -> Result<ScrubProgress, Corruption> {
        let mut budget = budget.max(1);
        loop {
            let store = state.store.tree();
            let is_through = match self.transaction {
                None => advance_in(store, None, &mut self.last, &mut budget)?,
                Some(key) => match state.transactions.get(&key) {
                    Some(open) => {
                        let tree = open.working.tree();
                        advance_in(tree, Some(store), &mut self.last, &mut budget)?
                    }
                    None => true,
                },
            };
            if !is_through {
                return Ok(ScrubProgress::Within);
            }
            self.last = None;
            self.transaction = next_open(state, self.transaction);
            if self.transaction.is_none() {
                return Ok(ScrubProgress::PassDone);
            }
        }
    }
}

/// The open transaction after `last`.
fn next_open(state: &State, last: Option<(ConnId, u32)>) -> Option<(ConnId, u32)> {
    let mut next = None;
    state.transactions.visit_from(&last.unwrap_or((ConnId(0), 0)), &mut |key, _| {
        next = Some(*key).filter(|_| last != Some(*key));
        next.is_none()
    });
    next
}

/// Checks up to `budget` nodes of `tree`, from `last` on; whether that was the end of it.
/// What it shares with the tree `beside` it is that one's: as long as it does, it is
/// checked there.
fn advance_in(
    tree: &Tree,
    beside: Option<&Tree>,
    last: &mut Option<Vec<ChildKey>>,
    budget: &mut usize,
) -> Result<bool, Corruption> {
    let place = match last {
        Some(place) => place,
        none => {
            check_top(tree)?;
            none.insert(Vec::new())
        }
    };
    let mut levels = descend(tree, beside, place);
    while *budget > 0 {
        *budget -= 1;
        if !next(&mut levels, place)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A node.
#[derive(Clone, Copy)]
struct Level<'a> {
    node: &'a Node,
    /// The hash of its path.
    hash: u64,
    /// The one of the tree beside it at this place.
    beside: Option<&'a Node>,
}

impl<'a> Level<'a> {
    fn top(tree: &'a Tree, beside: Option<&'a Tree>) -> Self {
        Self { node: tree.root(), hash: ROOT_HASH, beside: beside.map(Tree::root) }
    }

    /// The children that are to be checked.
    fn children(&self) -> Option<&'a Children> {
        match self.beside {
            Some(beside) if self.node.shares_children(beside) => None,
            _ => self.node.children(),
        }
    }

    fn below(&self, key: ChildKey, node: &'a Node, hash: u64) -> Self {
        let beside = self.beside.and_then(Node::children);
        let beside = beside.and_then(|children| children.by_key().get(&key));
        Self { node, hash, beside: beside.map(|node| &**node) }
    }
}

/// The nodes on the way to `place`, from the root, as far as they still exist.
fn descend<'a>(tree: &'a Tree, beside: Option<&'a Tree>, place: &[ChildKey]) -> Vec<Level<'a>> {
    let mut level = Level::top(tree, beside);
    let mut levels = Vec::with_capacity(place.len() + 2);
    levels.push(level);
    for key in place {
        let Some(child) = level.children().and_then(|children| children.by_key().get(key)) else {
            break;
        };
        level = level.below(*key, child, child_hash(level.hash, child.name()));
        levels.push(level);
    }
    levels
}

/// Moves `place`, whose nodes are `levels`, to the next node, children before
/// siblings, and checks it; tells whether there was one.
fn next(levels: &mut Vec<Level<'_>>, place: &mut Vec<ChildKey>) -> Result<bool, Corruption> {
    // The children of the last node, then the later siblings of each above.
    while let Some(&level) = levels.last() {
        let depth = levels.len() - 1;
        let last = place.get(depth).copied();
        place.truncate(depth);
        let children = level.children();
        let children = children.filter(|_| depth == 0 || !teeth::bites(Bug::ScrubStaysShallow));
        let next = children.and_then(|children| Order::Quick.next(children, last));
        if let Some((key, child)) = next {
            let hash = check_child(level.node, level.hash, key, child)?;
            place.push(key);
            levels.push(level.below(key, child, hash));
            return Ok(true);
        }
        levels.pop();
    }
    Ok(false)
}

/// Checks the state, or the first `most` nodes of it.
///
/// # Errors
/// [`Corruption`] when one is not what was written.
pub(crate) fn check(state: &State, most: usize) -> Result<(), Corruption> {
    Cursor::default().advance(state, most).map(|_| ())
}
