//! Decision by decision, for each transition. What holds whatever happens is in
//! [`random`].

mod quorum;
mod random;

use super::*;

const KILLED: Cause = Cause::Killed;
const CRASHED: Cause = Cause::Crashed;

fn id(no: u64) -> ReplicaId {
    ReplicaId(no)
}

fn ids(nos: &[u64]) -> BTreeSet<ReplicaId> {
    nos.iter().copied().map(ReplicaId).collect()
}

fn slot(index: u8) -> SlotId {
    SlotId::new(index).unwrap()
}

fn policy(replication_factor: u8) -> Policy {
    Policy { ack: AckPolicy::AllLive, rebuild: true, replication_factor }
}

fn spawn(no: u64, index: u8) -> Decision {
    Decision::Spawn { id: id(no), slot: slot(index), mode: SpawnMode::Join }
}

fn kill(no: u64, cause: Cause) -> Decision {
    Decision::Kill { id: id(no), cause }
}

fn isolate(generation: u64, certificate: u32, fenced: &[u64]) -> Decision {
    let fenced = fenced.iter().copied().map(ReplicaId).collect();
    Decision::Isolate { generation: Generation(generation), certificate, fenced }
}

fn promote(no: u64, generation: u64) -> Decision {
    quarantine(no, generation, &[])
}

fn quarantine(no: u64, generation: u64, inputs: &[u64]) -> Decision {
    let quarantine = inputs.iter().copied().map(IntakeNo).collect();
    Decision::Promote { id: id(no), generation: Generation(generation), quarantine }
}

/// Events in short.
impl DecisionMaker {
    fn founded(policy: Policy) -> Self {
        let mut maker = Self::new(policy, id(1), Generation(0));
        maker.step(Event::Form);
        maker
    }

    /// A group of replicas 1, 2, ... that serves, the first as primary.
    fn serving(policy: Policy) -> Self {
        let voters: Vec<u64> = (1..=u64::from(policy.replication_factor)).collect();
        let mut maker = Self::founded(policy);
        for &no in &voters {
            maker.ready_no(no);
        }
        for &no in &voters {
            maker.ack(no, 1, 1);
        }
        assert_eq!(maker.serve(1, &voters), []);
        assert_eq!(maker.primary(), Some(id(1)));
        maker
    }

    fn ready_no(&mut self, no: u64) -> Vec<Decision> {
        self.step(Event::Ready { id: id(no) })
    }

    fn fail(&mut self, no: u64, cause: Cause) -> Vec<Decision> {
        self.step(Event::Failed { id: id(no), cause, applying: None })
    }

    fn fail_at(&mut self, no: u64, cause: Cause, input: u64) -> Vec<Decision> {
        self.step(Event::Failed { id: id(no), cause, applying: Some(IntakeNo(input)) })
    }

    fn is_gone(&mut self, no: u64) -> Vec<Decision> {
        self.step(Event::Gone { id: id(no) })
    }

    /// Acknowledges the generation in force, with a log of this term and index.
    fn ack(&mut self, no: u64, term: u64, index: u64) -> Vec<Decision> {
        let log = LogPosition { term, index };
        self.step(Event::Acknowledged { id: id(no), generation: self.generation, log })
    }

    fn tell(&mut self, voters: &[u64], learners: &[u64], logged: &[u64]) -> Vec<Decision> {
        self.step(Event::Membership {
            voters: ids(voters),
            learners: ids(learners),
            logged: ids(logged),
        })
    }

    /// The candidate leads and tells of these voters.
    fn serve(&mut self, no: u64, voters: &[u64]) -> Vec<Decision> {
        let promoted = Event::Promoted { id: id(no), generation: self.generation };
        assert_eq!(self.step(promoted), []);
        self.tell(voters, &[], voters)
    }

