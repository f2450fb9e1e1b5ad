//! The matrix fault class x component x outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::record::{Component, FaultClass, Outcome};
use super::FailureRate;

/// How often each fault ended how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<MatrixRow>", from = "Vec<MatrixRow>")]
pub struct Matrix {
    cells: BTreeMap<(FaultClass, Component), BTreeMap<Outcome, u64>>,
}

/// One fault class on one component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixRow {
    /// What was done.
    pub class: FaultClass,
    /// To what.
    pub component: Component,
    /// How often it ended how.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Faults that were really injected.
    pub trials: u64,
    /// Those that broke a promise.
    pub failures: u64,
    /// What follows for the probability of a failure; `None` without a trial.
    pub failure_rate: Option<FailureRate>,
}

impl MatrixRow {
    fn of(class: FaultClass, component: Component, outcomes: BTreeMap<Outcome, u64>) -> Self {
        let count = |of: fn(Outcome) -> bool| {
            outcomes.iter().filter(|(outcome, _)| of(**outcome)).map(|(_, count)| count).sum()
        };
        let (trials, failures) = (count(Outcome::is_trial), count(Outcome::is_failure));
        let failure_rate = FailureRate::of(trials, failures);
        Self { class, component, outcomes, trials, failures, failure_rate }
    }
}

impl Matrix {
    /// Counts faults that ended so.
    pub fn add(&mut self, class: FaultClass, component: Component, outcome: Outcome, count: u64) {
        if count > 0 {
            let outcomes = self.cells.entry((class, component)).or_default();
            let cell = outcomes.entry(outcome).or_default();
            *cell = cell.saturating_add(count);
        }
    }

    /// Adds what another one has.
    pub fn merge(&mut self, other: &Self) {
        for ((class, component), outcomes) in &other.cells {
            for (outcome, count) in outcomes {
                self.add(*class, *component, *outcome, *count);
            }
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// All rows that have something to say.
    pub fn rows(&self) -> impl Iterator<Item = MatrixRow> + '_ {
        self.cells.iter().map(|((class, component), outcomes)| {
            MatrixRow::of(*class, *component, outcomes.clone())
        })
    }

    /// Trials and failures of each class, over all components.
    #[must_use]
    pub fn by_class(&self) -> BTreeMap<FaultClass, (u64, u64)> {
        let mut classes = BTreeMap::new();
        for row in self.rows() {
            let (trials, failures): &mut (u64, u64) = classes.entry(row.class).or_default();
            *trials += row.trials;
            *failures += row.failures;
        }
        classes
    }

    /// Trials and failures of all.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.rows()
            .fold((0, 0), |(trials, failures), row| (trials + row.trials, failures + row.failures))
    }
}

impl From<Matrix> for Vec<MatrixRow> {
    fn from(matrix: Matrix) -> Self {
        matrix.rows().collect()
    }
}

impl From<Vec<MatrixRow>> for Matrix {
    /// Only counts are taken over; what follows from them is computed anew.
    fn from(rows: Vec<MatrixRow>) -> Self {
        let mut matrix = Self::default();
        for row in rows {
            for (outcome, count) in row.outcomes {
                matrix.add(row.class, row.component, outcome, count);
            }
        }
        matrix
    }
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;

    #[test]
    fn what_was_skipped_is_no_trial() {
        let mut matrix = Matrix::default();
        matrix.add(FaultClass::Crash, Component::Primary, Outcome::Failover, 300);
        matrix.add(FaultClass::Crash, Component::Primary, Outcome::Skipped, 50);
        matrix.add(FaultClass::Crash, Component::Standby, Outcome::Rebuilt, 9);
        matrix.add(FaultClass::Crash, Component::Standby, Outcome::Failed, 1);
        matrix.add(FaultClass::Hang, Component::Learner, Outcome::Skipped, 2);
        let rows: Vec<MatrixRow> = matrix.rows().collect();
        assert_eq!((rows[0].trials, rows[0].failures), (300, 0));
        let rate = rows[0].failure_rate.expect("there were trials");
        assert_eq!((rate.upper.to_string(), rate.method), ("0.01".into(), Method::RuleOfThree));
        assert_eq!((rows[1].trials, rows[1].failures), (10, 1));
        assert_eq!(rows[2].failure_rate, None);
        assert_eq!(matrix.by_class()[&FaultClass::Crash], (310, 1));
        assert_eq!(matrix.totals(), (310, 1));
        let json = serde_json::to_string(&matrix).expect("serializes");
        assert_eq!(serde_json::from_str::<Matrix>(&json).expect("parses"), matrix);
    }
}
