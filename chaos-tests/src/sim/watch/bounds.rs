//! That nothing grows for ever.

use std::collections::{BTreeMap, VecDeque};

use replica::core::OUTBOX_BYTES;
use replica::outbox::Watermarks;
use replica::runtime::OUTPUT_BACKLOG_BYTES;
use state_machine::{InputNo, OutputNo};

use crate::sim::checkers::Checker;
use crate::sim::host::front;
use crate::sim::machine::{Activity, Disks};
use crate::sim::world::World;

/// What the judge may have to keep at once.
const JUDGE_KEEPS_MAX: usize = 200_000;
/// Inputs that may be pending in an intake of this many bytes: the smallest
/// takes 32.
const INPUT_BYTES_MIN: usize = 32;
/// What one turn may add to a bound that is looked at before each input.
const TURN_BYTES: usize = 1 << 20;
/// Bytes that an entry takes at least in the log.
const ENTRY_BYTES_MIN: u64 = 32;
/// An entry that is this old waits for nobody any more: a learner that does not
/// come up is given up after 20 s, a replica that hangs or starves far sooner.
const OLD_ENTRY_US: u64 = 30_000_000;
/// A replica that works for this long has taken several beats, and knows what
/// the host had then.
const BEATS_US: u64 = 2_000_000;

/// What was seen some time ago, for bounds that are about age.
#[derive(Default)]
pub(super) struct Past {
    /// Ends of the logs, by body.
    log_ends: BTreeMap<u64, VecDeque<(u64, u64)>>,
    /// What the host had delivered.
    delivered: VecDeque<(u64, Watermarks)>,
    /// Since when a body keeps what was delivered long before.
    keeps_since_us: BTreeMap<u64, u64>,
}

impl Past {
    /// The host begins anew, and so do its numbers.
    pub(super) fn forget(&mut self) {
        self.log_ends.clear();
        self.delivered.clear();
        self.keeps_since_us.clear();
    }
}

/// Notes what is seen now, and returns the newest that is at least so old.
fn before<T: Copy>(past: &mut VecDeque<(u64, T)>, now_us: u64, age_us: u64, seen: T) -> Option<T> {
    past.push_back((now_us, seen));
    while past.get(1).is_some_and(|(at_us, _)| at_us + age_us <= now_us) {
        past.pop_front();
    }
    past.front().filter(|(at_us, _)| at_us + age_us <= now_us).map(|(_, seen)| *seen)
}

impl World {
    pub(super) fn look_at_bounds(&mut self) {
        let mut wrong = self.wrong_size_of_host();
        wrong = wrong.or_else(|| self.wrong_size_of_replicas());
        wrong = wrong.or_else(|| self.wrong_age());
        if self.judge.kept() > JUDGE_KEEPS_MAX {
            wrong = Some(format!("the judge has to keep {} things", self.judge.kept()));
        }
        self.watch.count(Checker::Bounds, 1);
        if let Some(wrong) = wrong {
            self.flaw("bounds", wrong);
        }
    }

    fn wrong_size_of_host(&self) -> Option<String> {
        let host = self.host.as_ref()?;
        let limits = front();
        if host.pending() > self.plan.fabric.intake_bytes / INPUT_BYTES_MIN {
            return Some(format!("{} inputs pending", host.pending()));
        }
        if host.clients() > limits.max_connections {
            return Some(format!("{} connections", host.clients()));
        }
        self.watch.count(Checker::Bounds, 2 + 2 * host.clients() as u64);
        // They come in no order: of several, always the same one is named.
        let busy = host.client_loads().filter(|load| {
            load.under_way > load.outstanding || load.unsent_bytes > limits.backlog_bytes
        });
        busy.min().map(|load| format!("a connection takes too much: {load:?}"))
    }

    fn wrong_size_of_replicas(&self) -> Option<String> {
        for body in self.bodies.values() {
            let Some(runtime) = &body.runtime else { continue };
            let fabric = runtime.fabric();
            // What a new primary emits again comes on top of what the last left there.
            let output_max = OUTPUT_BACKLOG_BYTES + OUTBOX_BYTES + 2 * TURN_BYTES;
            for (what, bytes, most) in [
                ("its outbox", runtime.replica().outbox().bytes(), OUTBOX_BYTES + TURN_BYTES),
                ("the backlog to the host", fabric.output_backlog_bytes(), output_max),
                (
                    "the backlog to a replica",
                    fabric.peer_backlog_bytes(),
                    self.plan.fabric.backlog_bytes,
                ),
            ] {
                self.watch.count(Checker::Bounds, 1);
                if bytes > most {
                    return Some(format!("replica {}: {what} has {bytes} bytes", body.id));
                }
            }
        }
        None
    }

    /// What is as small as it should be because a run is short would grow for ever
    /// in a long one: so what is kept must not be old either.
    fn wrong_age(&mut self) -> Option<String> {
        let now_us = self.now_us();
        let page = self.host.as_ref()?.fabric().page();
        let watermarks = Watermarks {
            freed_input: InputNo(page.freed_input()),
            delivered_output: OutputNo(page.delivered_output()),
        };
        let past = &mut self.watch.past;
        let delivered = before(&mut past.delivered, now_us, BEATS_US, watermarks);
        let bodies = &self.bodies;
        past.log_ends.retain(|serial, _| bodies.contains_key(serial));
        past.keeps_since_us.retain(|serial, _| bodies.contains_key(serial));
        let log = self.plan.log;
        let kept_max = match self.plan.disks {
            Disks::None => log.entries_max,
            // Until there is enough for the next snapshot on disk.
            Disks::Unsynced | Disks::Synced => {
                log.entries_max + log.snapshot_after_bytes as u64 / ENTRY_BYTES_MIN
            }
        };
        for (&serial, body) in &self.bodies {
            let Some(runtime) = &body.runtime else { continue };
            let (replica, process) = (runtime.replica(), &body.process);
            let last = replica.progress().last_index.0;
            let ends = past.log_ends.entry(serial).or_default();
            let end = before(ends, now_us, OLD_ENTRY_US, last);
            let works = body.lives()
                && process.activity() == Activity::Well
                && process.lasts_us() > BEATS_US;
            if !works {
                past.keeps_since_us.remove(&serial);
                continue;
            }
            if let Some(end) = end {
                self.watch.looks.count(Checker::Bounds, 1);
                let old = (end.min(last) + replica.log_len()).saturating_sub(last);
                if old > kept_max {
                    let id = body.id;
                    return Some(format!("the log of replica {id} has {old} old entries"));
                }
            }
            let Some(delivered) = delivered else { continue };
            self.watch.looks.count(Checker::Bounds, 1);
            if !replica.outbox().keeps_delivered(delivered) {
                past.keeps_since_us.remove(&serial);
                continue;
            }
            // A standby that hears late what is committed keeps it to its next turn.
            let since_us = *past.keeps_since_us.entry(serial).or_insert(now_us);
            if now_us > since_us + BEATS_US {
                let id = body.id;
                return Some(format!("replica {id} keeps what was delivered long ago"));
            }
        }
        None
    }
}