    /// The next replica joins, as far as the primary's knowing that it has a vote.
    fn join(&mut self, no: u64, voters_before: &[u64]) -> Vec<Decision> {
        let primary = self.primary().unwrap();
        assert_eq!(self.ready_no(no), [Decision::AddLearner { primary, id: id(no) }]);
        assert_eq!(self.tell(voters_before, &[no], voters_before), []);
        let asked = self.step(Event::CaughtUp { id: id(no) });
        assert_eq!(asked, [Decision::AddVoter { primary, id: id(no) }]);
        let voters = [voters_before, &[no]].concat();
        self.tell(&voters, &[], &voters)
    }

    fn standing(&self, no: u64) -> Option<Standing> {
        self.members().find(|(member, _, _)| *member == id(no)).map(|(_, _, standing)| standing)
    }

    fn factor(&mut self, replication_factor: u8) -> Vec<Decision> {
        self.step(Event::OperatorScale { replication_factor })
    }
}

#[test]
fn a_group_forms_when_all_founders_are_up() {
    let mut maker = DecisionMaker::new(policy(2), id(1), Generation(0));
    let mode = SpawnMode::Bootstrap { voters: vec![id(1), id(2)] };
    assert_eq!(
        maker.step(Event::Form),
        [
            Decision::Spawn { id: id(1), slot: slot(0), mode: mode.clone() },
            Decision::Spawn { id: id(2), slot: slot(1), mode },
        ]
    );
    assert_eq!(maker.ready_no(2), []);
    assert_eq!(maker.ready_no(1), [isolate(1, 0, &[])]);
    assert_eq!(maker.ack(1, 1, 1), []);
    assert_eq!(maker.primary(), None, "not before all have acknowledged");
    assert_eq!(maker.ack(2, 1, 1), [promote(1, 1)]);
    assert_eq!(maker.serve(1, &[1, 2]), []);
    assert_eq!(maker.phase(), &Phase::Serving { primary: id(1) });
}

#[test]
fn a_founder_that_does_not_come_up_is_left_out_and_replaced() {
    let mut maker = DecisionMaker::founded(policy(3));
    maker.ready_no(1);
    assert_eq!(maker.fail(2, Cause::Misbehaved), [kill(2, Cause::Misbehaved)]);
    assert_eq!(maker.ready_no(3), [isolate(1, 1, &[2])]);
    maker.ack(1, 1, 1);
    assert_eq!(maker.ack(3, 1, 1), [promote(1, 1)]);
    assert_eq!(maker.serve(1, &[1, 3]), [spawn(4, 3)], "slot 1 may still be written to");
}

#[test]
fn a_founder_that_dies_early_is_left_out() {
    let mut maker = DecisionMaker::founded(policy(2));
    maker.ready_no(1);
    assert_eq!(maker.fail(1, KILLED), [kill(1, KILLED), isolate(0, 1, &[1])]);
    assert_eq!(maker.ready_no(2), [isolate(1, 1, &[1])]);
    assert_eq!(maker.ack(2, 1, 1), [promote(2, 1)]);
}

#[test]
fn no_founder_no_group() {
    let mut maker = DecisionMaker::founded(policy(2));
    maker.fail(1, Cause::Misbehaved);
    let why = Loss::AllReplicas;
    let decided = maker.fail(2, Cause::Misbehaved);
    assert_eq!(decided, [kill(2, Cause::Misbehaved), Decision::DeclareLost { why }]);
    assert_eq!(maker.phase(), &Phase::Lost { why });
}

#[test]
fn a_dead_primary_is_followed_by_the_longest_log_and_replaced() {
    let mut maker = DecisionMaker::serving(policy(3));
    assert_eq!(maker.fail(1, KILLED), [kill(1, KILLED), isolate(2, 1, &[1])]);
    assert_eq!(maker.ack(2, 1, 8), []);
    assert_eq!(maker.ack(3, 1, 9), [promote(3, 2)]);
    assert_eq!(maker.serve(3, &[2, 3]), [spawn(4, 3)]);
    assert_eq!(maker.join(4, &[2, 3]), []);
    assert_eq!(maker.standing(4), Some(Standing::Voter));
    assert_eq!(maker.is_gone(1), []);
}

