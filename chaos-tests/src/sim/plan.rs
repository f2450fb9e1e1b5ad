//! What a run is: the host's configuration, its clients and its faults, all
//! drawn from one seed; and what a person may change of it to make a failing
//! run smaller.

use std::collections::BTreeSet;

use hypervisor::decision::AckPolicy;
use hypervisor::fabric::FabricConfig;
use replica::spec::LogLimits;

use super::client::Population;
use super::machine::Disks;
use crate::report::record::FaultClass;
use crate::rng::Rng;

/// Simulated time of a run, unless something else is asked for: in it, faults
/// happen; healing comes after it.
pub const SPAN_US: u64 = 60_000_000;

/// Clients that a run may have: with fewer there would be nobody beside the
/// toolstack.
pub(super) const CLIENTS_MIN: usize = 2;
/// More could meet the host's limit of connections: who is turned away cannot be
/// told from who was forgotten.
pub(super) const CLIENTS_MAX: usize = 64;

/// What differs from what the seed says. A failing run is made smaller by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Simulated microseconds in which faults happen.
    pub span_us: Option<u64>,
    /// Faults of these classes do not happen.
    pub without: BTreeSet<FaultClass>,
    /// Of the faults of the plan, counted from 1, only these happen.
    pub only: Option<BTreeSet<u32>>,
    /// So many clients.
    pub clients: Option<usize>,
}

/// Chances of what may go wrong with each wake-up, in 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doorbells {
    /// It is never delivered.
    pub lost: u32,
    /// It comes up to 30 ms late.
    pub late: u32,
    /// It comes again.
    pub doubled: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What all follows from.
    pub seed: u64,
    /// Simulated microseconds in which faults happen.
    pub span_us: u64,
    /// Replicas wanted at the start.
    pub replicas: u8,
    /// When clients are answered.
    pub ack: AckPolicy,
    /// What survives the replicas.
    pub disks: Disks,
    /// Whether lost replicas are replaced.
    pub rebuild: bool,
    /// Sizes of the shared memory: small ones, so that all gets full sometimes.
    pub fabric: FabricConfig,
    /// Who is there.
    pub population: Population,
    /// Mean time between two faults, microseconds; none without.
    pub fault_gap_us: Option<u64>,
    /// How often each class is drawn.
    pub weights: Vec<(FaultClass, u32)>,
    /// What goes wrong with wake-ups.
    pub doorbells: Doorbells,
    /// How long logs get: short ones, so that replicas are taught by snapshots.
    pub log: LogLimits,
    /// How many times longer than by default beats and looks are apart.
    pub stretch: u32,
    /// In 1000 steps, how many the scheduler holds up for up to 20 ms.
    pub held_up: u32,
    /// Whether faults may take away more than the configuration can bear: the
    /// state may be lost then, and has to be lost cleanly.
    pub to_the_end: bool,
    /// Of the faults of the plan only these happen, if set.
    pub only: Option<BTreeSet<u32>>,
    /// Classes that do not happen.
    pub without: BTreeSet<FaultClass>,
}

