//! How large a state is, and how much larger it may become.
//!
//! All replicas hold the same state, so what fills the memory of one fills all of
//! them, and the state is gone. Quotas are no help: the control domain is exempt,
//! and guests may be many. So there is a limit on the whole, which holds for
//! everybody; what would exceed it is refused with `ENOSPC`, as Xen's daemon does
//! where a quota of the store and not the daemon's memory is at its end.
//!
//! Counted is what lasts, at least as high as what it takes of memory (`cargo run
//! --release -p xenstore --example sizes` measures that): nodes, watches, open
//! transactions, connections, domains. The last part of what is
//! allowed ([`RESERVE_SHARE`]) is there only for the transactions in which clients
//! remove something. Whatever only makes the state smaller is never refused.

use crate::state::State;
use crate::store::Store;
use crate::wire::Errno;

/// Text counts so many times: while a new replica is taught, it is there in the store,
/// in a snapshot, and in what takes that to the other. So no snapshot is longer than
/// a third of the limit, and the time that a primary takes for one is bounded as well.
const TEXT_WEIGHT: u64 = 3;

/// What a node takes besides the bytes that its owner is accounted for: that a
/// node is in memory as a block of its own, in a directory that may hold it alone,
/// perhaps with permissions that nobody shares.
pub(crate) const NODE_BYTES: u64 = 256;
/// What a watch counts besides its path and its token. More than it takes: all
/// watches of a client go with it at once, and who does that must not be taken for
/// hung.
pub(crate) const WATCH_BYTES: u64 = 2048;
/// What an open transaction counts besides its operations and the nodes that only
/// it still has. More than it takes, for the same reason.
pub(crate) const TRANSACTION_BYTES: u64 = 1024;
/// What a connection takes.
pub(crate) const CONN_BYTES: u64 = 128;
/// What a domain takes, with its quotas and accounts.
pub(crate) const DOMAIN_BYTES: u64 = 320;

/// What it takes to copy a node that others still need, besides its text: the node
/// and the blocks of its directory on the way to one child,
const LEVEL_BYTES: u64 = 768;
/// and the blocks above these, in a directory of more than a few.
const BLOCK_BYTES: u64 = 1024;

/// This part of the limit is kept for the beginning of transactions, and for what
/// reads and removes in them.
const RESERVE_SHARE: u64 = 16;

/// What paths, values, permissions and requests of so many bytes take.
pub(crate) fn of_text(bytes: u64) -> u64 {
    bytes * TEXT_WEIGHT
}

/// What it takes to copy a node with a text of `text_bytes` and so many children.
pub(crate) fn of_copy(text_bytes: u64, children: u64) -> u64 {
    // A block has about eight entries.
    let blocks_above = u64::from(children.checked_ilog2().unwrap_or(0) / 3);
    LEVEL_BYTES + of_text(text_bytes) + blocks_above * BLOCK_BYTES
}

/// The part of a limit that is for growth, bytes.
fn for_growth(limit: u64) -> u64 {
    limit - limit / RESERVE_SHARE
}

/// How much larger a state may become by one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes that are left; `None` without a limit.
    left: Option<u64>,
    /// The part of them that is not for growth.
    reserve: u64,
    of: Part,
}

/// What a request is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The committed store, of which so many transactions keep what is replaced.
    Committed { transactions: u64 },
    /// A transaction's own store, which begins as a copy that costs nothing.
    Working,
}

impl Room {
    /// No limit, for what must not fail.
    pub(crate) const UNLIMITED: Self =
        Self { left: None, reserve: 0, of: Part::Committed { transactions: 0 } };

