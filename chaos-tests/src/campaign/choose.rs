//! Which fault comes when: all of it follows from the seed and the fault's
//! number, not from what happened before.

use std::time::Duration;

use super::fault::Planned;
use super::profile::Profile;
use crate::report::record::FaultClass;
use crate::rng::Rng;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    seed: u64,
    next: u64,
    /// What this machine cannot do, by class and way.
    unavailable: Vec<(FaultClass, &'static str)>,
}

impl Chooser {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, next: 1, unavailable: Vec::new() }
    }

    /// The next fault, and how long to wait before it; none when this machine
    /// can do nothing that the profile asks for.
    pub(super) fn next(&mut self, profile: &Profile) -> Option<(Duration, Planned)> {
        let number = self.next;
        let mut rng = Rng::new(self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
        // Two steps apart, so that neighbouring numbers do not resemble each other.
        let mut rng = Rng::new(rng.next_u64() ^ rng.next_u64().rotate_left(32));
        let pause = profile.file.schedule.pause.draw(&mut rng);
        let there = |class, way| !self.unavailable.contains(&(class, way));
        let possible: Vec<_> = profile
            .faults
            .iter()
            .filter(|(_, choice)| there(choice.class.class, choice.way.unwrap_or_default()))
            .collect();
        let total: u64 = possible.iter().map(|(weight, _)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.next_u64() % total;
        let (_, choice) = possible.into_iter().find(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        })?;
        self.next += 1;
        let rng = Rng::new(rng.next_u64());
        Some((pause, choice.plan(number, rng)))
    }

    /// This machine cannot do that: it is not chosen any more.
    pub(super) fn without(&mut self, fault: &Planned) {
        self.unavailable.push((fault.class.class, fault.way));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn draw(seed: u64, count: usize) -> Vec<(Duration, u64, FaultClass, Duration)> {
        let profile = Profile::load("smoke").expect("is built in");
        let mut chooser = Chooser::new(seed);
        (0..count)
            .map(|_| {
                let (pause, fault) = chooser.next(&profile).expect("there is one");
                (pause, fault.number, fault.class.class, fault.hold)
            })
            .collect()
    }

    #[test]
    fn the_seed_tells_everything() {
        assert_eq!(draw(7, 50), draw(7, 50));
        assert_ne!(draw(7, 50), draw(8, 50));
    }

    #[test]
    fn weights_are_kept() {
        let mut counts: BTreeMap<FaultClass, usize> = BTreeMap::new();
        let drawn = draw(1, 14_000);
        drawn.iter().for_each(|(_, _, class, _)| *counts.entry(*class).or_default() += 1);
        // The weights of smoke add up to 14.
        let near = |class, wanted: usize| counts[&class].abs_diff(wanted) < wanted / 5;
        assert!(near(FaultClass::Crash, 6_000), "{counts:?}");
        assert!(near(FaultClass::Hang, 3_000), "{counts:?}");
        assert!(near(FaultClass::Poison, 1_000), "{counts:?}");
        let profile = Profile::load("smoke").expect("is built in");
        let pauses = profile.file.schedule.pause;
        assert!(drawn.iter().all(|(pause, ..)| (pauses.min..=pauses.max).contains(pause)));
    }

    #[test]
    fn what_the_machine_lacks_is_not_chosen_again() {
        let profile = Profile::load("smoke").expect("is built in");
        let mut chooser = Chooser::new(1);
        let (_, first) = chooser.next(&profile).expect("there is one");
        chooser.without(&first);
        for _ in 0..100 {
            let (_, next) = chooser.next(&profile).expect("there are others");
            assert_ne!(next.class.class, first.class.class);
        }
    }
}
