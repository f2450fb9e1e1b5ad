//! One fault after another: injected, borne and judged.

use std::time::{Duration, Instant};

use super::choose::Chooser;
use super::daemon::LogLine;
use super::fault::{FaultError, Planned, Scene, Told};
use super::run::{Campaign, LOOK_EVERY};
use super::watch::Window;
use crate::harness::ComponentStatus;
use crate::report::record::{
    Component, FaultClass, FaultHealed, FaultId, FaultInjected, FaultJudged, Outcome, Record,
    ReplicaId, Retired,
};

/// Nobody has served for so long: an interruption, and no mere failover.
const INTERRUPTION: Duration = Duration::from_secs(1);
/// Damage somewhere in a replica's memory that has not been noticed by then harms
/// nobody for now.
const NOTICE: Duration = Duration::from_millis(1500);
/// So many nodes are scrubbed in a second, in a store of any size.
const SCRUBBED_PER_S: f64 = 12_800.0;
/// Scrubbing starts slowly, and on a busy machine it takes longer.
const SCRUB_MARGIN: Duration = Duration::from_secs(3);
/// The group must be seen whole for so long before a fault counts as over.
const SETTLED: Duration = Duration::from_millis(60);

/// What one injection came to.
#[derive(Default)]
struct Injection {
    component: Option<Component>,
    damaged: Option<u64>,
    answered_eio: bool,
}

/// Within so long a flipped bit of a store of so many nodes is found.
fn scrubbed_within(nodes: u64) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    SCRUB_MARGIN + Duration::from_secs_f64(f64::from(nodes) / SCRUBBED_PER_S)
}

fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Masked | Outcome::Skipped => 0,
        Outcome::Rebuilt => 1,
        Outcome::Failover => 2,
        Outcome::AnsweredEio => 3,
        Outcome::Recovered => 4,
        Outcome::StateLost => 5,
        Outcome::Unnoticed => 6,
        Outcome::Failed => 7,
    }
}

