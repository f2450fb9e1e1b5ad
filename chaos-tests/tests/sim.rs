//! The simulator with the seeds that make a build good: fresh ones, old ones
//! that once showed a bug, and some twice to see that nothing but the seed
//! matters.
//!
//! Longer with `RVMM_SIM_SEEDS` and `RVMM_SIM_TWICE`, shorter with
//! `RVMM_SIM_SPAN_S`; `RVMM_SEED` is the first seed, 0 for seeds that nobody has
//! tried. Without it, each commit is tried with seeds of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use chaos::harness::knob;
use chaos::report::summary::duration;
use chaos::sim::many::{Effort, Failure, Totals, fresh_seed, many, seeds};
use chaos::sim::{
    Case, Chronicle, Flaw, Kept, Opening, Overrides, RunVerdict, SPAN_US, TraceMode, run,
};
use chaos::skip::target_dir;

/// At once: as many as the machines have cores that tests are timed for.
const JOBS: usize = 2;

/// The first seed where nothing tells which commit this is.
const FIRST_SEED: u64 = 20_000;

/// A first seed that follows from the commit that is checked out: a change is
/// tried with seeds that none before it was tried with, and whoever tries the same
/// commit again sees the same.
fn seed_of_commit() -> Option<u64> {
    let mut git = Command::new("git");
    let git = git.args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let commit = String::from_utf8(git.output().ok()?.stdout).ok()?;
    // Of as many digits as a seed that is drawn has.
    u64::from_str_radix(commit.get(..11)?, 16).ok()
}

fn first_seed() -> u64 {
    match knob("RVMM_SEED", u64::MAX) {
        0 => fresh_seed(),
        u64::MAX => seed_of_commit().unwrap_or(FIRST_SEED),
        seed => seed,
    }
}

fn overrides() -> Overrides {
    let span_us = knob("RVMM_SIM_SPAN_S", SPAN_US / 1_000_000) * 1_000_000;
    // A line to copy need not say what is so anyway.
    Overrides { span_us: (span_us != SPAN_US).then_some(span_us), ..Overrides::default() }
}

fn digest(case: &Case) -> RunVerdict {
    case.run(TraceMode::Digest)
}

fn show(failure: &Failure) {
    println!("seed {}: {}", failure.case.seed, failure.plan);
    for flaw in &failure.flaws {
        println!("  {flaw}");
    }
    println!("  again: {}", failure.case.reproduce());
}

fn show_totals(what: &str, totals: &Totals) {
    let stats = &totals.stats;
    println!(
        "{what}: {} seeds in {:.1} s, {} simulated, {} requests answered, {} events, {} faults, \
         {} promotions, whole again at most {} after the last fault",
        totals.seeds,
        totals.elapsed.as_secs_f64(),
        duration(stats.simulated_us),
        stats.answers,
        stats.events,
        stats.faults_total(),
        stats.promotions,
        duration(stats.healed_in_us),
    );
    let classes = stats.faults_by_class();
    let classes: Vec<_> = classes.iter().map(|(class, count)| format!("{class} {count}")).collect();
    println!("{what}: {}", classes.join(", "));
}

/// Shows what came of it; panics unless every promise was kept.
fn judge(what: &str, totals: &Totals) {
    show_totals(what, totals);
    let lines: Vec<_> = totals.failures.iter().map(|failure| failure.case.reproduce()).collect();
    let (failed, of) = (totals.failed, totals.seeds);
    assert!(totals.is_clean(), "{failed} of {of} seeds failed:\n{}", lines.join("\n"));
}

