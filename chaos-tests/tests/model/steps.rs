//! What comes of each action.

use std::collections::{BTreeMap, VecDeque};

use hypervisor::ReplicaId;
use hypervisor::decision::{
    AckPolicy, Cause, Decision, Event, IntakeNo, LogPosition, Phase, SpawnMode, Standing,
};
use replica::protocol::{FromReplica, ToReplica};
use state_machine::{InputNo, Output};

use crate::host::Bug;
use crate::lab::{Birth, Bytes, Local, Outcome, Stimulus};
use crate::rules::Flaw;
use crate::world::{Action, Node, Seen, State, World};

impl World {
    pub(crate) fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Ready(id) => self.decide(state, Event::Ready { id }),
            Action::Control(id) => self.control(state, id),
            Action::Peer(id, from) => {
                let Some(node) = state.nodes.get_mut(&id) else { return };
                let Some(queue) = node.inbox.get_mut(&from) else { return };
                let Some(message) = queue.pop_front() else { return };
                if queue.is_empty() {
                    node.inbox.remove(&from);
                }
                self.step(state, id, Stimulus::Peer(from, message));
            }
            Action::Take(id, first, count) => {
                state.beats = 0;
                self.step(state, id, Stimulus::Take(first, count));
            }
            Action::Output(id) => self.output(state, id),
            Action::Acknowledged(id) => {
                let Some(node) = state.nodes.get(&id) else { return };
                let progress = node.local.progress;
                let log = LogPosition { term: progress.last_term, index: progress.last_index.0 };
                let generation = progress.generation;
                self.decide(state, Event::Acknowledged { id, generation, log });
            }
            Action::Fail(id, cause, applying) => self.fail(state, id, cause, applying),
            Action::Gone(id) => {
                state.dying.remove(&id);
                self.decide(state, Event::Gone { id });
            }
            Action::Handover(id) => {
                state.handovers_left -= 1;
                state.beats = 0;
                self.decide(state, Event::OperatorPromote { id });
            }
            Action::Beat => {
                state.beats += 1;
                let ids: Vec<_> = state.nodes.keys().copied().collect();
                for id in ids {
                    self.step(state, id, Stimulus::Beat);
                }
            }
            Action::EarlyBeat(id) => {
                state.early_beats_left -= 1;
                self.step(state, id, Stimulus::Beat);
            }
        }
    }

    fn fail(&self, state: &mut State, id: ReplicaId, cause: Cause, applying: Option<InputNo>) {
        state.failures_left -= 1;
        state.beats = 0;
        if state.failures_left == 0 {
            state.answered_at_last_failure = Some(state.ledger.answered());
        }
        if *state.maker.phase() == (Phase::Promoting { candidate: id }) {
            Seen::note(&self.seen.candidate_failed);
        }
        let applying = applying.map(|no| IntakeNo(no.0));
        self.decide(state, Event::Failed { id, cause, applying });
    }

    fn control(&self, state: &mut State, id: ReplicaId) {
        let Some(node) = state.nodes.get_mut(&id) else { return };
        let Some(message) = node.control.pop_front() else { return };
        if let Ok(ToReplica::Isolate { fenced, .. }) = ToReplica::decode(message.as_slice()) {
            // As the runtime does it: nothing of the dead is read any more.
            node.inbox.retain(|from, _| !fenced.contains(from));
        }
        self.step(state, id, Stimulus::Control(message));
    }

    /// Has a replica do a step, and takes in what it says.
    fn step(&self, state: &mut State, id: ReplicaId, stimulus: Stimulus) {
        let Some(node) = state.nodes.get_mut(&id) else { return };
        let before = node.local.clone();
        let outcome = self.lab.step(&before, stimulus, state.ledger.watermarks());
        node.local = outcome.local.clone();
        node.to_host.extend(outcome.to_host.iter().cloned());
        for (to, message) in &outcome.to_peers {
            if let Some(peer) = state.nodes.get_mut(to) {
                peer.inbox.entry(id).or_default().push_back(message.clone());
            }
        }
        if let Err(flaw) = judge(state, &before, &outcome) {
            state.flaw.get_or_insert(flaw);
        }
    }

    /// The host reads an output.
    fn output(&self, state: &mut State, id: ReplicaId) {
        let ring = match state.nodes.get_mut(&id) {
            Some(node) => &mut node.to_host,
            None => &mut state.last_words,
        };
        let Some(bytes) = ring.pop_front() else { return };
        let (generation, message) = FromReplica::decode(bytes.as_slice()).expect("a message");
        let is_old = generation != state.maker.generation();
        if is_old && self.bug != Bug::HearsTheDead {
            return;
        }
        let before = is_old.then(|| (state.ledger.clone(), state.maker.clone()));
        let taken = match message {
            FromReplica::Output(output) => {
                if let Output::Reply { input, .. } = &output {
                    let place = usize::try_from(input.0 - 1).expect("small");
                    if state.ledger.answers[place].is_some() {
                        Seen::note(&self.seen.repetition);
                    }
                }
                state.ledger.deliver(output, &self.stories, self.bug)
            }
            FromReplica::Released(_) if self.bug == Bug::ForgetsToFree => Ok(()),
            FromReplica::Released(no) => state.ledger.release(no),
            FromReplica::Promoted { last_output, .. } => {
                let has_all = has_committed(state, id);
                self.decide(state, Event::Promoted { id, generation });
                if has_all && last_output >= state.ledger.watermarks().delivered_output {
                    Ok(())
                } else {
                    Err(Flaw::Lost)
                }
            }
            FromReplica::Drained => {
                self.decide(state, Event::Drained { id });
                Ok(())
            }
            FromReplica::CaughtUp(id) => {
                self.decide(state, Event::CaughtUp { id });
                Ok(())
            }
            FromReplica::Membership { voters, learners, logged } => {
                state.told.clone_from(&logged);
                let event = Event::Membership {
                    voters: voters.into_iter().collect(),
                    learners: learners.into_iter().collect(),
                    logged: logged.into_iter().collect(),
                };
                self.decide(state, event);
                Ok(())
            }
            FromReplica::Exported { .. } => Ok(()),
        };
        if before.is_some_and(|(ledger, maker)| ledger != state.ledger || maker != state.maker) {
            state.flaw.get_or_insert(Flaw::OldGeneration);
        }
        if let Err(flaw) = taken
            && !is_old
        {
            state.flaw.get_or_insert(flaw);
        }
    }

    /// Has the decision maker decide, and does what it says.
    pub(crate) fn decide(&self, state: &mut State, event: Event) {
        let failed = match &event {
            Event::Failed { id, .. } => Some(*id),
            _ => None,
        };
        let survivors: Vec<ReplicaId> = state
            .maker
            .members()
            .filter(|(id, _, standing)| *standing == Standing::Voter && Some(*id) != failed)
            .map(|(id, ..)| id)
            .collect();
        for decision in state.maker.step(event, self.bug) {
            self.carry_out(state, decision, &survivors);
        }
    }

    fn carry_out(&self, state: &mut State, decision: Decision, survivors: &[ReplicaId]) {
        match decision {
            Decision::Spawn { id, mode, .. } => self.spawn(state, id, &mode),
            Decision::Kill { id, .. } => {
                let dead = state.nodes.remove(&id);
                if self.bug == Bug::HearsTheDead {
                    state.last_words.extend(dead.into_iter().flat_map(|node| node.to_host));
                }
                if self.scope.rebuild {
                    state.dying.insert(id);
                }
            }
            Decision::Isolate { generation, certificate, fenced } => {
                let message = ToReplica::Isolate { generation, certificate, fenced };
                let message = Bytes::new(&message.encode());
                for node in state.nodes.values_mut() {
                    node.control.push_back(message.clone());
                }
            }
            Decision::Promote { id, generation, quarantine } => {
                let lags = |id: &ReplicaId| {
                    let node = state.nodes.get(id);
                    node.is_some_and(|node| node.local.progress.generation != generation)
                };
                let mut members = state.maker.members();
                let votes = |s| matches!(s, Standing::Voter | Standing::Leaving);
                if members.any(|(id, _, standing)| votes(standing) && lags(&id)) {
                    state.flaw.get_or_insert(Flaw::Hasty);
                }
                drop(members);
                let quarantine: Vec<_> = quarantine.iter().map(|no| InputNo(no.0)).collect();
                for no in &quarantine {
                    Seen::note(&self.seen.quarantine);
                    state.ledger.quarantine(*no);
                }
                tell(state, id, &ToReplica::Promote { generation, quarantine });
            }
            Decision::Drain { id } => tell(state, id, &ToReplica::Drain),
            Decision::AddLearner { primary, id } => {
                tell(state, primary, &ToReplica::AddLearner(id));
            }
            Decision::AddVoter { primary, id } => tell(state, primary, &ToReplica::AddVoter(id)),
            Decision::Remove { primary, id } => tell(state, primary, &ToReplica::Remove(id)),
            Decision::DeclareLost { .. } => {
                Seen::note(&self.seen.loss);
                let alive = state.told.iter().filter(|id| survivors.contains(id)).count();
                let could_go_on = match self.scope.ack {
                    AckPolicy::AllLive => !survivors.is_empty(),
                    AckPolicy::Quorum => 2 * alive > state.told.len(),
                };
                if could_go_on {
                    state.flaw.get_or_insert(Flaw::GivenUp);
                }
            }
        }
    }

    fn spawn(&self, state: &mut State, id: ReplicaId, mode: &SpawnMode) {
        let founders = match mode {
            SpawnMode::Bootstrap { voters } => voters.clone(),
            SpawnMode::Join | SpawnMode::Recover => Vec::new(),
        };
        let ack = match self.scope.ack {
            AckPolicy::AllLive => consensus::AckPolicy::AllLive,
            AckPolicy::Quorum => consensus::AckPolicy::Quorum,
        };
        let Decision::Isolate { generation, certificate, fenced } = state.maker.isolation() else {
            unreachable!("that is what it is")
        };
        let isolate = ToReplica::Isolate { generation, certificate, fenced };
        let node = Node {
            local: self.lab.born(Birth { id, ack, founders }),
            control: VecDeque::from([Bytes::new(&isolate.encode())]),
            inbox: BTreeMap::new(),
            to_host: VecDeque::new(),
        };
        state.nodes.insert(id, node);
    }
}

