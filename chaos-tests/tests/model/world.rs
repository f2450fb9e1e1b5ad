//! The group as a model: its states, and what can happen in each.
//!
//! # What is explored, and why what is left out changes nothing
//!
//! Every order of the actions below is explored. Some orders that reality knows
//! are not, because they lead to the same states:
//!
//! - *The host is one thread.* What it decides upon an event is carried out at
//!   once; its messages wait in the replica's control ring.
//! - *All inputs are in the intake from the start.* Nobody looks at an input but
//!   the primary when it takes it, and it may take it as late as it likes.
//! - *A death and its discovery are one action.* Until it is discovered, a dead
//!   replica is one that does nothing, and any replica may do nothing for any
//!   time. The same goes for one that hangs.
//! - *A step of a replica is one action*, from the event that it takes in to the
//!   turn in which nothing moves. Had it died in the middle, then some of what it
//!   has written would be missing at the end of its rings: the readers of which
//!   may be told of its death before they have read so far. A death while an
//!   input is applied leaves nothing but the number of that input, which the host
//!   is told.
//! - *What nobody will read is forgotten*: messages to the dead, and from the
//!   dead once the reader knows.
//!
//! One thing is restricted: clocks are slow. They tick, for all replicas alike,
//! only when nothing else is left to happen but inputs and failures; scopes with
//! `early_beats` lift that for so many ticks of single replicas.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hypervisor::decision::{AckPolicy, Cause, DecisionMaker, Event, Phase, Policy, Standing};
use hypervisor::{Generation, ReplicaId};
use replica::core::Role;
use state_machine::InputNo;
use stateright::{Model, Property};

use crate::host::{Bug, Ledger, Maker};
use crate::lab::{Bytes, Lab, Local};
use crate::machine::{Ask, Stories};
use crate::rules::{self, Flaw};

/// What is explored.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) name: &'static str,
    pub(crate) ack: AckPolicy,
    pub(crate) replicas: u8,
    pub(crate) failures: u8,
    pub(crate) inputs: &'static [Ask],
    pub(crate) rebuild: bool,
    /// Wishes of the operator for another primary.
    pub(crate) handovers: u8,
    /// Ticks of single replicas at any time.
    pub(crate) early_beats: u8,
    /// Whether replicas may die of what they apply.
    pub(crate) poison: bool,
    /// Ticks after a failure within which everything must be in order again.
    pub(crate) beats: u8,
}

/// One replica that lives, with what waits for it and what it has said.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Node {
    pub(crate) local: Arc<Local>,
    pub(crate) control: VecDeque<Bytes>,
    pub(crate) inbox: BTreeMap<ReplicaId, VecDeque<Bytes>>,
    pub(crate) to_host: VecDeque<Bytes>,
}

/// A state of the whole.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct State {
    pub(crate) maker: Maker,
    pub(crate) nodes: BTreeMap<ReplicaId, Node>,
    /// Killed, and not yet confirmed gone; only where that matters.
    pub(crate) dying: BTreeSet<ReplicaId>,
    /// What the dead have said and nobody reads; see [`Bug::HearsTheDead`].
    pub(crate) last_words: VecDeque<Bytes>,
    pub(crate) ledger: Ledger,
    /// Voters in the log, as a primary told last.
    pub(crate) told: Vec<ReplicaId>,
    pub(crate) failures_left: u8,
    pub(crate) handovers_left: u8,
    pub(crate) early_beats_left: u8,
    /// Ticks since the last failure or input.
    pub(crate) beats: u8,
    /// Prints of all entries that were ever committed anywhere.
    pub(crate) committed: Vec<u64>,
    /// How many inputs were answered when the last failure happened.
    pub(crate) answered_at_last_failure: Option<usize>,
    pub(crate) flaw: Option<Flaw>,
}

/// Something that may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The host sees that a spawned replica is up.
    Ready(ReplicaId),
    /// A replica takes the next message of the host.
    Control(ReplicaId),
    /// A replica takes the next message of another.
    Peer(ReplicaId, ReplicaId),
    /// The primary takes so many inputs.
    Take(ReplicaId, InputNo, u64),
    /// The host reads the next output of whom it listens to.
    Output(ReplicaId),
    /// The host sees that a survivor shows the generation in force.
    Acknowledged(ReplicaId),
    /// A replica fails, and the host learns of it.
    Fail(ReplicaId, Cause, Option<InputNo>),
    /// A killed replica is confirmed gone.
    Gone(ReplicaId),
    /// The operator wants another primary.
    Handover(ReplicaId),
    /// All clocks tick.
    Beat,
    /// One clock ticks early.
    EarlyBeat(ReplicaId),
}

/// What has happened at least once; kept beside the states so as not to multiply
/// them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// A candidate failed before it served.
    pub(crate) candidate_failed: AtomicBool,
    /// An answer came again after a failover.
    pub(crate) repetition: AtomicBool,
    /// An input was quarantined.
    pub(crate) quarantine: AtomicBool,
    /// The group was given up.
    pub(crate) loss: AtomicBool,
}

impl Seen {
    pub(crate) fn note(flag: &AtomicBool) {
        flag.store(true, Ordering::Relaxed);
    }
}

/// A scope, and all that is known about it.
pub(crate) struct World {
    pub(crate) scope: Scope,
    pub(crate) bug: Bug,
    pub(crate) lab: Arc<Lab>,
    pub(crate) stories: Stories,
    pub(crate) seen: Arc<Seen>,
}

