//! Faults that only a virtual machine can have: its program or its memory is changed
//! from outside, through `/proc/PID/mem` of the process that is its monitor.
//!
//! Code is written to where the guest goes on when it is entered the next time, so
//! what follows happens in the guest, as if it had come to it by itself.

mod image;
mod place;

use std::time::Duration;

use guest::layout::{ANSWER_OFFSET, REQUEST_OFFSET};
pub(in crate::campaign) use image::HostImage;
use place::{Guest, PAGE};

use super::victim::Victim;
use super::{FaultError, Planned, Scene};
use crate::rng::Rng;

/// What status calls replicas in virtual machines.
pub(super) const BACKEND: &str = "kvm";

/// An instruction that raises exception 6.
const UNDEFINED: &[u8] = &[0x0f, 0x0b];
/// `cli; hlt`.
const HALT: &[u8] = &[0xfa, 0xf4];
/// `jmp .`.
const LOOP: &[u8] = &[0xeb, 0xfe];
/// `push %rax`, and back to it.
const PUSH: &[u8] = &[0x50, 0xeb, 0xfd];

/// The longest piece of garbage that a wild write leaves.
const WILD_BYTES: usize = 256;
/// So much of the request's and the answer's room is in use under load.
const GARBAGE_BYTES: usize = 64 << 10;
/// From one time garbage is written to the next.
const GARBAGE_EVERY: Duration = Duration::from_micros(200);
/// So many places are told of.
const PLACES_TOLD: usize = 8;

/// Breaks the virtual machine of a replica in the way that the fault says.
pub(super) fn strike(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    if !scene.status.replicas.iter().any(|replica| replica.backend == BACKEND) {
        let why = "no replica of this host runs in a virtual machine";
        return Err(FaultError::Unavailable(why.into()));
    }
    let victim = scene.victim(fault)?;
    let guest = Guest::find(&victim, scene.image.of(scene.host_pid)?)?;
    let mut rng = fault.rng.clone();
    match fault.way {
        "triple-fault" => {
            guest.remove_gates()?;
            guest.resume_with(UNDEFINED)?;
        }
        "halt" => guest.handle_with(HALT).and_then(|()| guest.resume_with(UNDEFINED))?,
        "kernel-loop" => guest.handle_with(LOOP).and_then(|()| guest.resume_with(UNDEFINED))?,
        "loop" => guest.resume_with(LOOP)?,
        "stack-overflow" => guest.resume_with(PUSH)?,
        "memory-flips" => {
            return scatter(scene, fault, &victim, &guest.resident()?, |at| {
                guest.flip(at, rng.below(8))
            });
        }
        "wild-writes" => {
            return scatter(scene, fault, &victim, &guest.resident_writable()?, |at| {
                let len = 1 + rng.below(WILD_BYTES);
                // A page beyond may be nobody's.
                let len = len.min(usize::try_from(PAGE - at % PAGE).unwrap_or(len));
                guest.write(at, &garbage(&mut rng, len))
            });
        }
        _ => return spoil_exchange(scene, fault, &victim, &guest),
    }
    scene.damaged(&victim, &[("how", fault.way.to_owned())]);
    Ok(())
}

fn garbage(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).take(len).collect()
}

/// Injures the guest's memory at `count` places in `pages`.
fn scatter(
    scene: &mut Scene<'_>,
    fault: &Planned,
    victim: &Victim,
    pages: &[u64],
    mut injure: impl FnMut(u64) -> Result<(), FaultError>,
) -> Result<(), FaultError> {
    if pages.is_empty() {
        return Err(FaultError::Missed("no memory of the guest is in use".into()));
    }
    // Other choices than those of what is written there.
    let mut rng = Rng::new(fault.rng.clone().next_u64() ^ fault.count);
    let mut places = Vec::new();
    for _ in 0..fault.count {
        let at = rng.pick(pages) + rng.next_u64() % PAGE;
        match injure(at) {
            Ok(()) => places.push(format!("{at:#x}")),
            // What was done so far has ended it.
            Err(_) if !places.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    let count = places.len().to_string();
    places.truncate(PLACES_TOLD);
    let parameters = [("how", fault.way.into()), ("count", count), ("at", places.join(" "))];
    scene.damaged(victim, &parameters);
    Ok(())
}

/// Garbage over the exchange again and again: at most moments nothing of it is in use.
fn spoil_exchange(
    scene: &mut Scene<'_>,
    fault: &Planned,
    victim: &Victim,
    guest: &Guest<'_>,
) -> Result<(), FaultError> {
    let mut rng = fault.rng.clone();
    let mut spoil = || {
        // Whatever is read there is garbage to its end: a part of it could be an
        // answer that means something else.
        guest.write_exchange(ANSWER_OFFSET, &garbage(&mut rng, GARBAGE_BYTES))?;
        guest.write_exchange(REQUEST_OFFSET, &garbage(&mut rng, GARBAGE_BYTES))?;
        guest.write_exchange(0, &garbage(&mut rng, REQUEST_OFFSET))
    };
    spoil()?;
    let hold = ("for_ms", fault.hold.as_millis().to_string());
    scene.damaged(victim, &[("how", fault.way.to_owned()), hold]);
    // It has ended when it takes no more.
    scene.stop.wait_for(fault.hold, GARBAGE_EVERY, || spoil().err());
    scene.healed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_has_its_length_and_its_seed() {
        for len in [0, 1, 7, 8, 9, 4096] {
            assert_eq!(garbage(&mut Rng::new(1), len).len(), len);
        }
        assert_ne!(garbage(&mut Rng::new(1), 16), garbage(&mut Rng::new(2), 16));
    }
}