#[test]
fn fresh_seeds_break_no_promise() {
    let (first, count) = (first_seed(), knob("RVMM_SIM_SEEDS", 3000));
    let again = format!("RVMM_SEED={first} RVMM_SIM_SEEDS={count}");
    println!("first seed {first}; all of them again: {again}, or");
    let reproduce = format!("rvmm chaos sim --from {first} --seeds {count}");
    println!("{reproduce}");
    let out: PathBuf = target_dir().join("chaos/sim");
    let config = BTreeMap::from([("jobs".to_owned(), JOBS.to_string())]);
    let opening = Opening { first_seed: first, reproduce: reproduce.clone(), config };
    let mut chronicle = Chronicle::begin(&out, opening).expect("can be written");
    let cases = seeds(first, Some(count), overrides());
    let totals = many(&Effort::on(JOBS), cases, digest, |totals, fresh| {
        fresh.into_iter().for_each(show);
        chronicle.note(totals, fresh);
    });
    let summary = chronicle.end(&totals, None, reproduce).expect("is rendered");
    println!("the report is in {}", out.display());
    judge("fresh seeds", &totals);
    assert_eq!(totals.seeds, count);
    assert!(summary.passed(), "{summary}");
}

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    let kept = Kept::committed().unwrap_or_else(|error| panic!("{error}"));
    let stories: Vec<(Case, String)> =
        kept.into_iter().map(|kept| (kept.case, kept.found)).collect();
    let cases: Vec<_> = stories.iter().map(|(case, _)| case.clone()).collect();
    let nth = move |nth: u64| usize::try_from(nth).ok().and_then(|nth| cases.get(nth).cloned());
    let totals = many(&Effort::on(JOBS), nth, digest, |_, fresh| {
        if let Some(failure) = fresh {
            show(failure);
            let story = stories.iter().find(|(case, _)| *case == failure.case);
            println!("  it once found: {}", story.map_or("nothing", |(_, found)| found));
        }
    });
    judge("kept seeds", &totals);
    assert_eq!(totals.seeds, stories.len() as u64);
}

/// Runs a case twice; another course the second time is a flaw.
fn twice(case: &Case) -> RunVerdict {
    let mut first = run(case.seed, &case.overrides, TraceMode::Text);
    let second = run(case.seed, &case.overrides, TraceMode::Text);
    // What a broken promise means is the other tests' business.
    first.flaws.clear();
    let differs = if first.trace != second.trace {
        let mut lines = (1..).zip(first.trace.lines().zip(second.trace.lines()));
        let line = lines.find(|(_, (a, b))| a != b);
        Some(line.map_or_else(
            || "one of the traces is longer".to_owned(),
            |(line, (a, b))| format!("line {line} of the trace: {a:?}, then {b:?}"),
        ))
    } else if (first.trace_digest, &first.stats, &first.due)
        != (second.trace_digest, &second.stats, &second.due)
    {
        Some("the traces are equal, and the figures are not".to_owned())
    } else if first.trace.is_empty() {
        Some("nothing happened".to_owned())
    } else {
        None
    };
    first.flaws.extend(differs.map(|what| Flaw { checker: "repeatable", at_us: 0, what }));
    first
}

#[test]
fn equal_seeds_give_equal_traces_byte_by_byte() {
    let (first, count) = (first_seed(), knob("RVMM_SIM_TWICE", 100));
    println!("first seed {first}");
    let cases = seeds(first, Some(count), overrides());
    let totals = many(&Effort::on(JOBS), cases, twice, |_, fresh| {
        fresh.into_iter().for_each(show);
    });
    judge("run twice", &totals);
    assert_eq!(totals.seeds, count);
}

/// What is asked for with a text is what is run without one.
#[test]
fn a_trace_in_words_changes_nothing() {
    let case: Case = "1 --span 2s".parse().expect("is a case");
    let (text, digest) = (case.run(TraceMode::Text), case.run(TraceMode::Digest));
    assert!(text.trace.lines().count() >= 1000);
    assert!(digest.trace.is_empty());
    assert_eq!((text.trace_digest, text.trace_lines), (digest.trace_digest, digest.trace_lines));
    assert_eq!(text.stats, digest.stats);
}
