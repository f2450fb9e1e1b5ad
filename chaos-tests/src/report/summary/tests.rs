use std::collections::BTreeMap;

use quickcheck::quickcheck;

use super::super::record::*;
use super::*;

fn summary(records: &[Record]) -> Summary {
    let mut builder = Builder::default();
    records.iter().for_each(|record| builder.add(record));
    builder.finish(false)
}

fn begin() -> Record {
    Record::RunBegin(RunBegin {
        profile: "ci".to_owned(),
        seed: 7,
        reproduce: Some("rvmm chaos run ci --seed 7".to_owned()),
        ..RunBegin::default()
    })
}

fn checker(passed: bool) -> Record {
    Record::Checker(CheckerVerdict {
        at_us: 5,
        checker: "linearizability".to_owned(),
        passed,
        judged: true,
        checked: 10,
        detail: (!passed).then(|| "read a value never written".to_owned()),
        seed: Some(9),
        reproduce: (!passed).then(|| "rvmm chaos replay 9".to_owned()),
    })
}

fn judged(outcome: Outcome) -> Record {
    Record::FaultJudged(FaultJudged {
        at_us: 3,
        fault: FaultId(1),
        class: FaultClass::Crash,
        component: Component::Primary,
        outcome,
        note: None,
        how: None,
        said: None,
        seed: None,
    })
}

fn end(outcome: RunOutcome) -> Record {
    Record::RunEnd(RunEnd {
        at_us: 9,
        outcome,
        reason: None,
        seeds: 1,
        simulated_us: 60,
        operations: 10,
        faults: BTreeMap::from([(FaultClass::Crash, 3)]),
        reproduce: None,
    })
}

#[test]
fn a_run_passes_only_when_everything_held() {
    let pass = end(RunOutcome::Passed);
    let steady = Record::Steady(SteadyState {
        at_us: 9,
        phase: SteadyPhase::After,
        condition: "redundant".to_owned(),
        held: false,
        observed: "2 of 3 replicas".to_owned(),
    });
    let bound = Record::Bound(Bound {
        at_us: 9,
        bound: "max-pause".to_owned(),
        unit: "us".to_owned(),
        limit: 100,
        observed: 101,
        held: false,
    });
    let good = [begin(), checker(true), judged(Outcome::Failover)];
    let ending = |more: &[Record]| summary(&[&good[..], more].concat());
    assert!(ending(std::slice::from_ref(&pass)).passed());
    for bad in [checker(false), judged(Outcome::Failed), steady, bound] {
        let failed = ending(&[bad, pass.clone()]);
        assert_eq!(failed.outcome, RunOutcome::Failed);
        assert_eq!(failed.reasons.len(), 1, "{:?}", failed.reasons);
        assert!(!failed.reproduce.is_empty());
    }
    assert_eq!(ending(&[end(RunOutcome::Failed)]).outcome, RunOutcome::Failed);
    // Neither a run without an end nor one without a checker shows anything.
    assert_eq!(ending(&[]).outcome, RunOutcome::Aborted);
    assert_eq!(summary(&[begin(), pass]).outcome, RunOutcome::Aborted);
    assert_eq!(summary(&[]).outcome, RunOutcome::Aborted);
}

#[test]
fn what_was_not_judged_has_not_passed_and_is_not_called_a_failure() {
    let Record::Checker(mut unjudged) = checker(false) else { unreachable!() };
    unjudged.judged = false;
    let sum = summary(&[begin(), Record::Checker(unjudged), end(RunOutcome::Passed)]);
    assert_eq!(sum.outcome, RunOutcome::Failed);
    assert_eq!(sum.checkers["linearizability"].verdict(), "NOT JUDGED");
    assert!(sum.to_string().contains(" NOT JUDGED (10 looked at)"), "{sum}");
}

