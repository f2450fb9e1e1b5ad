//! What is different where a majority is enough.

use super::*;

fn quorum(replication_factor: u8) -> Policy {
    Policy { ack: AckPolicy::Quorum, ..policy(replication_factor) }
}

/// The newest of a group of this size is being removed, and the first dies.
fn leaving_and_dying(replication_factor: u8) -> DecisionMaker {
    let mut maker = DecisionMaker::serving(quorum(replication_factor));
    let newest = id(u64::from(replication_factor));
    let asked = maker.factor(replication_factor - 1);
    assert_eq!(asked, [Decision::Remove { primary: id(1), id: newest }]);
    assert_eq!(maker.fail(1, KILLED), [kill(1, KILLED), isolate(2, 1, &[1])]);
    maker
}

/// The founders' log names all of them: one alone is no majority of two.
#[test]
fn a_quorum_of_founders_must_come_up() {
    let mut maker = DecisionMaker::founded(quorum(2));
    maker.ready_no(1);
    let decided = maker.fail(2, Cause::Misbehaved);
    let why = Loss::Majority;
    assert_eq!(
        decided,
        [kill(2, Cause::Misbehaved), Decision::DeclareLost { why }, kill(1, Cause::Retired),]
    );
}

/// A primary without a majority would never answer again.
#[test]
fn a_quorum_is_lost_with_the_standbys_too() {
    let mut maker = DecisionMaker::serving(quorum(3));
    assert_eq!(maker.fail(2, KILLED), [kill(2, KILLED), isolate(1, 1, &[2]), spawn(4, 3)]);
    let why = Loss::Majority;
    let rest = [kill(1, Cause::Retired), kill(4, Cause::Retired)];
    let lost = [kill(3, KILLED), Decision::DeclareLost { why }];
    assert_eq!(maker.fail(3, KILLED), [&lost[..], &rest[..]].concat());
}

/// Two dead of five leave a majority of three; of four they would not.
#[test]
fn a_quorum_is_not_scaled_down_below_the_dead() {
    let mut maker = DecisionMaker::serving(Policy { rebuild: false, ..quorum(5) });
    let primary = id(1);
    maker.fail(2, KILLED);
    maker.fail(3, KILLED);
    assert_eq!(maker.factor(1), []);
    assert_eq!(maker.tell(&[1, 4, 5], &[], &[1, 3, 4, 5]), []);
    let decided = maker.tell(&[1, 4, 5], &[], &[1, 4, 5]);
    assert_eq!(decided, [Decision::Remove { primary, id: id(5) }]);
}

/// Two of three may have acknowledged what the second does not have, and without
/// the third nobody has a majority: it has its vote until all know better.
#[test]
fn one_that_leaves_counts_and_leads_if_it_must() {
    let mut maker = leaving_and_dying(3);
    assert_eq!(maker.ack(2, 1, 8), []);
    assert_eq!(maker.ack(3, 1, 9), [promote(3, 2)]);
    let promoted = Event::Promoted { id: id(3), generation: Generation(2) };
    assert_eq!(maker.step(promoted), []);
    assert_eq!(maker.tell(&[2, 3], &[], &[1, 2, 3]), []);
    assert_eq!(maker.standing(3), Some(Standing::Voter), "it leads, so it stays");
    assert_eq!(maker.tell(&[2, 3], &[], &[2, 3]), [], "two were wanted");
}

#[test]
fn one_that_leaves_leads_only_if_it_must() {
    let mut maker = leaving_and_dying(4);
    maker.ack(2, 1, 8);
    maker.ack(4, 1, 9);
    assert_eq!(maker.ack(3, 1, 9), [promote(3, 2)]);
}

/// Its own removal was in its log. Who does not know that still needs its vote.
#[test]
fn one_that_finds_itself_out_hands_back_and_lives_until_all_know() {
    let mut maker = leaving_and_dying(4);
    maker.ack(2, 1, 8);
    maker.ack(3, 1, 8);
    assert_eq!(maker.ack(4, 1, 9), [promote(4, 2)]);
    assert_eq!(maker.step(Event::Drained { id: id(2) }), [], "that is not the candidate");
    assert_eq!(maker.step(Event::Drained { id: id(4) }), [isolate(3, 1, &[1])]);
    maker.ack(2, 2, 10);
    maker.ack(3, 2, 10);
    assert_eq!(maker.ack(4, 2, 11), [promote(2, 3)], "it cannot lead");
    let promoted = Event::Promoted { id: id(2), generation: Generation(3) };
    assert_eq!(maker.step(promoted), []);
    let retired = [kill(4, Cause::Retired), isolate(3, 2, &[1, 4]), spawn(5, 4)];
    assert_eq!(maker.tell(&[2, 3], &[], &[1, 2, 3]), retired);
}

