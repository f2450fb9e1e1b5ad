//! WATCH, UNWATCH and RESET_WATCHES.

use super::{nodes, strings};
use crate::decimal;
use crate::domain::FEATURE_WATCH_DEPTH;
use crate::quota::Quota;
use crate::size::{WATCH_BYTES, of_text};
use crate::state::{Conn, State};
use crate::watch::Watch;
use crate::wire::Errno;

/// Deeper than any path goes, and what Xen's migration stream can still say.
const MAX_DEPTH: u16 = 0xfffe;

/// WATCH; yields the watch, which fires once right after the reply.
///
/// # Errors
/// `EINVAL` for malformed requests, `EEXIST` when the client has such a watch,
/// `E2BIG` and `ENOMEM` over quota, `ENOSPC` without [`crate::size::Room`].
pub(crate) fn watch(state: &mut State, conn: &Conn, payload: &[u8]) -> Result<Watch, Errno> {
    let ([text, token, depth], count) = strings::<3>(payload);
    let depth = match count {
        2 => None,
        3 if state.domains.features(conn.domid) & FEATURE_WATCH_DEPTH != 0 => {
            let depth = u32::try_from(decimal::atoi(depth)).map_err(|_| Errno::EINVAL)?;
            Some(u16::try_from(depth).unwrap_or(MAX_DEPTH).min(MAX_DEPTH))
        }
        _ => return Err(Errno::EINVAL),
    };
    let caller = state.domains.caller(conn.domid);
    let limits = state.limits(conn.domid);
    let path = nodes::path(&caller, &limits, text, true)?;
    if state.watches.find(conn.id, &path, token).is_some() {
        return Err(Errno::EEXIST);
    }
    let held = state.domains.held(conn.domid);
    if limits.exceeded(Quota::Watches, held.watches + 1) {
        return Err(Errno::E2BIG);
    }
    let mut watch = Watch {
        conn: conn.id,
        number: 0,
        path: path.text().into(),
        hash: path.hash(),
        prefix: path.prefix(),
        token: token.into(),
        depth,
    };
    let bytes = state.store.owned(conn.domid).bytes + held.bytes + watch.accounted();
    if limits.exceeded(Quota::Memory, bytes) {
        return Err(Errno::ENOMEM);
    }
    state.room_to_change().admit(WATCH_BYTES + of_text(watch.accounted()))?;
    watch.number = state.watches.next_number();
    state.watches.add(watch.clone());
    state.domains.account(conn.domid, |held| {
        held.watches += 1;
        held.bytes += watch.accounted();
    });
    Ok(watch)
}

/// UNWATCH.
///
/// # Errors
/// `EINVAL` for malformed requests, `ENOENT` when there is no such watch.
pub(crate) fn unwatch(state: &mut State, conn: &Conn, payload: &[u8]) -> Result<(), Errno> {
    let ([text, token], 2) = strings::<2>(payload) else { return Err(Errno::EINVAL) };
    let caller = state.domains.caller(conn.domid);
    let path = nodes::path(&caller, &state.limits(conn.domid), text, true)?;
    let watch = state.watches.find(conn.id, &path, token).ok_or(Errno::ENOENT)?.clone();
    state.watches.remove(&watch);
    state.domains.account(conn.domid, |held| {
        held.watches -= 1;
        held.bytes -= watch.accounted();
    });
    Ok(())
}
