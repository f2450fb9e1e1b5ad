//! What the decision maker is told, and what it decides.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Generation, ReplicaId, SlotId};

/// Number of an input in the component's intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IntakeNo(pub u64);

/// When a client is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckPolicy {
    /// Once every replica that is not fenced has the input.
    AllLive,
    /// Once a majority has it.
    Quorum,
}

/// What the operator configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// When a client is answered.
    pub ack: AckPolicy,
    /// Whether lost replicas are replaced.
    pub rebuild: bool,
    /// Replicas wanted, 1 to 7.
    pub replication_factor: u8,
}

/// End of a replica's log; greater is longer (raft's comparison: term first).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    /// Term of the last entry.
    pub term: u64,
    /// Index of the last entry.
    pub index: u64,
}

/// Why a replica was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was killed from outside (SIGKILL).
    Killed,
    /// It crashed by itself: a signal, an abort, an exit.
    Crashed,
    /// It stopped making progress.
    Hung,
    /// Its state is not what it should be.
    Corrupt,
    /// It did not come up, or broke the protocol.
    Misbehaved,
    /// It is no longer wanted.
    Retired,
}

impl Cause {
    /// Whether the input that was being applied may be to blame.
    #[must_use]
    pub fn blames_input(self) -> bool {
        matches!(self, Self::Crashed | Self::Hung)
    }
}

/// How a new replica gets its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpawnMode {
    /// Empty, as one of the founders of the group.
    Bootstrap {
        /// The founders.
        voters: Vec<ReplicaId>,
    },
    /// Empty, to be taught by the primary.
    Join,
    /// From its own disk, alone.
    Recover,
}

/// Why the group cannot serve any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// No replica with the state is alive.
    AllReplicas,
    /// Less than a majority is alive, under [`AckPolicy::Quorum`].
    Majority,
}

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Spawned, not heard of yet.
    Starting,
    /// Being taught.
    Learner,
    /// Has a vote; may be promoted.
    Voter,
    /// Voter on its way out of the membership.
    Leaving,
    /// Killed and isolated; not yet confirmed gone.
    Fenced,
}

impl Standing {
    /// Whether the replica counts toward the replication factor, now or soon.
    #[must_use]
    pub fn counts(self) -> bool {
        matches!(self, Self::Starting | Self::Learner | Self::Voter)
    }
}

