//! Every way in which a guest can come to its end.

use guest::layout::{WORDS_MAX, WORDS_OFFSET, word};
use hypervisor::kvm::{Exit, Failure, KvmError, LastWords, Machine, Outcome};

use super::programs::{self, image, in_ring_3};
use super::{assert_spent, boot, ready, usable};

fn first_failure(code: &[u8]) -> Failure {
    let mut machine = boot(&image(code));
    match machine.run().expect("KVM works") {
        Exit::Failed(failure) => {
            assert_spent(&mut machine);
            failure
        }
        other => panic!("{other:?} instead of a failure"),
    }
}

#[test]
fn a_guest_that_halts_has_failed() {
    if !usable("a_guest_that_halts_has_failed") {
        return;
    }
    assert_eq!(first_failure(programs::halting()), Failure::Halted);
}

#[test]
fn a_triple_fault_is_noticed() {
    if !usable("a_triple_fault_is_noticed") {
        return;
    }
    assert_eq!(first_failure(programs::triple_fault()), Failure::Shutdown);
}

#[test]
fn a_triple_fault_in_ring_3_is_noticed() {
    if !usable("a_triple_fault_in_ring_3_is_noticed") {
        return;
    }
    let mut machine = boot(&in_ring_3(&[0x0f, 0x0b]));
    assert_eq!(machine.run().expect("KVM works"), Exit::Failed(Failure::Shutdown));
    assert_spent(&mut machine);
}

#[test]
fn wild_accesses_are_told_exactly() {
    if !usable("wild_accesses_are_told_exactly") {
        return;
    }
    let write = Failure::UnexpectedAddress { gpa: 0x8000_0010, write: true };
    assert_eq!(first_failure(programs::wild_write()), write);
    let read = Failure::UnexpectedAddress { gpa: 0x3ff_fff0, write: false };
    assert_eq!(first_failure(programs::wild_read()), read);
    let output = Failure::UnexpectedPort { port: 0x80, write: true, size: 2 };
    assert_eq!(first_failure(programs::wild_output()), output);
    let input = Failure::UnexpectedPort { port: 0x60, write: false, size: 1 };
    assert_eq!(first_failure(programs::wild_input()), input);
    let wide = Failure::UnexpectedPort { port: 0xe0, write: true, size: 4 };
    assert_eq!(first_failure(programs::wide_yield()), wide);
}

/// Has a guest store these words in the exchange's first page.
fn obey(words: &[(usize, u64)]) -> (Machine, Result<Outcome, KvmError>, Vec<u8>) {
    let mut machine = ready(&in_ring_3(programs::obedient()));
    let request: Vec<u8> = words
        .iter()
        .flat_map(|(at, value)| [*at as u64, *value])
        .flat_map(u64::to_le_bytes)
        .collect();
    let mut answer = vec![7];
    let outcome = machine.call(&request, &mut answer, 1 << 20);
    (machine, outcome, answer)
}

fn reported(words: &[(usize, u64)]) -> Failure {
    let (mut machine, outcome, answer) = obey(words);
    assert_eq!(answer, [7], "no answer");
    assert_spent(&mut machine);
    match outcome.expect("KVM works") {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?} instead of a failure"),
    }
}

/// What becomes of a guest that says so, and nothing else.
fn bad_exchange() -> Failure {
    Failure::BadExchange { words: LastWords::default() }
}

#[test]
fn what_a_guest_reports_arrives() {
    if !usable("what_a_guest_reports_arrives") {
        return;
    }
    let exception = [
        (word::VECTOR, 14),
        (word::ERROR_CODE, 6),
        (word::RIP, 0xffff_ffff_8020_0000),
        (word::RSP, 0x1000),
        (word::CR2, 0xdead_0000),
        (word::FAILURE, 1),
    ];
    let line = "page fault (exception 14), error code 0x6, at 0xffffffff80200000, stack 0x1000, \
                address 0xdead0000";
    assert_eq!(reported(&exception).to_string(), line);
    let hello = (WORDS_OFFSET, u64::from_le_bytes(*b"\x1bhello\n!"));
    let panic = reported(&[hello, (word::WORDS_LEN, 8), (word::FAILURE, 2)]);
    assert_eq!(panic.to_string(), "panic: \u{fffd}hello !");
    assert_eq!(reported(&[(word::FAILURE, 4)]), bad_exchange());
}

