//! What is explored, and how far.

use hypervisor::decision::AckPolicy::{AllLive, Quorum};

use crate::host::Bug;
use crate::machine::Ask::{Get, Put, PutQuietly};
use crate::rules;
use crate::world::Scope;

const BASE: Scope = Scope {
    name: "",
    ack: AllLive,
    replicas: 3,
    failures: 2,
    inputs: &[Put],
    rebuild: false,
    handovers: 0,
    early_beats: 0,
    poison: false,
    beats: 12,
};

/// Less than a minute on two cores.
pub(crate) fn in_ci() -> Vec<Scope> {
    vec![
        Scope {
            name: "all-live, 3 replicas, 2 failures, two commands, poison",
            inputs: &[Put, PutQuietly],
            poison: true,
            ..BASE
        },
        Scope {
            name: "all-live, 3 replicas, 2 failures, query and command, poison",
            inputs: &[Get, Put],
            poison: true,
            ..BASE
        },
        Scope { name: "all-live, 3 replicas, 2 failures, an early tick", early_beats: 1, ..BASE },
        Scope {
            name: "quorum, 3 replicas, 2 failures, command and query",
            ack: Quorum,
            inputs: &[Put, Get],
            ..BASE
        },
        Scope {
            name: "quorum, 3 replicas, 1 failure, two commands, poison",
            ack: Quorum,
            failures: 1,
            inputs: &[Put, PutQuietly],
            poison: true,
            ..BASE
        },
        Scope {
            name: "all-live, 3 replicas, 1 failure, handover",
            failures: 1,
            handovers: 1,
            inputs: &[PutQuietly],
            ..BASE
        },
        Scope {
            name: "all-live, 2 replicas, 1 failure, rebuild",
            replicas: 2,
            failures: 1,
            rebuild: true,
            ..BASE
        },
        Scope {
            name: "all-live, 2 replicas, 2 failures, rebuild",
            replicas: 2,
            rebuild: true,
            inputs: &[PutQuietly],
            ..BASE
        },
    ]
}

/// More of everything.
pub(crate) fn wide() -> Vec<Scope> {
    vec![
        Scope {
            name: "all-live, 3 replicas, 2 failures, three inputs, poison",
            inputs: &[Put, Get, PutQuietly],
            poison: true,
            ..BASE
        },
        Scope {
            name: "quorum, 3 replicas, 2 failures, two commands, poison",
            ack: Quorum,
            inputs: &[Put, PutQuietly],
            poison: true,
            ..BASE
        },
        Scope {
            name: "all-live, 3 replicas, 2 failures, two commands, handover",
            inputs: &[Put, PutQuietly],
            handovers: 1,
            ..BASE
        },
        Scope {
            name: "quorum, 3 replicas, 1 failure, handover",
            ack: Quorum,
            failures: 1,
            handovers: 1,
            ..BASE
        },
        Scope {
            name: "quorum, 3 replicas, 1 failure, an early tick",
            ack: Quorum,
            failures: 1,
            early_beats: 1,
            ..BASE
        },
        Scope {
            name: "all-live, 3 replicas, 1 failure, rebuild",
            failures: 1,
            rebuild: true,
            ..BASE
        },
        Scope { name: "all-live, 4 replicas, 3 failures", replicas: 4, failures: 3, ..BASE },
    ]
}

/// Each with a small scope in which it shows, and the rules that may tell.
pub(crate) fn with_bugs() -> Vec<(Bug, Scope, &'static [&'static str])> {
    let all_live = Scope { name: "all-live, 3 replicas, 2 failures", ..BASE };
    let quorum = Scope { name: "quorum, 3 replicas, 1 failure", ack: Quorum, failures: 1, ..BASE };
    let one_primary: &[_] = &[rules::ONE_PRIMARY, rules::FATAL];
    let at_rest: &[_] = &[rules::AT_REST];
    vec![
        (Bug::PromotesAfterFirstAcknowledgement, all_live.clone(), &[rules::HASTY]),
        (Bug::PromotesAfterFirstAcknowledgement, quorum.clone(), &[rules::HASTY]),
        (Bug::PromotesShortestLog, all_live.clone(), at_rest),
        (Bug::PromotesShortestLog, quorum.clone(), at_rest),
        (Bug::CertifiesNobody, all_live.clone(), at_rest),
        (Bug::LeavesTheHungAlive, all_live.clone(), one_primary),
        (Bug::LeavesTheHungAlive, quorum, one_primary),
        (Bug::DeliversRepetitions, all_live.clone(), &[rules::TWICE]),
        (Bug::HearsTheDead, all_live.clone(), &[rules::OLD_GENERATION]),
        (Bug::ForgetsToFree, all_live, at_rest),
    ]
}