/// Where the group stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Founders are starting.
    Forming,
    /// Survivors are acknowledging the new generation.
    Electing {
        /// Those that have not yet: the survivors, and those that may have a vote
        /// though they do not count.
        waiting: BTreeSet<ReplicaId>,
        /// Logs of those that have.
        logs: BTreeMap<ReplicaId, LogPosition>,
    },
    /// The candidate is campaigning and finishing the log.
    Promoting {
        /// The one with the longest log.
        candidate: ReplicaId,
    },
    /// Requests are answered.
    Serving {
        /// By this replica.
        primary: ReplicaId,
    },
    /// The primary finishes what it has begun, to hand over.
    Draining {
        /// The one that hands over.
        primary: ReplicaId,
    },
    /// The state is gone, or cannot be continued safely.
    Lost {
        /// Why.
        why: Loss,
    },
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Found a new, empty group.
    Form,
    /// Nothing runs; this replica has the longest log on disk.
    Recover {
        /// Whose disk.
        id: ReplicaId,
        /// The newest certificate of deaths that any disk knows.
        certificate: u32,
        /// All others that its log knows: they are dead.
        others: Vec<ReplicaId>,
    },
    /// Another host goes on with the group, which was not heard for a while. What was
    /// decided last may have been done in part, or not at all.
    HostChanged,
    /// A spawned replica has attached to its rings.
    Ready {
        /// Which.
        id: ReplicaId,
    },
    /// The monitor gave a replica up.
    Failed {
        /// Which.
        id: ReplicaId,
        /// Why.
        cause: Cause,
        /// The input that it was applying as primary.
        applying: Option<IntakeNo>,
    },
    /// A killed replica is confirmed gone: its slot may be used again.
    Gone {
        /// Which.
        id: ReplicaId,
    },
    /// A survivor follows the new generation and reads nothing of the fenced
    /// ones any more.
    Acknowledged {
        /// Which.
        id: ReplicaId,
        /// What it acknowledged.
        generation: Generation,
        /// The end of its log, which nobody will lengthen before a promotion.
        log: LogPosition,
    },
    /// The candidate leads, has finished the log, and takes inputs.
    Promoted {
        /// Which.
        id: ReplicaId,
        /// Of which generation.
        generation: Generation,
    },
    /// The primary has no input in flight and takes no more; or, under
    /// [`AckPolicy::Quorum`], the candidate finds itself taken out of the members
    /// and cannot lead.
    Drained {
        /// Which.
        id: ReplicaId,
    },
    /// A learner is close behind the primary.
    CaughtUp {
        /// Which.
        id: ReplicaId,
    },
    /// The membership, as the primary sees it. Under [`AckPolicy::Quorum`] every
    /// voter that lives knows of it by then. A candidate tells of it if a
    /// majority of it is dead, so that nobody can be elected.
    Membership {
        /// Those that may carry on alone: with a vote, aware of it, and with all
        /// that is committed. The dead left out.
        voters: BTreeSet<ReplicaId>,
        /// The other members, the dead left out.
        learners: BTreeSet<ReplicaId>,
        /// All voters in the log, the dead included.
        logged: BTreeSet<ReplicaId>,
    },
    /// An operator wants this primary.
    OperatorPromote {
        /// Which.
        id: ReplicaId,
    },
    /// This standby is to be replaced, while it lives: by one that comes first, so that
    /// there are never fewer than are wanted.
    Retire {
        /// Which.
        id: ReplicaId,
    },
    /// An operator wants another number of replicas.
    OperatorScale {
        /// How many, 1 to 7.
        replication_factor: u8,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start a replica.
    Spawn {
        /// Its id.
        id: ReplicaId,
        /// Where its memory is.
        slot: SlotId,
        /// How it gets its state.
        mode: SpawnMode,
    },
    /// Stop a replica for ever and read nothing of it any more.
    Kill {
        /// Which.
        id: ReplicaId,
        /// Why.
        cause: Cause,
    },
    /// Tell all that live: this generation is in force, these are dead.
    Isolate {
        /// The generation in force.
        generation: Generation,
        /// Number of this certificate of deaths.
        certificate: u32,
        /// All the dead that may still be members in somebody's log.
        fenced: Vec<ReplicaId>,
    },
    /// Have a replica become the primary.
    Promote {
        /// Which.
        id: ReplicaId,
        /// Of which generation.
        generation: Generation,
        /// Inputs that it must answer with an error, unexecuted.
        quarantine: Vec<IntakeNo>,
    },
    /// Have the primary finish what it has begun and take no more.
    Drain {
        /// Which.
        id: ReplicaId,
    },
    /// Have the primary add a learner.
    AddLearner {
        /// The primary.
        primary: ReplicaId,
        /// Which.
        id: ReplicaId,
    },
    /// Have the primary give a learner its vote.
    AddVoter {
        /// The primary.
        primary: ReplicaId,
        /// Which.
        id: ReplicaId,
    },
    /// Have the primary take a member out.
    Remove {
        /// The primary.
        primary: ReplicaId,
        /// Which.
        id: ReplicaId,
    },
    /// The component cannot serve.
    DeclareLost {
        /// Why.
        why: Loss,
    },
}

/// The membership change last asked for, so that it is asked for once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Asked {
    Learner,
    Voter,
    Removal,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) slot: SlotId,
    pub(super) standing: Standing,
    pub(super) asked: Option<Asked>,
    /// It found itself taken out of the members when it was to lead: it may still
    /// vote, and cannot lead.
    pub(super) is_out: bool,
    /// Another one is to come in its place; until that has a vote, it stays.
    pub(super) retires: bool,
}

impl Member {
    pub(super) fn new(slot: SlotId, standing: Standing) -> Self {
        Self { slot, standing, asked: None, is_out: false, retires: false }
    }

    /// Whether it is a survivor only until another one has come in its place.
    pub(super) fn is_retiring_voter(&self) -> bool {
        self.retires && self.standing == Standing::Voter
    }

    /// Whether it may have a vote, as far as anybody knows.
    pub(super) fn may_vote(&self) -> bool {
        match self.standing {
            Standing::Voter | Standing::Leaving => true,
            Standing::Learner => self.asked == Some(Asked::Voter),
            Standing::Starting | Standing::Fenced => false,
        }
    }
}
