//! `rvmm chaos replay`.

use std::fmt::Write;
use std::process::ExitCode;

use chaos::report::summary::duration;
use chaos::sim::many::guarded;
use chaos::sim::{Flaw, RunVerdict, TraceMode};
use clap::Args;

use super::case::CaseArgs;
use crate::cli::print;

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    case: CaseArgs,
    /// Print every step before
    #[arg(long)]
    trace: bool,
}

pub(crate) fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let case = args.case.case();
    let mode = if args.trace { TraceMode::Text } else { TraceMode::Digest };
    let verdict = guarded(&case, |case| case.run(mode));
    print(&verdict.trace)?;
    print(describe(&verdict))?;
    if verdict.is_clean() {
        return Ok(ExitCode::SUCCESS);
    }
    print(format!("again: {}\n", case.reproduce()))?;
    Ok(ExitCode::FAILURE)
}

/// What came of a run: nothing that differs when it is run again.
pub(super) fn describe(verdict: &RunVerdict) -> String {
    let stats = &verdict.stats;
    let mut text = format!("seed {}: {}\n", verdict.seed, verdict.plan);
    let mut line = |name: &str, what: String| {
        let _ = writeln!(text, "{name:<12}{what}");
    };
    line(
        "simulated",
        format!(
            "{}, whole again {} after the last fault",
            duration(stats.simulated_us),
            duration(stats.healed_in_us)
        ),
    );
    line(
        "clients",
        format!(
            "{}: {} requests, {} answers, {} events",
            verdict.clients, stats.requests, stats.answers, stats.events
        ),
    );
    line(
        "host",
        format!(
            "{} promotions, {} times begun to serve, {} replicas that stopped themselves",
            stats.promotions, stats.services, stats.stops
        ),
    );
    line(
        "steps",
        format!(
            "{} of replicas, {} turns of the host, digest {:016x} over {}",
            stats.replica_steps, stats.host_turns, verdict.trace_digest, verdict.trace_lines
        ),
    );
    line("faults", stats.faults_total().to_string());
    for ((class, component, outcome), count) in &stats.faults {
        let (class, component) = (class.name(), component.name());
        let _ = writeln!(text, "  {class:<22} {component:<10} {count:>6} {outcome}");
    }
    if verdict.is_clean() {
        text += "every promise was kept\n";
    }
    text + &flaws(&verdict.flaws)
}

/// Broken promises, a line each.
pub(super) fn flaws(flaws: &[Flaw]) -> String {
    flaws.iter().map(|flaw| format!("BROKEN {flaw}\n")).collect()
}
