//! What the timeline shows, thinned out where there is too much of it for a
//! page, and told how much that was.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::super::record::{
    ClientFault, Failover, FaultId, FaultInjected, FaultJudged, LatencySample, Micros, Pause,
    Record, RoleChange,
};

/// The page bears so many faults, and at most so many again that failed.
const MAX_FAULTS: usize = 20_000;
/// So many changes of roles, the first ones.
const MAX_ROLES: usize = 40_000;
/// So many failovers, the longest.
const MAX_FAILOVERS: usize = 5000;
/// So many pauses, the longest.
const MAX_PAUSES: usize = 5000;
/// So many intervals of latency; when there are more, neighbours are joined.
const MAX_SAMPLES: usize = 4000;
/// So many errors of clients, the first ones.
const MAX_CLIENT_FAULTS: usize = 2000;

/// Something of which the page bears a part.
#[derive(Debug, Serialize)]
pub(super) struct Capped {
    what: &'static str,
    shown: usize,
    of: u64,
    /// Which ones.
    which: &'static str,
}

/// The longest of many.
#[derive(Debug)]
struct Longest<T> {
    kept: BTreeMap<(Micros, u64), T>,
    seen: u64,
    most: usize,
}

impl<T> Longest<T> {
    fn new(most: usize) -> Self {
        Self { kept: BTreeMap::new(), seen: 0, most }
    }

    fn add(&mut self, duration_us: Micros, item: T) {
        self.seen += 1;
        self.kept.insert((duration_us, self.seen), item);
        if self.kept.len() > self.most {
            self.kept.pop_first();
        }
    }
}

/// The first of many.
#[derive(Debug)]
struct First<T> {
    kept: Vec<T>,
    seen: u64,
    most: usize,
}

impl<T> First<T> {
    fn new(most: usize) -> Self {
        Self { kept: Vec::new(), seen: 0, most }
    }

    fn add(&mut self, item: T) {
        self.seen += 1;
        if self.kept.len() < self.most {
            self.kept.push(item);
        }
    }
}

#[derive(Debug, Serialize)]
struct Fault {
    #[serde(flatten)]
    injected: FaultInjected,
    healed_us: Option<Micros>,
    judged: Option<FaultJudged>,
    /// Its place among all faults.
    #[serde(skip)]
    number: u64,
}

/// Every n-th fault, and all that failed.
#[derive(Debug)]
struct Faults {
    kept: BTreeMap<FaultId, Fault>,
    failed: BTreeSet<FaultId>,
    seen: u64,
    every: u64,
}

impl Faults {
    fn inject(&mut self, injected: &FaultInjected) {
        let number = self.seen;
        self.seen += 1;
        if !number.is_multiple_of(self.every) {
            return;
        }
        let injected = injected.clone();
        let fault = Fault { injected, healed_us: None, judged: None, number };
        self.kept.insert(fault.injected.fault, fault);
        while self.kept.len() > MAX_FAULTS + self.failed.len() {
            self.every *= 2;
            let every = self.every;
            let failed = &self.failed;
            self.kept.retain(|id, fault| fault.number.is_multiple_of(every) || failed.contains(id));
        }
    }

    fn judge(&mut self, judged: &FaultJudged) {
        let failed = judged.outcome.is_failure() && self.failed.len() < MAX_FAULTS;
        if failed {
            self.failed.insert(judged.fault);
            let unseen = || Fault {
                injected: FaultInjected {
                    at_us: judged.at_us,
                    fault: judged.fault,
                    class: judged.class,
                    component: judged.component,
                    target: None,
                    parameters: BTreeMap::new(),
                },
                healed_us: None,
                judged: None,
                number: 0,
            };
            self.kept.entry(judged.fault).or_insert_with(unseen);
        }
        if let Some(fault) = self.kept.get_mut(&judged.fault) {
            fault.judged = Some(judged.clone());
        }
    }
}

/// Intervals of latency, neighbours joined when there are too many.
#[derive(Debug, Default)]
struct Samples {
    kept: Vec<LatencySample>,
    seen: u64,
}

impl Samples {
    fn add(&mut self, sample: LatencySample) {
        self.seen += 1;
        self.kept.push(sample);
        if self.kept.len() >= 2 * MAX_SAMPLES {
            self.kept = self.kept.chunks(2).map(joined).collect();
        }
    }
}

/// One interval in place of several: the worst of each figure.
fn joined(samples: &[LatencySample]) -> LatencySample {
    let mut sum = samples[0];
    for sample in &samples[1..] {
        let end = sample.at_us.saturating_add(sample.interval_us);
        sum.interval_us = sum.interval_us.max(end.saturating_sub(sum.at_us));
        sum.count = sum.count.saturating_add(sample.count);
        sum.p50_us = sum.p50_us.max(sample.p50_us);
        sum.p99_us = sum.p99_us.max(sample.p99_us);
        sum.max_us = sum.max_us.max(sample.max_us);
    }
    sum
}

/// All that has a time.
#[derive(Debug)]
pub(super) struct Timeline {
    roles: First<RoleChange>,
    faults: Faults,
    failovers: Longest<Failover>,
    pauses: Longest<Pause>,
    samples: Samples,
    client_faults: First<ClientFault>,
}

impl Default for Timeline {
    fn default() -> Self {
        let (kept, failed) = (BTreeMap::new(), BTreeSet::new());
        Self {
            roles: First::new(MAX_ROLES),
            faults: Faults { kept, failed, seen: 0, every: 1 },
            failovers: Longest::new(MAX_FAILOVERS),
            pauses: Longest::new(MAX_PAUSES),
            samples: Samples::default(),
            client_faults: First::new(MAX_CLIENT_FAULTS),
        }
    }
}

