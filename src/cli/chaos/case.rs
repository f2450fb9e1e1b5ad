//! Which run of the simulator is meant.

use std::time::Duration;

use chaos::report::record::FaultClass;
use chaos::sim::{Case, Overrides, clients, span_us};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct CaseArgs {
    /// The seed
    seed: u64,
    /// How long faults happen, simulated [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    /// Of the faults of the plan, only these numbers happen; 0 for none
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    only: Option<Vec<u32>>,
    /// Faults of these classes do not happen
    #[arg(long, value_name = "CLASSES", value_delimiter = ',')]
    without: Vec<FaultClass>,
    /// So many clients, from 2 to 64
    #[arg(long, value_name = "N", value_parser = clients)]
    clients: Option<usize>,
}

impl CaseArgs {
    pub(super) fn case(&self) -> Case {
        let numbers = |only: &Vec<u32>| only.iter().copied().filter(|n| *n > 0).collect();
        Case {
            seed: self.seed,
            overrides: Overrides {
                span_us: self.span.map(span_us),
                without: self.without.iter().copied().collect(),
                only: self.only.as_ref().map(numbers),
                clients: self.clients,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        case: CaseArgs,
    }

    /// The line to copy is one that this command line takes.
    #[test]
    fn a_case_means_the_same_on_the_command_line_and_in_a_file() {
        for line in [
            "8",
            "249 --span 1500ms --only 3,7 --without crash,kill-in-failover --clients 3",
            "7 --span 60s --only 0",
        ] {
            let words = std::iter::once("rvmm").chain(line.split(' '));
            let from_args = Command::parse_from(words).case.case();
            assert_eq!(from_args.to_string(), line);
            assert_eq!(line.parse(), Ok(from_args));
        }
    }
}
