//! What a run writes down while it goes: one JSON object a line in
//! `history.jsonl`, told apart by `kind`. Times are microseconds since the
//! start of the run; lines need not be in the order of their times, for a pause
//! or a failover is only known once it is over.

#[cfg(test)]
mod arbitrary;
mod fault;
mod file;

pub use fault::{Component, FaultClass, Outcome, UnknownName};
pub use file::{FILE_NAME, MAX_DETAIL_BYTES, MAX_LINE_BYTES, Reader, RecordError, Writer};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checker::Verdict;

/// The version of the records, [`RunBegin::format`].
pub const FORMAT: u32 = 1;

/// Microseconds since the start of the run, or a duration of so many.
pub type Micros = u64;

/// A fault of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(pub u64);

/// A replica, by the id that the host gave it; never used twice in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(pub u64);

/// A client of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(pub u32);

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// The run begins.
    RunBegin(RunBegin),
    /// A replica's role changed.
    Role(RoleChange),
    /// A fault was injected.
    FaultInjected(FaultInjected),
    /// A fault that lasts was taken back.
    FaultHealed(FaultHealed),
    /// How a fault ended: what the matrix is made of.
    FaultJudged(FaultJudged),
    /// Faults that are counted but not listed, by how they ended.
    FaultTally(FaultTally),
    /// A damaged replica that nobody had noticed was ended by the run itself.
    Retired(Retired),
    /// Something that was asked for cannot be done here.
    Skip(Skip),
    /// The run itself was given no time to work.
    Stall(Stall),
    /// A failover, with its phases.
    Failover(Failover),
    /// How long answers took during an interval.
    Latency(LatencySample),
    /// A client waited longer than the run's threshold.
    Pause(Pause),
    /// A client was told an error, or lost its connection.
    ClientFault(ClientFault),
    /// How far the run is.
    Progress(Progress),
    /// A condition that is to hold while nothing is broken.
    Steady(SteadyState),
    /// A bound that the profile sets.
    Bound(Bound),
    /// What one checker says.
    Checker(CheckerVerdict),
    /// What clients saw and lost in all.
    Counts(Counts),
    /// Lines that were left out because the file was full.
    LeftOut(LeftOut),
    /// The run ended.
    RunEnd(RunEnd),
}

impl Record {
    /// Whether a full file may leave it out: what the summary's figures need
    /// is never left out.
    #[must_use]
    pub fn is_detail(&self) -> bool {
        match self {
            Self::Role(_)
            | Self::FaultInjected(_)
            | Self::FaultHealed(_)
            | Self::FaultJudged(_)
            | Self::Retired(_)
            | Self::Stall(_)
            | Self::Failover(_)
            | Self::Latency(_)
            | Self::Pause(_)
            | Self::ClientFault(_)
            | Self::Progress(_) => true,
            Self::RunBegin(_)
            | Self::FaultTally(_)
            | Self::Skip(_)
            | Self::Steady(_)
            | Self::Bound(_)
            | Self::Checker(_)
            | Self::Counts(_)
            | Self::LeftOut(_)
            | Self::RunEnd(_) => false,
        }
    }

    /// The value of `kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunBegin(_) => "run-begin",
            Self::Role(_) => "role",
            Self::FaultInjected(_) => "fault-injected",
            Self::FaultHealed(_) => "fault-healed",
            Self::FaultJudged(_) => "fault-judged",
            Self::FaultTally(_) => "fault-tally",
            Self::Retired(_) => "retired",
            Self::Skip(_) => "skip",
            Self::Stall(_) => "stall",
            Self::Failover(_) => "failover",
            Self::Latency(_) => "latency",
            Self::Pause(_) => "pause",
            Self::ClientFault(_) => "client-fault",
            Self::Progress(_) => "progress",
            Self::Steady(_) => "steady",
            Self::Bound(_) => "bound",
            Self::Checker(_) => "checker",
            Self::Counts(_) => "counts",
            Self::LeftOut(_) => "left-out",
            Self::RunEnd(_) => "run-end",
        }
    }
}