impl Campaign<'_> {
    /// Waits until enough replicas are there for another fault.
    pub(super) fn settle(&self) -> Option<ComponentStatus> {
        let standbys = self.file().schedule.standbys.as_ref().map(|least| least.get_ref().0);
        let ready = |status: &ComponentStatus| match standbys {
            Some(least) => status.primary().is_some() && status.standbys().count() as u64 >= least,
            None => status.is_complete(),
        };
        let within = self.file().steady.within.0;
        let mut since = None;
        self.options.stop.wait_for(within, LOOK_EVERY, || {
            let status = self.subject.daemon.xenstore().ok().filter(ready);
            // A fault that was not noticed yet leaves the group whole for a moment.
            let status = status.inspect(|_| {
                since.get_or_insert_with(Instant::now);
            });
            if status.is_none() {
                since = None;
            }
            status.filter(|_| since.is_some_and(|since: Instant| since.elapsed() >= SETTLED))
        })
    }

    /// Gives damage that lies still a while to be found: what is found later would
    /// be counted for another fault.
    fn await_notice(&self, fault: &Planned, before: &ComponentStatus, damaged: Option<u64>) {
        if let Some(damaged) = damaged.filter(|_| fault.must_be_noticed()) {
            let within = match fault.class.class {
                // It hangs or ends as soon as it is given a core.
                FaultClass::Guest => self.file().steady.within.0,
                _ => scrubbed_within(self.subject.nodes),
            };
            self.options.stop.wait_for(within, LOOK_EVERY, || {
                let now = self.subject.daemon.xenstore().ok()?;
                (!now.has(damaged)).then_some(())
            });
        } else if fault.lies_still() {
            self.options.stop.wait_for(NOTICE, LOOK_EVERY, || {
                let now = self.subject.daemon.xenstore().ok()?;
                let ids = |status: &ComponentStatus| -> Vec<u64> {
                    status.replicas.iter().map(|replica| replica.id).collect()
                };
                (ids(&now) != ids(before)).then_some(())
            });
        }
    }

    /// Injects a fault and says how it ended; whether to go on.
    pub(super) fn inject(
        &mut self,
        fault: &Planned,
        before: &ComponentStatus,
        chooser: &mut Chooser,
    ) -> bool {
        let errors_before = self.watch.window().errors;
        self.log_so_far();
        let id = FaultId(fault.number);
        let name = format!("{} {}", fault.class.class, fault.way);
        self.watch.doing(name.trim());
        let mut injection = Injection::default();
        let result = {
            let (book, watch) = (&self.book, &self.watch);
            let mut tell = |told| match told {
                Told::Injected { component, target, parameters } => {
                    injection.component = Some(component);
                    watch.fault(id);
                    book.put(&Record::FaultInjected(FaultInjected {
                        at_us: book.now(),
                        fault: id,
                        class: fault.class.class,
                        component,
                        target: Some(target),
                        parameters,
                    }));
                }
                Told::Healed => {
                    book.put(&Record::FaultHealed(FaultHealed { at_us: book.now(), fault: id }));
                }
                Told::Damaged(id) => injection.damaged = Some(id),
                Told::AnsweredEio => injection.answered_eio = true,
            };
            self.scene(before, &mut tell).inject(fault)
        };
        if injection.component.is_some() {
            *self.injected.entry(fault.class.class).or_default() += 1;
        }
        let mut note = result.as_ref().err().map(ToString::to_string);
        if let (Err(error), None) = (&result, injection.component) {
            if let FaultError::Unavailable(why) = error {
                chooser.without(fault);
                self.skip(name.trim(), why.clone());
            }
            self.judged(fault, Component::Host, Outcome::Skipped, note, None);
            return true;
        }
        self.await_notice(fault, before, injection.damaged);
        let after = self.settle();
        let window = self.watch.window();
        let component = injection.component.unwrap_or(Component::Host);
        let outcome = match &after {
            _ if window.errors > errors_before => {
                let count = window.errors - errors_before;
                note = Some(format!("{count} errors or broken connections of clients"));
                Outcome::Failed
            }
            None if self.options.stop.is_set() => Outcome::Skipped,
            None => {
                note = Some(format!("not whole again: {}", self.describe()));
                Outcome::Failed
            }
            Some(after) => match observed(fault, &injection, before, after, &window) {
                // It was not given the time.
                Outcome::Unnoticed if self.options.stop.is_set() => Outcome::Skipped,
                outcome => outcome,
            },
        };
        let promise = fault.promise();
        if outcome == Outcome::Failed {
            self.fail(format!(
                "fault {} ({}): {}",
                fault.number,
                name.trim(),
                note.clone().unwrap_or_default()
            ));
        } else if rank(outcome) > rank(promise) {
            self.worse += 1;
            self.unnoticed += u64::from(outcome == Outcome::Unnoticed);
            let was = format!("{promise} was promised; clients waited {} us", window.pause_us);
            note = Some(note.map_or(was.clone(), |note| format!("{was}; {note}")));
        }
        let said = injection.damaged.and_then(|damaged| said_of(damaged, &self.log_so_far()));
        self.judged(fault, component, outcome, note, said);
        match (after, injection.damaged) {
            (Some(after), Some(damaged)) => self.retire(id, damaged, &after),
            (after, _) => after.is_some(),
        }
    }

    /// Has a damaged replica replaced that nobody has noticed: damage must not
    /// pile up until more replicas are bad than the host can bear. Whether all is
    /// whole again.
    fn retire(&self, fault: FaultId, damaged: u64, status: &ComponentStatus) -> bool {
        if !status.has(damaged) {
            return true;
        }
        if self.scene(status, &mut |_| {}).retire(damaged) {
            let (at_us, replica) = (self.book.now(), ReplicaId(damaged));
            self.book.put(&Record::Retired(Retired { at_us, fault, replica }));
        }
        self.book.put(&Record::FaultHealed(FaultHealed { at_us: self.book.now(), fault }));
        let gone = |status: &ComponentStatus| !status.has(damaged);
        let gone = self.options.stop.wait_for(self.file().steady.within.0, LOOK_EVERY, || {
            self.subject.daemon.xenstore().ok().filter(gone)
        });
        gone.and_then(|_| self.settle()).is_some()
    }

    fn scene<'s>(
        &'s self,
        status: &'s ComponentStatus,
        tell: &'s mut dyn FnMut(Told),
    ) -> Scene<'s> {
        Scene {
            daemon: &self.subject.daemon,
            socket: &self.subject.socket,
            host_pid: self.subject.pid,
            disk: self.subject.disk.as_deref(),
            status,
            patience: self.file().steady.within.0,
            image: &self.subject.image,
            stop: &self.options.stop,
            tell,
        }
    }

    fn judged(
        &self,
        fault: &Planned,
        component: Component,
        outcome: Outcome,
        note: Option<String>,
        said: Option<String>,
    ) {
        self.book.put(&Record::FaultJudged(FaultJudged {
            at_us: self.book.now(),
            fault: FaultId(fault.number),
            class: fault.class.class,
            component,
            outcome,
            note,
            how: (!fault.way.is_empty()).then(|| fault.way.to_owned()),
            said,
            seed: None,
        }));
    }

    /// What the host has logged since this was last asked.
    fn log_so_far(&mut self) -> Vec<LogLine> {
        let lines = self.subject.daemon.log_after(self.log_seen).unwrap_or_default();
        self.log_seen = lines.last().map_or(self.log_seen, |line| line.seq);
        lines
    }
}

