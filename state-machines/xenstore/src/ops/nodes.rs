//! READ, DIRECTORY, DIRECTORY_PART and GET_PERMS; WRITE, MKDIR, RM and
//! SET_PERMS. They work on any store, the committed one or a transaction's.

use alloc::string::String;
use alloc::vec::Vec;

use state_machine::{Corruption, Mixer};

use super::{first_string, one_string, strings};
use crate::decimal;
use crate::node::Node;
use crate::path::Path;
use crate::perms::{Caller, Perms, Rights};
use crate::quota::{Limits, Quota};
use crate::store::{Changed, Env, Fail, Store};
use crate::wire::{Errno, MAX_PAYLOAD, MessageType};

/// Whether the operation only looks at nodes.
pub(crate) fn looks(kind: MessageType) -> bool {
    use MessageType::{Directory, DirectoryPart, GetPerms, Read};
    matches!(kind, Directory | DirectoryPart | GetPerms | Read)
}

/// Whether the operation changes nodes.
pub(crate) fn alters(kind: MessageType) -> bool {
    use MessageType::{Mkdir, Rm, SetPerms, Write};
    matches!(kind, Mkdir | Rm | SetPerms | Write)
}

/// A path as the caller may name it.
pub(crate) fn path<'a>(
    caller: &Caller,
    limits: &Limits,
    text: &'a [u8],
    allow_special: bool,
) -> Result<Path<'a>, Errno> {
    Path::parse(text, caller.own.domid, limits.get(Quota::PathMax), allow_special)
}

/// Does an operation that [`looks`] and appends the reply's payload to `out`.
///
/// # Errors
/// As Xen's daemon has them.
pub(crate) fn look(
    store: &Store,
    caller: &Caller,
    limits: &Limits,
    kind: MessageType,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Fail> {
    if kind == MessageType::DirectoryPart {
        return directory_part(store, caller, limits, payload, out);
    }
    let special = kind == MessageType::GetPerms;
    let path = path(caller, limits, one_string(payload)?, special)?;
    let node = store.get(caller, &path, Rights::READ)?;
    match kind {
        MessageType::Read => out.extend_from_slice(node.value()),
        MessageType::GetPerms => node.perms().put(out),
        _ => directory(node, &path, out)?,
    }
    Ok(())
}

/// The names of all children, each with a NUL.
fn directory(node: &Node, path: &Path<'_>, out: &mut Vec<u8>) -> Result<(), Fail> {
    let Some(children) = node.children() else { return Ok(()) };
    let len = node.child_list_len();
    if len > MAX_PAYLOAD as u64 {
        return Err(Errno::E2BIG.into());
    }
    let before = out.len();
    children.list(path.hash(), 0, &mut |child, _| {
        out.extend_from_slice(child.name());
        out.push(0);
        true
    })?;
    if (out.len() - before) as u64 == len {
        return Ok(());
    }
    let what = String::from("a directory is not what was written");
    Err(Corruption { what }.into())
}

/// A part of what DIRECTORY would give, from a byte offset on, after the
/// directory's generation. A NUL more follows the last name.
fn directory_part(
    store: &Store,
    caller: &Caller,
    limits: &Limits,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Fail> {
    let ([text, offset], 2) = strings::<2>(payload) else { return Err(Errno::EINVAL.into()) };
    let path = path(caller, limits, text, false)?;
    let node = store.get(caller, &path, Rights::READ)?;
    // Xen's daemon takes a negative offset for one beyond the end.
    let offset = u64::from(decimal::atoi(offset).cast_unsigned());
    let before = out.len();
    decimal::put(node.generation(), out);
    out.push(0);
    let list_len = node.child_list_len();
    let Some(children) = node.children().filter(|_| offset < list_len) else {
        out.push(0);
        return Ok(());
    };
    let room = MAX_PAYLOAD - (out.len() - before) - 1;
    let mut sent = 0;
    children.list(path.hash(), offset, &mut |child, skip| {
        let name = child.name().get(usize::try_from(skip).unwrap_or(0)..).unwrap_or(b"");
        if sent + name.len() >= room {
            return false;
        }
        out.extend_from_slice(name);
        out.push(0);
        sent += name.len() + 1;
        true
    })?;
    if offset + sent as u64 == list_len {
        out.push(0);
    }
    Ok(())
}

/// Does an operation that [`alters`]; tells at which path it changed what.
///
/// # Errors
/// As Xen's daemon has them.
pub(crate) fn alter<'p>(
    store: &mut Store,
    env: &mut Env<'_>,
    kind: MessageType,
    payload: &'p [u8],
) -> Result<(Path<'p>, Changed), Fail> {
    let (caller, limits) = (env.caller, env.limits);
    match kind {
        MessageType::Write => {
            let (text, value) = first_string(payload)?;
            let path = path(&caller, &limits, text, false)?;
            let changed = store.write(env, &path, value)?;
            Ok((path, changed))
        }
        MessageType::SetPerms => {
            let (text, rest) = first_string(payload)?;
            let last = rest.iter().rposition(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
            let entries = &rest[..=last];
            let count = entries.iter().filter(|byte| **byte == 0).count();
            if env.limits.exceeded(Quota::Permissions, count as u64) {
                return Err(Errno::ENOSPC.into());
            }
            let perms = Perms::parse(entries)?;
            if !env.domains.is_live(perms.owner()) {
                return Err(Errno::ENOENT.into());
            }
            let path = path(&caller, &limits, text, true)?;
            let changed = store.set_perms(env, &path, perms)?;
            Ok((path, changed))
        }
        _ => {
            let path = path(&caller, &limits, one_string(payload)?, false)?;
            let changed = match kind {
                MessageType::Rm => store.remove(env, &path)?,
                _ => store.mkdir(env, &path)?,
            };
            Ok((path, changed))
        }
    }
}

/// The outcome of an operation in a transaction, by which a repetition on
/// another store is compared: nothing but the reply that the client gets. A
/// directory's generation is not compared; it says nothing that the names do
/// not.
pub(crate) fn outcome(kind: MessageType, result: Result<(), Errno>, reply: &[u8]) -> u64 {
    let reply = match kind {
        MessageType::DirectoryPart => first_string(reply).map_or(reply, |(_, names)| names),
        kind if looks(kind) => reply,
        _ => b"",
    };
    match result {
        Ok(()) => Mixer::new().bytes(reply).finish(),
        Err(errno) => Mixer::new().word(errno.number().cast_unsigned().into()).finish(),
    }
}
