//! CONTROL: what `xenstore-control` asks for, answered as Xen's daemon does
//! where that makes sense here.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use core::fmt::Write as _;

use state_machine::{DomId, Outputs};

use super::strings;
use crate::decimal;
use crate::effect::Effect;
use crate::quota::{self, Named, Quota, STORE_LIMIT};
use crate::scrub;
use crate::state::State;
use crate::store::Fail;
use crate::wire::Errno;

const HELP: &str = "check\t\n\
    log\ton|off\n\
    live-update\t[-c <cmdline>] [-F] [-t <timeout>] <file>\n    \
    Not supported: replicas are replaced one by one instead.\n\
    logfile\t<file>\n\
    memreport\t\n\
    print\t<string>\n\
    quota\t[set <name> <val>|<domid>]\n\
    quota-soft\t[set <name> <val>]\n\
    help\t\n";

/// The most nodes that `check` looks at: nobody is to wait for long, and the
/// scrubber gets around to all of them anyway.
const CHECKED_AT_ONCE: usize = 20_000;

/// Whether the command changes nothing, and has the host do nothing.
pub(crate) fn only_asks(payload: &[u8]) -> bool {
    !matches!(
        strings::<2>(payload).0,
        [b"log" | b"logfile" | b"print", _] | [b"quota" | b"quota-soft", b"set"]
    )
}

/// Answers a command that [`only_asks`].
///
/// # Errors
/// `EINVAL` for malformed requests and unknown commands, `ENOENT` for the quota
/// of an unknown domain.
pub(crate) fn ask(state: &State, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Fail> {
    let ([command, first], count) = strings::<2>(payload);
    let text = match (command, count) {
        (b"check", 1) => {
            scrub::check(state, CHECKED_AT_ONCE)?;
            String::from("OK")
        }
        (b"help", 1) => String::from(HELP),
        (b"memreport", 1 | 2) => memory_report(state),
        (b"quota", 1) => quota_list(state),
        (b"quota", 2) => quota_of(state, decimal::domid(first)?)?,
        (b"quota-soft", 1) => soft_quota_list(state),
        (b"live-update", 2..) => String::from(live_update(first)),
        _ => return Err(Errno::EINVAL.into()),
    };
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Ok(())
}

fn live_update(option: &[u8]) -> &'static str {
    match option {
        b"-a" => "No live-update session active.",
        b"-s" => "Not in live-update session.",
        _ => "Live update is not supported: replicas are replaced one by one instead.",
    }
}

fn quota_list(state: &State) -> String {
    let mut text = String::from("Quota settings:\n");
    for quota in Quota::ALL {
        let value = state.quotas.value(Named::Hard(*quota));
        let _ = writeln!(text, "{:<17}: {value:>8} {}", quota.name(), quota.description());
    }
    let (name, value) = (String::from_utf8_lossy(STORE_LIMIT), state.limit_kib);
    let _ = writeln!(text, "{name:<17}: {value:>8} Size of the whole store, KiB (0: no limit)");
    text
}

fn soft_quota_list(state: &State) -> String {
    let value = state.quotas.value(Named::SoftMemory);
    let description = "Total Xenstore memory per domain (warning level)";
    format!("Quota settings:\n{:<17}: {value:>8} {description}\n", "memory")
}

fn quota_of(state: &State, domid: DomId) -> Result<String, Errno> {
    if !state.domains.is_live(domid) {
        return Err(Errno::ENOENT);
    }
    let (owned, held) = (state.store.owned(domid), state.domains.held(domid));
    let mut text = format!("Domain {domid}:\n");
    // What waits to be taken by the client is known to the front doors only.
    for (name, value) in [
        ("nodes", owned.nodes),
        ("watches", held.watches),
        ("transactions", held.transactions),
        ("outstanding", 0),
        ("memory", owned.bytes + held.bytes),
    ] {
        let _ = writeln!(text, "{name:<16}: {value:>8}");
    }
    Ok(text)
}

fn memory_report(state: &State) -> String {
    let mut text = String::from("Memory by domain, as accounted:\n");
    let (mut nodes, mut bytes) = (0, 0);
    for owned in state.store.accounts() {
        let held = state.domains.held(owned.domid).bytes;
        // A reply has room for some dozens; the totals count all.
        if text.len() < 3000 {
            let domid = owned.domid;
            let (nodes, own) = (owned.nodes, owned.bytes);
            let _ = writeln!(text, "{domid:>5}: {nodes:>8} nodes {own:>10} bytes, held {held:>9}");
        }
        nodes += owned.nodes;
        bytes += owned.bytes;
    }
    let _ = writeln!(text, "nodes: {nodes}, {bytes} bytes");
    let size_kib = state.size().div_ceil(1024);
    let _ = match state.limit_kib {
        0 => writeln!(text, "size: {size_kib} KiB"),
        limit_kib => writeln!(text, "size: {size_kib} of {limit_kib} KiB"),
    };
    let _ = writeln!(text, "connections: {}", state.conns.total().count);
    let _ = writeln!(text, "watches: {}", state.watches.count());
    let _ = writeln!(text, "transactions: {}", state.transactions.total().count);
    text
}

/// Does a command that does not only ask.
///
/// # Errors
/// `EINVAL` for malformed requests.
pub(crate) fn order(state: &mut State, payload: &[u8], out: &mut dyn Outputs) -> Result<(), Errno> {
    let ([command, first, second, third], count) = strings::<4>(payload);
    let effect = match (command, count) {
        (b"log", 2) => {
            let on = match first {
                b"on" => true,
                b"off" => false,
                _ => return Err(Errno::EINVAL),
            };
            state.log = on;
            Effect::Log { on }
        }
        (b"logfile", 2) => Effect::LogFile { name: first.into() },
        (b"print", 2) => Effect::Print { text: first.into() },
        (b"quota", 4) if second == STORE_LIMIT => {
            state.limit_kib = positive(third)?;
            state.touch();
            return Ok(());
        }
        (b"quota", 4) => {
            let value = positive(third)?;
            state.quotas.set(Named::Hard(quota::hard(second)?), value);
            state.touch();
            return Ok(());
        }
        (b"quota-soft", 4) if second == b"memory" => {
            state.quotas.set(Named::SoftMemory, positive(third)?);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL),
    };
    let mut bytes = Vec::new();
    effect.encode(&mut bytes);
    out.effect(&bytes);
    Ok(())
}

/// A quota value by this way; no limit can only be set with SET_QUOTA.
fn positive(text: &[u8]) -> Result<u32, Errno> {
    u32::try_from(decimal::atoi(text)).ok().filter(|value| *value > 0).ok_or(Errno::EINVAL)
}