#[test]
fn a_later_term_is_longer_than_a_higher_index() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(1, KILLED);
    maker.ack(2, 2, 3);
    assert_eq!(maker.ack(3, 1, 9), [promote(2, 2)]);
}

#[test]
fn an_acknowledgement_counts_once_and_for_its_generation() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(1, KILLED);
    let old = Event::Acknowledged {
        id: id(3),
        generation: Generation(1),
        log: LogPosition { term: 1, index: 9 },
    };
    assert_eq!(maker.ack(2, 1, 5), []);
    assert_eq!(maker.step(old), []);
    assert_eq!(maker.ack(2, 1, 5), []);
    assert_eq!(maker.ack(9, 1, 50), [], "nobody knows this one");
    assert_eq!(maker.ack(3, 1, 4), [promote(2, 2)]);
}

#[test]
fn a_dead_standby_is_replaced_and_nothing_else_changes() {
    let mut maker = DecisionMaker::serving(policy(3));
    let decided = maker.fail(3, Cause::Hung);
    assert_eq!(decided, [kill(3, Cause::Hung), isolate(1, 1, &[3]), spawn(4, 3)]);
    assert_eq!(maker.primary(), Some(id(1)));
    assert_eq!(maker.fail(3, KILLED), [], "it dies once");
}

#[test]
fn without_rebuild_the_dead_are_not_replaced() {
    let mut maker = DecisionMaker::serving(Policy { rebuild: false, ..policy(3) });
    assert_eq!(maker.fail(3, KILLED), [kill(3, KILLED), isolate(1, 1, &[3])]);
    assert_eq!(maker.is_gone(3), []);
    maker.fail(1, KILLED);
    assert_eq!(maker.ack(2, 1, 5), [promote(2, 2)]);
    assert_eq!(maker.serve(2, &[2]), []);
}

#[test]
fn a_dead_candidate_is_followed_by_the_next() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(3, 1, 9), [promote(2, 2)]);
    assert_eq!(maker.fail(2, KILLED), [kill(2, KILLED), isolate(3, 2, &[1, 2])]);
    let late = Event::Promoted { id: id(2), generation: Generation(2) };
    assert_eq!(maker.step(late), []);
    assert_eq!(maker.primary(), None, "its last words are void");
    assert_eq!(maker.ack(3, 1, 9), [promote(3, 3)]);
    assert_eq!(maker.serve(3, &[3]), [spawn(4, 3)]);
}

#[test]
fn a_standby_that_dies_while_another_is_promoted_changes_nothing() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    maker.ack(3, 1, 9);
    assert_eq!(maker.fail(3, KILLED), [kill(3, KILLED), isolate(2, 2, &[1, 3])]);
    assert_eq!(maker.serve(2, &[2]), [spawn(4, 3)]);
}

#[test]
fn a_survivor_that_hangs_while_electing_is_given_up_and_all_are_asked_again() {
    let mut maker = DecisionMaker::serving(policy(4));
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    maker.ack(3, 1, 9);
    assert_eq!(maker.fail(4, Cause::Hung), [kill(4, Cause::Hung), isolate(3, 2, &[1, 4])]);
    assert_eq!(maker.ack(2, 1, 9), []);
    assert_eq!(maker.ack(3, 1, 9), [promote(2, 3)]);
}

/// It has no vote and no acknowledgement to void.
#[test]
fn a_newcomer_that_dies_while_electing_does_not_begin_the_election_anew() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(3, KILLED);
    assert_eq!(maker.standing(4), Some(Standing::Starting));
    maker.fail(1, KILLED);
    assert_eq!(maker.fail(4, KILLED), [kill(4, KILLED), isolate(2, 3, &[3, 1, 4])]);
    assert_eq!(maker.ack(2, 1, 9), [promote(2, 2)]);
}