#[test]
fn what_the_run_itself_did_is_told() {
    let retired = Record::Retired(Retired { at_us: 4, fault: FaultId(1), replica: ReplicaId(2) });
    let stall = Record::Stall(Stall { at_us: 4, duration_us: 400_000 });
    let counts = Record::Counts(Counts { pauses_excused: 2, ..Counts::default() });
    let sum = summary(&[begin(), retired, stall, counts, judged(Outcome::Unnoticed)]);
    let text = sum.to_string();
    assert!(text.contains("retired     1 damaged replicas that nobody had noticed"), "{text}");
    assert!(text.contains("stalls      1 of the run itself, at most 400.0 ms; 2 pauses excused"));
    let row = sum.matrix.rows().next().expect("there is one");
    assert_eq!(row.outcomes[&Outcome::Unnoticed], 1);
}

#[test]
fn the_failing_seed_is_the_first_line_to_copy() {
    let failed = summary(&[begin(), checker(false), end(RunOutcome::Failed)]);
    assert_eq!(failed.reproduce, ["rvmm chaos replay 9", "rvmm chaos run ci --seed 7"]);
    let text = failed.to_string();
    assert!(text.starts_with("FAILED"), "{text}");
    assert!(text.contains("read a value never written (seed 9)"), "{text}");
    assert!(text.ends_with("again: rvmm chaos replay 9\n"), "{text}");
}

#[test]
fn faults_that_nobody_judged_are_told() {
    let sum = summary(&[begin(), checker(true), judged(Outcome::Masked), end(RunOutcome::Passed)]);
    assert_eq!((sum.faults_total(), sum.unjudged), (3, 2));
    // Lines tell more than an end that says nothing of them.
    let listed = FaultInjected {
        at_us: 1,
        fault: FaultId(1),
        class: FaultClass::Hang,
        component: Component::Primary,
        target: None,
        parameters: BTreeMap::new(),
    };
    let listed = Record::FaultInjected(listed);
    let sum = summary(&[begin(), listed.clone(), judged(Outcome::Masked)]);
    assert_eq!(sum.faults, BTreeMap::from([(FaultClass::Crash, 1), (FaultClass::Hang, 1)]));
    assert_eq!(sum.unjudged, 1);
    // What was skipped was judged, though it may have been begun.
    let Record::FaultJudged(mut skipped) = judged(Outcome::Skipped) else { unreachable!() };
    skipped.fault = FaultId(2);
    let sum = summary(&[begin(), listed.clone(), Record::FaultJudged(skipped)]);
    assert_eq!(sum.unjudged, 1);
    assert_eq!(summary(&[begin(), listed, judged(Outcome::Skipped)]).unjudged, 0);
}

fn merged(parts: &[&Summary]) -> Summary {
    let mut sum = parts[0].clone();
    parts[1..].iter().for_each(|part| sum.merge(part));
    sum
}

quickcheck! {
    fn runs_add_up_in_any_grouping(a: Vec<Record>, b: Vec<Record>, c: Vec<Record>) -> bool {
        let (a, b, c) = (summary(&a), summary(&b), summary(&c));
        merged(&[&merged(&[&a, &b]), &c]) == merged(&[&a, &merged(&[&b, &c])])
    }

    fn a_file_loses_nothing(records: Vec<Record>) -> bool {
        let before = summary(&records);
        let json = serde_json::to_string(&before).expect("serializes");
        serde_json::from_str::<Summary>(&json).expect("parses") == before
    }

    fn sums_are_bounded(records: Vec<Record>) -> bool {
        let one = summary(&records);
        let many = merged(&[&one; 150]);
        many.reasons.len() <= MAX_LISTED
            && many.failed_faults.len() <= MAX_LISTED
            && many.reproduce.len() <= MAX_LISTED
            && many.steady.len() == one.steady.len()
            && many.bounds.len() == one.bounds.len()
            && many.matrix.totals().0 == one.matrix.totals().0 * 150
    }
}
