//! The list of bugs, and where each is hunted.

macro_rules! bugs {
    ($($variant:ident, $name:literal: $about:literal;)*) => {
        /// A deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Bug {
            $(#[doc = $about] $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, for people and reports; stays the same.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What is wrong: which promise it breaks.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self {
                    $(Self::$variant => $about,)*
                }
            }
        }
    };
}

/// A test that hunts bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hunter {
    /// The simulator of a whole host.
    Host,
    /// Groups of consensus peers on a network that does what it likes.
    Consensus,
    /// Groups of replicas, in any order of calls.
    Replicas,
}

impl Hunter {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Host, Self::Consensus, Self::Replicas];

    /// Its name, for people and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "the simulated host",
            Self::Consensus => "a group of consensus",
            Self::Replicas => "a group of replicas",
        }
    }

    /// The bugs that this one has to catch; others may get away from it.
    pub fn prey(self) -> impl Iterator<Item = Bug> {
        Bug::ALL.iter().copied().filter(move |bug| bug.hunter() == self)
    }
}

impl Bug {
    /// Who has to catch it.
    #[must_use]
    pub const fn hunter(self) -> Hunter {
        match self {
            // On one host there are seldom two candidates at a time.
            Self::CertificateNotInTerm | Self::VoteTwice => Hunter::Consensus,
            Self::MembershipToldEarly => Hunter::Replicas,
            _ => Hunter::Host,
        }
    }

    /// The bug of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

impl core::fmt::Display for Bug {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

bugs! {
    // What leaves a replica, and when.
    ReplyBeforeCommit, "reply-before-commit":
        "a batch counts as released once it is proposed: an answered write dies with the primary";
    FreedBeforeLogged, "freed-before-logged":
        "an input that owes no answer is declared done at once: it is neither logged nor in the intake when the primary dies";
    DirtyRead, "dirty-read":
        "a query is answered before the writes it has seen are released";
    Overtaking, "overtaking":
        "an answer overtakes an earlier one to the same connection that is still held";
    ReleasedMarkKept, "released-mark-kept":
        "what was released in an earlier reign counts in the next one: its first batches leave uncommitted";

    // Exactly once, across a failover.
    AppliedTwice, "applied-twice":
        "the last applied input is applied again when it comes again after a promotion";
    SnapshotForgetsInputs, "snapshot-forgets-inputs":
        "a snapshot does not say which inputs are in it: they count as new where it is restored";
    WatermarkOffByOne, "watermark-off-by-one":
        "the last output that was delivered does not count as delivered: it is when it is repeated";
    NothingEmittedAgain, "nothing-emitted-again":
        "a new primary does not repeat the outputs that the host may have missed";
    IntakeFromNewest, "intake-from-newest":
        "a new primary begins with the inputs to come, not with the oldest one unanswered";
    ServesBeforeLogApplied, "serves-before-log-applied":
        "a new primary serves before what its log holds is in its state";

    // The host's side of it.
    RepetitionDelivered, "repetition-delivered":
        "what a new primary repeats is delivered again";
    FreedWhenAnswered, "freed-when-answered":
        "an answered input leaves the intake, logged or not: what a transaction did dies with the primary";
    QueryOvertaken, "query-overtaken":
        "a write is handed in while a query of the same connection is unanswered: after a failover that one sees it";
    GenerationCheckDropped, "generation-check-dropped":
        "whatever generation a survivor shows counts as the acknowledgement of the newest";
    KillSkipped, "kill-skipped":
        "a replica that is given up is isolated, but not killed";
    DivergenceIgnored, "divergence-ignored":
        "a replica whose digest differs from the others' stays";
    SleepUnannounced, "sleep-unannounced":
        "the host goes to sleep without saying so: nobody wakes it for an answer";
    FirstDiskRecovered, "first-disk-recovered":
        "after the death of all, the first disk found is come back from, not the one with the longest log";

    // Standbys.
    TentativeNotReplicated, "tentative-not-replicated":
        "a standby leaves out what was done inside open transactions";
    VoterToldUnsettled, "voter-told-unsettled":
        "the host is told of a voter that does not know yet that it has a vote";
    RebuildUntold, "rebuild-untold":
        "the host is not told when a new voter has settled: it is never redundant again";
    QuarantineSkipped, "quarantine-skipped":
        "a new primary executes the input that has killed its predecessors";
    QuarantineNotReplicated, "quarantine-not-replicated":
        "a standby executes an input that the primary has only refused";
    ApplyingMarkLeft, "applying-mark-left":
        "the page goes on naming an input that is applied: it is blamed for a later death";
    CampaignNotRepeated, "campaign-not-repeated":
        "a campaign that came to nothing is not repeated: there is no primary for ever";
    StandbyNeverRings, "standby-never-rings":
        "a standby does not wake the primary for its acknowledgement";
    ReadsTheFenced, "reads-the-fenced":
        "a survivor acknowledges a generation and goes on reading those fenced by it";

    // Consensus.
    CertificateNotInTerm, "certificate-not-in-term":
        "elections before and after a certificate of deaths share terms: two majorities elect two leaders";
    VoteTwice, "vote-twice":
        "a vote is forgotten when another candidate asks in the same term";
    AllLiveAtMajority, "all-live-at-majority":
        "under all-live, a majority releases: f of f+1 deaths lose what was answered";
    DeadVoterAwaited, "dead-voter-awaited":
        "the acknowledgement of a replica that is certified dead is waited for";
    DeadNeverRemoved, "dead-never-removed":
        "the dead stay in the logged membership until they are its majority";
    MembershipToldEarly, "membership-told-early":
        "under quorum, the host is told of members before all voters know them";
    EntriesNotStored, "entries-not-stored":
        "log entries are only written to disk along with a vote: what was answered does not survive the death of all";

    // The state machine.
    PermsDigestStale, "perms-digest-stale":
        "a change of permissions is not passed on to the sums above the node";
    PermsNotDigested, "perms-not-digested":
        "digests do not cover permissions: a flipped bit in them is never found";
    ScrubStaysShallow, "scrub-stays-shallow":
        "scrubbing leaves out what lies deep in the tree";
    ReadConflictMissed, "read-conflict-missed":
        "a transaction commits though what it read has changed: an update is lost";
    EventBeforeCommit, "event-before-commit":
        "watchers are told of a transaction before it is known to commit, and again when it has";

    // Decisions and suspicions.
    PromotedBeforeAcknowledged, "promoted-before-acknowledged":
        "a replica is promoted before all survivors have turned away from the fenced one";
    ShortestLogPromoted, "shortest-log-promoted":
        "not the longest log is promoted";
    GenerationNotRaised, "generation-not-raised":
        "a new primary reigns under the generation of its predecessor";
    LearnerCounted, "learner-counted":
        "a learner that has nearly caught up counts as a survivor before it has its vote";
    StrikesForgotten, "strikes-forgotten":
        "a promotion forgets which inputs have killed primaries";
    QuarantinedTooEarly, "quarantined-too-early":
        "a request is refused after a single death, be it a kill from outside";
    SlotReusedTooEarly, "slot-reused-too-early":
        "a slot gets a new replica before the killed one is gone";
    HangNeverSuspected, "hang-never-suspected":
        "a replica that does not beat is never suspected";
    LateSampleCounted, "late-sample-counted":
        "time in which nobody ran counts against the replicas: all are taken for hung";
}
