//! In which kind of run a bug shows soon.

use ::teeth::Bug;
use hypervisor::decision::AckPolicy;
use replica::spec::LogLimits;

use crate::report::record::FaultClass;
use crate::sim::machine::Disks;
use crate::sim::plan::{Doorbells, Plan};

/// A kind of run.
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    /// The seed to begin with.
    pub first_seed: u64,
    replicas: u8,
    ack: AckPolicy,
    disks: Disks,
    classes: &'static [FaultClass],
    gap_ms: u64,
    span_s: u64,
    /// Pause of a client between two requests, on average.
    think_us: u64,
    /// Whether clients who ask much at once do so in a transaction and beside it.
    entangled: bool,
    /// Entries that a log may have.
    log_entries: u64,
}

use FaultClass as Class;

/// Replicas die, now and then while another one takes over.
const DEATHS: Hint = Hint {
    first_seed: 1,
    replicas: 3,
    ack: AckPolicy::AllLive,
    disks: Disks::None,
    classes: &[Class::Crash, Class::CrashMidStep, Class::KillInFailover],
    gap_ms: 300,
    span_s: 8,
    think_us: 10_000,
    entangled: false,
    log_entries: 16_384,
};

/// No fault: what is wrong shows all the same.
const QUIET: Hint = Hint { classes: &[], span_s: 5, ..DEATHS };

/// Deaths under load, with replicas among them that lag far behind: much is under
/// way whenever somebody dies.
const LAGGARDS: Hint = Hint {
    classes: &[Class::Slow, Class::Slow, Class::Crash, Class::CrashMidStep],
    gap_ms: 100,
    think_us: 2_000,
    ..DEATHS
};

/// Deaths while a replica gets no core, so that its log is behind.
const STARVED: Hint = Hint {
    replicas: 4,
    classes: &[Class::StarvedHeartbeat, Class::Crash],
    gap_ms: 100,
    think_us: 5_000,
    ..DEATHS
};

/// Replicas die while others are being built.
const REBUILDS: Hint = Hint { classes: &[Class::Crash, Class::KillInRebuild], ..DEATHS };

/// The role of the primary is handed on.
const PROMOTIONS: Hint = Hint { classes: &[Class::PromoteStorm, Class::Crash], ..DEATHS };

/// Deaths in a group of which a majority answers.
const QUORUM: Hint = Hint {
    replicas: 4,
    ack: AckPolicy::Quorum,
    classes: &[Class::Crash, Class::KillInRebuild, Class::KillInFailover, Class::Scale],
    ..DEATHS
};

/// Inputs that kill whoever applies them.
const POISON: Hint =
    Hint { replicas: 5, classes: &[Class::Poison, Class::Crash], gap_ms: 500, ..DEATHS };

/// All replicas die, and their disks are left.
const DISKS: Hint = Hint {
    disks: Disks::Synced,
    classes: &[Class::KillAll, Class::Crash, Class::HostCrash],
    ..DEATHS
};

/// Bits flip in the state.
const FLIPS: Hint = Hint { classes: &[Class::StateBitFlip], gap_ms: 500, span_s: 20, ..DEATHS };

impl Hint {
    /// The hint for a bug.
    #[must_use]
    pub const fn of(bug: Bug) -> Self {
        match bug {
            Bug::SleepUnannounced
            | Bug::StandbyNeverRings
            | Bug::ReadConflictMissed
            | Bug::EventBeforeCommit
            | Bug::PermsDigestStale
            | Bug::AllLiveAtMajority => QUIET,
            Bug::QueryOvertaken | Bug::ReplyBeforeCommit => LAGGARDS,
            // What was read too early comes to be all the same if the host lives on.
            Bug::DirtyRead => Self {
                first_seed: 15,
                replicas: 2,
                classes: &[Class::HostCrash],
                gap_ms: 40,
                think_us: 500,
                ..DISKS
            },
            Bug::Overtaking => Self { entangled: true, span_s: 5, ..QUIET },
            Bug::ShortestLogPromoted => Self {
                replicas: 5,
                ack: AckPolicy::Quorum,
                classes: &[Class::StarvedHeartbeat, Class::Slow, Class::Crash],
                ..STARVED
            },
            Bug::SnapshotForgetsInputs => Self { think_us: 200_000, log_entries: 32, ..REBUILDS },
            Bug::KillSkipped => Self { classes: &[Class::Hang], ..DEATHS },
            Bug::RebuildUntold
            | Bug::LearnerCounted
            | Bug::SlotReusedTooEarly
            | Bug::VoterToldUnsettled => REBUILDS,
            Bug::ReleasedMarkKept => PROMOTIONS,
            Bug::DeadNeverRemoved | Bug::MembershipToldEarly | Bug::VoteTwice => QUORUM,
            // A standby dies before it has given the candidate its vote.
            Bug::CampaignNotRepeated => {
                Self { classes: &[Class::KillInFailover, Class::Slow], gap_ms: 60, ..DEATHS }
            }
            Bug::QuarantineSkipped | Bug::QuarantineNotReplicated | Bug::StrikesForgotten => POISON,
            // Whoever is killed has to be applying something at that moment.
            Bug::QuarantinedTooEarly => {
                Self { classes: &[Class::CrashMidStep], gap_ms: 100, think_us: 1_000, ..DEATHS }
            }
            Bug::EntriesNotStored | Bug::CertificateNotInTerm => DISKS,
            // A standby has to die that is older than the primary.
            Bug::FirstDiskRecovered => Self {
                classes: &[Class::PromoteStorm, Class::HostCrash],
                gap_ms: 150,
                span_s: 16,
                think_us: 1_000,
                ..DISKS
            },
            Bug::PermsNotDigested | Bug::ScrubStaysShallow | Bug::DivergenceIgnored => FLIPS,
            Bug::HangNeverSuspected => Self { classes: &[Class::Hang], span_s: 20, ..DEATHS },
            Bug::LateSampleCounted => Self { classes: &[Class::ClockJump], ..DEATHS },
            _ => DEATHS,
        }
    }

    /// The plan of a seed, made to a run of this kind.
    pub(super) fn plan(self, drawn: Plan) -> Plan {
        let mut plan = drawn;
        plan.span_us = self.span_s * 1_000_000;
        plan.replicas = self.replicas;
        plan.ack = self.ack;
        plan.disks = self.disks;
        plan.rebuild = true;
        plan.fault_gap_us = (!self.classes.is_empty()).then_some(self.gap_ms * 1_000);
        plan.weights = self.classes.iter().map(|class| (*class, 1)).collect();
        plan.doorbells = Doorbells::default();
        plan.held_up = 0;
        plan.stretch = 4;
        plan.to_the_end = false;
        plan.population.clients = 10;
        plan.population.think_us = self.think_us;
        plan.population.entangled = self.entangled;
        plan.log = LogLimits {
            entries_max: self.log_entries,
            entries_kept: self.log_entries / 4,
            ..LogLimits::default()
        };
        plan
    }
}
