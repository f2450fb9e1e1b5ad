//! The page that each party publishes about itself.

use std::sync::atomic::{Ordering, fence};

use super::layout::FabricConfig;
use crate::id::{Generation, ReplicaId};
use crate::memory::{View, ViewMut, WORD_BYTES};

/// Longest crash reason kept in a replica's page, in bytes.
pub const CRASH_REASON_MAX: usize = 200;

/// Digest records kept in a replica's page.
const DIGESTS: usize = 16;
const DIGEST_BYTES: usize = 2 * WORD_BYTES;

/// Offsets in the host's page. What changes often has a cache line of its own.
mod host_word {
    pub(super) const GENERATION: usize = 0;
    pub(super) const PRIMARY: usize = 8;
    pub(super) const CONFIG: usize = 64;
    pub(super) const DELIVERED_OUTPUT: usize = 192;
    pub(super) const FREED_INPUT: usize = 256;
    pub(super) const SLEEPING: usize = 320;
}

/// Offsets in a replica's page.
mod word {
    // Seldom written.
    pub(super) const REPLICA: usize = 0;
    pub(super) const GENERATION: usize = 8;
    pub(super) const ROLE: usize = 16;
    pub(super) const UNREADABLE: usize = 32;
    // Written by the kernel when the main thread ends.
    pub(super) const LIFE: usize = 64;
    // Written with every round of the main loop.
    pub(super) const BEAT: usize = 128;
    pub(super) const APPLYING_INPUT: usize = 136;
    pub(super) const IDLE: usize = 152;
    pub(super) const LAST_APPLIED_INPUT: usize = 144;
    pub(super) const LAST_LOG_INDEX: usize = 192;
    pub(super) const LAST_LOG_TERM: usize = 200;
    pub(super) const COMMIT_INDEX: usize = 208;
    pub(super) const APPLIED_INDEX: usize = 216;
    pub(super) const RELEASED_INDEX: usize = 224;
    pub(super) const SLEEPING: usize = 256;
    pub(super) const DIGESTS: usize = 320;
    // Digest records end at 576.
    /// Constants between the words: who writes at random hits one of them.
    pub(super) const GUARDS: [usize; 5] = [56, 184, 248, 312, 584];
    pub(super) const CRASHED: usize = 640;
    pub(super) const CRASH_LEN: usize = 648;
    pub(super) const CRASH_REASON: usize = 704;
}

/// Defines a getter on the view and a setter on the page for each word.
macro_rules! words {
    ($view:ident, $page:ident: $($(#[$doc:meta])* $name:ident, $set:ident: $ty:ty = $offset:expr,
        $from:expr, $to:expr;)*) => {
        impl $view {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> $ty {
                let from: fn(u64) -> $ty = $from;
                from(self.memory.load_acquire($offset))
            })*
        }
        impl $page {
            $(#[doc = concat!("Publishes [`", stringify!($view), "::", stringify!($name), "`].")]
            pub fn $set(&self, value: $ty) {
                let to: fn($ty) -> u64 = $to;
                self.memory.store_release($offset, to(value));
            })*
        }
        impl std::ops::Deref for $page {
            type Target = $view;
            fn deref(&self) -> &$view {
                &self.view
            }
        }
        impl $page {
            pub(super) fn new(memory: ViewMut) -> Self {
                Self { view: $view { memory: memory.read_only() }, memory }
            }

            /// Tells the others that this party is about to sleep. They ring its
            /// doorbell for whatever they publish from now on; what they published
            /// before, the caller sees if it looks now.
            pub(super) fn announce_sleep(&self) {
                self.memory.store($view::SLEEPING, 1);
                // Either we see their news, or they see that we sleep.
                fence(Ordering::SeqCst);
            }

            pub(super) fn end_sleep(&self) {
                self.memory.store($view::SLEEPING, 0);
            }
        }
        impl $view {
            pub(super) fn new(memory: View) -> Self {
                Self { memory }
            }

            /// Whether this party has to be woken for what the caller published
            /// before.
            #[must_use]
            pub fn must_be_woken(&self) -> bool {
                // The other half of `announce_sleep`.
                fence(Ordering::SeqCst);
                self.memory.load(Self::SLEEPING) != 0
            }
        }
    };
}

/// What the host publishes about itself and its component.
#[derive(Clone, Debug)]
pub struct HostPageView {
    memory: View,
}

