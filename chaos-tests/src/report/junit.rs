//! The summary for continuous integration: one test case for each checker,
//! steady-state condition, fault class and bound, and one for the run itself.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::record::RunOutcome;
use super::summary::Summary;

/// JUnit XML. Characters that XML cannot hold are left out.
pub(super) fn junit(summary: &Summary) -> Result<String, SerializeError> {
    let profiles: Vec<&str> = summary.profiles.iter().map(String::as_str).collect();
    let mut report = Report::new(format!("rvmm chaos {}", profiles.join(", ")));
    report.set_time(Duration::from_micros(summary.duration_us));
    for suite in
        [run(summary), checkers(summary), faults(summary), steady(summary), bounds(summary)]
    {
        if !suite.test_cases.is_empty() {
            report.add_test_suite(suite);
        }
    }
    report.to_string()
}

fn run(summary: &Summary) -> TestSuite {
    let mut suite = TestSuite::new("run");
    let reasons = summary.reasons.join("\n");
    let mut case = match summary.outcome {
        RunOutcome::Passed => passed("outcome"),
        RunOutcome::Failed => failed("outcome", "the run failed", &reasons, summary),
        RunOutcome::Aborted => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message("the run did not come to its end");
            status.set_description(described(&reasons, summary.reproduce.first()));
            TestCase::new("outcome", status)
        }
    };
    case.set_time(Duration::from_micros(summary.duration_us));
    suite.add_test_case(case);
    suite
}

fn checkers(summary: &Summary) -> TestSuite {
    let mut suite = TestSuite::new("checkers");
    for (name, checker) in &summary.checkers {
        let mut case = if checker.failed == 0 {
            passed(name)
        } else {
            let findings: Vec<String> = checker
                .findings
                .iter()
                .map(|finding| {
                    let seed =
                        finding.seed.map(|seed| format!("seed {seed}: ")).unwrap_or_default();
                    let detail = finding.detail.as_deref().unwrap_or("found something");
                    described(&format!("{seed}{detail}"), finding.reproduce.as_ref())
                })
                .collect();
            let message = match checker.verdict() {
                "NOT JUDGED" => "not judged".to_owned(),
                _ => format!("{} findings", checker.failed),
            };
            failed(name, &message, &findings.join("\n"), summary)
        };
        case.set_system_out(format!("{} looked at", checker.checked));
        suite.add_test_case(case);
    }
    suite
}

fn faults(summary: &Summary) -> TestSuite {
    let mut suite = TestSuite::new("faults");
    let counts = summary.matrix.by_class();
    for (class, injected) in &summary.faults {
        let (trials, failures) = counts.get(class).copied().unwrap_or_default();
        let mut case = if failures == 0 {
            passed(class.name())
        } else {
            let notes: Vec<String> = summary
                .failed_faults
                .iter()
                .filter(|fault| fault.class == *class)
                .map(|fault| {
                    let note = fault.note.as_deref().unwrap_or("a promise was broken");
                    let seed = fault.seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
                    format!("fault {} on {}{seed}: {note}", fault.fault.0, fault.component)
                })
                .collect();
            let message = format!("{failures} of {trials} trials broke a promise");
            failed(class.name(), &message, &notes.join("\n"), summary)
        };
        case.set_system_out(format!("{injected} injected, {trials} judged"));
        suite.add_test_case(case);
    }
    for (what, why) in &summary.skipped {
        let mut status = TestCaseStatus::skipped();
        status.set_message(why.clone());
        suite.add_test_case(TestCase::new(what.clone(), status));
    }
    suite
}

fn steady(summary: &Summary) -> TestSuite {
    let mut suite = TestSuite::new("steady state");
    for steady in &summary.steady {
        let name = format!("{} ({})", steady.condition, steady.phase.name());
        suite.add_test_case(if steady.broken == 0 {
            passed(&name)
        } else {
            let times = steady.held + steady.broken;
            let message = format!("did not hold {} of {times} times", steady.broken);
            failed(&name, &message, &steady.observed, summary)
        });
    }
    suite
}

fn bounds(summary: &Summary) -> TestSuite {
    let mut suite = TestSuite::new("bounds");
    for bound in &summary.bounds {
        let (words, failure) = if bound.is_from_below() {
            ("at least", "the bound was not reached")
        } else {
            ("at most", "the bound was exceeded")
        };
        let name = format!("{} {words} {} {}", bound.bound, bound.limit, bound.unit);
        let observed = format!("observed: {} {}", bound.observed, bound.unit);
        let (name, observed) = (name.trim_end(), observed.trim_end());
        let mut case =
            if bound.held { passed(name) } else { failed(name, failure, observed, summary) };
        case.set_system_out(observed);
        suite.add_test_case(case);
    }
    suite
}

