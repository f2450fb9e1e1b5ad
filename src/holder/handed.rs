//! What the holder hands down to each daemon: the line back to it, the pulse that it is to
//! have, the line on which replicas' lives hang, the run directory's lock, and all that it
//! holds, with a list of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use coordinator::events::{Events, Tag};
use coordinator::{HANDOVER_FORMAT, Held};
use hypervisor::domain::{DomainError, Tether, inherited_descriptors};
use rustix::fs::MemfdFlags;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::line::{Line, Mouth, Name};
use super::pulse::Heart;

/// More is not read of a list, bytes.
const MAX_LIST: u64 = 16 << 20;

/// Why another daemon was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Cause {
    /// The last one ended, and was not to.
    Died {
        /// How.
        how: String,
    },
    /// An operator wanted another program.
    Upgrade {
        /// Which.
        program: PathBuf,
    },
    /// That one ended before it was ready, and the one before it is back.
    UpgradeFailed {
        /// Which.
        program: PathBuf,
        /// How it ended.
        how: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died { how } => write!(f, "the last daemon ended: {how}"),
            Self::Upgrade { program } => write!(f, "upgraded to {}", program.display()),
            Self::UpgradeFailed { program, how } => {
                let program = program.display();
                write!(
                    f,
                    "{program} was not ready when it ended ({how}): back to the program before"
                )
            }
        }
    }
}

/// The last start of another daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
    /// The version that served before.
    pub from_version: String,
    /// Since when nobody has served, nanoseconds of the monotonic clock.
    pub since_ns: u64,
}

/// Nanoseconds of the clock that is the same for all processes.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}

/// What of it is told by the list.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    restarts: u64,
    restart: Option<Restart>,
    /// How many of the descriptors that follow each name is for, in their order.
    held: Vec<(Name, usize)>,
}

/// What the last daemon has left, if there was one.
#[derive(Debug)]
pub struct Handed {
    /// What it had the holder hold.
    pub descriptors: BTreeMap<Held, Vec<OwnedFd>>,
    /// How many daemons have been started under this holder after the first one.
    pub restarts: u64,
    /// Why this one was; none for the first.
    pub restart: Option<Restart>,
    /// The holder, who is the parent of those that the last daemon has left.
    pub holder: Pid,
}

/// What a daemon gets from its holder.
#[derive(Debug)]
pub struct Inheritance {
    /// The line to the holder.
    pub line: Arc<Line>,
    /// By whose beats the holder knows that the daemon does not hang.
    pub(crate) heart: Heart,
    /// What the lives of replicas hang on.
    pub tether: Tether,
    /// What the last daemon has left.
    pub handed: Handed,
    /// The run directory's: others may have that when neither holder nor daemon is left.
    pub lock: OwnedFd,
}