/// The host's own page.
#[derive(Clone, Debug)]
pub struct HostPage {
    view: HostPageView,
    memory: ViewMut,
}

impl HostPageView {
    const SLEEPING: usize = host_word::SLEEPING;

    pub(super) fn config(&self) -> Option<FabricConfig> {
        let size = |index: usize| {
            usize::try_from(self.memory.load_acquire(host_word::CONFIG + index * WORD_BYTES)).ok()
        };
        Some(FabricConfig {
            intake_bytes: size(0)?,
            output_bytes: size(1)?,
            peer_ring_bytes: size(2)?,
            control_bytes: size(3)?,
            backlog_bytes: size(4)?,
            message_bytes: size(5)?,
        })
    }
}

impl HostPage {
    pub(super) fn set_config(&self, config: &FabricConfig) {
        let sizes = [
            config.intake_bytes,
            config.output_bytes,
            config.peer_ring_bytes,
            config.control_bytes,
            config.backlog_bytes,
            config.message_bytes,
        ];
        for (index, size) in sizes.into_iter().enumerate() {
            self.memory.store_release(host_word::CONFIG + index * WORD_BYTES, size as u64);
        }
    }
}

words! { HostPageView, HostPage:
    /// The reign that is on.
    generation, set_generation: Generation = host_word::GENERATION, Generation, |g| g.0;
    /// The primary of this generation; none while there is none.
    primary, set_primary: ReplicaId = host_word::PRIMARY, ReplicaId, |r| r.0;
    /// Watermark: every output up to this number has been delivered.
    delivered_output, set_delivered_output: u64 = host_word::DELIVERED_OUTPUT, |n| n, |n| n;
    /// Every input up to this number has been answered and freed.
    freed_input, set_freed_input: u64 = host_word::FREED_INPUT, |n| n, |n| n;
}

/// What a replica is doing, by its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Has not said yet, or says something unknown.
    #[default]
    Starting,
    /// Catches up with the others.
    Learner,
    /// Follows the primary.
    Standby,
    /// Serves.
    Primary,
}

impl Role {
    fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Learner,
            2 => Self::Standby,
            3 => Self::Primary,
            _ => Self::Starting,
        }
    }

    fn to_word(self) -> u64 {
        match self {
            Self::Starting => 0,
            Self::Learner => 1,
            Self::Standby => 2,
            Self::Primary => 3,
        }
    }
}

/// The digest of a replica's state after a certain log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestRecord {
    /// The last log index applied to the state. Not 0.
    pub log_index: u64,
    /// The state's digest.
    pub digest: u64,
}

/// What a replica publishes about itself. The replica is not trusted: all of it
/// may be invented.
#[derive(Clone, Debug)]
pub struct ReplicaPageView {
    memory: View,
}

/// A replica's own page.
#[derive(Clone, Debug)]
pub struct ReplicaPage {
    view: ReplicaPageView,
    memory: ViewMut,
}

words! { ReplicaPageView, ReplicaPage:
    /// Who occupies the slot. Set last when attaching: whoever sees it may use the
    /// slot's rings.
    replica, set_replica: ReplicaId = word::REPLICA, ReplicaId, |r| r.0;
    /// The generation that the replica acknowledged. What it published about its
    /// log before is in place when this is seen.
    generation, set_generation: Generation = word::GENERATION, Generation, |g| g.0;
    /// What the replica does.
    role, set_role: Role = word::ROLE, Role::from_word, Role::to_word;
    /// A peer whose ring to this replica makes no sense; none while all do.
    unreadable, set_unreadable: ReplicaId = word::UNREADABLE, ReplicaId, |r| r.0;
    /// Counts rounds of the replica's main loop.
    beats, set_beats: u64 = word::BEAT, |n| n, |n| n;
    /// Whether it has had nothing to do for a while, and beats more seldom.
    is_idle, set_idle: bool = word::IDLE, |word| word != 0, u64::from;
    /// The input that is being applied; 0 when none is.
    applying_input, set_applying_input: u64 = word::APPLYING_INPUT, |n| n, |n| n;
    /// The last input applied.
    last_applied_input, set_last_applied_input: u64 = word::LAST_APPLIED_INPUT, |n| n, |n| n;
    /// Where the replica's log ends.
    last_log_index, set_last_log_index: u64 = word::LAST_LOG_INDEX, |n| n, |n| n;
    /// The term of the log's last entry.
    last_log_term, set_last_log_term: u64 = word::LAST_LOG_TERM, |n| n, |n| n;
    /// The last log entry known to be committed.
    commit_index, set_commit_index: u64 = word::COMMIT_INDEX, |n| n, |n| n;
    /// The last log entry applied to the state.
    applied_index, set_applied_index: u64 = word::APPLIED_INDEX, |n| n, |n| n;
    /// The last log entry whose outputs may leave, by the acknowledgement policy.
    released_index, set_released_index: u64 = word::RELEASED_INDEX, |n| n, |n| n;
}

