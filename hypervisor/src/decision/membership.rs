//! From the members there are to the members there should be: rebuild of lost
//! replicas, scaling up and down. One change at a time, each a function of the
//! difference, so that a failover in between only has it computed again.

use std::collections::BTreeSet;

use teeth::Bug;

use crate::ReplicaId;

use super::DecisionMaker;
use super::types::{AckPolicy, Asked, Cause, Decision, Loss, Member, Phase, SpawnMode, Standing};

impl DecisionMaker {
    pub(super) fn gone(&mut self, id: ReplicaId, todo: &mut Vec<Decision>) {
        if self.members.get(&id).is_some_and(|m| m.standing == Standing::Fenced) {
            self.members.remove(&id);
            self.reconcile(todo);
        }
    }

    pub(super) fn caught_up(&mut self, id: ReplicaId, todo: &mut Vec<Decision>) {
        let Phase::Serving { primary } = self.phase else { return };
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.standing == Standing::Learner && member.asked == Some(Asked::Learner) {
            member.asked = Some(Asked::Voter);
            if teeth::bites(Bug::LearnerCounted) {
                member.standing = Standing::Voter;
            }
            todo.push(Decision::AddVoter { primary, id });
        }
    }

    /// Takes the logged membership as the truth about who has a vote.
    pub(super) fn membership(
        &mut self,
        voters: &BTreeSet<ReplicaId>,
        learners: &BTreeSet<ReplicaId>,
        todo: &mut Vec<Decision>,
    ) {
        let is_first = !std::mem::replace(&mut self.membership_known, true);
        let is_quorum = self.policy.ack == AckPolicy::Quorum;
        let logged = &self.logged_voters;
        let mut retired = Vec::new();
        // Those that have voted once and do no more, or not yet for certain, are
        // no survivors to count on.
        for (&id, member) in &mut self.members {
            if is_first {
                // Of another primary.
                member.asked = None;
            }
            match member.standing {
                Standing::Learner if voters.contains(&id) => {
                    member.standing = Standing::Voter;
                    member.asked = None;
                }
                // It has its vote, and only has to hear of it.
                Standing::Learner if logged.contains(&id) => {
                    member.asked = Some(Asked::Voter);
                }
                // The removal came to nothing. Whether one is still wanted, and
                // can be borne, is decided anew; who leads by now stays.
                Standing::Leaving if is_quorum && is_first && logged.contains(&id) => {
                    member.standing = Standing::Voter;
                }
                Standing::Leaving if is_quorum && is_first && learners.contains(&id) => {
                    member.standing = Standing::Learner;
                }
                Standing::Leaving if !voters.contains(&id) && !learners.contains(&id) => {
                    retired.push(id);
                }
                _ => {}
            }
        }
        for id in retired {
            self.fence(id, Cause::Retired, todo);
            todo.push(self.isolation());
        }
        if self.is_majority_dead() {
            self.lose(Loss::Majority, todo);
        }
        self.reconcile(todo);
    }

    pub(super) fn retire(&mut self, id: ReplicaId, todo: &mut Vec<Decision>) {
        if self.primary() == Some(id) {
            return;
        }
        if let Some(member) = self.members.get_mut(&id).filter(|m| m.standing == Standing::Voter) {
            member.retires = true;
            self.reconcile(todo);
        }
    }

    /// Moves one step toward the wanted number of replicas, if there is one to
    /// make.
    pub(super) fn reconcile(&mut self, todo: &mut Vec<Decision>) {
        let Phase::Serving { primary } = self.phase else { return };
        if !self.membership_known {
            return;
        }
        let wanted = usize::from(self.policy.replication_factor);
        let count = |standing| self.members.values().filter(|m| m.standing == standing).count();
        let arriving = count(Standing::Starting) + count(Standing::Learner);
        let voters = count(Standing::Voter);
        let any_retires = self.members.values().any(Member::is_retiring_voter);
        let is_quorum = self.policy.ack == AckPolicy::Quorum;
        // With a quorum, the next change of votes waits until all know of the one
        // before: see the invariants.
        let must_wait = is_quorum && count(Standing::Leaving) > 0;
        if let Some(id) = self.unasked(Standing::Learner) {
            if id == primary {
                // It was promoted on its way to a vote, and has all there is.
                self.ask(id, Asked::Voter);
                todo.push(Decision::AddVoter { primary, id });
                return;
            }
            self.ask(id, Asked::Learner);
            todo.push(Decision::AddLearner { primary, id });
        } else if let Some(id) = self.unasked(Standing::Leaving) {
            self.ask(id, Asked::Removal);
            todo.push(Decision::Remove { primary, id });
        } else if voters + arriving > wanted + usize::from(any_retires && arriving > 0) {
            // With a quorum, a removal must not leave the dead in the majority.
            if !must_wait && (!is_quorum || self.dead_logged_voters() == 0) {
                self.shrink(primary, todo);
            }
        } else if arriving > 0 || must_wait {
            // One after the other.
        } else if voters < wanted {
            if (self.policy.rebuild || self.owed > 0) && self.spawn(SpawnMode::Join, todo) {
                self.owed = self.owed.saturating_sub(1);
            }
        } else if any_retires && self.policy.rebuild {
            // One more than are wanted, until it can take a place.
            self.spawn(SpawnMode::Join, todo);
        }
    }

    fn shrink(&mut self, primary: ReplicaId, todo: &mut Vec<Decision>) {
        let newest = |is_wanted: &dyn Fn(&Member) -> bool| {
            let mut others = self.members.iter().rev().filter(|(id, _)| **id != primary);
            others.find(|(_, member)| is_wanted(member)).map(|(&id, _)| id)
        };
        // Those that are not yet of use go first.
        let Some(id) = newest(&|m| m.standing == Standing::Starting)
            .or_else(|| newest(&|m| m.standing == Standing::Learner))
            .or_else(|| newest(&Member::is_retiring_voter))
            .or_else(|| newest(&|m| m.standing == Standing::Voter))
        else {
            return;
        };
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.standing == Standing::Starting {
            member.standing = Standing::Fenced;
            todo.push(Decision::Kill { id, cause: Cause::Retired });
        } else {
            member.standing = Standing::Leaving;
            member.asked = Some(Asked::Removal);
            todo.push(Decision::Remove { primary, id });
        }
    }

    fn unasked(&self, standing: Standing) -> Option<ReplicaId> {
        self.members
            .iter()
            .find(|(_, m)| m.standing == standing && m.asked.is_none())
            .map(|(&id, _)| id)
    }

    fn ask(&mut self, id: ReplicaId, asked: Asked) {
        if let Some(member) = self.members.get_mut(&id) {
            member.asked = Some(asked);
        }
    }
}