    /// Whether `bytes` more may come.
    ///
    /// # Errors
    /// `ENOSPC` if not.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), Errno> {
        match self.left {
            Some(left) if bytes > left.saturating_sub(self.reserve) => Err(Errno::ENOSPC),
            _ => Ok(()),
        }
    }

    /// As [`Self::admit`], for what clients need to make the state smaller.
    ///
    /// # Errors
    /// `ENOSPC` if not.
    pub(crate) fn admit_to_reserve(&self, bytes: u64) -> Result<(), Errno> {
        Self { reserve: 0, ..*self }.admit(bytes)
    }

    /// Whether nodes may grow by `more`, as [`Store::size`] has it, where `copied` bytes of old ones are
    /// still needed by those who see the store as it was.
    ///
    /// # Errors
    /// `ENOSPC` if not. What only shrinks and is needed by nobody always may.
    pub(crate) fn admit_change(&self, more: i64, copied: u64) -> Result<(), Errno> {
        let copied = copied + more.unsigned_abs();
        let bytes = match self.of {
            Part::Committed { transactions } => {
                u64::try_from(more).unwrap_or(0) + copied.saturating_mul(transactions)
            }
            Part::Working => copied,
        };
        if bytes == 0 { Ok(()) } else { self.admit(bytes) }
    }

    /// Whether nodes may be removed, where `copied` bytes are copied for that.
    ///
    /// # Errors
    /// `ENOSPC` in a transaction for which there is no reserve left. From the
    /// committed store, nodes can always be removed.
    pub(crate) fn admit_removal(&self, copied: u64) -> Result<(), Errno> {
        match self.of {
            Part::Committed { .. } => Ok(()),
            Part::Working => self.admit_to_reserve(copied),
        }
    }
}

impl State {
    /// What all of the state takes, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.without_copies() + self.copies()
    }

    /// Whether it could have become what it is under a limit of so much.
    pub(crate) fn fits_into(&self, limit_kib: u32) -> bool {
        self.size() <= for_growth(u64::from(limit_kib) * 1024)
    }

    /// The limit, bytes; `None` for no limit.
    pub(crate) fn limit(&self) -> Option<u64> {
        (self.limit_kib > 0).then(|| u64::from(self.limit_kib) * 1024)
    }

    /// How much larger the state may become by a change of `of`.
    pub(crate) fn room(&self, of: Part) -> Room {
        let Some(limit) = self.limit() else { return Room::UNLIMITED };
        let reserve = limit - for_growth(limit);
        // Transactions are looked at one by one only where that makes a difference.
        let (sure, copies) = (self.without_copies(), self.copies_at_most());
        let at_ease = sure.saturating_add(copies) < limit / 2;
        let copies = if at_ease { copies } else { self.copies() };
        Room { left: Some(limit.saturating_sub(sure + copies)), reserve, of }
    }

    /// The room for a change of the committed store.
    pub(crate) fn room_to_change(&self) -> Room {
        self.room(Part::Committed { transactions: self.transactions.total().count })
    }

    /// Whether `new` may become the committed store, where no transaction is open
    /// any more for it.
    ///
    /// # Errors
    /// `ENOSPC` if it is larger than the old one, and that is too much.
    pub(crate) fn admit_commit(&self, new: &Store) -> Result<(), Errno> {
        let more = new.size().cast_signed() - self.store.size().cast_signed();
        if more <= 0 {
            return Ok(());
        }
        let changed = new.wear().since(self.store.wear());
        let kept = changed.saturating_mul(self.transactions.total().count);
        self.room_to_change().admit(more.cast_unsigned().saturating_add(kept))
    }

    /// All but what transactions have for themselves of nodes.
    fn without_copies(&self) -> u64 {
        self.store.size()
            + self.domains.size()
            + self.watches.count() * WATCH_BYTES
            + self.conns.total().count * CONN_BYTES
            + self.transactions.total().count * TRANSACTION_BYTES
    }

    /// What transactions have of nodes that the committed store has not.
    fn copies(&self) -> u64 {
        let mut bytes = 0;
        self.transactions.visit(&mut |_, transaction| {
            bytes += transaction.apart(&self.store);
            true
        });
        bytes
    }

    /// The same or more, without a look at each transaction.
    fn copies_at_most(&self) -> u64 {
        let open = self.transactions.total();
        // Each one's measure tells how much less it is than this.
        let most = open.count.wrapping_mul(self.store.wear().total());
        most.wrapping_sub(open.size)
    }
}

/// What the changes of a store have done to it, in bytes, since ever. It tells how
/// far apart two versions of it can be at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wear {
    /// Of nodes that were added, or copied to change them.
    pub(crate) copied: u64,
    /// Of nodes that were removed.
    pub(crate) removed: u64,
}

impl Wear {
    /// Both together.
    pub(crate) fn total(self) -> u64 {
        self.copied.wrapping_add(self.removed)
    }

    /// What was done since `before`.
    pub(crate) fn since(self, before: Self) -> u64 {
        self.total().wrapping_sub(before.total())
    }
}