#[test]
fn a_learner_that_dies_is_replaced() {
    let mut maker = DecisionMaker::serving(policy(2));
    maker.fail(2, KILLED);
    maker.ready_no(3);
    assert_eq!(maker.fail(3, KILLED), [kill(3, KILLED), isolate(1, 2, &[2, 3]), spawn(4, 3)]);
}

#[test]
fn a_learner_is_no_survivor() {
    let mut maker = DecisionMaker::serving(policy(2));
    maker.fail(2, KILLED);
    maker.ready_no(3);
    let why = Loss::AllReplicas;
    assert_eq!(
        maker.fail(1, KILLED),
        [kill(1, KILLED), Decision::DeclareLost { why }, kill(3, Cause::Retired)]
    );
}

/// The predecessor's change may be in the log: asking again before that is known
/// could take the vote of one that has it already.
#[test]
fn a_new_primary_is_asked_for_nothing_before_it_has_told_of_the_members() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(3, KILLED);
    maker.ready_no(4);
    maker.tell(&[1, 2], &[4], &[1, 2]);
    maker.step(Event::CaughtUp { id: id(4) });
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(4, 1, 9), [promote(2, 2)], "one without a say is heard, not chosen");
    let promoted = Event::Promoted { id: id(2), generation: Generation(2) };
    assert_eq!(maker.step(promoted), []);
    assert_eq!(maker.tell(&[2], &[4], &[2, 4]), [], "it has the vote, and must hear of it");
    assert_eq!(maker.tell(&[2, 4], &[], &[2, 4]), [spawn(5, 4)]);
}

#[test]
fn what_the_predecessor_was_asked_for_in_vain_is_asked_again() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(3, KILLED);
    maker.ready_no(4);
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    let primary = id(2);
    assert_eq!(maker.serve(2, &[2]), [Decision::AddLearner { primary, id: id(4) }]);
}

/// Nobody was answered for what it has more, but it would never vote.
#[test]
fn one_that_counts_no_more_cannot_stand_in_the_way() {
    let mut maker = DecisionMaker::serving(policy(3));
    let primary = id(1);
    assert_eq!(maker.factor(2), [Decision::Remove { primary, id: id(3) }]);
    assert_eq!(maker.fail(1, KILLED), [kill(1, KILLED), isolate(2, 1, &[1])]);
    assert_eq!(maker.ack(2, 1, 8), []);
    assert_eq!(
        maker.ack(3, 1, 9),
        [kill(3, Cause::Retired), isolate(2, 2, &[1, 3]), promote(2, 2)]
    );
}

#[test]
fn a_planned_promotion_drains_first_and_kills_nobody() {
    let mut maker = DecisionMaker::serving(policy(3));
    let wish = Event::OperatorPromote { id: id(3) };
    assert_eq!(maker.step(wish.clone()), [Decision::Drain { id: id(1) }]);
    assert_eq!(maker.step(wish), [], "it is under way");
    assert_eq!(maker.primary(), Some(id(1)));
    assert_eq!(maker.step(Event::Drained { id: id(2) }), [], "that is not the primary");
    assert_eq!(maker.step(Event::Drained { id: id(1) }), [isolate(2, 0, &[])]);
    maker.ack(1, 1, 9);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(3, 1, 9), [promote(3, 2)]);
    assert_eq!(maker.serve(3, &[1, 2, 3]), []);
}

#[test]
fn a_wish_never_beats_a_longer_log() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.step(Event::OperatorPromote { id: id(3) });
    maker.step(Event::Drained { id: id(1) });
    maker.ack(1, 1, 9);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(3, 1, 8), [promote(1, 2)]);
}

