//! GET_FEATURE, SET_FEATURE, GET_QUOTA and SET_QUOTA.

use alloc::vec::Vec;

use state_machine::DomId;

use super::strings;
use crate::decimal;
use crate::domain::{self, Domain, FEATURES};
use crate::quota::{Named, Quota, STORE_LIMIT};
use crate::size::DOMAIN_BYTES;
use crate::state::{Conn, State};
use crate::wire::Errno;

/// Quota values and features are at most this.
const MAX_VALUE: u32 = i32::MAX as u32;

/// What is known of a domain that exists or was prepared for.
fn known(state: &State, domid: DomId) -> Result<Option<&Domain>, Errno> {
    match state.domains.get(domid) {
        None if domid != DomId(0) => Err(Errno::ENOENT),
        domain => Ok(domain),
    }
}

/// What is to be known of a domain. It need not exist yet: both are meant to be
/// set before it is introduced.
fn prepared(state: &State, domid: DomId) -> Result<Domain, Errno> {
    let domid = domain::guest(domid)?;
    if let Some(known) = state.domains.get(domid) {
        return Ok(known.clone());
    }
    state.room_to_change().admit(DOMAIN_BYTES)?;
    Ok(Domain::new(domid))
}

fn answer(number: u32, out: &mut Vec<u8>) {
    decimal::put(u64::from(number), out);
    out.push(0);
}

/// GET_FEATURE: of the caller, or of any domain for the control domain.
///
/// # Errors
/// `EACCES` for a guest that asks about others, `EINVAL` for malformed requests,
/// `ENOENT` for an unknown domain.
pub(crate) fn get_feature(
    state: &State,
    conn: &Conn,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Errno> {
    let ([domid], count) = strings::<1>(payload);
    if count > 0 && conn.domid != DomId(0) {
        return Err(Errno::EACCES);
    }
    let domid = match count {
        0 => conn.domid,
        1 => decimal::domid(domid)?,
        _ => return Err(Errno::EINVAL),
    };
    known(state, domid)?;
    answer(state.domains.features(domid), out);
    Ok(())
}

/// SET_FEATURE: what a domain that is not introduced yet will be told.
///
/// # Errors
/// `EINVAL` for malformed requests and features that do not exist, `EBUSY` once
/// the domain is introduced, `ENOSPC` for one that is new without [`crate::size::Room`].
pub(crate) fn set_feature(state: &mut State, payload: &[u8]) -> Result<(), Errno> {
    let ([domid, features], 2) = strings::<2>(payload) else { return Err(Errno::EINVAL) };
    let domid = decimal::domid(domid)?;
    let features = decimal::number(features, MAX_VALUE)?;
    if state.domains.is_introduced(domid) {
        return Err(Errno::EBUSY);
    }
    if features & !FEATURES != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = Domain { features, ..prepared(state, domid)? };
    state.domains.put(domain);
    Ok(())
}

/// GET_QUOTA: the names of all, a global value, a domain's, or the limit on the whole
/// store. That one is not named among what domains have.
///
/// # Errors
/// `EINVAL` for malformed requests and unknown quotas, `ENOENT` for an unknown
/// domain.
pub(crate) fn get_quota(state: &State, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Errno> {
    let ([first, second], count) = strings::<2>(payload);
    let (quotas, name) = match count {
        0 => {
            names(out);
            return Ok(());
        }
        1 if first == STORE_LIMIT => {
            answer(state.limit_kib, out);
            return Ok(());
        }
        1 => (state.quotas, first),
        2 => {
            let domain = known(state, decimal::domid(first)?)?;
            (domain.and_then(|domain| domain.quotas).unwrap_or(state.quotas), second)
        }
        _ => return Err(Errno::EINVAL),
    };
    answer(quotas.value(Named::parse(name)?), out);
    Ok(())
}

fn names(out: &mut Vec<u8>) {
    for quota in Quota::ALL {
        out.extend_from_slice(quota.name().as_bytes());
        out.push(b' ');
        if *quota == Quota::Memory {
            out.extend_from_slice(b"soft-memory ");
        }
    }
    out.pop();
    out.push(0);
}

/// SET_QUOTA: a global value, a domain's own, or the limit on the whole store.
///
/// # Errors
/// `EINVAL` for malformed requests, unknown quotas and the control domain, which
/// has none; `ENOSPC` for a domain that is new without [`crate::size::Room`].
pub(crate) fn set_quota(state: &mut State, payload: &[u8]) -> Result<(), Errno> {
    let ([first, second, third], count) = strings::<3>(payload);
    match count {
        2 if first == STORE_LIMIT => state.limit_kib = decimal::number(second, MAX_VALUE)?,
        2 => {
            let named = Named::parse(first)?;
            state.quotas.set(named, decimal::number(second, MAX_VALUE)?);
        }
        3 => {
            let mut domain = prepared(state, decimal::domid(first)?)?;
            let mut quotas = domain.quotas.unwrap_or(state.quotas);
            quotas.set(Named::parse(second)?, decimal::number(third, MAX_VALUE)?);
            domain.quotas = Some(quotas);
            state.domains.put(domain);
        }
        _ => return Err(Errno::EINVAL),
    }
    state.touch();
    Ok(())
}