impl World {
    pub(crate) fn new(scope: Scope, bug: Bug) -> Self {
        Self {
            bug,
            lab: Arc::new(Lab::new(scope.inputs)),
            stories: Stories::of(scope.inputs),
            seen: Arc::default(),
            scope,
        }
    }

    /// Whether enough replicas survive all failures.
    pub(crate) fn survives(&self) -> bool {
        let survivors = self.scope.replicas - self.scope.failures;
        match self.scope.ack {
            AckPolicy::AllLive => survivors > 0,
            AckPolicy::Quorum => survivors > self.scope.replicas / 2,
        }
    }

    /// What can happen without failures, wishes, inputs and clocks.
    fn pending(&self, state: &State, actions: &mut Vec<Action>) {
        for (id, _, standing) in state.maker.members() {
            if standing == Standing::Starting && state.nodes.contains_key(&id) {
                actions.push(Action::Ready(id));
            }
        }
        for (&id, node) in &state.nodes {
            if !node.control.is_empty() {
                actions.push(Action::Control(id));
            }
            actions.extend(node.inbox.keys().map(|from| Action::Peer(id, *from)));
        }
        if let Some(id) = state.maker.listens_to()
            && state.nodes.get(&id).is_some_and(|node| !node.to_host.is_empty())
        {
            actions.push(Action::Output(id));
        }
        if !state.last_words.is_empty() {
            actions.push(Action::Output(ReplicaId(0)));
        }
        if let Phase::Electing { waiting, .. } = state.maker.phase() {
            let generation = state.maker.generation();
            let shows = |id: &&ReplicaId| {
                let node = state.nodes.get(id);
                node.is_some_and(|node| node.local.progress.generation == generation)
            };
            actions.extend(waiting.iter().filter(shows).map(|id| Action::Acknowledged(*id)));
        }
        actions.extend(state.dying.iter().map(|id| Action::Gone(*id)));
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_quiet(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.pending(state, &mut actions);
        actions.is_empty()
    }

    /// Whether the passing of time changes nothing any more: somebody serves, all
    /// have what the primary has and know it, and no change is under way.
    pub(crate) fn is_at_rest(&self, state: &State) -> bool {
        let Phase::Serving { primary } = *state.maker.phase() else {
            return matches!(state.maker.phase(), Phase::Lost { .. });
        };
        let Some(node) = state.nodes.get(&primary) else { return false };
        let progress = node.local.progress;
        !node.local.is_busy
            && progress.role == Role::Primary
            && state
                .maker
                .members()
                .all(|(_, _, s)| matches!(s, Standing::Voter | Standing::Fenced))
            && state.nodes.values().all(|node| {
                node.local.progress.commit == progress.last_index
                    && node.local.progress.applied == progress.last_index
            })
    }

    /// The inputs that some primary may take now: the first, and how many.
    pub(crate) fn takes(&self, state: &State) -> Option<(ReplicaId, InputNo, u64)> {
        let (&id, node) = state.nodes.iter().find(|(_, node)| node.local.wants_input)?;
        let first = node.local.next_input.unwrap_or(state.ledger.freed.next());
        let left = (self.scope.inputs.len() as u64 + 1).saturating_sub(first.0);
        (left > 0).then_some((id, first, left))
    }

    fn failures(&self, state: &State, actions: &mut Vec<Action>) {
        let is_lost = matches!(state.maker.phase(), Phase::Lost { .. });
        if state.failures_left == 0 || is_lost {
            return;
        }
        actions.extend(state.nodes.keys().map(|id| Action::Fail(*id, Cause::Killed, None)));
        if let Some((id, no, _)) = self.takes(state).filter(|_| self.scope.poison) {
            let causes = [Cause::Killed, Cause::Crashed];
            actions.extend(causes.map(|cause| Action::Fail(id, cause, Some(no))));
        }
    }

    fn begin(&self) -> State {
        let policy = Policy {
            ack: self.scope.ack,
            rebuild: self.scope.rebuild,
            replication_factor: self.scope.replicas,
        };
        let mut state = State {
            maker: Maker::new(DecisionMaker::new(policy, ReplicaId(1), Generation(0))),
            nodes: BTreeMap::new(),
            dying: BTreeSet::new(),
            last_words: VecDeque::new(),
            ledger: Ledger::new(self.scope.inputs.len()),
            told: (1..=u64::from(self.scope.replicas)).map(ReplicaId).collect(),
            failures_left: self.scope.failures,
            handovers_left: self.scope.handovers,
            early_beats_left: self.scope.early_beats,
            beats: 0,
            committed: Vec::new(),
            answered_at_last_failure: None,
            flaw: None,
        };
        self.decide(&mut state, Event::Form);
        state
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.flaw.is_some() {
            return;
        }
        self.pending(state, actions);
        let is_quiet = actions.is_empty();
        if is_quiet && state.beats < self.scope.beats && !self.is_at_rest(state) {
            actions.push(Action::Beat);
        }
        if let Some((id, first, left)) = self.takes(state) {
            actions.extend((1..=left).map(|count| Action::Take(id, first, count)));
        }
        self.failures(state, actions);
        if state.early_beats_left > 0 && !is_quiet {
            actions.extend(state.nodes.keys().map(|id| Action::EarlyBeat(*id)));
        }
        if let Phase::Serving { primary } = *state.maker.phase()
            && state.handovers_left > 0
        {
            let others = state.nodes.keys().filter(|id| **id != primary);
            actions.extend(others.map(|id| Action::Handover(*id)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.act(&mut state, action);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        rules::properties(self)
    }
}