/// The first record of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBegin {
    /// [`FORMAT`].
    pub format: u32,
    /// The profile's name, or what else was run (`sim`, `replay`).
    pub profile: String,
    /// The seed of the run, or the first of several.
    pub seed: u64,
    /// The version of R-VMM that ran.
    pub version: String,
    /// What was tested: `simulator`, or a real host and how it was started.
    pub target: String,
    /// When it began, microseconds since the Unix epoch; `None` in a run
    /// whose output must not depend on the time of day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_us: Option<u64>,
    /// A line to copy into a shell that runs the same again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduce: Option<String>,
    /// Settings worth knowing, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Its process was started.
    Started,
    /// It is being brought up to date.
    Learner,
    /// It has a vote and can take over.
    Standby,
    /// It is about to be promoted.
    Candidate,
    /// It serves.
    Primary,
    /// It was cut off: nobody reads its memory any more.
    Fenced,
    /// Its process is gone.
    Gone,
}

/// A replica's role changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleChange {
    /// When.
    pub at_us: Micros,
    /// Which replica.
    pub replica: ReplicaId,
    /// What it is from now on.
    pub role: Role,
    /// The generation in force.
    pub generation: u64,
    /// Why, where there is more to say than the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// A fault was injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultInjected {
    /// When.
    pub at_us: Micros,
    /// Its id.
    pub fault: FaultId,
    /// What was done.
    pub class: FaultClass,
    /// To what, by its role at that moment.
    pub component: Component,
    /// To which one: a replica's id, a client, a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How: durations with their unit in the name, steps, offsets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// A fault that lasts was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultHealed {
    /// When.
    pub at_us: Micros,
    /// Which.
    pub fault: FaultId,
}

/// How a fault ended. Bears class and component again, so that the matrix
/// needs no other line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultJudged {
    /// When that was known.
    pub at_us: Micros,
    /// Which.
    pub fault: FaultId,
    /// What was done.
    pub class: FaultClass,
    /// To what.
    pub component: Component,
    /// How it ended.
    pub outcome: Outcome,
    /// What there is to say about it: what was broken, why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// In which of several ways it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    /// What the host first said of a replica that it had damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// The seed in which it happened, where a run has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Faults that are counted but not listed. Adds to the [`FaultJudged`] of the
/// same run; no fault may be in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultTally {
    /// What was done.
    pub class: FaultClass,
    /// To what.
    pub component: Component,
    /// How it ended.
    pub outcome: Outcome,
    /// How often.
    pub count: u64,
}

/// A damaged replica that nobody had noticed was ended by the run itself: damage
/// must not pile up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// When.
    pub at_us: Micros,
    /// The fault that had damaged it.
    pub fault: FaultId,
    /// Which replica.
    pub replica: ReplicaId,
}

/// Something that was asked for cannot be done here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// When that was known.
    pub at_us: Micros,
    /// What, as a fault's class and way.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// The run itself was given no time to work: whoever waited in this time did not
/// wait for the host alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// When it began.
    pub at_us: Micros,
    /// How long it was.
    pub duration_us: Micros,
}

/// A failover: the phases follow one another, and `total_us` is from the fault
/// to the new primary's first reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// When the old primary failed.
    pub at_us: Micros,
    /// The new primary's generation.
    pub generation: u64,
    /// What was wrong with the old primary.
    pub cause: String,
    /// The old primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ReplicaId>,
    /// The new primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ReplicaId>,
    /// The fault that caused it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultId>,
    /// From the fault to the notice.
    pub detect_us: Micros,
    /// From the notice to the certainty that the old primary is stopped.
    pub fence_us: Micros,
    /// From there to the new primary's election.
    pub promote_us: Micros,
    /// From there to its first reply.
    pub replay_us: Micros,
    /// From the fault to the first reply.
    pub total_us: Micros,
}

/// How long the answers of an interval took, over all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySample {
    /// When the interval began.
    pub at_us: Micros,
    /// How long it was.
    pub interval_us: Micros,
    /// Answers in it; the times are 0 when there was none.
    pub count: u64,
    /// Median.
    pub p50_us: Micros,
    /// 99 of 100 took at most so long.
    pub p99_us: Micros,
    /// The longest.
    pub max_us: Micros,
}

/// A client waited longer for an answer than the run's threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it asked.
    pub at_us: Micros,
    /// How long it waited.
    pub duration_us: Micros,
    /// Who; `None` when no client at all was answered in this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientId>,
}

/// What a client should never see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientFaultKind {
    /// An error for a request that was in order.
    Error,
    /// Its connection broke.
    Disconnect,
}

/// A client was told an error, or lost its connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFault {
    /// When.
    pub at_us: Micros,
    /// Who.
    pub client: ClientId,
    /// What.
    pub what: ClientFaultKind,
    /// In words.
    pub detail: String,
}

