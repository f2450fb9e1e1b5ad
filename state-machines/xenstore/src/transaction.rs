//! A transaction: a copy of the store, taken when it began, and the operations
//! done on it with their outcomes.
//!
//! To commit is to do the same operations again on the store of that moment. If
//! each has the same outcome, then all of them together could as well have been
//! done at that moment, without anybody in between: that is serializability,
//! with no conflict beyond what the client could have seen. A transaction that
//! changed nothing is serialized where it began and always commits.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use state_machine::{ConnId, Corruption, Mixer};
use teeth::Bug;

use crate::ops::nodes;
use crate::pmap::Measured;
use crate::quota::Quota;
use crate::size::{Wear, of_text};
use crate::store::{Changed, Env, Fail, Store};
use crate::wire::{Errno, MessageType};

/// The most operations that a transaction remembers, whoever's it is. One more
/// is refused with `ENOSPC`; reads that repeat an earlier one do not count.
pub(crate) const MAX_OPERATIONS: usize = 65_536;
/// The most bytes of requests that a transaction remembers.
pub(crate) const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// What an operation is accounted for besides its request, bytes. Text of so much
/// counts for what it takes, with what is remembered of its path.
pub(crate) const OPERATION_BYTES: u64 = 48;

/// An operation and its outcome.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: MessageType,
    pub(crate) payload: Box<[u8]>,
    /// See [`nodes::outcome`].
    pub(crate) outcome: u64,
    /// Whether it changed something.
    pub(crate) changed: bool,
}

impl Operation {
    fn digest(&self, number: usize) -> u64 {
        let kind = u64::from(self.kind.to_u32()) | u64::from(self.changed) << 32;
        let mixer = Mixer::new().word(number as u64).word(kind).word(self.outcome);
        mixer.bytes(&self.payload).finish()
    }

    fn bytes(&self) -> u64 {
        self.payload.len() as u64 + OPERATION_BYTES
    }
}

/// An open transaction.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) conn: ConnId,
    pub(crate) id: u32,
    /// The version of the store that it began with.
    pub(crate) began: u64,
    pub(crate) working: Store,
    /// The wear of the store when it began.
    pub(crate) from: Wear,
    operations: Vec<Operation>,
    /// Sum of the operations' digests.
    digest: u64,
    bytes: u64,
    /// The reads since something was changed last: to repeat one of those tells
    /// nothing new.
    reads: BTreeSet<u64>,
    /// Hashes of the paths referred to; kept for those who are limited.
    paths: BTreeSet<u64>,
}

impl Measured for Transaction {
    /// How much less than the wear of the committed store it can be apart from that
    /// at most; modulo 2^64, as it is added up.
    fn size(&self) -> u64 {
        let own = self.working.wear().copied.wrapping_sub(self.from.copied);
        self.from.total().wrapping_sub(own)
    }

    fn digest(&self) -> u64 {
        let mixer = Mixer::new().word(self.conn.0).word(u64::from(self.id)).word(self.began);
        mixer
            .word(self.digest)
            .word(self.from.copied)
            .word(self.from.removed)
            .word(self.working.digest())
            .finish()
    }
}