impl Timeline {
    pub(super) fn add(&mut self, record: &Record) {
        match record {
            Record::Role(role) => self.roles.add(role.clone()),
            Record::FaultInjected(fault) => self.faults.inject(fault),
            Record::FaultHealed(healed) => {
                if let Some(fault) = self.faults.kept.get_mut(&healed.fault) {
                    fault.healed_us = Some(healed.at_us);
                }
            }
            Record::FaultJudged(judged) => self.faults.judge(judged),
            Record::Failover(failover) => self.failovers.add(failover.total_us, failover.clone()),
            Record::Latency(sample) => self.samples.add(*sample),
            Record::Pause(pause) => self.pauses.add(pause.duration_us, *pause),
            Record::ClientFault(fault) => self.client_faults.add(fault.clone()),
            // The summary has them.
            Record::RunBegin(_)
            | Record::FaultTally(_)
            | Record::Retired(_)
            | Record::Skip(_)
            | Record::Stall(_)
            | Record::Progress(_)
            | Record::Steady(_)
            | Record::Bound(_)
            | Record::Checker(_)
            | Record::Counts(_)
            | Record::LeftOut(_)
            | Record::RunEnd(_) => {}
        }
    }

    /// The timeline in the order of times, and what is not all of it.
    pub(super) fn finish(self) -> Result<(Value, Vec<Capped>), serde_json::Error> {
        let mut capped = Vec::new();
        let mut note = |what, shown: usize, of: u64, which| {
            if (shown as u64) < of {
                capped.push(Capped { what, shown, of, which });
            }
        };
        note("role changes", self.roles.kept.len(), self.roles.seen, "the first");
        let every_nth = "evenly thinned out, all that failed among them";
        note("faults", self.faults.kept.len(), self.faults.seen, every_nth);
        note("failovers", self.failovers.kept.len(), self.failovers.seen, "the longest");
        note("pauses", self.pauses.kept.len(), self.pauses.seen, "the longest");
        let worst = "neighbours joined, the worst figure of each";
        note("latency intervals", self.samples.kept.len(), self.samples.seen, worst);
        let first = "the first";
        note("client errors", self.client_faults.kept.len(), self.client_faults.seen, first);

        let mut roles = self.roles.kept;
        roles.sort_by_key(|role| role.at_us);
        let mut faults: Vec<Fault> = self.faults.kept.into_values().collect();
        faults.sort_by_key(|fault| fault.injected.at_us);
        let mut failovers: Vec<Failover> = self.failovers.kept.into_values().collect();
        failovers.sort_by_key(|failover| failover.at_us);
        let mut pauses: Vec<Pause> = self.pauses.kept.into_values().collect();
        pauses.sort_by_key(|pause| pause.at_us);
        let mut samples = self.samples.kept;
        samples.sort_by_key(|sample| sample.at_us);
        let timeline = json!({
            "roles": serde_json::to_value(roles)?,
            "faults": serde_json::to_value(faults)?,
            "failovers": serde_json::to_value(failovers)?,
            "pauses": serde_json::to_value(pauses)?,
            "samples": serde_json::to_value(samples)?,
            "client_faults": serde_json::to_value(self.client_faults.kept)?,
        });
        Ok((timeline, capped))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::{Component, FaultClass, Outcome};
    use super::*;

    #[test]
    fn a_long_run_is_thinned_out_and_says_so() {
        let mut timeline = Timeline::default();
        let (class, component) = (FaultClass::Crash, Component::Primary);
        let total = 3 * MAX_FAULTS as u64;
        for n in 0..total {
            timeline.add(&Record::FaultInjected(FaultInjected {
                at_us: n,
                fault: FaultId(n),
                class,
                component,
                target: None,
                parameters: BTreeMap::new(),
            }));
            let outcome = if n == 30_001 { Outcome::Failed } else { Outcome::Failover };
            timeline.add(&Record::FaultJudged(FaultJudged {
                at_us: n,
                fault: FaultId(n),
                class,
                component,
                outcome,
                note: None,
                how: None,
                said: None,
                seed: None,
            }));
            timeline.add(&Record::Pause(Pause { at_us: n, duration_us: n % 7777, client: None }));
            timeline.add(&Record::Latency(LatencySample {
                at_us: n,
                interval_us: 1,
                count: 2,
                p50_us: 1,
                p99_us: 2,
                max_us: n,
            }));
        }
        let (timeline, capped) = timeline.finish().expect("is made");
        let list = |name: &str| timeline[name].as_array().expect("is a list").clone();
        let faults = list("faults");
        assert!((MAX_FAULTS / 2..=MAX_FAULTS + 1).contains(&faults.len()), "{}", faults.len());
        assert!(faults.iter().any(|fault| fault["judged"]["outcome"] == "FAILED"));
        let pauses = list("pauses");
        assert_eq!(pauses.len(), MAX_PAUSES);
        assert!(pauses.iter().any(|pause| pause["duration_us"] == 7776));
        let samples = list("samples");
        assert!(samples.len() < 2 * MAX_SAMPLES);
        let sum = |name: &str| -> u64 { samples.iter().filter_map(|s| s[name].as_u64()).sum() };
        assert_eq!((sum("count"), sum("interval_us")), (2 * total, total));
        let named: Vec<&str> = capped.iter().map(|capped| capped.what).collect();
        assert_eq!(named, ["faults", "pauses", "latency intervals"]);
        assert!(capped.iter().all(|capped| capped.of == total));
    }
}