#[test]
fn wishes_that_make_no_sense_are_ignored() {
    let mut maker = DecisionMaker::serving(policy(2));
    for no in [1, 7] {
        assert_eq!(maker.step(Event::OperatorPromote { id: id(no) }), []);
    }
    maker.fail(2, KILLED);
    maker.ready_no(3);
    assert_eq!(maker.step(Event::OperatorPromote { id: id(3) }), [], "a learner");
}

#[test]
fn a_primary_that_dies_while_draining_is_followed_by_the_wished_one() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.step(Event::OperatorPromote { id: id(3) });
    assert_eq!(maker.fail(1, KILLED), [kill(1, KILLED), isolate(2, 1, &[1])]);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(3, 1, 9), [promote(3, 2)]);
}

#[test]
fn when_the_wished_one_dies_the_drained_primary_goes_on() {
    let mut maker = DecisionMaker::serving(policy(2));
    maker.step(Event::OperatorPromote { id: id(2) });
    assert_eq!(maker.fail(2, KILLED), [kill(2, KILLED), isolate(1, 1, &[2])]);
    assert_eq!(maker.step(Event::Drained { id: id(1) }), [isolate(2, 1, &[2])]);
    assert_eq!(maker.ack(1, 1, 9), [promote(1, 2)]);
    assert_eq!(maker.serve(1, &[1]), [spawn(3, 2)]);
}

#[test]
fn scaling_up_goes_one_by_one_even_without_rebuild() {
    let mut maker = DecisionMaker::serving(Policy { rebuild: false, ..policy(1) });
    assert_eq!(maker.factor(3), [spawn(2, 1)]);
    assert_eq!(maker.join(2, &[1]), [spawn(3, 2)]);
    assert_eq!(maker.join(3, &[1, 2]), []);
    assert_eq!(maker.fail(3, KILLED), [kill(3, KILLED), isolate(1, 1, &[3])]);
}

/// An operator's wish is not forgotten because no slot happens to be free.
#[test]
fn what_is_owed_comes_once_a_slot_is_free() {
    let mut maker = DecisionMaker::serving(Policy { rebuild: false, ..policy(7) });
    let primary = id(1);
    maker.fail(7, KILLED);
    maker.fail(6, KILLED);
    assert_eq!(maker.factor(7), [spawn(8, 7)]);
    assert_eq!(maker.join(8, &[1, 2, 3, 4, 5]), [], "eight slots are taken");
    assert_eq!(maker.is_gone(7), [spawn(9, 6)]);
    assert_eq!(maker.ready_no(9), [Decision::AddLearner { primary, id: id(9) }]);
}

#[test]
fn scaling_down_removes_the_newest_standby_and_kills_it_once_it_is_out_of_the_log() {
    let mut maker = DecisionMaker::serving(policy(3));
    let primary = id(1);
    assert_eq!(maker.factor(2), [Decision::Remove { primary, id: id(3) }]);
    assert_eq!(maker.standing(3), Some(Standing::Leaving));
    assert_eq!(maker.tell(&[1, 2], &[], &[1, 2]), [kill(3, Cause::Retired), isolate(1, 1, &[3])]);
    assert_eq!(maker.is_gone(3), []);
}

/// Also with a quorum of two, which cannot spare any.
#[test]
fn who_retires_stays_until_another_one_has_come() {
    for ack in [AckPolicy::AllLive, AckPolicy::Quorum] {
        let mut maker = DecisionMaker::serving(Policy { ack, ..policy(2) });
        let primary = id(1);
        assert_eq!(maker.step(Event::Retire { id: primary }), []);
        assert_eq!(maker.step(Event::Retire { id: id(2) }), [spawn(3, 2)]);
        assert_eq!(maker.step(Event::Retire { id: id(2) }), [], "once is enough");
        assert_eq!(maker.join(3, &[1, 2]), [Decision::Remove { primary, id: id(2) }]);
        let retired = maker.tell(&[1, 3], &[], &[1, 3]);
        assert_eq!(retired, [kill(2, Cause::Retired), isolate(1, 1, &[2])]);
        assert_eq!(maker.is_gone(2), []);
    }
}