#[test]
fn the_command_that_a_guest_fails_at_is_known() {
    if !usable("the_command_that_a_guest_fails_at_is_known") {
        return;
    }
    let (machine, outcome, _) = obey(&[(word::COMMAND, 5), (word::FAILURE, 4)]);
    assert_eq!(outcome.expect("KVM works"), Outcome::Failed(bad_exchange()));
    assert_eq!(machine.command().expect("readable"), 5);
    let (machine, outcome, _) = obey(&[(word::COMMAND, u64::MAX)]);
    assert_eq!(outcome.expect("KVM works"), Outcome::Answered);
    assert_eq!(machine.command().expect("readable"), u64::MAX, "as the guest says");
    let (machine, outcome, _) = obey(&[(word::FAILURE, 4)]);
    assert_eq!(outcome.expect("KVM works"), Outcome::Failed(bad_exchange()));
    assert_eq!(machine.command().expect("readable"), 0);
}

#[test]
fn lies_about_the_length_of_last_words_do_no_harm() {
    if !usable("lies_about_the_length_of_last_words_do_no_harm") {
        return;
    }
    for len in [WORDS_MAX as u64 + 1, 1 << 32, u64::MAX] {
        let words =
            [(WORDS_OFFSET + WORDS_MAX - 8, u64::MAX), (word::WORDS_LEN, len), (word::FAILURE, 99)];
        let Failure::Unexplained { kind: 99, words } = reported(&words) else {
            panic!("failure 99 is unknown");
        };
        assert_eq!(words.as_str().chars().count(), WORDS_MAX);
    }
}

#[test]
fn an_answer_that_cannot_be_ends_the_machine() {
    use guest::layout::ANSWER_MAX;
    use hypervisor::kvm::BadAnswer;
    if !usable("an_answer_that_cannot_be_ends_the_machine") {
        return;
    }
    let bad = |words: &[(usize, u64)]| match reported(words) {
        Failure::BadAnswer(bad) => bad,
        other => panic!("{other} instead of a bad answer"),
    };
    for bytes in [ANSWER_MAX as u64 + 1, u64::MAX, 1 << 63] {
        assert_eq!(bad(&[(word::ANSWER_LEN, bytes)]), BadAnswer::TooLong { bytes });
    }
    assert_eq!(bad(&[(word::ANSWER_LEN, (1 << 20) + 1)]), BadAnswer::OverLimit);
    assert_eq!(bad(&[(word::MORE, 1)]), BadAnswer::EmptyPart);
    assert_eq!(bad(&[(word::MORE, 2)]), BadAnswer::MoreWord { word: 2 });
    let endless = [(word::ANSWER_LEN, 100_000), (word::MORE, 1)];
    assert_eq!(bad(&endless), BadAnswer::OverLimit);
}

#[test]
fn a_flipped_bit_shows() {
    if !usable("a_flipped_bit_shows") {
        return;
    }
    let mut machine = ready(&image(programs::yielding()));
    // Of the jump back to the output: it goes elsewhere, or nowhere.
    let at = guest::layout::IMAGE_GPA as usize + programs::yielding().len() - 1;
    machine.ram().flip_bit(at, 7).expect("inside");
    assert!(matches!(machine.run().expect("KVM works"), Exit::Failed(_)));
    let mut machine = ready(&in_ring_3(programs::echo()));
    machine.ram().write(0x21_0000, &[0x90; 0x100]).expect("inside");
    assert!(machine.ram().write(programs::MEMORY_BYTES as usize - 1, &[0; 2]).is_err());
    machine.exchange().flip_bit(word::MAGIC, 1).expect("inside");
    machine.ram().write(0x21_0100, &[0x0f, 0x0b]).expect("inside");
    assert_eq!(machine.run().expect("KVM works"), Exit::Failed(Failure::Shutdown));
}
