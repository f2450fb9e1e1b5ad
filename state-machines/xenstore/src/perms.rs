//! Permissions of a node, and who may do what with them.

use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{DomId, Mixer};
use teeth::Bug;

pub(crate) use crate::stream::{Access, Perm};

use crate::decimal;
use crate::wire::Errno;

/// Rights on a node, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READ: Self = Self(1);
    pub(crate) const WRITE: Self = Self(2);
    /// What SET_PERMS needs: to write, and to be the owner.
    pub(crate) const WRITE_AND_OWN: Self = Self(6);
    pub(crate) const ALL: Self = Self(7);

    /// Whether these are all of `wanted`.
    pub(crate) fn allow(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether these are some of `wanted`.
    pub(crate) fn touch(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }
}

impl From<Access> for Rights {
    fn from(access: Access) -> Self {
        match access {
            Access::None => Self::NONE,
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
            Access::Both => Self(3),
        }
    }
}

/// A domain that a connection has the rights of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) domid: DomId,
    /// The store's generation when the domain came: an older node's permissions
    /// mean an earlier domain with the same number.
    pub(crate) since: u64,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) own: Identity,
    /// The domain whose rights it has besides (SET_TARGET).
    pub(crate) target: Option<Identity>,
}

impl Caller {
    /// The control domain, exempt from permissions and quotas.
    pub(crate) fn is_privileged(&self) -> bool {
        self.own.domid == DomId(0)
    }

    fn speaks_for(&self, domid: DomId, generation: Option<u64>) -> bool {
        let is = |identity: &Identity| {
            identity.domid == domid && generation.is_none_or(|at| identity.since <= at)
        };
        is(&self.own) || self.target.as_ref().is_some_and(is)
    }
}

/// The permissions of a node. The first entry names the owner, and what
/// everybody may do who has no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Perms(Vec<Perm>);

impl Perms {
    /// Permissions from their entries; `None` when there is no owner.
    pub(crate) fn new(entries: Vec<Perm>) -> Option<Self> {
        (!entries.is_empty()).then_some(Self(entries))
    }

    /// Owned by the control domain, closed to everybody else.
    pub(crate) fn initial() -> Self {
        Self(alloc::vec![Perm { access: Access::None, domid: DomId(0), stale: false }])
    }

    /// The permissions that `strings` of SET_PERMS, each with its NUL, tell.
    /// Entries for numbers that no domain can have are stale from the start.
    ///
    /// # Errors
    /// `EINVAL` for anything malformed.
    pub(crate) fn parse(strings: &[u8]) -> Result<Self, Errno> {
        let strings = strings.strip_suffix(b"\0").ok_or(Errno::EINVAL)?;
        let entry = |text: &[u8]| {
            let (letter, number) = text.split_first().ok_or(Errno::EINVAL)?;
            let access = Access::from_letter(*letter).ok_or(Errno::EINVAL)?;
            Ok(Perm { access, domid: decimal::domid(number)?, stale: false })
        };
        strings.split(|byte| *byte == 0).map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// Appends the strings of GET_PERMS.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        for entry in &self.0 {
            out.push(entry.access.letter());
            decimal::put(u64::from(entry.domid.0), out);
            out.push(0);
        }
    }

    pub(crate) fn entries(&self) -> &[Perm] {
        &self.0
    }

    pub(crate) fn entries_mut(&mut self) -> &mut [Perm] {
        &mut self.0
    }

    pub(crate) fn owner(&self) -> DomId {
        self.0[0].domid
    }

    /// What `caller` may do with a node of this `generation`.
    pub(crate) fn rights(&self, caller: &Caller, generation: u64) -> Rights {
        if caller.is_privileged() || caller.speaks_for(self.owner(), None) {
            return Rights::ALL;
        }
        let entry = self.0[1..]
            .iter()
            .find(|entry| !entry.stale && caller.speaks_for(entry.domid, Some(generation)));
        entry.unwrap_or(&self.0[0]).access.into()
    }

    /// The permissions for a new child that `caller` creates.
    pub(crate) fn inherited(self: &Arc<Self>, caller: &Caller) -> Arc<Self> {
        if caller.is_privileged() || self.owner() == caller.own.domid {
            return self.clone();
        }
        let mut perms = (**self).clone();
        perms.0[0].domid = caller.own.domid;
        Arc::new(perms)
    }

    /// The permissions with every entry marked stale whose domain `is_live`
    /// denies. Must be done before a node gets a new generation, lest a later
    /// domain with the same number inherits the entry.
    pub(crate) fn refreshed(self: &Arc<Self>, is_live: impl Fn(DomId) -> bool) -> Arc<Self> {
        let is_due = |entry: &Perm| !entry.stale && !is_live(entry.domid);
        if !self.0[1..].iter().any(is_due) {
            return self.clone();
        }
        let mut perms = (**self).clone();
        for entry in &mut perms.0[1..] {
            entry.stale = entry.stale || !is_live(entry.domid);
        }
        Arc::new(perms)
    }

    pub(crate) fn mix(&self, mut mixer: Mixer) -> Mixer {
        if teeth::bites(Bug::PermsNotDigested) {
            return mixer;
        }
        for entry in &self.0 {
            let word = u64::from(entry.domid.0)
                | u64::from(entry.access.letter()) << 16
                | u64::from(entry.stale) << 24;
            mixer = mixer.word(word);
        }
        mixer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(domid: u16, since: u64) -> Caller {
        Caller { own: Identity { domid: DomId(domid), since }, target: None }
    }

    #[test]
    fn parse_and_put() {
        let perms = Perms::parse(b"n0\0r3\0w4\0b5\0").expect("valid");
        let mut text = Vec::new();
        perms.put(&mut text);
        assert_eq!(text, b"n0\0r3\0w4\0b5\0");
        for bad in [&b""[..], b"\0", b"n\0", b"x0\0", b"n0", b"n-1\0", b"n65536\0", b"n0\0\0"] {
            assert_eq!(Perms::parse(bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }

    #[test]
    fn who_may_what() {
        let perms = Perms::parse(b"w1\0r2\0n3\0b4\0").expect("valid");
        let rights = |domid| perms.rights(&caller(domid, 0), 10);
        assert_eq!((rights(0), rights(1)), (Rights::ALL, Rights::ALL));
        assert_eq!((rights(2), rights(3)), (Rights::READ, Rights::NONE));
        assert_eq!((rights(4), rights(9)), (Rights(3), Rights::WRITE));
        assert!(!rights(4).allow(Rights::WRITE_AND_OWN) && rights(4).touch(Rights::WRITE_AND_OWN));
        let mut stub = caller(9, 0);
        stub.target = Some(Identity { domid: DomId(1), since: 0 });
        assert_eq!(perms.rights(&stub, 10), Rights::ALL);
    }

    #[test]
    fn a_younger_domain_inherits_nothing() {
        let perms = Arc::new(Perms::parse(b"n1\0r2\0").expect("valid"));
        assert_eq!(perms.rights(&caller(2, 11), 10), Rights::NONE);
        assert_eq!(perms.rights(&caller(2, 10), 10), Rights::READ);
        let stale = perms.refreshed(|_| false);
        assert_eq!(stale.rights(&caller(2, 10), 10), Rights::NONE);
        assert!(Arc::ptr_eq(&perms, &perms.refreshed(|_| true)));
    }
}