fn tell(state: &mut State, id: ReplicaId, message: &ToReplica) {
    if let Some(node) = state.nodes.get_mut(&id) {
        node.control.push_back(Bytes::new(&message.encode()));
    }
}

/// Whether the replica's log has all that was ever committed.
fn has_committed(state: &State, id: ReplicaId) -> bool {
    let Some(node) = state.nodes.get(&id) else { return false };
    let mut log = node.local.log.iter().map(|entry| entry.chain);
    state.committed.iter().all(|chain| log.next() == Some(*chain))
}

/// What must hold for every step of a replica.
fn judge(state: &mut State, before: &Local, outcome: &Outcome) -> Result<(), Flaw> {
    if outcome.fatal.is_some() {
        return Err(Flaw::Fatal);
    }
    let after = &outcome.local;
    let (old, new) = (before.progress, after.progress);
    if new.commit < old.commit || new.applied < old.applied || new.generation < old.generation {
        return Err(Flaw::CommitWentBack);
    }
    let count = usize::try_from(new.commit.0).expect("small");
    for (place, entry) in after.log.iter().take(count).enumerate() {
        match state.committed.get(place) {
            None => state.committed.push(entry.chain),
            Some(chain) if *chain != entry.chain => return Err(Flaw::Committed),
            Some(_) => {}
        }
    }
    Ok(())
}