/// Classes that come as events, with their usual weight.
const EVENTS: &[(FaultClass, u32)] = &[
    (FaultClass::Crash, 20),
    (FaultClass::CrashMidStep, 20),
    (FaultClass::Hang, 8),
    (FaultClass::Slow, 4),
    (FaultClass::StarvedHeartbeat, 3),
    (FaultClass::CpuStarvation, 2),
    (FaultClass::StateBitFlip, 5),
    (FaultClass::RingBitFlip, 3),
    (FaultClass::HostileRing, 3),
    (FaultClass::Poison, 3),
    (FaultClass::ClockJump, 2),
    (FaultClass::VanishingClient, 4),
    (FaultClass::DiskError, 6),
    (FaultClass::DiskFull, 3),
    (FaultClass::TornLogWrite, 4),
    (FaultClass::KillAll, 2),
    (FaultClass::KillInFailover, 8),
    (FaultClass::KillInRebuild, 8),
    (FaultClass::Scale, 5),
    (FaultClass::PromoteStorm, 5),
    (FaultClass::HostCrash, 2),
    (FaultClass::PowerLoss, 2),
    (FaultClass::HostRestart, 6),
];

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, overrides: &Overrides) -> Self {
        let mut rng = Rng::new(seed ^ 0x706c_616e);
        let replicas = *rng.pick(&[1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5]);
        let quorum = rng.percent(25);
        let disks = match rng.below(10) {
            _ if quorum => Disks::None,
            0..4 => Disks::None,
            4..7 => Disks::Unsynced,
            _ => Disks::Synced,
        };
        let small = rng.percent(30);
        let size = |rng: &mut Rng, kib: &[usize]| rng.pick(kib) * 1024;
        let fabric = FabricConfig {
            intake_bytes: size(&mut rng, if small { &[32, 64] } else { &[128, 512] }),
            output_bytes: size(&mut rng, if small { &[16, 32] } else { &[128, 512] }),
            peer_ring_bytes: size(&mut rng, if small { &[16, 64] } else { &[128, 256] }),
            control_bytes: size(&mut rng, if small { &[4, 8] } else { &[16, 64] }),
            backlog_bytes: 32 << 20,
            message_bytes: 16 << 20,
        };
        let fault_gap_us = match rng.below(10) {
            0 => None,
            1..4 => Some(300_000),
            4..8 => Some(1_500_000),
            _ => Some(6_000_000),
        };
        // Most runs know only some of the classes: those that are there meet more
        // often, and what is not there cannot hide what others break.
        let share = *rng.pick(&[25, 50, 100]);
        let mut weights: Vec<_> = EVENTS.iter().copied().filter(|_| rng.percent(share)).collect();
        if weights.is_empty() {
            weights.push((FaultClass::Crash, 1));
        }
        let doorbells = match rng.below(3) {
            0 => Doorbells::default(),
            1 => Doorbells { lost: 2, late: 5, doubled: 5 },
            _ => Doorbells { lost: 50, late: 20, doubled: 30 },
        };
        let held_up = *rng.pick(&[0, 0, 1, 5]);
        let stretch = *rng.pick(&[1, 4, 8, 8]);
        let rebuild = rng.percent(85);
        let to_the_end = rng.percent(5);
        let mut population = Population::draw(seed);
        if let Some(clients) = overrides.clients {
            population.clients = clients;
        }
        Self {
            seed,
            span_us: overrides.span_us.unwrap_or(SPAN_US),
            replicas,
            ack: if quorum { AckPolicy::Quorum } else { AckPolicy::AllLive },
            disks,
            rebuild,
            fabric,
            population,
            fault_gap_us,
            weights,
            doorbells: Doorbells {
                lost: chance(overrides, FaultClass::LostDoorbell, doorbells.lost),
                late: chance(overrides, FaultClass::LateDoorbell, doorbells.late),
                doubled: chance(overrides, FaultClass::DoubledDoorbell, doorbells.doubled),
            },
            log: log_limits(seed),
            stretch,
            held_up,
            to_the_end,
            only: overrides.only.clone(),
            without: overrides.without.clone(),
        }
    }

    /// Whether the fault of this number and class happens.
    pub(super) fn happens(&self, number: u32, class: FaultClass) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&number))
            && !self.without.contains(&class)
    }

    /// A class by the weights.
    pub(super) fn draw_class(&self, rng: &mut Rng) -> FaultClass {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = u32::try_from(rng.below(total as usize)).unwrap_or(0);
        for (class, weight) in &self.weights {
            if at < *weight {
                return *class;
            }
            at -= weight;
        }
        FaultClass::Crash
    }

    /// The plan in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let ack = match self.ack {
            AckPolicy::AllLive => "all-live",
            AckPolicy::Quorum => "quorum",
        };
        let disks = match self.disks {
            Disks::None => "volatile",
            Disks::Unsynced => "process",
            Disks::Synced => "power",
        };
        let gap = self
            .fault_gap_us
            .map_or("no faults".to_owned(), |gap| format!("a fault each {} ms", gap / 1000));
        format!(
            "{} {}, {ack}, {disks}, rebuild {}, {} clients, intake {} KiB, {gap}, {} classes, \
             doorbells {}/{}/{}, beat {} ms",
            self.replicas,
            if self.replicas == 1 { "replica" } else { "replicas" },
            if self.rebuild { "on" } else { "off" },
            self.population.clients,
            self.fabric.intake_bytes / 1024,
            self.weights.len(),
            self.doorbells.lost,
            self.doorbells.late,
            self.doorbells.doubled,
            20 * self.stretch,
        )
    }
}

fn chance(overrides: &Overrides, class: FaultClass, chance: u32) -> u32 {
    if overrides.without.contains(&class) { 0 } else { chance }
}

fn log_limits(seed: u64) -> LogLimits {
    let (entries_max, snapshot_after_bytes) = match Rng::new(seed ^ 0x006c_6f67).below(4) {
        0 => return LogLimits::default(),
        1 => (512, 64 << 10),
        _ => (32, 8 << 10),
    };
    let entries_kept = entries_max / 4;
    LogLimits { entries_max, entries_kept, snapshot_after_bytes, ..LogLimits::default() }
}
