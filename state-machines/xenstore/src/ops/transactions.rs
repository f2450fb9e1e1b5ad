//! TRANSACTION_START and TRANSACTION_END, and operations in a transaction.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{Corruption, DomId};
use teeth::Bug;

use super::{first_string, nodes, one_string};
use crate::answer::Answer;
use crate::decimal;
use crate::fair::Shield;
use crate::path::Path;
use crate::quota::Quota;
use crate::size::{Part, Room, TRANSACTION_BYTES};
use crate::state::{Conn, Events, Readable, State};
use crate::store::{Env, Fail, Store};
use crate::transaction::{Operation, Transaction};
use crate::tree::{Go, Order, walk};
use crate::watch::Match;
use crate::wire::{Errno, MessageType};

/// How many of a shielded transaction's operations are looked at to see whether
/// a commit would invalidate it.
const SHIELDED_OPERATIONS: usize = 256;

/// TRANSACTION_START, outside of any transaction.
///
/// # Errors
/// `ENOSPC` over quota, or without [`Room`].
pub(crate) fn start(state: &mut State, conn: &Conn, answer: &mut Answer) -> Result<(), Errno> {
    let held = state.domains.held(conn.domid);
    if state.limits(conn.domid).exceeded(Quota::Transactions, held.transactions + 1) {
        return Err(Errno::ENOSPC);
    }
    state.room_to_change().admit_to_reserve(TRANSACTION_BYTES)?;
    let mut id = conn.last_transaction;
    loop {
        id = id.wrapping_add(1);
        if id != 0 && state.transactions.get(&(conn.id, id)).is_none() {
            break;
        }
    }
    let new = Conn { last_transaction: id, ..*conn };
    state.conns.insert(conn.id, new);
    let transaction = Transaction::new(conn.id, id, state.version, state.store.clone());
    state.transactions.insert((conn.id, id), Arc::new(transaction));
    state.domains.account(conn.domid, |held| held.transactions += 1);
    state.fair.begin(conn.id, id);
    decimal::put(u64::from(id), answer.payload());
    answer.payload().push(0);
    Ok(())
}

/// Does an operation on nodes in an open transaction.
///
/// # Errors
/// As the operation has them; `ENOSPC` and `ENOMEM` when the transaction has
/// grown too large.
pub(crate) fn perform(
    state: &mut State,
    conn: &Conn,
    id: u32,
    kind: MessageType,
    payload: &[u8],
    answer: &mut Answer,
) -> Result<(), Fail> {
    let caller = state.domains.caller(conn.domid);
    let limits = state.limits(conn.domid);
    let key = (conn.id, id);
    let room = state.room(Part::Working);
    let (domains, generation) = (&state.domains, &mut state.generation);
    let mut env = Env { caller, limits, room, domains, generation };
    let done = state.transactions.update(&key, |transaction| {
        let transaction = Arc::make_mut(transaction);
        let held = transaction.accounted();
        let result = transaction.perform(&mut env, kind, payload, answer.payload());
        (result, transaction.accounted() - held)
    });
    let (result, more) = done.ok_or(Errno::ENOENT)?;
    if more > 0 {
        state.domains.account(conn.domid, |account| account.bytes += more);
    }
    Ok(result??)
}

/// TRANSACTION_END of transaction `id`.
///
/// # Errors
/// `EINVAL` for anything but `T` and `F`, `ENOENT` without a transaction,
/// `EAGAIN` when what the client saw does not hold any more, `ENOSPC` without [`Room`]
/// for what it comes to; the transaction is gone in any case.
pub(crate) fn end(
    state: &mut State,
    conn: &Conn,
    id: u32,
    payload: &[u8],
    events: &mut Events<'_>,
) -> Result<(), Fail> {
    let commit = match one_string(payload)? {
        b"T" => true,
        b"F" => false,
        _ => return Err(Errno::EINVAL.into()),
    };
    let transaction = state.drop_transaction(conn.domid, conn.id, id).ok_or(Errno::ENOENT)?;
    if commit && teeth::bites(Bug::EventBeforeCommit) {
        let (old, changes) = (&transaction.working, transaction.recorded_changes());
        tell(state, old, transaction.operations(), &changes, conn, events)?;
    }
    let committed = if commit && transaction.changes() {
        self::commit(state, conn, &transaction)?
    } else {
        Some(None)
    };
    state.fair.end(conn.id, id, committed.is_none());
    let Some(done) = committed else { return Err(Errno::EAGAIN.into()) };
    if let Some((store, changes)) = done {
        state.admit_commit(&store)?;
        let old = core::mem::replace(&mut state.store, store);
        state.touch();
        tell(state, &old, transaction.operations(), &changes, conn, events)?;
        // And a copy of the nodes on each changed path.
        let copied = transaction.operations().len() as u64;
        let removed = old.nodes().saturating_sub(state.store.nodes());
        events.graves.bury(old.into_root(), removed + copied);
    }
    Ok(())
}