/// How far the run is, counted from its start: all that is known of a run that
/// did not come to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When.
    pub at_us: Micros,
    /// Seeds that were finished.
    pub seeds: u64,
    /// Simulated time; 0 in a campaign against real processes.
    pub simulated_us: Micros,
    /// Requests that were answered.
    pub operations: u64,
    /// Faults that were injected.
    pub faults: u64,
}

/// When a steady-state condition was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SteadyPhase {
    /// Before the first fault.
    Before,
    /// Between faults.
    During,
    /// After the last one was healed.
    After,
}

impl SteadyPhase {
    /// As it stands in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::During => "during",
            Self::After => "after",
        }
    }
}

/// A condition that is to hold while nothing is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteadyState {
    /// When it was looked at.
    pub at_us: Micros,
    /// Before or after the faults.
    pub phase: SteadyPhase,
    /// The condition, as the profile has it.
    pub condition: String,
    /// Whether it held.
    pub held: bool,
    /// What was seen.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub observed: String,
}

/// A bound that the profile sets, and what was observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// When it was judged.
    pub at_us: Micros,
    /// What is bounded, as the profile names it, as `max-pause`.
    pub bound: String,
    /// The unit of the figures, as `us`; empty for a plain count.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The most that was allowed.
    pub limit: u64,
    /// The most that was observed.
    pub observed: u64,
    /// Whether the bound held.
    pub held: bool,
}

/// What one checker says, over the whole run or about one seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerVerdict {
    /// When.
    pub at_us: Micros,
    /// The checker's name, as `linearizability`.
    pub checker: String,
    /// Whether it found nothing.
    pub passed: bool,
    /// Whether what it needs was there; what was not judged has not passed.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub judged: bool,
    /// How much it looked at: operations, events, digests.
    #[serde(default)]
    pub checked: u64,
    /// What it found, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The seed in which it found it, where a run has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// A line to copy into a shell that shows it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduce: Option<String>,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_yes(judged: &bool) -> bool {
    *judged
}

/// What clients saw and lost. Several of them in one run, of its seeds or of
/// its loads, add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Requests that were answered.
    pub answered: u64,
    /// Watch events that were received.
    pub events: u64,
    /// Acknowledged effects that were gone.
    pub lost: u64,
    /// Effects that happened twice.
    pub doubled: u64,
    /// Watch events that never came.
    pub events_missing: u64,
    /// Watch events that came twice.
    pub events_doubled: u64,
    /// Watch events in the wrong order.
    pub events_reordered: u64,
    /// Errors for requests that were in order.
    pub errors: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Transactions that had to be tried again, which is legal.
    pub retries: u64,
    /// Pauses longer than allowed, but not without the time in which the run
    /// itself stood still.
    pub pauses_excused: u64,
}

impl Counts {
    /// Adds the counts of another part of a run.
    pub fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.events += other.events;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.events_missing += other.events_missing;
        self.events_doubled += other.events_doubled;
        self.events_reordered += other.events_reordered;
        self.errors += other.errors;
        self.disconnects += other.disconnects;
        self.retries += other.retries;
        self.pauses_excused += other.pauses_excused;
    }
}

impl From<&Verdict> for Counts {
    fn from(verdict: &Verdict) -> Self {
        Self {
            answered: verdict.answered,
            events: verdict.events,
            lost: verdict.lost,
            doubled: verdict.doubled,
            events_missing: verdict.event_faults.missing,
            events_doubled: verdict.event_faults.doubled,
            events_reordered: verdict.event_faults.reordered,
            errors: verdict.errors,
            disconnects: verdict.disconnects,
            retries: verdict.retries,
            pauses_excused: 0,
        }
    }
}

/// Lines of one kind that were left out because the file was full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Their kind.
    pub of: String,
    /// How many.
    pub count: u64,
}

/// How a run ended; the better first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// Everything held.
    Passed,
    /// It could not be carried out, or was interrupted.
    #[default]
    Aborted,
    /// Something did not hold.
    Failed,
}

/// The last record of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// When.
    pub at_us: Micros,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Why it failed or was aborted, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seeds that were run.
    #[serde(default)]
    pub seeds: u64,
    /// Simulated time; 0 in a campaign against real processes.
    #[serde(default)]
    pub simulated_us: Micros,
    /// Requests that were answered.
    #[serde(default)]
    pub operations: u64,
    /// Faults that were injected.
    #[serde(default)]
    pub faults: BTreeMap<FaultClass, u64>,
    /// A line to copy into a shell that shows the failure again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduce: Option<String>,
}
