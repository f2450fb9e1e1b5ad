//! Any record, for property tests.

use std::collections::BTreeMap;

use quickcheck::{Arbitrary, Gen};

use super::*;

fn any<T: Arbitrary>(g: &mut Gen) -> T {
    T::arbitrary(g)
}

fn one_of<T: Copy>(g: &mut Gen, all: &[T]) -> T {
    *g.choose(all).expect("there are some")
}

/// Durations as they occur; sums of them do not overflow.
fn micros(g: &mut Gen) -> Micros {
    u64::from(any::<u32>(g))
}

fn class(g: &mut Gen) -> FaultClass {
    one_of(g, FaultClass::ALL)
}

fn component(g: &mut Gen) -> Component {
    one_of(g, Component::ALL)
}

fn outcome(g: &mut Gen) -> Outcome {
    one_of(g, Outcome::ALL)
}

/// A name out of few, so that some occur twice.
fn name(g: &mut Gen) -> String {
    one_of(g, &["a", "b", "c\n</script>"]).to_owned()
}

impl Arbitrary for Record {
    fn arbitrary(g: &mut Gen) -> Self {
        match any::<u8>(g) % 20 {
            0 => Self::RunBegin(RunBegin {
                format: FORMAT,
                profile: name(g),
                seed: any(g),
                version: name(g),
                target: any(g),
                started_unix_us: any(g),
                reproduce: any(g),
                config: any(g),
            }),
            1 => Self::Role(RoleChange {
                at_us: micros(g),
                replica: ReplicaId(any(g)),
                role: one_of(
                    g,
                    &[
                        Role::Started,
                        Role::Learner,
                        Role::Standby,
                        Role::Candidate,
                        Role::Primary,
                        Role::Fenced,
                        Role::Gone,
                    ],
                ),
                generation: any(g),
                cause: any(g),
            }),
            2 => Self::FaultInjected(FaultInjected {
                at_us: micros(g),
                fault: FaultId(any(g)),
                class: class(g),
                component: component(g),
                target: any(g),
                parameters: any(g),
            }),
            3 => Self::FaultHealed(FaultHealed { at_us: micros(g), fault: FaultId(any(g)) }),
            4 => Self::FaultJudged(FaultJudged {
                at_us: micros(g),
                fault: FaultId(any(g)),
                class: class(g),
                component: component(g),
                outcome: outcome(g),
                note: any(g),
                how: any(g),
                said: any(g),
                seed: any(g),
            }),
            5 => Self::FaultTally(FaultTally {
                class: class(g),
                component: component(g),
                outcome: outcome(g),
                count: micros(g),
            }),
            6 => Self::Failover(Failover {
                at_us: micros(g),
                generation: any(g),
                cause: any(g),
                from: any::<Option<u64>>(g).map(ReplicaId),
                to: any::<Option<u64>>(g).map(ReplicaId),
                fault: any::<Option<u64>>(g).map(FaultId),
                detect_us: micros(g),
                fence_us: micros(g),
                promote_us: micros(g),
                replay_us: micros(g),
                total_us: micros(g),
            }),
            7 => Self::Latency(LatencySample {
                at_us: micros(g),
                interval_us: micros(g),
                count: micros(g),
                p50_us: micros(g),
                p99_us: micros(g),
                max_us: micros(g),
            }),
            8 => Self::Pause(Pause {
                at_us: micros(g),
                duration_us: micros(g),
                client: any::<Option<u32>>(g).map(ClientId),
            }),
            9 => Self::ClientFault(ClientFault {
                at_us: micros(g),
                client: ClientId(any(g)),
                what: one_of(g, &[ClientFaultKind::Error, ClientFaultKind::Disconnect]),
                detail: any(g),
            }),
            10 => Self::Progress(Progress {
                at_us: micros(g),
                seeds: micros(g),
                simulated_us: micros(g),
                operations: micros(g),
                faults: micros(g),
            }),
            11 => Self::Steady(SteadyState {
                at_us: micros(g),
                phase: one_of(g, &[SteadyPhase::Before, SteadyPhase::During, SteadyPhase::After]),
                condition: name(g),
                held: any(g),
                observed: any(g),
            }),
            12 => Self::Bound(Bound {
                at_us: micros(g),
                bound: name(g),
                unit: name(g),
                limit: any::<u64>(g) % 3,
                observed: micros(g),
                held: any(g),
            }),
            13 => Self::Checker(CheckerVerdict {
                at_us: micros(g),
                checker: name(g),
                passed: any(g),
                judged: any(g),
                checked: micros(g),
                detail: any(g),
                seed: any(g),
                reproduce: any(g),
            }),
            14 => Self::Counts(Counts {
                answered: micros(g),
                events: micros(g),
                lost: micros(g),
                doubled: micros(g),
                events_missing: micros(g),
                events_doubled: micros(g),
                events_reordered: micros(g),
                errors: micros(g),
                disconnects: micros(g),
                retries: micros(g),
                pauses_excused: micros(g),
            }),
            16 => Self::Retired(Retired {
                at_us: micros(g),
                fault: FaultId(any(g)),
                replica: ReplicaId(any(g)),
            }),
            17 => Self::Skip(Skip { at_us: micros(g), what: name(g), why: any(g) }),
            18 => Self::Stall(Stall { at_us: micros(g), duration_us: micros(g) }),
            15 => Self::LeftOut(LeftOut { of: name(g), count: micros(g) }),
            _ => Self::RunEnd(RunEnd {
                at_us: micros(g),
                outcome: one_of(g, &[RunOutcome::Passed, RunOutcome::Aborted, RunOutcome::Failed]),
                reason: any(g),
                seeds: micros(g),
                simulated_us: micros(g),
                operations: micros(g),
                faults: any::<Vec<bool>>(g)
                    .iter()
                    .map(|_| (class(g), micros(g)))
                    .collect::<BTreeMap<_, _>>(),
                reproduce: any(g),
            }),
        }
    }
}
