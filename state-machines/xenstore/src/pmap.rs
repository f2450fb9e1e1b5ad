//! A persistent ordered map: a B+ tree of shared blocks. A copy of a map costs
//! one reference count; a change copies only the blocks on its path that are
//! shared, and none when nothing is shared.
//!
//! Every block knows the sum of its entries' [`Measure`]s, so that a map's
//! digest, its length and the entry at an offset come for free.

use alloc::sync::Arc;
use alloc::vec::Vec;

/// The most entries of a block. Small, because copying a shared block touches
/// every entry's reference count.
const MAX: usize = 16;
/// A block with fewer entries is merged with a neighbour when both fit in one.
const MIN: usize = 6;

/// What the entries of a block add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Entries.
    pub(crate) count: u64,
    /// Size, in the sense of the map's values.
    pub(crate) size: u64,
    /// Sum of the entries' digests, modulo 2^64.
    pub(crate) digest: u64,
}

impl Measure {
    fn add(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.size = self.size.wrapping_add(other.size);
        self.digest = self.digest.wrapping_add(other.digest);
    }

    fn sub(&mut self, other: Self) {
        self.count = self.count.wrapping_sub(other.count);
        self.size = self.size.wrapping_sub(other.size);
        self.digest = self.digest.wrapping_sub(other.digest);
    }
}

/// A value that a map can add up.
pub(crate) trait Measured {
    /// What the value counts for, such as bytes.
    fn size(&self) -> u64 {
        0
    }

    /// Digest of the value, the key included where it matters.
    fn digest(&self) -> u64;
}

impl<T: Measured> Measured for Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn digest(&self) -> u64 {
        (**self).digest()
    }
}

/// For maps that are sets.
impl Measured for () {
    fn digest(&self) -> u64 {
        0
    }
}

fn measure<V: Measured>(value: &V) -> Measure {
    Measure { count: 1, size: value.size(), digest: value.digest() }
}

#[derive(Clone, Debug)]
enum Block<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Branch<K, V>>),
}

#[derive(Clone, Debug)]
struct Branch<K, V> {
    /// No key of the block is lower, and no key of the block before is as high.
    low: K,
    measure: Measure,
    block: Arc<Block<K, V>>,
}

/// A part of a map that is being taken apart.
#[derive(Debug)]
pub(crate) struct Piece<K, V>(Arc<Block<K, V>>);

impl<K, V> Piece<K, V> {
    /// Yields the values and the parts of this part, unless others share it.
    pub(crate) fn open(self, values: &mut Vec<V>, pieces: &mut Vec<Self>) {
        match Arc::try_unwrap(self.0) {
            Ok(Block::Leaf(entries)) => values.extend(entries.into_iter().map(|entry| entry.1)),
            Ok(Block::Inner(branches)) => {
                pieces.extend(branches.into_iter().map(|branch| Self(branch.block)));
            }
            Err(_) => {}
        }
    }
}

/// The map. Invariants: no block is empty, all leaves are equally deep, and
/// every branch's measure is the sum of its block's entries.
#[derive(Clone, Debug)]
pub(crate) struct PMap<K, V> {
    root: Option<Arc<Block<K, V>>>,
    total: Measure,
}

impl<K, V> Default for PMap<K, V> {
    fn default() -> Self {
        Self { root: None, total: Measure::default() }
    }
}