/// With the third out, one of two is alive.
#[test]
fn who_is_out_counts_no_more() {
    let mut maker = leaving_and_dying(3);
    maker.ack(2, 1, 8);
    assert_eq!(maker.ack(3, 1, 9), [promote(3, 2)]);
    let why = Loss::Majority;
    let rest = [kill(2, Cause::Retired), kill(3, Cause::Retired)];
    let lost = [&[Decision::DeclareLost { why }][..], &rest].concat();
    assert_eq!(maker.step(Event::Drained { id: id(3) }), lost);
}

/// Under `all-live` a candidate is never out.
#[test]
fn who_says_that_it_is_out_is_believed_only_with_a_quorum() {
    let mut maker = DecisionMaker::serving(policy(3));
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(3, 1, 9), [promote(2, 2)]);
    assert_eq!(maker.step(Event::Drained { id: id(2) }), []);
}

/// The vote that it was to get may be in the others' logs, and needed.
#[test]
fn one_that_is_about_to_get_its_vote_leads_if_it_must_and_gets_it_then() {
    let mut maker = DecisionMaker::serving(quorum(4));
    maker.fail(4, KILLED);
    maker.ready_no(5);
    maker.tell(&[1, 2, 3], &[5], &[1, 2, 3]);
    maker.step(Event::CaughtUp { id: id(5) });
    maker.fail(1, KILLED);
    maker.ack(2, 1, 8);
    maker.ack(3, 1, 8);
    assert_eq!(maker.ack(5, 1, 9), [promote(5, 2)]);
    let promoted = Event::Promoted { id: id(5), generation: Generation(2) };
    assert_eq!(maker.step(promoted), []);
    let asked = [Decision::AddVoter { primary: id(5), id: id(5) }];
    assert_eq!(maker.tell(&[2, 3], &[5], &[2, 3]), asked);
    assert_eq!(maker.tell(&[2, 3, 5], &[], &[2, 3, 5]), [spawn(6, 5)]);
}

/// One that has no vote yet is retired like those that have, and may hold the
/// longest log all the same.
#[test]
fn a_learner_that_leaves_and_leads_is_not_asked_to_remove_itself() {
    let mut maker = DecisionMaker::serving(quorum(3));
    let primary = id(1);
    assert_eq!(maker.factor(4), [spawn(4, 3)]);
    maker.ready_no(4);
    assert_eq!(maker.factor(3), [Decision::Remove { primary, id: id(4) }]);
    maker.fail(1, KILLED);
    maker.ack(2, 1, 8);
    maker.ack(3, 1, 8);
    assert_eq!(maker.ack(4, 1, 9), [promote(4, 2)]);
    let promoted = Event::Promoted { id: id(4), generation: Generation(2) };
    assert_eq!(maker.step(promoted), []);
    let asked = [Decision::AddVoter { primary: id(4), id: id(4) }];
    assert_eq!(maker.tell(&[2, 3], &[4], &[2, 3]), asked);
}

/// Two majorities that are two changes apart need not meet.
#[test]
fn votes_are_taken_one_by_one() {
    let mut maker = DecisionMaker::serving(quorum(5));
    let primary = id(1);
    assert_eq!(maker.factor(3), [Decision::Remove { primary, id: id(5) }]);
    assert_eq!(maker.factor(3), [], "the fifth is not out yet");
    assert_eq!(maker.factor(6), [], "nor does another come before that");
    assert_eq!(maker.factor(3), []);
    let next = Decision::Remove { primary, id: id(4) };
    let decided = maker.tell(&[1, 2, 3, 4], &[], &[1, 2, 3, 4]);
    assert_eq!(decided, [kill(5, Cause::Retired), isolate(1, 1, &[5]), next]);
}

/// The next primary takes a vote only when no dead one is left.
#[test]
fn a_removal_is_not_asked_again_before_the_dead_are_out() {
    let mut maker = leaving_and_dying(4);
    maker.ack(2, 1, 9);
    maker.ack(3, 1, 9);
    assert_eq!(maker.ack(4, 1, 9), [promote(2, 2)]);
    let promoted = Event::Promoted { id: id(2), generation: Generation(2) };
    assert_eq!(maker.step(promoted), []);
    assert_eq!(maker.tell(&[2, 3, 4], &[], &[1, 2, 3, 4]), []);
    assert_eq!(maker.tell(&[2, 3, 4], &[], &[2, 3, 4]), [], "three were wanted");
}

/// It knows of voters that nobody had told of, and that are dead.
#[test]
fn a_candidate_that_misses_a_majority_says_so() {
    let mut maker = DecisionMaker::serving(quorum(3));
    maker.fail(1, KILLED);
    maker.ack(2, 1, 9);
    assert_eq!(maker.ack(3, 1, 9), [promote(2, 2)]);
    assert_eq!(maker.tell(&[], &[], &[1, 2, 3]), [], "that is one");
    let why = Loss::Majority;
    let rest = [kill(2, Cause::Retired), kill(3, Cause::Retired)];
    let lost = [&[Decision::DeclareLost { why }][..], &rest].concat();
    assert_eq!(maker.tell(&[], &[], &[1, 2, 3, 9]), lost);
}
