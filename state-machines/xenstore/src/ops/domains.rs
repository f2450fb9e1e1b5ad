//! INTRODUCE, RELEASE, RESUME, SET_TARGET, GET_DOMAIN_PATH,
//! IS_DOMAIN_INTRODUCED, and what a domain leaves behind.
//!
//! As with C xenstored since XSA-419, the nodes that a domain owns go with it,
//! and permissions that others granted it do not pass to a later domain with the
//! same number. Unlike there, nobody can be asked whether a domain exists: it
//! does once the host says so, it was introduced, or the host opened a connection for
//! it.

use alloc::format;
use alloc::vec::Vec;

use state_machine::{Corruption, DomId, Outputs};

use super::{one_string, strings};
use crate::decimal;
use crate::domain::{self, Domain};
use crate::effect::Effect;
use crate::path::{self, INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN};
use crate::perms::Perms;
use crate::quota::Limits;
use crate::size::{DOMAIN_BYTES, Room};
use crate::state::{Events, State};
use crate::store::{Changed, Fail};
use crate::tree::{Go, Order, walk};
use crate::wire::Errno;

fn emit(effect: &Effect, out: &mut dyn Outputs) {
    let mut bytes = Vec::new();
    effect.encode(&mut bytes);
    out.effect(&bytes);
}

/// A domain comes to live, if it has not yet.
pub(crate) fn revive(state: &mut State, domid: DomId) -> Domain {
    let mut domain = state.domains.get(domid).cloned().unwrap_or_else(|| Domain::new(domid));
    if !domain.live {
        // Nodes of before mean an earlier domain.
        state.generation += 1;
        domain.live = true;
        domain.since = state.generation;
    }
    domain
}

/// INTRODUCE. Of a domain that is introduced already, it resets the connections.
///
/// # Errors
/// `EINVAL` for malformed requests and ids that no guest can have, `ENOSPC` without
/// [`Room`].
pub(crate) fn introduce(
    state: &mut State,
    payload: &[u8],
    events: &mut Events<'_>,
) -> Result<(), Errno> {
    let ([domid, gfn, evtchn], 3..) = strings::<3>(payload) else { return Err(Errno::EINVAL) };
    let domid = decimal::domid(domid)?;
    let evtchn = u32::try_from(decimal::atoi(evtchn)).map_err(|_| Errno::EINVAL)?;
    if evtchn == 0 {
        return Err(Errno::EINVAL);
    }
    let domid = domain::guest(domid)?;
    // Documented as a signed decimal; nobody needs it any more.
    let gfn = i64::from(decimal::atoi(gfn)).cast_unsigned();
    let again = state.domains.is_introduced(domid);
    if state.domains.get(domid).is_none() {
        state.room_to_change().admit(DOMAIN_BYTES)?;
    }
    let domain = Domain { introduced: true, gfn, evtchn, ..revive(state, domid) };
    state.domains.put(domain);
    state.touch();
    if again {
        for conn in state.conns_of(domid) {
            state.reset_conn(conn);
        }
    } else {
        state.fire_special(INTRODUCE_DOMAIN, Some(domid), events);
    }
    emit(&Effect::DomainIntroduced { domid, gfn, evtchn }, events.out);
    Ok(())
}

/// The one argument, an introduced domain other than the control domain.
fn introduced(state: &State, payload: &[u8]) -> Result<DomId, Errno> {
    let domid = decimal::domid(one_string(payload)?)?;
    if domid == DomId(0) {
        return Err(Errno::EINVAL);
    }
    if state.domains.is_introduced(domid) { Ok(domid) } else { Err(Errno::ENOENT) }
}

/// RELEASE.
///
/// # Errors
/// `EINVAL` for malformed requests and the control domain, `ENOENT` when the
/// domain is not introduced.
pub(crate) fn release(
    state: &mut State,
    payload: &[u8],
    events: &mut Events<'_>,
) -> Result<(), Fail> {
    let domid = introduced(state, payload)?;
    gone(state, domid, events)
}

/// A domain is gone: forgets it, what it owned and what its connections held.
///
/// # Errors
/// [`Fail::Corrupt`] only.
pub(crate) fn gone(state: &mut State, domid: DomId, events: &mut Events<'_>) -> Result<(), Fail> {
    if domid == DomId(0) {
        return Ok(());
    }
    // Before its nodes go: it is not to be told of that.
    for conn in state.conns_of(domid) {
        state.drop_conn(conn);
    }
    let Some(was_live) = state.domains.get(domid).map(|domain| domain.live) else {
        return Ok(());
    };
    state.domains.remove(domid);
    state.touch();
    let mut retarget = Vec::new();
    state.domains.visit(&mut |domain| {
        if domain.target == Some(domid) {
            retarget.push(Domain { target: None, ..domain.clone() });
        }
    });
    for domain in retarget {
        state.domains.put(domain);
    }
    remove_nodes(state, domid, events)?;
    if was_live {
        state.fire_special(RELEASE_DOMAIN, Some(domid), events);
        emit(&Effect::DomainReleased { domid }, events.out);
    }
    Ok(())
}