/// Does one operation on `store`; the reply's payload is appended to `reply`.
///
/// # Errors
/// [`Corruption`]; the client's errors are part of the outcome.
pub(crate) fn perform(
    store: &mut Store,
    env: &mut Env<'_>,
    kind: MessageType,
    payload: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(Result<(), Errno>, Changed), Corruption> {
    let done = if nodes::looks(kind) {
        nodes::look(store, &env.caller, &env.limits, kind, payload, reply)
            .map(|()| Changed::Nothing)
    } else {
        nodes::alter(store, env, kind, payload).map(|(_, changed)| changed)
    };
    match done {
        Ok(changed) => Ok((Ok(()), changed)),
        Err(Fail::Errno(errno)) => Ok((Err(errno), Changed::Nothing)),
        Err(Fail::Corrupt(corruption)) => Err(corruption),
    }
}

fn read_key(kind: MessageType, payload: &[u8]) -> u64 {
    Mixer::new().word(u64::from(kind.to_u32())).bytes(payload).finish()
}

impl Transaction {
    pub(crate) fn new(conn: ConnId, id: u32, began: u64, store: Store) -> Self {
        Self {
            conn,
            id,
            began,
            from: store.wear(),
            working: store,
            operations: Vec::new(),
            digest: 0,
            bytes: 0,
            reads: BTreeSet::new(),
            paths: BTreeSet::new(),
        }
    }

    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Bytes that the domain is accounted for.
    pub(crate) fn accounted(&self) -> u64 {
        self.bytes
    }

    /// What it has of nodes that `committed` has not, bytes: those that it has changed
    /// itself, and those that others have replaced since; in the worst case all.
    pub(crate) fn apart(&self, committed: &Store) -> u64 {
        let own = self.working.wear().copied.wrapping_sub(self.from.copied);
        let others = committed.wear().since(self.from);
        self.working.size().min(own.saturating_add(others))
    }

    /// Whether it has changed anything that could be committed.
    pub(crate) fn changes(&self) -> bool {
        self.operations.iter().any(|operation| operation.changed)
    }

    /// Does one operation in the transaction and remembers it.
    ///
    /// # Errors
    /// [`Corruption`]; what the client is told is the inner result.
    pub(crate) fn perform(
        &mut self,
        env: &mut Env<'_>,
        kind: MessageType,
        payload: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Result<(), Errno>, Corruption> {
        let key = read_key(kind, payload);
        let repeats = nodes::looks(kind) && self.reads.contains(&key);
        if !repeats && let Err(errno) = self.admit(env, kind, payload) {
            return Ok(Err(errno));
        }
        let start = reply.len();
        let (result, changed) = perform(&mut self.working, env, kind, payload, reply)?;
        if !repeats {
            self.remember(Operation {
                kind,
                payload: payload.into(),
                outcome: nodes::outcome(kind, result, &reply[start..]),
                changed: !matches!(changed, Changed::Nothing),
            });
        }
        Ok(result)
    }

    /// Whether there is room for one more operation.
    fn admit(&mut self, env: &Env<'_>, kind: MessageType, payload: &[u8]) -> Result<(), Errno> {
        let bytes = payload.len() as u64 + OPERATION_BYTES;
        if self.operations.len() >= MAX_OPERATIONS || self.bytes + bytes > MAX_BYTES {
            return Err(Errno::ENOSPC);
        }
        let domid = env.caller.own.domid;
        let used = env.domains.held(domid).bytes + self.working.owned(domid).bytes;
        if env.limits.exceeded(Quota::Memory, used + bytes) {
            return Err(Errno::ENOMEM);
        }
        if nodes::looks(kind) || kind == MessageType::Rm {
            env.room.admit_to_reserve(of_text(bytes))?;
        } else {
            env.room.admit(of_text(bytes))?;
        }
        if env.limits.get(Quota::TransactionNodes).is_some() {
            self.note_path(env, kind, payload)?;
        }
        Ok(())
    }

    fn note_path(&mut self, env: &Env<'_>, kind: MessageType, payload: &[u8]) -> Result<(), Errno> {
        // What is not a path is refused later.
        let Ok((text, _)) = crate::ops::first_string(payload) else { return Ok(()) };
        let special = matches!(kind, MessageType::GetPerms | MessageType::SetPerms);
        let Ok(path) = nodes::path(&env.caller, &env.limits, text, special) else { return Ok(()) };
        let hash = path.hash();
        let paths = self.paths.len() as u64 + 1;
        if !self.paths.contains(&hash) && env.limits.exceeded(Quota::TransactionNodes, paths) {
            return Err(Errno::ENOSPC);
        }
        self.paths.insert(hash);
        Ok(())
    }

    /// Adds an operation that was done.
    fn remember(&mut self, operation: Operation) {
        if operation.changed {
            self.reads.clear();
        } else if nodes::looks(operation.kind) {
            self.reads.insert(read_key(operation.kind, &operation.payload));
        }
        self.bytes += operation.bytes();
        self.digest = self.digest.wrapping_add(operation.digest(self.operations.len()));
        self.operations.push(operation);
    }

    /// Puts back operations of a snapshot, whose effects `working` has already.
    pub(crate) fn restore(&mut self, env: &Env<'_>, operations: Vec<Operation>) {
        for operation in operations {
            if env.limits.get(Quota::TransactionNodes).is_some() {
                // It was admitted when it was done.
                let _ = self.note_path(env, operation.kind, &operation.payload);
            }
            self.remember(operation);
        }
    }

    /// Does all operations again on `store`. Tells which changed something, or
    /// `None` when one of them has another outcome.
    ///
    /// # Errors
    /// [`Corruption`] of `store`.
    pub(crate) fn replay(
        &self,
        store: &mut Store,
        env: &mut Env<'_>,
    ) -> Result<Option<Vec<bool>>, Corruption> {
        let mut reply = Vec::new();
        let mut changes = Vec::with_capacity(self.operations.len());
        for Operation { kind, payload, outcome, .. } in &self.operations {
            reply.clear();
            let (result, changed) = perform(store, env, *kind, payload, &mut reply)?;
            let missed = *kind == MessageType::Read && teeth::bites(Bug::ReadConflictMissed);
            if nodes::outcome(*kind, result, &reply) != *outcome && !missed {
                return Ok(None);
            }
            changes.push(!matches!(changed, Changed::Nothing));
        }
        Ok(Some(changes))
    }

    /// As [`Self::replay`] for a store that is as it was when the transaction
    /// began.
    pub(crate) fn recorded_changes(&self) -> Vec<bool> {
        self.operations.iter().map(|operation| operation.changed).collect()
    }
}