fn passed(name: &str) -> TestCase {
    TestCase::new(name, TestCaseStatus::success())
}

fn failed(name: &str, message: &str, text: &str, summary: &Summary) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(message);
    status.set_description(described(text, summary.reproduce.first()));
    TestCase::new(name, status)
}

/// A text with the line to copy, unless it is already there.
fn described(text: &str, reproduce: Option<&String>) -> String {
    match reproduce {
        Some(line) if !text.contains(line) => format!("{text}\nreproduce: {line}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use quick_junit::TestCaseStatus;

    use super::super::record::*;
    use super::super::summary::Builder;
    use super::*;

    fn parsed(records: &[Record]) -> Report {
        let mut builder = Builder::default();
        records.iter().for_each(|record| builder.add(record));
        let xml = junit(&builder.finish(false)).expect("is written");
        Report::deserialize_from_str(&xml).expect("is JUnit")
    }

    fn judged(outcome: Outcome) -> Record {
        Record::FaultJudged(FaultJudged {
            at_us: 1,
            fault: FaultId(4),
            class: FaultClass::Hang,
            component: Component::Primary,
            outcome,
            note: Some("\u{1} client 3 lost a write <&>]]>".to_owned()),
            how: None,
            said: None,
            seed: Some(11),
        })
    }

    fn failures(report: &Report) -> Vec<(String, String)> {
        let cases = report.test_suites.iter().flat_map(|suite| &suite.test_cases);
        cases
            .filter_map(|case| match &case.status {
                TestCaseStatus::NonSuccess { description, .. } => {
                    let text = description.as_ref().map(|text| text.as_str().to_owned());
                    Some((case.name.to_string(), text.unwrap_or_default()))
                }
                _ => None,
            })
            .collect()
    }

    #[test]
    fn what_cannot_be_done_here_is_a_skipped_case_with_its_reason() {
        let (what, why) = ("disk-full".to_owned(), "no right to mount".to_owned());
        let report = parsed(&[Record::Skip(Skip { at_us: 1, what, why })]);
        let cases = report.test_suites.iter().flat_map(|suite| &suite.test_cases);
        let skipped = cases.filter_map(|case| match &case.status {
            TestCaseStatus::Skipped { message, .. } => {
                Some((case.name.as_str(), message.as_ref()?.as_str()))
            }
            _ => None,
        });
        assert_eq!(skipped.collect::<Vec<_>>(), [("disk-full", "no right to mount")]);
    }

    #[test]
    fn every_promise_is_a_case_and_failures_tell_how_to_see_them_again() {
        let line = "rvmm chaos run ci --seed 11";
        let begin = RunBegin { reproduce: Some(line.to_owned()), ..RunBegin::default() };
        let checker = CheckerVerdict {
            at_us: 2,
            checker: "watch order".to_owned(),
            passed: true,
            judged: true,
            checked: 5,
            detail: None,
            seed: None,
            reproduce: None,
        };
        let bound = Bound {
            at_us: 3,
            bound: "max-pause".to_owned(),
            unit: "us".to_owned(),
            limit: 5,
            observed: 6,
            held: false,
        };
        let steady = SteadyState {
            at_us: 3,
            phase: SteadyPhase::After,
            condition: "redundant".to_owned(),
            held: true,
            observed: String::new(),
        };
        let good = [Record::RunBegin(begin), Record::Checker(checker), Record::Steady(steady)];
        let report = parsed(&[&good[..], &[judged(Outcome::Masked)]].concat());
        let names: Vec<&str> = report.test_suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["run", "checkers", "faults", "steady state"]);
        // It has no end.
        assert_eq!(failures(&report).len(), 1);
        assert_eq!(report.test_suites[0].errors, 1);

        let bad = [judged(Outcome::Failed), Record::Bound(bound)];
        let failures = failures(&parsed(&[&good[..], &bad].concat()));
        let names: Vec<&str> = failures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["outcome", "hang", "max-pause at most 5 us"]);
        assert!(failures.iter().all(|(_, text)| text.contains(line)), "{failures:?}");
        assert!(failures[1].1.contains("seed 11:  client 3 lost a write <&>"), "{failures:?}");
    }
}