/// Some domain has shut down: whoever watches for the end of domains looks for
/// itself which. As in Xen's own daemons, it hears of that as of a release.
pub(crate) fn shut_down(state: &State, events: &mut Events<'_>) {
    state.fire_special(RELEASE_DOMAIN, None, events);
}

/// Removes the nodes that a domain owns, with what is below them.
fn remove_nodes(state: &mut State, domid: DomId, events: &mut Events<'_>) -> Result<(), Fail> {
    let mut left = state.store.owned(domid).nodes;
    let mut doomed: Vec<Vec<u8>> = Vec::new();
    let mut sound = Ok(());
    if left > 0 {
        let root = state.store.tree().root();
        walk(root, root, b"/", path::ROOT_HASH, Order::Before, &mut |met| {
            if met.node.perms().owner() != domid {
                return Go::On;
            }
            sound = met.node.verify_at(met.hash);
            if sound.is_err() {
                return Go::Stop;
            }
            left -= 1;
            doomed.push(met.path.to_vec());
            match left {
                0 => Go::Stop,
                // The root cannot be removed, only given back.
                _ if met.path == b"/" => Go::On,
                _ => Go::Past,
            }
        });
    }
    sound?;
    let caller = state.domains.caller(DomId(0));
    for text in &doomed {
        let Ok(path) = Path::absolute(text) else { continue };
        if path.is_root() {
            give_back(state, &path)?;
            continue;
        }
        let (store, mut env) = state.split(caller, Limits::none(), Room::UNLIMITED);
        let removed = store.cut(&mut env, &path)?;
        state.tell(&path, &Changed::Removed(removed.clone()), events)?;
        events.graves.bury(removed.top, removed.nodes);
    }
    for name in [INTRODUCE_DOMAIN, RELEASE_DOMAIN] {
        let owner = state.store.tree().special(name).map(|node| node.perms().owner());
        if owner == Some(domid) {
            let path = Path::parse(name, DomId(0), None, true)?;
            give_back(state, &path)?;
        }
    }
    match state.store.owned(domid).nodes {
        0 => Ok(()),
        // Its accounts say so; the owner of a node is not what was written.
        left => {
            Err(Corruption { what: format!("{left} nodes of domain {domid} not found") }.into())
        }
    }
}

/// Makes a node that cannot be removed the control domain's.
fn give_back(state: &mut State, path: &Path<'_>) -> Result<(), Fail> {
    let caller = state.domains.caller(DomId(0));
    let (store, mut env) = state.split(caller, Limits::none(), Room::UNLIMITED);
    store.set_perms(&mut env, path, Perms::initial())?;
    Ok(())
}

/// RESUME: nothing more than a check, since the host and not the store knows
/// which domains are shut down.
///
/// # Errors
/// As [`release`].
pub(crate) fn resume(state: &State, payload: &[u8]) -> Result<(), Errno> {
    introduced(state, payload).map(|_| ())
}

/// SET_TARGET.
///
/// # Errors
/// `EINVAL` for malformed requests, `ENOENT` when a domain is not introduced.
pub(crate) fn set_target(state: &mut State, payload: &[u8]) -> Result<(), Errno> {
    let ([domid, target], 2..) = strings::<2>(payload) else { return Err(Errno::EINVAL) };
    let (domid, target) = (decimal::domid(domid)?, decimal::domid(target)?);
    for domid in [domid, target] {
        if !state.domains.is_introduced(domid) {
            return Err(Errno::ENOENT);
        }
    }
    // The control domain has all rights already.
    if let Some(domain) = state.domains.get(domid) {
        let domain = Domain { target: Some(target), ..domain.clone() };
        state.domains.put(domain);
        state.touch();
    }
    Ok(())
}

/// GET_DOMAIN_PATH.
///
/// # Errors
/// `EINVAL` for malformed requests.
pub(crate) fn domain_path(payload: &[u8], out: &mut Vec<u8>) -> Result<(), Errno> {
    path::home(decimal::domid(one_string(payload)?)?, out);
    out.push(0);
    Ok(())
}

/// IS_DOMAIN_INTRODUCED.
///
/// # Errors
/// `EINVAL` for malformed requests.
pub(crate) fn is_introduced(state: &State, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Errno> {
    let domid = decimal::domid(one_string(payload)?)?;
    let yes = domid == domain::SELF || state.domains.is_introduced(domid);
    out.extend_from_slice(if yes { b"T\0" } else { b"F\0" });
    Ok(())
}

/// After the host started anew: has it connect to the domains' rings again.
pub(crate) fn reconnect(state: &State, out: &mut dyn Outputs) {
    state.domains.visit(&mut |domain| {
        let &Domain { domid, gfn, evtchn, introduced, .. } = domain;
        if introduced {
            emit(&Effect::DomainIntroduced { domid, gfn, evtchn }, out);
        }
    });
}