/// The store as it is with the transaction's changes, and which operations
/// changed something; `None` when it cannot be committed.
type Committed = Option<Option<(Store, Vec<bool>)>>;

fn commit(
    state: &mut State,
    conn: &Conn,
    transaction: &Transaction,
) -> Result<Committed, Corruption> {
    let (store, changes) = if transaction.began == state.version {
        (transaction.working.clone(), transaction.recorded_changes())
    } else {
        let caller = state.domains.caller(conn.domid);
        let limits = state.limits(conn.domid);
        let mut store = state.store.clone();
        let domains = &state.domains;
        // What it comes to is looked at as a whole.
        let room = Room::UNLIMITED;
        let mut env = Env { caller, limits, room, domains, generation: &mut state.generation };
        let Some(changes) = transaction.replay(&mut store, &mut env)? else { return Ok(None) };
        (store, changes)
    };
    if let Some(shield) = state.fair.shield
        && would_harm(state, conn, &shield, &store)?
    {
        state.fair.refused();
        return Ok(None);
    }
    Ok(Some(Some((store, changes))))
}

/// Whether a commit of `conn` that makes the store what `new` is has to give
/// way: it would invalidate the shielded transaction of another connection that
/// is not less privileged.
fn would_harm(
    state: &State,
    conn: &Conn,
    shield: &Shield,
    new: &Store,
) -> Result<bool, Corruption> {
    let key = (shield.conn, shield.transaction);
    let (Some(holder), Some(shielded)) =
        (state.conns.get(&shield.conn), state.transactions.get(&key))
    else {
        return Ok(false);
    };
    let outranked = conn.domid == DomId(0) && holder.domid != DomId(0);
    if shield.conn == conn.id || outranked {
        return Ok(false);
    }
    for operation in shielded.operations().iter().take(SHIELDED_OPERATIONS) {
        if !nodes::looks(operation.kind) {
            continue;
        }
        let Some(path) = path_of(operation, holder) else { continue };
        let seen = |store: &Store| -> Result<_, Corruption> {
            Ok(store.tree().find(&path)?.node.map(|node| node.content()))
        };
        if seen(&state.store)? != seen(new)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn path_of<'a>(operation: &'a Operation, conn: &Conn) -> Option<Path<'a>> {
    let (text, _) = first_string(&operation.payload).ok()?;
    Path::parse(text, conn.domid, None, true).ok()
}

/// Tells the watchers of a commit: one event a path, in the order in which the
/// transaction first referred to the paths.
fn tell(
    state: &State,
    old: &Store,
    operations: &[Operation],
    changes: &[bool],
    conn: &Conn,
    events: &mut Events<'_>,
) -> Result<(), Corruption> {
    if state.watches.is_empty() {
        return Ok(());
    }
    let mut paths: Vec<(Path<'_>, Option<Match>)> = Vec::new();
    let mut place: BTreeMap<u64, usize> = BTreeMap::new();
    for (operation, changed) in operations.iter().zip(changes) {
        let Some(path) = path_of(operation, conn) else { continue };
        // As outside of transactions, see `State::tell`.
        if path.is_special() {
            continue;
        }
        let at = *place.entry(path.hash()).or_insert(paths.len());
        if at == paths.len() {
            paths.push((path.clone(), None));
        }
        if !changed {
            continue;
        }
        paths[at].1 = Some(Match::Subtree);
        if operation.kind == MessageType::Rm {
            removed_below(state, old, &path, &mut |path| {
                let at = *place.entry(path.hash()).or_insert(paths.len());
                match paths.get_mut(at) {
                    Some((_, mode)) => *mode = mode.or(Some(Match::Exact)),
                    None => paths.push((path, Some(Match::Exact))),
                }
            })?;
        }
    }
    for (path, mode) in &paths {
        let Some(mode) = mode else { continue };
        let mut readable: Vec<Readable<'_>> = Vec::new();
        if let Some(node) = old.tree().find(path)?.node {
            readable.push((node.perms(), node.generation()));
        }
        let found = state.store.tree().find(path)?;
        if let Some(node) = found.node {
            readable.push((node.perms(), node.generation()));
            readable.push((found.above.perms(), found.above.generation()));
        }
        state.fire(path, *mode, &readable, events);
    }
    Ok(())
}

/// The watched nodes that were below a removed one.
fn removed_below(
    state: &State,
    old: &Store,
    path: &Path<'_>,
    note: &mut dyn FnMut(Path<'static>),
) -> Result<(), Corruption> {
    let found = old.tree().find(path)?;
    let Some(node) = found.node else { return Ok(()) };
    walk(node, found.above, path.text(), path.hash(), Order::Before, &mut |met| {
        if met.path.len() > path.text().len()
            && state.watches.any_on(met.hash)
            && let Ok(path) = Path::absolute(met.path)
        {
            note(path.into_owned());
        }
        Go::On
    });
    Ok(())
}
