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
//! - A bug bites in the thread that has switched it on and in no other: tests side
//!   by side do not hurt each other.
//!
//! A checker that runs production code of its own, such as a reference to compare
//! with, does so in [`spared`]: it would make the same mistake otherwise, and see
//! nothing.
//!
//! # Adding one
//! A bug is one variant in [`bugs`](mod@bugs), and a line at its site. It should be
//! what a reviewer could miss, and break a promise made to somebody, be it that
//! answers come soon; nothing that merely panics. Where a second lock keeps the
//! promise although the first one is broken, the bug breaks both. A variant without
//! a site, or with one that no checker can notice, has no place here.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "table", all(debug_assertions, unix)))]
extern crate std;

pub mod bugs;
#[cfg(all(debug_assertions, unix))]
mod switch;
#[cfg(feature = "table")]
pub mod table;

pub use bugs::{Bug, Hunter};
#[cfg(all(debug_assertions, unix))]
pub use switch::{bites, set, spared};

/// Whether this build has bugs to switch on.
pub const ARMED: bool = cfg!(all(debug_assertions, unix));

#[cfg(not(all(debug_assertions, unix)))]
mod off {
    use crate::{ARMED, Bug};

    /// Whether a bug is switched on: in this build, none ever is.
    #[inline(always)]
    #[must_use]
    pub const fn bites(_: Bug) -> bool {
        false
    }

    /// Does nothing: this build has no bugs.
    pub const fn set(_: Option<Bug>) {}

    /// Does the work.
    pub fn spared<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    // That a constant can be made of it shows that a site costs nothing.
    const _: () = assert!(!ARMED && !bites(Bug::ALL[0]));
}
#[cfg(not(all(debug_assertions, unix)))]
pub use off::{bites, set, spared};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn biting() -> impl Iterator<Item = Bug> {
        Bug::ALL.iter().copied().filter(|bug| bites(*bug))
    }

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
    }

    #[test]
    fn one_bug_bites_at_a_time_and_none_in_a_build_that_is_not_armed() {
        assert_eq!(biting().next(), None, "none bites unasked");
        for &bug in Bug::ALL {
            set(Some(bug));
            assert!(biting().eq(ARMED.then_some(bug)));
        }
        set(None);
        assert_eq!(biting().next(), None);
    }

    #[test]
    fn it_bites_neither_other_threads_nor_who_is_spared() {
        let bug = Bug::ALL[0];
        set(Some(bug));
        std::thread::spawn(move || assert!(!bites(bug))).join().unwrap();
        assert!(!spared(|| bites(bug)));
        assert_eq!(bites(bug), ARMED);
        let panicked = std::panic::catch_unwind(|| spared(|| panic!("whatever happens")));
        assert!(panicked.is_err());
        assert_eq!(bites(bug), ARMED);
    }
}
