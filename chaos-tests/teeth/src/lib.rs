//! Deliberate bugs, each switched on by name: proof that the checkers bite.
//!
//! A checker that has never reported anything may be right, or blind. So at the
//! places where a real slip would happen, production code asks [`bites`] whether
//! it should make it. The simulator switches on one [`Bug`] after the other, and
//! each must be caught.
//!
//! # Why this can do no harm
//! - Only a build with debug assertions has bugs to switch on. In any other,
//!   [`ARMED`] is `false`, and so is [`bites`] before the optimizer has seen its
//!   caller: of a site nothing is left. A shipped program has no bug, and no way
//!   to ask for one.
//! - Nothing outside the process can switch one on: no variable of the
//!   environment, argument or message is looked at. Somebody has to call [`set`],
//!   and only tests do.
//! - The switch is the whole process's: who turns it in a test does so in a process
//!   without other tests.
//!
//! # Adding one
//! A bug is one variant in [`bugs`](mod@bugs), and a line at its site. It should be
//! what a reviewer could miss, and break a promise made to somebody, be it that
//! answers come soon; nothing that merely panics. Where a second lock keeps the
//! promise although the first one is broken, the bug breaks both. A variant without
//! a site, or with one that no checker can notice, has no place here.
#![no_std]
#![forbid(unsafe_code)]

pub mod bugs;

pub use bugs::Bug;

#[cfg(debug_assertions)]
use core::sync::atomic::{AtomicU8, Ordering};

/// Whether this build has bugs to switch on.
pub const ARMED: bool = cfg!(debug_assertions);

/// The number of the bug that bites, plus one; 0 for none.
#[cfg(debug_assertions)]
static BITING: AtomicU8 = AtomicU8::new(0);

/// Switches `bug` on and every other off, in the whole process. Does nothing
/// unless the build is [`ARMED`].
pub fn set(bug: Option<Bug>) {
    #[cfg(debug_assertions)]
    BITING.store(bug.map_or(0, |bug| bug as u8 + 1), Ordering::Relaxed);
    #[cfg(not(debug_assertions))]
    let _ = bug;
}

/// Whether `bug` is switched on.
#[cfg(debug_assertions)]
#[inline(always)]
#[must_use]
pub fn bites(bug: Bug) -> bool {
    BITING.load(Ordering::Relaxed) == bug as u8 + 1
}

/// Whether `bug` is switched on: in this build, none ever is.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub const fn bites(_: Bug) -> bool {
    false
}

// That a constant can be made of it shows that a site costs nothing.
#[cfg(not(debug_assertions))]
const _: () = assert!(!ARMED && !bites(Bug::ALL[0]));

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_plain_and_found_again() {
        let mut names = BTreeSet::new();
        for &bug in Bug::ALL {
            let name = bug.name();
            assert!(names.insert(name), "{name} twice");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
            assert_eq!(Bug::from_name(name), Some(bug));
            assert!(!bug.about().is_empty() && !bug.about().ends_with('.'), "{name}");
        }
        assert_eq!(Bug::from_name("no-such-bug"), None);
        assert!(Bug::ALL.len() < usize::from(u8::MAX), "a number and 0 for none");
    }

    /// One test, for the switch is the whole process's.
    #[test]
    fn one_bug_bites_at_a_time_and_none_in_a_build_that_is_not_armed() {
        assert!(Bug::ALL.iter().all(|bug| !bites(*bug)), "none bites unasked");
        for &bug in Bug::ALL {
            set(Some(bug));
            let biting = Bug::ALL.iter().copied().filter(|bug| bites(*bug));
            assert!(biting.eq(ARMED.then_some(bug)));
        }
        set(None);
        assert!(Bug::ALL.iter().all(|bug| !bites(*bug)));
        assert_eq!(ARMED, cfg!(debug_assertions));
    }
}
