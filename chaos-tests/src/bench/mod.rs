//! Measures daemons against each other: every row is run on all of them in
//! turn, round after round, so that what else the machine does hits them alike.

mod backend;
mod machine;
mod profile;
mod report;
mod row;
mod store;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use backend::{BackendError, BackendReport, Life, run_backends};
pub use machine::Machine;
pub use profile::{Boots, Cell, Operation, Profile, ProfileError, Tasks, Times, profile};
pub use report::{BenchReport, Measured, Population, RowReport};
pub use row::{Row, Unit};

use crate::client::ClientError;
use row::Sample;

/// A daemon to measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What the report calls it.
    pub name: String,
    /// Its socket.
    pub socket: PathBuf,
}

/// What to measure, and how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchConfig {
    /// Numbers of nodes in the store to measure with, ascending.
    pub populations: Vec<u32>,
    /// How often each row is run on each daemon.
    pub rounds: u32,
    /// How long a row is run each time, milliseconds.
    pub slice_ms: u64,
    /// The rows.
    pub rows: Vec<Row>,
    /// What the choices of nodes derive from.
    pub seed: u64,
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            populations: vec![1_000, 100_000],
            rounds: 5,
            slice_ms: 200,
            rows: Row::ALL.to_vec(),
            seed: 1,
        }
    }
}

impl BenchConfig {
    fn slice(&self) -> Duration {
        Duration::from_millis(self.slice_ms)
    }
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The daemon that is busy.
    pub target: &'a str,
    /// Nodes in the store.
    pub nodes: u32,
    /// The row; `None` while nodes are created.
    pub row: Option<Row>,
    /// The round, from 1.
    pub round: u32,
}

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A daemon failed.
    #[error("{target}: {what}: {source}")]
    Client {
        /// The daemon.
        target: String,
        /// What was being done.
        what: String,
        /// How it failed.
        source: ClientError,
    },
    /// There is no daemon, row, round or population to measure.
    #[error("nothing to measure")]
    Nothing,
}

/// Measures `targets`. The first one is ours: ratios are its medians divided by
/// the others'. What is created in the stores is removed again.
///
/// # Errors
/// The first failure of a daemon.
pub fn run(
    targets: &[Target],
    config: &BenchConfig,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<BenchReport, BenchError> {
    if targets.is_empty() || config.rounds == 0 || config.populations.is_empty() {
        return Err(BenchError::Nothing);
    }
    let mut machine = Machine::look();
    for target in targets {
        store::empty(&target.socket).map_err(|source| BenchError::Client {
            target: target.name.clone(),
            what: "emptying the store".to_owned(),
            source,
        })?;
    }
    let mut populations = Vec::new();
    let mut there = 0;
    for nodes in &config.populations {
        populations.push(population(targets, config, progress, there, *nodes)?);
        there = *nodes;
    }
    for target in targets {
        // What was measured stands, whether or not it can be cleaned up.
        let _ = store::empty(&target.socket);
    }
    machine.look_again();
    Ok(BenchReport { targets: targets.to_vec(), config: config.clone(), machine, populations })
}

/// Creates so many nodes behind `socket`, as a measurement does, and leaves them
/// there; returns how many were created a second.
///
/// # Errors
/// The failure of the daemon.
pub fn fill(socket: &Path, nodes: u32) -> Result<f64, ClientError> {
    store::populate(socket, 0, nodes).map(|sample| sample.value)
}

/// Reads back what [`fill`] created, all of it: the first node that is not what it
/// was, in words, if there is one.
///
/// # Errors
/// [`ClientError`] when the store cannot be read.
pub fn first_difference(socket: &Path, nodes: u32) -> Result<Option<String>, ClientError> {
    store::first_difference(socket, nodes)
}

fn population(
    targets: &[Target],
    config: &BenchConfig,
    progress: &mut dyn FnMut(&Progress<'_>),
    there: u32,
    nodes: u32,
) -> Result<Population, BenchError> {
    let fail = |target: &Target, what: String, source| BenchError::Client {
        target: target.name.clone(),
        what,
        source,
    };
    let mut populate = Vec::new();
    for target in targets {
        progress(&Progress { target: &target.name, nodes, row: None, round: 1 });
        let sample = store::populate(&target.socket, there, nodes)
            .map_err(|source| fail(target, format!("creating {nodes} nodes"), source))?;
        populate.push(vec![sample]);
    }
    let mut samples: Vec<Vec<Vec<Sample>>> =
        vec![vec![Vec::new(); targets.len()]; config.rows.len()];
    for round in 0..config.rounds {
        for (row_at, row) in config.rows.iter().enumerate() {
            for step in 0..targets.len() {
                // Whoever comes first in one round comes last in another.
                let at = (step + round as usize) % targets.len();
                let target = &targets[at];
                progress(&Progress {
                    target: &target.name,
                    nodes,
                    row: Some(*row),
                    round: round + 1,
                });
                let seed = config.seed ^ u64::from(round) << 32;
                let sample = row
                    .run(&target.socket, nodes, config.slice(), seed)
                    .map_err(|source| fail(target, row.to_string(), source))?;
                samples[row_at][at].push(sample);
            }
        }
    }
    let mut rows = vec![RowReport::of("populate", Unit::PerSecond, &populate)];
    for (row, samples) in config.rows.iter().zip(&samples) {
        rows.push(RowReport::of(&row.to_string(), row.unit(), samples));
    }
    Ok(Population { nodes, rows })
}
