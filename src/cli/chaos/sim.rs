//! `rvmm chaos sim`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chaos::campaign::Stop;
use chaos::report::HTML_NAME;
use chaos::report::summary::duration;
use chaos::sim::many::{Effort, Failure, PATIENCE, Totals, fresh_seed, many, seeds};
use chaos::sim::{Case, Chronicle, Opening, Overrides, SPAN_US, TraceMode, span_us};
use clap::Args;

use super::replay::flaws;
use super::terminal::{Line, millis, stop_on_signals};
use crate::cli::print;

/// So many seeds if nothing else is asked for.
const SEEDS: u64 = 1000;

#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// How many seeds [default: 1000, or what the budget allows]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed [default: another one each time]
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// How long to begin with further seeds, such as 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    budget: Option<Duration>,
    /// How many to run at once [default: one for each processor]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// How long faults happen in each, simulated [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    /// Where to write the history and the report
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl SimArgs {
    /// Refuses what would run nothing, and so break nothing.
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.seeds != Some(0), "--seeds 0: without a seed nothing is tried");
        anyhow::ensure!(self.jobs != Some(0), "--jobs 0: somebody has to run the seeds");
        let no_time = self.budget.is_some_and(|budget| budget.is_zero());
        anyhow::ensure!(!no_time, "--budget 0s: no seed is begun without time");
        Ok(())
    }
}

pub(crate) fn sim(args: &SimArgs) -> anyhow::Result<ExitCode> {
    args.check()?;
    let first = args.from.unwrap_or_else(fresh_seed);
    let count = args.seeds.or(args.budget.is_none().then_some(SEEDS));
    anyhow::ensure!(
        first.checked_add(count.unwrap_or(1) - 1).is_some(),
        "--from {first}: there are not so many seeds from there on, the last one is {}",
        u64::MAX
    );
    let overrides = Overrides { span_us: args.span.map(span_us), ..Overrides::default() };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let stop = Stop::default();
    stop_on_signals(stop.clone(), "stopping: runs that have begun are finished")?;
    let effort = Effort {
        budget: args.budget,
        patience: PATIENCE + args.span.unwrap_or_default(),
        stop: stop.clone(),
        ..Effort::on(args.jobs.unwrap_or(cpus))
    };
    let again = Again { first, overrides: overrides.clone() };
    let mut chronicle = match &args.out {
        Some(dir) => Some(Chronicle::begin(dir, again.opening(count, &effort))?),
        None => None,
    };
    print(format!("chaos sim: seeds from {first} on, {} at once\n", effort.jobs))?;
    let line = Line::new(count.unwrap_or_else(|| effort.budget.map_or(0, millis)));
    let run = |case: &Case| case.run(TraceMode::Digest);
    let totals = many(&effort, seeds(first, count, overrides), run, |totals, fresh| {
        if let Some(failure) = fresh {
            line.say(&describe_failure(failure));
        }
        if let Some(chronicle) = &mut chronicle {
            chronicle.note(totals, fresh);
        }
        let position = if count.is_some() { totals.seeds } else { millis(totals.elapsed) };
        line.show(position, progress(totals));
    });
    drop(line);
    let reproduce = match totals.failures.first() {
        Some(failure) => failure.case.reproduce(),
        None => again.line(Some(totals.seeds)),
    };
    match chronicle {
        Some(chronicle) => {
            let cut_short = stop.is_set().then_some("stopped by hand");
            let summary = chronicle.end(&totals, cut_short, reproduce)?;
            let page = args.out.iter().map(|dir| dir.join(HTML_NAME).display().to_string());
            print(format!("{summary}the report is in {}\n", page.collect::<String>()))?;
        }
        None => print(describe(&totals) + &format!("again: {reproduce}\n"))?,
    }
    Ok(if totals.is_clean() && !stop.is_set() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How the same seeds are run again.
struct Again {
    first: u64,
    overrides: Overrides,
}

impl Again {
    fn line(&self, count: Option<u64>) -> String {
        let mut line = format!("rvmm chaos sim --from {}", self.first);
        if let Some(count) = count {
            line += &format!(" --seeds {count}");
        }
        // A case says what differs, in the same words.
        let case = Case { seed: self.first, overrides: self.overrides.clone() }.to_string();
        line + case.strip_prefix(&self.first.to_string()).unwrap_or_default()
    }

    fn opening(&self, count: Option<u64>, effort: &Effort) -> Opening {
        let mut config = BTreeMap::new();
        let span_us = self.overrides.span_us.unwrap_or(SPAN_US);
        config.insert("span".to_owned(), duration(span_us));
        config.insert("jobs".to_owned(), effort.jobs.to_string());
        if let Some(budget) = effort.budget {
            config.insert("budget".to_owned(), humantime::format_duration(budget).to_string());
        }
        Opening { first_seed: self.first, reproduce: self.line(count), config }
    }
}

fn progress(totals: &Totals) -> String {
    let stats = &totals.stats;
    format!(
        "{} seeds ({:.1}/s), {} failed; {} simulated, {} faults, {} requests answered",
        totals.seeds,
        totals.seeds_per_s(),
        totals.failed,
        duration(stats.simulated_us),
        stats.faults_total(),
        stats.answers,
    )
}

fn describe_failure(failure: &Failure) -> String {
    let Failure { case, plan, flaws: broken } = failure;
    format!("seed {}: {plan}\n{}again: {}", case.seed, flaws(broken), case.reproduce())
}

fn describe(totals: &Totals) -> String {
    let stats = &totals.stats;
    let mut text = progress(totals) + "\n";
    text += &format!(
        "{} promotions; whole again at most {} after the last fault\n",
        stats.promotions,
        duration(stats.healed_in_us)
    );
    for (class, count) in stats.faults_by_class() {
        text += &format!("  {class:<22} {count:>10}\n");
    }
    text += if totals.is_clean() { "every promise was kept\n" } else { "PROMISES WERE BROKEN\n" };
    text
}