/// Why a daemon cannot take what it was handed.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    /// Nobody has started this process as a daemon.
    #[error("daemons are started by their holder, as `rvmm up` does it: {0}")]
    NoHolder(#[from] DomainError),
    /// The list cannot be read.
    #[error("the list of what was handed down: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is not understood.
    #[error("the list of what was handed down: {0}")]
    NotUnderstood(#[from] serde_json::Error),
    /// It is of another version.
    #[error("what was handed down is of format {0}; here is {HANDOVER_FORMAT}")]
    Format(u32),
    /// Not as many descriptors as the list says.
    #[error("{0} descriptors were handed down, and the list tells of others")]
    Count(usize),
}

/// The descriptors for the next daemon, as [`Inheritance::take`] expects them.
pub(super) fn hand_down(
    mouth: Mouth,
    heart: OwnedFd,
    tether: &Tether,
    lock: BorrowedFd<'_>,
    kept: &Kept,
    restarts: u64,
    restart: Option<Restart>,
) -> Result<Vec<OwnedFd>, HandedError> {
    let held = kept.iter().map(|(name, held)| (name, held.len())).collect();
    let list = List { format: HANDOVER_FORMAT, restarts, restart, held };
    let memory = rustix::fs::memfd_create("rvmm-handed", MemfdFlags::CLOEXEC);
    let mut memory = File::from(memory.map_err(std::io::Error::from)?);
    memory.write_all(&serde_json::to_vec(&list)?)?;
    memory.rewind()?;
    let mut descriptors = vec![
        mouth.socket,
        mouth.bell,
        heart,
        tether.as_fd().try_clone_to_owned()?,
        lock.try_clone_to_owned()?,
        memory.into(),
    ];
    for held in kept.iter().flat_map(|(_, held)| held) {
        descriptors.push(held.try_clone()?);
    }
    Ok(descriptors)
}

impl Inheritance {
    /// Takes what this process was started with; once, and before anything else is
    /// opened.
    ///
    /// # Errors
    /// When no holder has started it, or one that speaks otherwise.
    pub fn take(events: &Arc<Events>) -> Result<Self, HandedError> {
        Self::from(inherited_descriptors()?, events)
    }

    fn from(descriptors: Vec<OwnedFd>, events: &Arc<Events>) -> Result<Self, HandedError> {
        let count = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(HandedError::Count(count));
        let mouth = Mouth { socket: next()?, bell: next()? };
        let (heart, tether, lock, memory) = (next()?, next()?, next()?, next()?);
        let mut text = Vec::new();
        File::from(memory).take(MAX_LIST).read_to_end(&mut text)?;
        let list: List = serde_json::from_slice(&text)?;
        if list.format != HANDOVER_FORMAT {
            return Err(HandedError::Format(list.format));
        }
        let mut by_name = BTreeMap::new();
        for (name, len) in list.held {
            let held: Vec<_> = descriptors.by_ref().take(len).collect();
            if held.len() < len {
                return Err(HandedError::Count(count));
            }
            match Held::decode(name) {
                Some(name) => drop(by_name.insert(name, held)),
                None => events.warn(&[Tag::Host], format!("handed down, but unknown: {name:?}")),
            }
        }
        if descriptors.next().is_some() {
            return Err(HandedError::Count(count));
        }
        let holder = rustix::process::getppid().ok_or(DomainError::Gone)?;
        let (restarts, restart) = (list.restarts, list.restart);
        Ok(Self {
            line: Arc::new(Line::new(mouth, Arc::clone(events))),
            heart: Heart::new(heart),
            tether: tether.into(),
            handed: Handed { descriptors: by_name, restarts, restart, holder },
            lock,
        })
    }
}

#[cfg(test)]
mod tests {
    use hypervisor::domain::Lifeline;
    use state_machine::DomId;

    use super::super::line::line;
    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn sample() -> (Kept, Restart) {
        let mut kept = Kept::new();
        kept.hold(Held::Listener(DomId(3)).encode(), vec![null()]).unwrap();
        kept.hold(Held::Fabric.encode(), vec![null(), null()]).unwrap();
        kept.hold([99; Held::BYTES], vec![null()]).unwrap();
        let cause = Cause::Died { how: "signal 9".into() };
        (kept, Restart { cause, from_version: "0.1".into(), since_ns: 7 })
    }

    fn handed_down(kept: &Kept, restart: Option<Restart>) -> Vec<OwnedFd> {
        let (_line, tether) = Lifeline::new().unwrap();
        let (_ear, _bell, mouth) = line().unwrap();
        hand_down(mouth, null(), &tether, null().as_fd(), kept, 4, restart).unwrap()
    }

    #[test]
    fn what_is_held_arrives_by_name() {
        let (kept, restart) = sample();
        let events = Arc::new(Events::new(10));
        let descriptors = handed_down(&kept, Some(restart.clone()));
        let handed = Inheritance::from(descriptors, &events).unwrap().handed;
        let held: Vec<_> =
            handed.descriptors.iter().map(|(&name, fds)| (name, fds.len())).collect();
        assert_eq!(held, [(Held::Fabric, 2), (Held::Listener(DomId(3)), 1)]);
        assert_eq!((handed.restarts, handed.restart), (4, Some(restart)));
        assert_eq!(events.after(0, 10).len(), 1, "a name that nobody knows is told");
        // The holder still has them all.
        assert_eq!(kept.iter().count(), 3);
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused() {
        let (kept, _) = sample();
        let events = Arc::new(Events::new(10));
        let refused = |descriptors: Vec<OwnedFd>| {
            Inheritance::from(descriptors, &events).unwrap_err().to_string()
        };
        let mut short = handed_down(&kept, None);
        short.pop();
        assert!(refused(short).starts_with("9 descriptors were handed down"));
        let mut long = handed_down(&kept, None);
        long.push(null());
        assert!(refused(long).starts_with("11 descriptors were handed down"));
        assert!(refused(Vec::new()).starts_with("0 descriptors"));
        let mut unlisted = handed_down(&kept, None);
        unlisted[5] = null();
        assert!(refused(unlisted).starts_with("the list of what was handed down: EOF"));
    }
}