impl<K: Copy + Ord, V: Clone + Measured> Block<K, V> {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(branches) => branches.len(),
        }
    }

    fn sum(&self) -> Measure {
        let mut sum = Measure::default();
        match self {
            Self::Leaf(entries) => entries.iter().for_each(|(_, value)| sum.add(measure(value))),
            Self::Inner(branches) => branches.iter().for_each(|branch| sum.add(branch.measure)),
        }
        sum
    }

    /// The lowest key that the block may hold.
    fn low(&self) -> Option<K> {
        match self {
            Self::Leaf(entries) => entries.first().map(|entry| entry.0),
            Self::Inner(branches) => branches.first().map(|branch| branch.low),
        }
    }

    /// Moves what is too much to a new block on the right. Appending leaves the
    /// left block full, since keys often come in ascending order.
    fn split(&mut self, inserted_at: usize) -> Option<Branch<K, V>> {
        let len = self.len();
        if len <= MAX {
            return None;
        }
        let at = if inserted_at + 1 == len { len - 1 } else { len / 2 };
        let right = match self {
            Self::Leaf(entries) => Self::Leaf(entries.split_off(at)),
            Self::Inner(branches) => Self::Inner(branches.split_off(at)),
        };
        let low = right.low()?;
        Some(Branch { low, measure: right.sum(), block: Arc::new(right) })
    }
}

/// The branch under which `key` belongs.
fn branch_of<K: Copy + Ord, V>(branches: &[Branch<K, V>], key: &K) -> usize {
    branches.partition_point(|branch| branch.low <= *key).saturating_sub(1)
}

impl<K: Copy + Ord, V: Clone + Measured> PMap<K, V> {
    /// The whole map as a part to be taken apart.
    pub(crate) fn into_piece(self) -> Option<Piece<K, V>> {
        self.root.map(Piece)
    }

    /// What all entries add up to.
    pub(crate) fn total(&self) -> Measure {
        self.total
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether both are the same blocks in memory, and so equal.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (None, None) => true,
            _ => false,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let mut block = self.root.as_deref()?;
        loop {
            match block {
                Block::Leaf(entries) => {
                    let at = entries.binary_search_by(|entry| entry.0.cmp(key)).ok()?;
                    return Some(&entries[at].1);
                }
                Block::Inner(branches) => block = &branches[branch_of(branches, key)].block,
            }
        }
    }

    /// The entry with the lowest key that is not below `key`.
    pub(crate) fn next_from(&self, key: &K) -> Option<(&K, &V)> {
        let mut block = self.root.as_deref()?;
        // Where to go on if the block on the way turns out to end too early.
        let mut later: Option<&Block<K, V>> = None;
        loop {
            match block {
                Block::Inner(branches) => {
                    let at = branch_of(branches, key);
                    later = branches.get(at + 1).map(|branch| &*branch.block).or(later);
                    block = &branches[at].block;
                }
                Block::Leaf(entries) => {
                    let at = entries.partition_point(|entry| entry.0 < *key);
                    match (entries.get(at), later.take()) {
                        (Some((key, value)), _) => return Some((key, value)),
                        (None, Some(next)) => block = next,
                        (None, None) => return None,
                    }
                }
            }
        }
    }

