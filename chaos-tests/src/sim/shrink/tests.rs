use std::collections::BTreeMap;

use quickcheck::quickcheck;

use super::*;
use crate::report::record::{Component, Outcome};
use crate::sim::verdict::{DueFault, Stats};

const CLASSES: [FaultClass; 3] = [FaultClass::Crash, FaultClass::Hang, FaultClass::Scale];
const GAP_US: u64 = 100_000;
const CLIENTS: usize = 11;

/// A host that breaks a promise once certain faults have happened.
#[derive(Clone, Debug)]
struct Fragile {
    needs: BTreeSet<u32>,
    clients: usize,
    /// So long after the last of the faults, the flaw is seen.
    delay_us: u64,
    /// It is seen only when all is healed.
    late: bool,
    runs: u32,
}

impl Fragile {
    fn new(needs: &[u32]) -> Self {
        let needs = needs.iter().copied().collect();
        Self { needs, clients: 2, delay_us: 1_234_567, late: false, runs: 0 }
    }

    fn run(&mut self, case: &Case) -> RunVerdict {
        self.runs += 1;
        let with = &case.overrides;
        let span_us = with.span_us.unwrap_or(SPAN_US);
        let clients = with.clients.unwrap_or(CLIENTS);
        let mut due = Vec::new();
        for number in 1..=u32::try_from(span_us / GAP_US).expect("is small") {
            let class = CLASSES[number as usize % CLASSES.len()];
            let happens = with.only.as_ref().is_none_or(|only| only.contains(&number));
            if happens && !with.without.contains(&class) {
                let at_us = u64::from(number) * GAP_US;
                due.push(DueFault { number, at_us, class, hit: Some(Component::Primary) });
            }
        }
        let seen = self.needs.iter().max().map_or(0, |last| u64::from(*last) * GAP_US);
        let seen = seen + self.delay_us;
        let there = |number: &u32| due.iter().any(|due| due.number == *number);
        let broken = self.needs.iter().all(there) && clients >= self.clients && seen <= span_us;
        let mut flaws = Vec::new();
        if broken {
            let at_us = if self.late { span_us + 40_000_000 } else { seen };
            due.retain(|due| due.at_us <= at_us);
            flaws.push(Flaw { checker: "lost-reply", at_us, what: "a reply".to_owned() });
        } else if with.clients == Some(2) {
            flaws.push(Flaw { checker: "liveness", at_us: 1, what: "another story".to_owned() });
        }
        let mut faults = BTreeMap::new();
        if !with.without.contains(&FaultClass::LostDoorbell) {
            faults.insert((FaultClass::LostDoorbell, Component::Ring, Outcome::Masked), 7);
        }
        RunVerdict {
            seed: case.seed,
            plan: String::new(),
            clients,
            flaws,
            stats: Stats { faults, ..Stats::default() },
            due,
            trace_digest: 0,
            trace_lines: 0,
            trace: String::new(),
        }
    }

    fn shrunk(&mut self) -> Shrunk {
        let shrunk = shrink(&Case::of(1), |case| self.run(case), |_| true).expect("it fails");
        assert_eq!(shrunk.verdict, self.run(&shrunk.case));
        assert_eq!(shrunk.verdict.flaws[0].checker, "lost-reply");
        assert!(shrunk.settled);
        shrunk
    }
}

#[test]
fn what_has_nothing_to_do_with_it_is_left_out() {
    let mut host = Fragile { clients: 4, ..Fragile::new(&[3, 17]) };
    let shrunk = host.shrunk();
    assert_eq!(
        shrunk.case.reproduce(),
        "rvmm chaos replay 1 --span 2935ms --only 3,17 --without lost-doorbell --clients 4"
    );
    let due: Vec<_> = shrunk.verdict.due.iter().map(|due| due.number).collect();
    assert_eq!(due, [3, 17]);
    assert!(shrunk.runs < 60, "{}", shrunk.runs);
}

#[test]
fn what_is_seen_only_in_the_end_is_made_short_by_search() {
    let mut host = Fragile { late: true, ..Fragile::new(&[5, 6]) };
    let shrunk = host.shrunk();
    let with = &shrunk.case.overrides;
    assert_eq!(with.only, Some([5, 6].into()));
    let least = 600_000 + host.delay_us;
    let most = least + least / 20 + 2 * SPAN_STEP_US;
    assert!((least..most).contains(&with.span_us.expect("is set")), "{shrunk:?}");
}

#[test]
fn a_flaw_that_needs_no_fault_keeps_none() {
    let shrunk = Fragile::new(&[]).shrunk();
    assert_eq!(shrunk.case.overrides.only, Some(BTreeSet::new()));
    assert!(shrunk.case.to_string().contains("--only 0"), "{}", shrunk.case);
}

#[test]
fn a_run_that_does_not_fail_is_refused() {
    let mut host = Fragile::new(&[100_000]);
    assert_eq!(shrink(&Case::of(1), |case| host.run(case), |_| true), Err(NotFailing));
    assert_eq!(host.runs, 1);
}

#[test]
fn it_ends_when_it_is_told_to_with_the_best_so_far() {
    let mut host = Fragile::new(&[3, 17, 40]);
    let mut heard = Vec::new();
    let shrunk = shrink(
        &Case::of(1),
        |case| host.run(case),
        |attempt| {
            heard.push((attempt.case.clone(), attempt.kept));
            heard.len() < 5
        },
    );
    let shrunk = shrunk.expect("it fails");
    assert!(!shrunk.settled);
    assert_eq!((heard.len(), shrunk.runs), (5, 6));
    let best = heard.iter().rev().find(|(_, kept)| *kept).map(|(case, _)| case);
    assert_eq!(best, Some(&shrunk.case));
}

quickcheck! {
    fn exactly_the_faults_that_are_needed_remain(needs: BTreeSet<u8>, clients: u8) -> bool {
        let needs: Vec<u32> = needs.iter().map(|number| 1 + u32::from(*number) * 2).collect();
        let mut host = Fragile { clients: 2 + usize::from(clients) % 10, ..Fragile::new(&needs) };
        let with = host.shrunk().case.overrides;
        with.only == Some(needs.into_iter().collect()) && with.clients.unwrap_or(CLIENTS) == host.clients
    }
}
