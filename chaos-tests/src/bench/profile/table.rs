//! The profile for people.

use std::fmt;

use super::{Boots, Operation, Profile, Tasks, Times};

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
        })
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} ({:.2})", self.median_us, self.p99_us))
    }
}

impl Profile {
    /// The share of an entry in a run of these tasks, percent.
    fn entry_percent(&self, tasks: &Tasks) -> f64 {
        100.0 * self.entry.median_us / tasks.kvm.run.median_us
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, boots, entry, state, rows } = self;
        writeln!(
            f,
            "The executor alone, in this process: no host, no rings, no consensus. {nodes} nodes; \
             microseconds, median (99 of 100)"
        )?;
        writeln!(
            f,
            "{:<16} {:>17} {:>17} {:>17} {:>17} {:>10}",
            "at once",
            "process, a run",
            "kvm, a run",
            "process, a task",
            "kvm, a task",
            "kvm, rest"
        )?;
        for row in rows {
            let name = format!("{} {}", row.operation, row.tasks);
            let (process, kvm) = (row.process, row.kvm);
            let cells = [process.run, kvm.run, process.task, kvm.task];
            write!(f, "{name:<16}")?;
            cells.iter().try_for_each(|times| write!(f, " {times:>17}"))?;
            writeln!(f, " {:>10.2}", row.kvm_rest_us)?;
        }
        writeln!(
            f,
            "measured: runs; an entry {entry}: an empty request, into the guest and back; a request \
             for the state's digest alone {state}, with which every run ends"
        )?;
        writeln!(
            f,
            "derived: rest, a run's median less an entry's; inside the guest, and writing and \
             reading requests and answers on either side"
        )?;
        if let Some(read) = rows.iter().find(|r| (r.operation, r.tasks) == (Operation::Read, 1)) {
            writeln!(
                f,
                "an entry costs {:.1} us here; READ with one client has one on its way, {:.0} % of \
                 its run",
                entry.median_us,
                self.entry_percent(read)
            )?;
        }
        let Boots { count, made, ready, whole } = boots;
        writeln!(
            f,
            "{count} boots of a machine alone: made in {made}, then ready in {ready}; in all {whole}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cell;
    use super::*;

    #[test]
    fn the_table_tells_what_an_entry_costs() {
        let times = |median_us| Times { median_us, p99_us: 2.0 * median_us };
        let cell = |run_us| Cell { run: times(run_us), task: times(run_us / 8.0) };
        let row = |operation, tasks| Tasks {
            operation,
            tasks,
            process: cell(4.0),
            kvm: cell(32.0),
            kvm_rest_us: 4.0,
        };
        let profile = Profile {
            nodes: 1000,
            boots: Boots { count: 50, made: times(1.0), ready: times(2.0), whole: times(3.0) },
            entry: times(28.0),
            state: times(29.0),
            rows: vec![row(Operation::Write, 8), row(Operation::Read, 1)],
        };
        let text = profile.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            "WRITE 8 4.00 (8.00) 32.00 (64.00) 0.50 (1.00) 4.00 (8.00) 4.00",
            "an entry costs 28.0 us here; READ with one client has one on its way, 88 % of its run",
            "50 boots of a machine alone: made in 1.00 (2.00), then ready in 2.00 (4.00); in all 3.00 (6.00)",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        let json = serde_json::to_string(&profile).expect("is serialized");
        assert_eq!(serde_json::from_str::<Profile>(&json).expect("is read back"), profile);
    }
}
