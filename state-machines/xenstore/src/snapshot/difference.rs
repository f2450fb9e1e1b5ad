//! What one tree has that another has not.

use crate::children::ChildKey;
use crate::node::Node;
use crate::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use crate::store::Store;
use crate::tree::{Go, Order, walk};

/// One step from the one tree to the other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// The node, new or different.
    Put(&'a Node),
    /// The node is gone, with all below.
    Gone,
}

/// Hands over the steps that make `old` what `new` is, in an order in which
/// they can be taken. What both share in memory is not looked at.
pub(super) fn difference(old: &Store, new: &Store, step: &mut dyn FnMut(&[u8], Step<'_>)) {
    for name in [INTRODUCE_DOMAIN, RELEASE_DOMAIN] {
        let (old, new) = (old.tree().special(name), new.tree().special(name));
        if let (Some(old), Some(new)) = (old, new)
            && old.content() != new.content()
        {
            step(name, Step::Put(new));
        }
    }
    let mut pairs = alloc::vec![(b"/".to_vec(), old.tree().root(), new.tree().root())];
    while let Some((path, old, new)) = pairs.pop() {
        if old.content() != new.content() {
            step(&path, Step::Put(new));
        }
        let below = |name: &[u8]| {
            let mut text = path.clone();
            if text.len() > 1 {
                text.push(b'/');
            }
            text.extend_from_slice(name);
            text
        };
        let same = match (old.children(), new.children()) {
            (Some(old), Some(new)) => old.by_key().same(new.by_key()),
            (None, None) => true,
            _ => false,
        };
        if same {
            continue;
        }
        // Those that are gone come first: a new one may have the same name.
        if let Some(children) = old.children() {
            children.by_key().visit(&mut |key, child| {
                if child_of(new, key).is_none() {
                    step(&below(child.name()), Step::Gone);
                }
                true
            });
        }
        let Some(children) = new.children() else { continue };
        children.by_key().visit(&mut |key, child| {
            let path = below(child.name());
            match child_of(old, key) {
                Some(before) if core::ptr::eq(before, &**child) => {}
                Some(before) => pairs.push((path, before, child)),
                None => walk(child, new, &path, key.hash, Order::Quick, &mut |met| {
                    step(met.path, Step::Put(met.node));
                    Go::On
                }),
            }
            true
        });
    }
}

fn child_of<'a>(node: &'a Node, key: &ChildKey) -> Option<&'a Node> {
    Some(node.children()?.by_key().get(key)?)
}