/// What the host says of a replica first: its last words, or what is wrong with it.
fn said_of(replica: u64, lines: &[LogLine]) -> Option<String> {
    let last_words = format!("last words of replica {replica}: ");
    let what_is_wrong = format!("replica {replica} ");
    lines.iter().find_map(|line| {
        let said =
            line.text.strip_prefix(&last_words).or_else(|| line.text.strip_prefix(&what_is_wrong));
        said.map(str::to_owned)
    })
}

/// What became of a fault that did no harm to clients.
fn observed(
    fault: &Planned,
    injection: &Injection,
    before: &ComponentStatus,
    after: &ComponentStatus,
    window: &Window,
) -> Outcome {
    // With all replicas dead nobody served, however short it was.
    let all_died = fault.class.class == FaultClass::KillAll && after.generation > before.generation;
    let still_there = injection.damaged.is_some_and(|damaged| after.has(damaged));
    if fault.must_be_noticed() && still_there {
        Outcome::Unnoticed
    } else if window.unserved >= INTERRUPTION || all_died {
        Outcome::Recovered
    } else if injection.answered_eio {
        Outcome::AnsweredEio
    } else if after.generation > before.generation {
        Outcome::Failover
    } else if before.replicas.iter().any(|old| !after.has(old.id)) {
        Outcome::Rebuilt
    } else {
        Outcome::Masked
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::*;

    /// A fault with those words in the profile.
    fn planned(words: &str) -> Planned {
        let text = format!("description = \"d\"\n[[fault]]\n{words}\n");
        let profile = Profile::parse("p.toml", "p.toml", &text).expect("is right");
        Chooser::new(1).next(&profile).expect("there is one").1
    }

    fn status(ids: &[u64]) -> ComponentStatus {
        let replica = |id: &u64| {
            serde_json::json!({ "id": id, "pid": 8, "role": "standby", "state": "running",
                "last_input": 5, "commit_index": 4 })
        };
        let json = serde_json::json!({
            "name": "xenstore", "generation": 3, "ack_policy": "all-live",
            "durability": "volatile", "replication_factor": 3, "failovers": [],
            "replicas": ids.iter().map(replica).collect::<Vec<_>>(),
        });
        serde_json::from_value(json).expect("is a status")
    }

    #[test]
    fn damage_that_must_be_found_and_is_not_is_an_end_of_its_own() {
        let ends = |words: &str, after: &[u64]| {
            let injection = Injection { damaged: Some(2), ..Injection::default() };
            let (before, after) = (status(&[1, 2, 3]), status(after));
            observed(&planned(words), &injection, &before, &after, &Window::default())
        };
        let certain = "class = \"state-bit-flip\"\nhow = \"state\"";
        assert_eq!(ends(certain, &[1, 2, 3]), Outcome::Unnoticed);
        assert_eq!(ends(certain, &[1, 3, 4]), Outcome::Rebuilt);
        // Memory that nobody uses may be anything.
        let anywhere = "class = \"state-bit-flip\"\nhow = \"memory\"";
        assert_eq!(ends(anywhere, &[1, 2, 3]), Outcome::Masked);
    }

    #[test]
    fn what_the_host_says_first_of_a_replica_is_taken() {
        let lines = |texts: &[&str]| -> Vec<LogLine> {
            texts.iter().map(|text| LogLine { seq: 1, text: (*text).to_owned() }).collect()
        };
        let died = lines(&[
            "replica 12 crashed",
            "last words of replica 1: guest: halted",
            "replica 1 (primary) crashed",
        ]);
        assert_eq!(said_of(1, &died).as_deref(), Some("guest: halted"));
        assert_eq!(said_of(2, &died), None);
        let hung = lines(&["replica 3 hangs: busy loop", "replica 3 hung"]);
        assert_eq!(said_of(3, &hung).as_deref(), Some("hangs: busy loop"));
    }

    #[test]
    fn a_large_store_takes_longer_to_be_scrubbed() {
        assert_eq!(scrubbed_within(0), SCRUB_MARGIN);
        assert_eq!(scrubbed_within(128_000), SCRUB_MARGIN + Duration::from_secs(10));
    }
}
