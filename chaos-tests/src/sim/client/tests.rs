//! Clients hear what they should, object to what they should not, and come to an
//! end.

use xenstore::wire::{Errno, error_frame, frame};

use super::*;

fn client(kind: Kind) -> SimClient {
    (0..200)
        .find_map(|seed| {
            let population =
                Population { seed, clients: 12, think_us: 1000, keys: 3, entangled: false };
            population.clients(&[]).into_iter().find(|client| client.kind() == kind)
        })
        .expect("every kind is drawn")
}

/// Connects it and has it say something.
fn first_words(client: &mut SimClient) -> (u64, Vec<u8>) {
    let mut now_us = 0;
    loop {
        match client.wake(now_us) {
            Action::Connect => client.connected(now_us),
            Action::Send(bytes) => return (now_us, bytes),
            Action::Wait { until_us } => now_us = until_us,
            Action::StopReading { .. } | Action::HangUp => {}
        }
    }
}

fn header(bytes: &[u8]) -> (MessageType, u32) {
    let header = xenstore::wire::Header::decode(bytes).expect("a frame");
    (MessageType::from_u32(header.kind).expect("known"), header.req_id)
}

#[test]
fn all_kinds_are_drawn_and_speak() {
    use Kind::{
        GreedyGuest, Guest, Hostile, Pipeliner, Register, SlowReader, SlowWatcher, Toolstack,
        Transactions, Tree, Watcher,
    };
    for kind in [
        Register,
        Pipeliner,
        SlowReader,
        Transactions,
        Tree,
        Watcher,
        SlowWatcher,
        Guest,
        GreedyGuest,
        Hostile,
        Toolstack,
    ] {
        let mut client = client(kind);
        assert!(!first_words(&mut client).1.is_empty(), "{kind:?}");
        assert!(client.sent() > 0, "{kind:?}");
    }
}

#[test]
fn the_same_seed_says_the_same() {
    let say = || {
        let clients = Population::draw(5).clients(&[]);
        clients.into_iter().map(|mut client| first_words(&mut client)).collect::<Vec<_>>()
    };
    assert_eq!(say(), say());
}

#[test]
fn wrong_answers_are_complained_about() {
    let answer = |change: fn(MessageType, u32, &mut Vec<u8>)| {
        let mut client = client(Kind::Tree);
        let (now_us, said) = first_words(&mut client);
        let (kind, id) = header(&said);
        let mut bytes = Vec::new();
        change(kind, id, &mut bytes);
        client.hear(&bytes, now_us).map_err(|complaint| complaint.what)
    };
    assert_eq!(answer(|kind, id, out| frame(kind, id, 0, b"", out)), Ok(()));
    assert_eq!(answer(|_, id, out| error_frame(Errno::ENOENT, id, 0, out)), Ok(()));
    assert!(answer(|kind, id, out| frame(kind, id + 1, 0, b"", out)).is_err(), "another id");
    assert!(answer(|kind, id, out| frame(kind, id, 1, b"", out)).is_err(), "another tx");
    assert!(answer(|_, id, out| frame(MessageType::Rm, id, 0, b"", out)).is_err(), "a type");
    assert!(answer(|_, id, out| error_frame(Errno::EROFS, id, 0, out)).is_err());
    let twice = |kind, id, out: &mut Vec<u8>| {
        frame(kind, id, 0, b"", out);
        frame(kind, id, 0, b"", out);
    };
    assert!(answer(twice).is_err(), "twice");
    let event = |_, _, out: &mut Vec<u8>| frame(MessageType::WatchEvent, 0, 0, b"/a\0t\0", out);
    assert!(answer(event).is_err(), "an event without a watch");
}

#[test]
fn after_healing_one_fresh_request_is_answered() {
    let mut client = client(Kind::Register);
    let (now_us, said) = first_words(&mut client);
    client.heal(now_us);
    assert!(!client.is_done());
    assert_eq!(client.wake(now_us), Action::Wait { until_us: u64::MAX }, "an answer is due");
    let (_, id) = header(&said);
    let mut bytes = Vec::new();
    error_frame(Errno::EIO, id, 0, &mut bytes);
    client.hear(&bytes, now_us).expect("a lawful answer");
    let Action::Send(last) = client.wake(now_us) else { panic!("the last request") };
    // The host goes away once more.
    client.closed(now_us);
    assert_eq!(client.wake(now_us + RETRY_US), Action::Connect);
    client.connected(now_us + RETRY_US);
    let Action::Send(again) = client.wake(now_us + RETRY_US) else { panic!("it asks again") };
    assert_eq!(header(&again).0, header(&last).0);
    let (kind, id) = header(&again);
    let mut bytes = Vec::new();
    frame(kind, id, 0, b"sim\0", &mut bytes);
    client.hear(&bytes, now_us).expect("the last answer");
    assert!(client.is_done());
    assert!(!client.transcript().is_empty());
}
