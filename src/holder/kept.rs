//! What is held: descriptors under names that the holder does not understand.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::line::Name;

/// More are not held, however many descriptors a process may have: a started process
/// is told of them by a number of 16 bits.
const MOST: usize = 40_000;
/// What the holder needs for itself.
const OWN: usize = 64;
/// While a daemon is started, each descriptor is open so many times.
const COPIES: usize = 3;

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} descriptors are held, and no more can be")]
pub(super) struct Full {
    limit: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kept {
    by_name: BTreeMap<Name, Vec<OwnedFd>>,
    count: usize,
    limit: usize,
}

/// Clients take a descriptor each, and the usual soft limit is meant for programs
/// that use `select`. The daemon inherits what is raised here. Returns the limit.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be raised refuses clients later, and says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Kept {
    /// Room for as much as this process can have open.
    pub(super) fn new() -> Self {
        Self::with_limit((raise_descriptor_limit().saturating_sub(OWN) / COPIES).min(MOST))
    }

    fn with_limit(limit: usize) -> Self {
        Self { by_name: BTreeMap::new(), count: 0, limit }
    }

    /// Holds these instead of what was held under that name, which is let go of in any
    /// case.
    pub(super) fn hold(&mut self, name: Name, descriptors: Vec<OwnedFd>) -> Result<(), Full> {
        self.let_go(name);
        if self.count + descriptors.len() > self.limit || self.by_name.len() >= self.limit {
            return Err(Full { limit: self.limit });
        }
        self.count += descriptors.len();
        self.by_name.insert(name, descriptors);
        Ok(())
    }

    /// What nobody holds under that name is no error.
    pub(super) fn let_go(&mut self, name: Name) {
        let freed = self.by_name.remove(&name).map_or(0, |freed| freed.len());
        self.count -= freed;
    }

    /// All that is held, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Name, &[OwnedFd])> {
        self.by_name.iter().map(|(name, held)| (*name, held.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u8) -> Name {
        [number; size_of::<Name>()]
    }

    fn descriptors(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
    }

    #[test]
    fn a_name_means_what_was_held_last() {
        let mut kept = Kept::with_limit(10);
        kept.hold(name(1), descriptors(2)).unwrap();
        kept.hold(name(2), descriptors(1)).unwrap();
        kept.hold(name(1), descriptors(3)).unwrap();
        kept.let_go(name(2));
        kept.let_go(name(9));
        let held: Vec<_> = kept.iter().map(|(name, held)| (name, held.len())).collect();
        assert_eq!(held, [(name(1), 3)]);
    }

    #[test]
    fn it_is_bounded() {
        let mut kept = Kept::with_limit(4);
        kept.hold(name(1), descriptors(3)).unwrap();
        let full = kept.hold(name(2), descriptors(2)).unwrap_err();
        assert_eq!(full.to_string(), "4 descriptors are held, and no more can be");
        kept.hold(name(2), descriptors(1)).unwrap();
        // Names without descriptors are as many.
        kept.let_go(name(2));
        for number in 2..=4 {
            kept.hold(name(number), Vec::new()).unwrap();
        }
        assert!(kept.hold(name(5), Vec::new()).is_err());
        // What is to be held in the place of something is lost if it has no room.
        assert!(kept.hold(name(1), descriptors(5)).is_err());
        assert!(kept.iter().all(|(held, _)| held != name(1)));
    }
}
