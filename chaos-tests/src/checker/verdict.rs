//! The judgement over a whole run.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::EventFaults;

/// How long answers took, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Answers measured.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99 of 100 took at most so long.
    pub p99_us: f64,
    /// 999 of 1000 took at most so long.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    /// Sums up a histogram of nanoseconds.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(histogram.max()),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// What a run under faults shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Requests that were answered.
    pub answered: u64,
    /// Watch events that were received.
    pub events: u64,
    /// Acknowledged writes, creations or increments that were gone at the end.
    pub lost: u64,
    /// Effects that happened twice: increments, creations.
    pub doubled: u64,
    /// What watchers got too little, too much or in the wrong order.
    pub event_faults: EventFaults,
    /// Answers that were errors although the request was in order.
    pub errors: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Transactions that had to be tried again; legal, but worth knowing.
    pub retries: u64,
    /// Whether the whole history is linearizable.
    pub linearizable: bool,
    /// Why the store could not be compared with what clients were promised, if it
    /// could not: then the counts are of what they were told along the way.
    #[serde(default)]
    pub not_judged: Option<String>,
    /// The first thing that is wrong, in words.
    pub first_violation: Option<String>,
    /// How long answers took.
    pub latency: Latency,
}

impl Verdict {
    /// Whether nothing at all is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.linearizable
            && self.lost + self.doubled + self.out_of_order() + self.errors + self.disconnects == 0
            && self.event_faults.missing + self.event_faults.doubled == 0
            && self.first_violation.is_none()
            && self.not_judged.is_none()
    }

    /// Watch events in the wrong order.
    #[must_use]
    pub fn out_of_order(&self) -> u64 {
        self.event_faults.reordered
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "requests answered   {}", self.answered)?;
        writeln!(f, "watch events        {}", self.events)?;
        writeln!(f, "errors              {}", self.errors)?;
        writeln!(f, "disconnects         {}", self.disconnects)?;
        writeln!(f, "lost writes         {}", self.lost)?;
        writeln!(f, "doubled effects     {}", self.doubled)?;
        writeln!(f, "events missing      {}", self.event_faults.missing)?;
        writeln!(f, "events doubled      {}", self.event_faults.doubled)?;
        writeln!(f, "events out of order {}", self.out_of_order())?;
        writeln!(f, "transaction retries {}", self.retries)?;
        let yes_no = if self.linearizable { "yes" } else { "NO" };
        writeln!(f, "linearizable        {yes_no}")?;
        writeln!(
            f,
            "answer times        p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, longest {:.0} us",
            self.latency.p50_us, self.latency.p99_us, self.latency.p999_us, self.latency.max_us
        )?;
        if let Some(why) = &self.not_judged {
            writeln!(f, "not judged          {why}")?;
        }
        if let Some(violation) = &self.first_violation {
            writeln!(f, "first violation     {violation}")?;
        }
        Ok(())
    }
}