/// What stands in the guard word at this offset.
fn guard(offset: usize) -> u64 {
    0x6775_6172_6465_6421 ^ (offset as u64)
}

impl ReplicaPage {
    /// Writes what [`ReplicaPageView::is_intact`] looks for; to be done before
    /// [`Self::set_replica`].
    pub(super) fn set_guards(&self) {
        for offset in word::GUARDS {
            self.memory.store(offset, guard(offset));
        }
    }

    /// Counts a round of the main loop.
    pub fn beat(&self) {
        self.set_beats(self.beats().wrapping_add(1));
    }

    /// Publishes the digest of the state after a log index. The last 16 records
    /// are kept.
    pub fn publish_digest(&self, record: DigestRecord) {
        let oldest =
            (0..DIGESTS).min_by_key(|&place| self.memory.load(digest_offset(place))).unwrap_or(0);
        let offset = digest_offset(oldest);
        // The index is taken away while the digest changes: nobody sees a pair of
        // which only one half is new.
        self.memory.store(offset, 0);
        fence(Ordering::Release);
        self.memory.store(offset + WORD_BYTES, record.digest);
        self.memory.store_release(offset, record.log_index);
    }

    /// Leaves word why the replica ends, cut to [`CRASH_REASON_MAX`] bytes. The
    /// first reason stays. Async-signal-safe.
    pub fn mark_crashed(&self, reason: &[u8]) {
        if self.memory.load(word::CRASHED) != 0 {
            return;
        }
        let reason = &reason[..reason.len().min(CRASH_REASON_MAX)];
        self.memory.write(word::CRASH_REASON, reason);
        self.memory.store(word::CRASH_LEN, reason.len() as u64);
        self.memory.store_release(word::CRASHED, 1);
    }
}

impl ReplicaPageView {
    const SLEEPING: usize = word::SLEEPING;

    /// Whether the page is still that of this replica, and nothing was written over
    /// it. What a page says that is not must not be believed.
    #[must_use]
    pub fn is_intact(&self, replica: ReplicaId) -> bool {
        self.replica() == replica
            && word::GUARDS.into_iter().all(|offset| self.memory.load(offset) == guard(offset))
    }

    /// The published digests, by log index.
    #[must_use]
    pub fn digests(&self) -> Vec<DigestRecord> {
        let mut records: Vec<DigestRecord> = (0..DIGESTS)
            .filter_map(|place| {
                let offset = digest_offset(place);
                let log_index = self.memory.load_acquire(offset);
                let digest = self.memory.load_acquire(offset + WORD_BYTES);
                let settled = log_index != 0 && self.memory.load(offset) == log_index;
                settled.then_some(DigestRecord { log_index, digest })
            })
            .collect();
        records.sort_unstable_by_key(|record| record.log_index);
        records
    }

    /// Why the replica ended, when it could still say so. Bytes that are no UTF-8,
    /// and control characters, are replaced.
    #[must_use]
    pub fn crash_reason(&self) -> Option<String> {
        if self.memory.load_acquire(word::CRASHED) == 0 {
            return None;
        }
        let len = usize::try_from(self.memory.load(word::CRASH_LEN)).unwrap_or(usize::MAX);
        let mut reason = Vec::new();
        self.memory.append_to(word::CRASH_REASON, len.min(CRASH_REASON_MAX), &mut reason);
        let reason = String::from_utf8_lossy(&reason);
        Some(reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }

    /// The robust futex word, see [`crate::death`].
    pub(crate) fn life_word(&self) -> &std::sync::atomic::AtomicU32 {
        self.memory.futex_word(word::LIFE)
    }
}

fn digest_offset(place: usize) -> usize {
    word::DIGESTS + place * DIGEST_BYTES
}
