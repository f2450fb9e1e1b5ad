//! Domains: which exist, what they were introduced with, and what they hold.

use alloc::sync::Arc;

use state_machine::{DomId, Mixer};

use crate::perms::{Caller, Identity};
use crate::pmap::{Measured, PMap};
use crate::quota::{Limits, Quotas};
use crate::size::{DOMAIN_BYTES, of_text};
use crate::wire::Errno;

/// The first domain id that no real domain can have.
pub(crate) const FIRST_RESERVED: u16 = 0x7ff0;
/// Means "the caller's own domain".
pub(crate) const SELF: DomId = DomId(0x7ff0);

/// The daemon tells ring clients why their connection failed.
const FEATURE_ERROR: u32 = 2;
/// WATCH takes a depth.
pub(crate) const FEATURE_WATCH_DEPTH: u32 = 4;
/// What this daemon can do.
pub(crate) const FEATURES: u32 = FEATURE_ERROR | FEATURE_WATCH_DEPTH;

/// What is known of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) domid: DomId,
    /// Whether it exists: it was introduced, or the host opened a connection for
    /// it. Otherwise this is only what was prepared for it.
    pub(crate) live: bool,
    /// Whether INTRODUCE was asked for it.
    pub(crate) introduced: bool,
    /// The store's generation when it came to live.
    pub(crate) since: u64,
    /// As INTRODUCE said; the store itself makes nothing of it.
    pub(crate) gfn: u64,
    /// As INTRODUCE said.
    pub(crate) evtchn: u32,
    /// The domain whose rights it has besides its own.
    pub(crate) target: Option<DomId>,
    /// The features that it is told.
    pub(crate) features: u32,
    /// Its own quotas, where they differ from the global ones.
    pub(crate) quotas: Option<Quotas>,
}

impl Domain {
    pub(crate) fn new(domid: DomId) -> Self {
        Self {
            domid,
            live: false,
            introduced: false,
            since: 0,
            gfn: 0,
            evtchn: 0,
            target: None,
            features: FEATURES,
            quotas: None,
        }
    }
}

impl Measured for Domain {
    fn digest(&self) -> u64 {
        let flags = u64::from(self.live) | u64::from(self.introduced) << 1;
        let mixer = Mixer::new()
            .word(u64::from(self.domid.0) | flags << 16)
            .word(self.since)
            .word(self.gfn)
            .word(u64::from(self.evtchn) << 32 | u64::from(self.features))
            .word(self.target.map_or(u64::MAX, |target| u64::from(target.0)));
        self.quotas.iter().fold(mixer, |mixer, quotas| quotas.mix(mixer)).finish()
    }
}

/// What a domain's connections hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) domid: DomId,
    pub(crate) watches: u64,
    pub(crate) transactions: u64,
    /// Bytes of watches and transactions.
    pub(crate) bytes: u64,
}

impl Measured for Held {
    /// The bytes, to add them up.
    fn size(&self) -> u64 {
        self.bytes
    }

    fn digest(&self) -> u64 {
        let mixer = Mixer::new().word(u64::from(self.domid.0)).word(self.watches);
        mixer.word(self.transactions).word(self.bytes).finish()
    }
}

/// All domains but the control domain, which always exists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domains {
    known: PMap<DomId, Arc<Domain>>,
    held: PMap<DomId, Held>,
}

impl Domains {
    pub(crate) fn get(&self, domid: DomId) -> Option<&Domain> {
        self.known.get(&domid).map(|domain| &**domain)
    }

    pub(crate) fn put(&mut self, domain: Domain) {
        self.known.insert(domain.domid, Arc::new(domain));
    }

    pub(crate) fn remove(&mut self, domid: DomId) {
        self.known.remove(&domid);
    }

    /// Hands over every domain, in the order of their ids.
    pub(crate) fn visit<'a>(&'a self, visit: &mut dyn FnMut(&'a Domain)) {
        self.known.visit(&mut |_, domain| {
            visit(domain);
            true
        });
    }

    /// Whether the domain exists.
    pub(crate) fn is_live(&self, domid: DomId) -> bool {
        domid == DomId(0) || self.get(domid).is_some_and(|domain| domain.live)
    }

    /// Whether the domain exists and did so at `generation`.
    pub(crate) fn was_live(&self, domid: DomId, generation: u64) -> bool {
        let old = |domain: &Domain| domain.live && domain.since <= generation;
        domid == DomId(0) || self.get(domid).is_some_and(old)
    }

    pub(crate) fn is_introduced(&self, domid: DomId) -> bool {
        domid == DomId(0) || self.get(domid).is_some_and(|domain| domain.introduced)
    }

    /// Who asks when domain `domid` does.
    pub(crate) fn caller(&self, domid: DomId) -> Caller {
        let identity = |domid| {
            let since = self.get(domid).map_or(0, |domain| domain.since);
            Identity { domid, since }
        };
        let target = self.get(domid).and_then(|domain| domain.target);
        let target = target.filter(|target| self.is_live(*target));
        Caller { own: identity(domid), target: target.map(identity) }
    }

    /// What domain `domid` may use, where the global quotas are `global`.
    pub(crate) fn limits(&self, domid: DomId, global: &Quotas) -> Limits {
        if domid == DomId(0) {
            return Limits::none();
        }
        let own = self.get(domid).and_then(|domain| domain.quotas);
        Limits::of_guest(own.unwrap_or(*global))
    }

    pub(crate) fn features(&self, domid: DomId) -> u32 {
        self.get(domid).map_or(FEATURES, |domain| domain.features)
    }

    pub(crate) fn held(&self, domid: DomId) -> Held {
        self.held.get(&domid).copied().unwrap_or(Held { domid, ..Held::default() })
    }

    /// Accounts for what a domain's connections hold.
    pub(crate) fn account(&mut self, domid: DomId, change: impl FnOnce(&mut Held)) {
        let nothing = Held { domid, ..Held::default() };
        let mut new = self.held(domid);
        change(&mut new);
        if new == nothing {
            self.held.remove(&domid);
        } else {
            self.held.insert(domid, new);
        }
    }

    /// What domains and their watches and transactions take of memory, as far as
    /// that does not go by their number.
    pub(crate) fn size(&self) -> u64 {
        self.known.total().count * DOMAIN_BYTES + of_text(self.held.total().size)
    }

    pub(crate) fn mix(&self, mixer: Mixer) -> Mixer {
        mixer.word(self.known.total().digest).word(self.held.total().digest)
    }
}

/// A domain id that a real domain other than the control domain can have.
///
/// # Errors
/// `EINVAL` for the control domain's and reserved ids.
pub(crate) fn guest(domid: DomId) -> Result<DomId, Errno> {
    let ok = domid.0 > 0 && domid.0 < FIRST_RESERVED;
    if ok { Ok(domid) } else { Err(Errno::EINVAL) }
}