    /// Hands over the entries from `key` on, in ascending order, until `visit`
    /// says false.
    pub(crate) fn visit_from<'a>(
        &'a self,
        key: &K,
        visit: &mut dyn FnMut(&'a K, &'a V) -> bool,
    ) -> bool {
        fn go<'a, K: Copy + Ord, V>(
            block: &'a Block<K, V>,
            key: Option<&K>,
            visit: &mut dyn FnMut(&'a K, &'a V) -> bool,
        ) -> bool {
            match block {
                Block::Leaf(entries) => {
                    let from = key.map_or(0, |key| entries.partition_point(|entry| entry.0 < *key));
                    entries[from..].iter().all(|(key, value)| visit(key, value))
                }
                Block::Inner(branches) => {
                    let from = key.map_or(0, |key| branch_of(branches, key));
                    branches[from..].iter().enumerate().all(|(number, branch)| {
                        go(&branch.block, key.filter(|_| number == 0), visit)
                    })
                }
            }
        }
        self.root.as_deref().is_none_or(|root| go(root, Some(key), visit))
    }

    /// Hands over all entries in ascending order, until `visit` says false.
    pub(crate) fn visit<'a>(&'a self, visit: &mut dyn FnMut(&'a K, &'a V) -> bool) -> bool {
        match self.root.as_deref().and_then(Block::low) {
            Some(low) => self.visit_from(&low, visit),
            None => true,
        }
    }

    /// The entry in which `offset` lies when all sizes are added up, and where it
    /// begins.
    pub(crate) fn at_offset(&self, offset: u64) -> Option<(K, u64)> {
        let mut block = self.root.as_deref()?;
        let mut start = 0;
        'descend: loop {
            match block {
                Block::Leaf(entries) => {
                    for (key, value) in entries {
                        let end = start + value.size();
                        if offset < end {
                            return Some((*key, start));
                        }
                        start = end;
                    }
                    return None;
                }
                Block::Inner(branches) => {
                    for branch in branches {
                        let end = start + branch.measure.size;
                        if offset < end {
                            block = &branch.block;
                            continue 'descend;
                        }
                        start = end;
                    }
                    return None;
                }
            }
        }
    }

    /// Adds an entry; yields the value that it replaces.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let added = measure(&value);
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Block::Leaf(alloc::vec![(key, value)])));
            self.total = added;
            return None;
        };
        let (old, split) = insert(root, key, value, added);
        self.total.add(added);
        if let Some(old) = &old {
            self.total.sub(measure(old));
        }
        if let Some(right) = split {
            let mut left = self.total;
            left.sub(right.measure);
            let block = self.root.take().expect("it was split");
            let low = block.low().expect("it is not empty");
            let left = Branch { low, measure: left, block };
            self.root = Some(Arc::new(Block::Inner(alloc::vec![left, right])));
        }
        old
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        // Looked up first, so that a miss copies nothing.
        self.get(key)?;
        let old = remove(self.root.as_mut()?, key)?;
        self.total.sub(measure(&old));
        loop {
            let only = match self.root.as_deref()? {
                Block::Leaf(entries) if entries.is_empty() => None,
                Block::Inner(branches) if branches.is_empty() => None,
                Block::Inner(branches) if branches.len() == 1 => Some(branches[0].block.clone()),
                _ => break,
            };
            self.root = only;
            if self.root.is_none() {
                break;
            }
        }
        Some(old)
    }

    /// The value at `key`, which must be there, to be changed such that its
    /// digest grows by `delta` and its size stays.
    pub(crate) fn change(&mut self, key: &K, delta: u64) -> Option<&mut V> {
        self.total.digest = self.total.digest.wrapping_add(delta);
        let mut block = self.root.as_mut()?;
        loop {
            match Arc::make_mut(block) {
                Block::Leaf(entries) => {
                    let at = entries.binary_search_by(|entry| entry.0.cmp(key)).ok()?;
                    return Some(&mut entries[at].1);
                }
                Block::Inner(branches) => {
                    let at = branch_of(branches, key);
                    let branch = &mut branches[at];
                    branch.measure.digest = branch.measure.digest.wrapping_add(delta);
                    block = &mut branch.block;
                }
            }
        }
    }

    /// Has `change` change the value at `key` as it likes.
    pub(crate) fn update<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        // Looked up first, so that a miss copies nothing.
        self.get(key)?;
        let (before, after, result) = update(self.root.as_mut()?, key, change)?;
        self.total.sub(before);
        self.total.add(after);
        Some(result)
    }

    /// Whether the sums on the way to `key` are right. Looks only when `key` is
    /// the first of its leaf, so that a walk over all keys checks every block
    /// about once.
    pub(crate) fn sums_hold(&self, key: &K) -> bool {
        let first = |block: &Block<K, V>| match block {
            Block::Leaf(entries) => entries.first().is_some_and(|entry| entry.0 == *key),
            Block::Inner(_) => true,
        };
        let Some(mut block) = self.root.as_deref() else { return true };
        let mut sum = self.total;
        let mut steps = Vec::new();
        loop {
            steps.push((block, sum));
            match block {
                Block::Leaf(_) => break,
                Block::Inner(branches) => {
                    let branch = &branches[branch_of(branches, key)];
                    (block, sum) = (&branch.block, branch.measure);
                }
            }
        }
        !first(block) || steps.iter().all(|(block, sum)| block.sum() == *sum)
    }
}