#[test]
fn who_retires_goes_first_when_there_are_too_many_and_stays_as_primary() {
    let mut maker = DecisionMaker::serving(policy(3));
    let primary = id(1);
    assert_eq!(maker.step(Event::Retire { id: id(2) }), [spawn(4, 3)]);
    assert_eq!(maker.factor(2), [kill(4, Cause::Retired)]);
    assert_eq!(maker.is_gone(4), [Decision::Remove { primary, id: id(2) }]);
    let mut maker = DecisionMaker::serving(policy(2));
    assert_eq!(maker.step(Event::Retire { id: id(2) }), [spawn(3, 2)]);
    assert_eq!(maker.fail(1, KILLED), [kill(1, KILLED), isolate(2, 1, &[1])]);
    assert_eq!(maker.ack(2, 1, 9), [promote(2, 2)]);
    assert_eq!(maker.serve(2, &[2]), []);
    assert_eq!(maker.join(3, &[2]), [], "they are as many as are wanted");
}

#[test]
fn scaling_to_one_keeps_the_primary() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    maker.ack(3, 1, 10);
    let primary = id(3);
    assert_eq!(maker.serve(3, &[2, 3]), [spawn(4, 3)]);
    assert_eq!(maker.factor(1), [kill(4, Cause::Retired)], "it holds nothing yet");
    assert_eq!(maker.is_gone(4), [Decision::Remove { primary, id: id(2) }]);
    assert_eq!(maker.tell(&[3], &[], &[3]), [kill(2, Cause::Retired), isolate(2, 2, &[1, 2])]);
    assert_eq!(maker.factor(0), [], "the primary is never scaled away");
}

#[test]
fn a_removal_begun_by_a_dead_primary_is_asked_of_its_successor() {
    let mut maker = DecisionMaker::serving(policy(4));
    maker.factor(3);
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    maker.ack(3, 1, 9);
    assert_eq!(maker.ack(4, 1, 9), [promote(2, 2)]);
    let primary = id(2);
    assert_eq!(maker.serve(2, &[2, 3, 4]), [Decision::Remove { primary, id: id(4) }]);
    let decided = maker.tell(&[2, 3], &[], &[2, 3]);
    assert_eq!(decided, [kill(4, Cause::Retired), isolate(2, 2, &[1, 4]), spawn(5, 4)]);
}

#[test]
fn all_live_goes_on_with_one_and_a_quorum_does_not() {
    for (ack, goes_on) in [(AckPolicy::AllLive, true), (AckPolicy::Quorum, false)] {
        let mut maker = DecisionMaker::serving(Policy { ack, rebuild: false, ..policy(3) });
        maker.fail(1, KILLED);
        maker.ack(2, 1, 9);
        assert_eq!(maker.ack(3, 1, 9), [promote(2, 2)]);
        assert_eq!(maker.serve(2, &[2, 3]), []);
        maker.tell(&[2, 3], &[], &[1, 2, 3]);
        let decided = maker.fail(2, KILLED);
        let why = Loss::Majority;
        let expected = if goes_on {
            vec![kill(2, KILLED), isolate(3, 2, &[1, 2])]
        } else {
            vec![kill(2, KILLED), Decision::DeclareLost { why }, kill(3, Cause::Retired)]
        };
        assert_eq!(decided, expected, "{ack:?}");
    }
}

#[test]
fn the_last_death_is_the_end() {
    let mut maker = DecisionMaker::serving(policy(1));
    let why = Loss::AllReplicas;
    assert_eq!(maker.fail(1, KILLED), [kill(1, KILLED), Decision::DeclareLost { why }]);
    assert_eq!(maker.is_gone(1), []);
    assert_eq!(maker.members().count(), 0);
}

