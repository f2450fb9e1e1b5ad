//! What becomes of what the last daemon has left.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use coordinator::events::{Events, Tag};
use coordinator::{Held, Holder};
use hypervisor::domain::{end_children, pid_of};

use crate::control::{ControlError, Listener};
use crate::holder::{Handed, Line};
use crate::start::control_socket;

/// How long replicas that are killed may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The control socket: the last daemon's, where callers already wait, or a new one.
///
/// # Errors
/// [`ControlError::NoSocket`].
pub(super) fn control(
    handed: &mut Handed,
    line: &Line,
    run_dir: &Path,
) -> Result<Listener, ControlError> {
    let path = control_socket(run_dir);
    let mut held = handed.descriptors.remove(&Held::Control).unwrap_or_default();
    let listener = match held.pop() {
        Some(socket) => Listener::adopt(socket, &path)?,
        None => Listener::bind(&path)?,
    };
    line.hold(Held::Control, &[listener.as_fd()]);
    Ok(listener)
}

/// Has `adopt` go on with what the last daemon has left, if there was one. `None` when
/// there was none, or that cannot be done, as the log says then.
///
/// # Errors
/// When a process of the last daemon does not end that nobody can go on with.
pub(super) fn take_over<C>(
    handed: &mut Handed,
    events: &Events,
    adopt: impl FnOnce(BTreeMap<Held, Vec<OwnedFd>>) -> anyhow::Result<C>,
) -> anyhow::Result<Option<C>> {
    let Some(restart) = &handed.restart else { return Ok(None) };
    let text = format!("restart {} of the daemon: {}", handed.restarts, restart.cause);
    events.warn(&[Tag::Host], text);
    let held = std::mem::take(&mut handed.descriptors);
    // Who was started and is not held would write where others are to.
    let replicas = held.iter().filter(|(name, _)| matches!(name, Held::Replica(_)));
    let replicas = replicas.flat_map(|(_, descriptors)| descriptors);
    let spared: Vec<_> = replicas.filter_map(|pidfd| pid_of(pidfd).ok()).collect();
    end_children(handed.holder, &spared, END_PATIENCE)?;
    match adopt(held) {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) => {
            events.error(&[Tag::Host], format!("nothing is gone on with: {error:#}"));
            Ok(None)
        }
    }
}

/// Ends whatever nobody takes over: the processes that the last daemon has left, and
/// what was held for this one under these names.
///
/// # Errors
/// When a process does not end: it may still write to its disk.
pub(super) fn end_leftovers(
    handed: &Handed,
    names: &[Held],
    is_durable: bool,
    line: &Line,
    events: &Events,
) -> anyhow::Result<()> {
    if handed.restart.is_none() {
        return Ok(());
    }
    let killed = end_children(handed.holder, &[], END_PATIENCE)?;
    let names = names.iter().filter(|name| **name != Held::Control);
    for &name in names.clone() {
        line.let_go(name);
    }
    let text = format!(
        "{} processes and {} things held of the last daemon are not taken over",
        killed.len(),
        names.count()
    );
    events.warn(&[Tag::Host], text);
    if !is_durable {
        let text = "the state is gone with the last daemon (durability volatile)";
        events.error(&[Tag::Host, Tag::Xenstore], text);
    }
    Ok(())
}