type Inserted<K, V> = (Option<V>, Option<Branch<K, V>>);

fn insert<K: Copy + Ord, V: Clone + Measured>(
    block: &mut Arc<Block<K, V>>,
    key: K,
    value: V,
    added: Measure,
) -> Inserted<K, V> {
    let block = Arc::make_mut(block);
    let (old, at) = match block {
        Block::Leaf(entries) => match entries.binary_search_by(|entry| entry.0.cmp(&key)) {
            Ok(at) => return (Some(core::mem::replace(&mut entries[at].1, value)), None),
            Err(at) => {
                if entries.len() == entries.capacity() && entries.len() < MAX {
                    // Exact steps instead of doubling: most directories are small.
                    entries.reserve_exact(4.min(MAX + 1 - entries.len()));
                }
                entries.insert(at, (key, value));
                (None, at)
            }
        },
        Block::Inner(branches) => {
            let at = branch_of(branches, &key);
            let branch = &mut branches[at];
            branch.low = branch.low.min(key);
            let (old, split) = insert(&mut branch.block, key, value, added);
            branch.measure.add(added);
            if let Some(old) = &old {
                branch.measure.sub(measure(old));
            }
            let Some(right) = split else { return (old, None) };
            branch.measure.sub(right.measure);
            branches.insert(at + 1, right);
            (old, at + 1)
        }
    };
    (old, block.split(at))
}

fn remove<K: Copy + Ord, V: Clone + Measured>(block: &mut Arc<Block<K, V>>, key: &K) -> Option<V> {
    match Arc::make_mut(block) {
        Block::Leaf(entries) => {
            let at = entries.binary_search_by(|entry| entry.0.cmp(key)).ok()?;
            Some(entries.remove(at).1)
        }
        Block::Inner(branches) => {
            let at = branch_of(branches, key);
            let branch = &mut branches[at];
            let old = remove(&mut branch.block, key)?;
            branch.measure.sub(measure(&old));
            match branch.block.len() {
                0 => {
                    branches.remove(at);
                }
                1..MIN => merge(branches, at),
                _ => {}
            }
            Some(old)
        }
    }
}

/// Changes a value; yields what it measured before and measures now.
fn update<K: Copy + Ord, V: Clone + Measured, R>(
    block: &mut Arc<Block<K, V>>,
    key: &K,
    change: impl FnOnce(&mut V) -> R,
) -> Option<(Measure, Measure, R)> {
    match Arc::make_mut(block) {
        Block::Leaf(entries) => {
            let at = entries.binary_search_by(|entry| entry.0.cmp(key)).ok()?;
            let value = &mut entries[at].1;
            let before = measure(value);
            let result = change(value);
            Some((before, measure(value), result))
        }
        Block::Inner(branches) => {
            let at = branch_of(branches, key);
            let branch = &mut branches[at];
            let (before, after, result) = update(&mut branch.block, key, change)?;
            branch.measure.sub(before);
            branch.measure.add(after);
            Some((before, after, result))
        }
    }
}

/// Merges the block at `at` with a neighbour if both fit in one.
fn merge<K: Copy + Ord, V: Clone + Measured>(branches: &mut Vec<Branch<K, V>>, at: usize) {
    let len = |at: usize| branches.get(at).map_or(MAX, |branch| branch.block.len());
    let left = if at > 0 && len(at - 1) + len(at) <= MAX {
        at - 1
    } else if len(at) + len(at + 1) <= MAX {
        at
    } else {
        return;
    };
    let right = branches.remove(left + 1);
    let branch = &mut branches[left];
    branch.measure.add(right.measure);
    let taken = Arc::try_unwrap(right.block).unwrap_or_else(|shared| (*shared).clone());
    match (Arc::make_mut(&mut branch.block), taken) {
        (Block::Leaf(entries), Block::Leaf(more)) => entries.extend(more),
        (Block::Inner(branches), Block::Inner(more)) => branches.extend(more),
        _ => unreachable!("all leaves are equally deep"),
    }
}

#[cfg(test)]
mod tests;