#[test]
fn a_lost_group_comes_back_from_one_disk() {
    let mut maker = DecisionMaker::serving(policy(2));
    maker.fail(2, KILLED);
    maker.fail(1, KILLED);
    for no in [1, 2, 3] {
        maker.is_gone(no);
    }
    let others = vec![id(2), id(3)];
    let recover = Event::Recover { id: id(1), certificate: 7, others };
    let mode = SpawnMode::Recover;
    let decided = maker.step(recover.clone());
    assert_eq!(decided, [Decision::Spawn { id: id(1), slot: slot(0), mode }]);
    assert_eq!(maker.ready_no(1), [isolate(2, 8, &[2, 3])]);
    assert_eq!(maker.ack(1, 5, 9), [promote(1, 2)]);
    assert_eq!(maker.serve(1, &[1]), [spawn(4, 1)]);
    assert_eq!(maker.step(recover), [], "only what is lost is recovered");
}

#[test]
fn after_a_restart_of_the_host_numbers_go_on() {
    let mut maker = DecisionMaker::new(policy(2), id(5), Generation(8));
    maker.step(Event::Recover { id: id(3), certificate: 2, others: vec![id(4)] });
    assert_eq!(maker.ready_no(3), [isolate(9, 3, &[4])]);
    maker.ack(3, 5, 9);
    assert_eq!(maker.serve(3, &[3]), [spawn(5, 1)]);
}

#[test]
fn an_input_that_kills_twice_is_quarantined() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail_at(1, CRASHED, 42);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(3, 1, 9), [promote(2, 2)]);
    maker.serve(2, &[2, 3]);
    maker.fail_at(2, CRASHED, 42);
    assert_eq!(maker.ack(3, 1, 9), [quarantine(3, 3, &[42])]);
}

#[test]
fn the_last_survivor_does_not_try_what_crashed_the_others() {
    for (cause, quarantined) in
        [(CRASHED, &[42][..]), (Cause::Hung, &[42]), (KILLED, &[]), (Cause::Corrupt, &[])]
    {
        let mut maker = DecisionMaker::serving(policy(2));
        maker.fail_at(1, cause, 42);
        assert_eq!(maker.ack(2, 1, 9), [quarantine(2, 2, quarantined)], "{cause:?}");
    }
}

/// A replica that is still starting has nothing on which to try the input.
#[test]
fn a_newcomer_is_no_second_chance_for_a_poison() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(3, KILLED);
    assert_eq!(maker.standing(4), Some(Standing::Starting));
    maker.fail_at(1, CRASHED, 42);
    assert_eq!(maker.ack(2, 1, 9), [quarantine(2, 2, &[42])]);
}

#[test]
fn strikes_are_bounded() {
    let mut maker = DecisionMaker::serving(policy(2));
    for input in 1..=1000 {
        maker.strike(IntakeNo(input), KILLED);
    }
    assert_eq!(maker.strikes.len(), STRIKES_REMEMBERED);
    assert!(maker.strikes.contains_key(&IntakeNo(1000)));
}

#[test]
fn a_slot_is_used_again_only_once_its_occupant_is_gone() {
    let mut maker = DecisionMaker::serving(policy(7));
    assert_eq!(maker.fail(7, KILLED).last(), Some(&spawn(8, 7)));
    assert_eq!(maker.fail(6, KILLED).len(), 2, "eight slots are taken");
    maker.fail(8, KILLED);
    assert_eq!(maker.members().count(), crate::SLOTS);
    assert_eq!(maker.is_gone(1), [], "the primary is not gone");
    assert_eq!(maker.is_gone(6), [spawn(9, 5)]);
}

#[test]
fn ids_that_the_recovered_log_knows_are_not_given_again() {
    let mut maker = DecisionMaker::new(policy(3), id(2), Generation(4));
    maker.step(Event::Recover { id: id(1), certificate: 3, others: vec![id(2), id(5)] });
    assert_eq!(maker.next_id(), id(6));
}
