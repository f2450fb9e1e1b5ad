//! What one tree has that another has not.

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
            (Some(old), Some(new)) => old.order().same(new.order()),
            (None, None) => true,
            _ => false,
        };
        if same {
            continue;
        }
        // Those that are gone come first: a new one may have the same name.
        if let Some(children) = old.children() {
            children.order().visit(&mut |born, child| {
                if child_of(new, *born).is_none() {
                    step(&below(child.node.name()), Step::Gone);
                }
                true
            });
        }
        let Some(children) = new.children() else { continue };
        children.order().visit(&mut |born, child| {
            let path = below(child.node.name());
            match child_of(old, *born) {
                Some(before) if core::ptr::eq(before, &*child.node) => {}
                Some(before) => pairs.push((path, before, &child.node)),
                None => walk(&child.node, new, &path, child.hash, Order::Before, &mut |met| {
                    step(met.path, Step::Put(met.node));
                    Go::On
                }),
            }
            true
        });
    }
}

fn child_of(node: &Node, born: u64) -> Option<&Node> {
    Some(&node.children()?.order().get(&born)?.node)
}
