//! Determinism, digests, snapshots, corruption, garbage.

use alloc::vec::Vec;

use quickcheck::quickcheck;
use state_machine::{ConnId, Corruption, Input, InputNo, ScrubProgress, StateMachine};

use crate::machine::{SnapshotCursor, Xenstore};
use crate::snapshot::BIRTHS;
use crate::testing::{Collector, Inventor, Out, Rig};
use crate::wire::MessageType::{self, *};

fn apply(machine: &mut Xenstore, input: &Input<'_>) -> Result<Vec<Out>, Corruption> {
    let mut out = Collector::default();
    machine.apply(InputNo(1), input, &mut out)?;
    Ok(out.0)
}

fn started() -> Xenstore {
    let mut machine = Xenstore::default();
    for (conn, domid) in [(1, 0), (2, 0), (5, 5), (6, 6)] {
        let input = Input::Open { conn: ConnId(conn), domid: state_machine::DomId(domid) };
        apply(&mut machine, &input).expect("sound");
    }
    machine
}

fn encoded(machine: &Xenstore) -> Vec<u8> {
    let mut bytes = Vec::new();
    Xenstore::encode(&machine.freeze(), &mut bytes);
    bytes
}

/// Scrubs in slices until a pass is done.
fn scrub(machine: &mut Xenstore) -> Result<(), Corruption> {
    while machine.scrub(3)? == ScrubProgress::Within {}
    Ok(())
}

quickcheck! {
    /// Two machines stay equal, outputs and all, though one of them is replaced
    /// by what its snapshot restores to now and then; the scrubber is content
    /// whenever it looks; and what was frozen does not change.
    fn snapshots_and_replicas_are_the_same(seed: u64) -> bool {
        let mut inventor = Inventor::new(seed);
        let (mut one, mut two) = (started(), started());
        let mut frozen = None;
        let mut bytes = Vec::new();
        for step in 0..400 {
            let input = inventor.input(&mut bytes);
            let out = apply(&mut one, &input).expect("sound");
            assert_eq!(out, apply(&mut two, &input).expect("sound"), "step {step}: {input:?}");
            assert_eq!(one.digest(), two.digest(), "step {step}: {input:?}");
            if inventor.below(40) == 0 {
                two = Xenstore::restore(&encoded(&one)).expect("a snapshot");
                assert_eq!(one.digest(), two.digest(), "restored at step {step}");
                assert_eq!(encoded(&one), encoded(&two));
            }
            if inventor.below(60) == 0 {
                if let Some((snapshot, bytes)) = frozen.take() {
                    let mut now = Vec::new();
                    Xenstore::encode(&snapshot, &mut now);
                    assert!(now == bytes, "what is frozen stays");
                }
                frozen = Some((one.freeze(), encoded(&one)));
            }
            one.scrub(5).expect("sound");
        }
        scrub(&mut one).expect("sound");
        scrub(&mut two).expect("sound");
        true
    }

    /// The parts of a snapshot are those of what was frozen, whatever happens to the
    /// machine in between; and they restore to it.
    fn parts_are_of_what_was_frozen(seed: u64) -> bool {
        let mut inventor = Inventor::new(seed);
        let mut machine = started();
        let mut bytes = Vec::new();
        for _ in 0..inventor.below(1500) {
            let path = inventor.far_path();
            tell(&mut machine, Write, &path, b"\0value");
        }
        for _ in 0..100 {
            let input = inventor.input(&mut bytes);
            apply(&mut machine, &input).expect("sound");
        }
        let (frozen, digest, whole) = (machine.freeze(), machine.digest(), encoded(&machine));
        let (mut parts, mut cursor, mut count) = (Vec::new(), SnapshotCursor::default(), 1);
        // Each part is appended to all before it, or is apart from them.
        let mut apart = Vec::new();
        while !Xenstore::encode_part(&frozen, &mut cursor, &mut apart) {
            count += 1;
            if inventor.below(2) == 0 {
                parts.append(&mut apart);
            }
            for _ in 0..30 {
                let kind = *inventor.pick(&[Write, Rm]);
                let path = inventor.far_path();
                tell(&mut machine, kind, &path, b"\0");
                let input = inventor.input(&mut bytes);
                apply(&mut machine, &input).expect("sound");
            }
        }
        parts.append(&mut apart);
        assert!(parts == whole, "{} bytes in {count} parts", parts.len());
        assert_eq!(Xenstore::restore(&parts).expect("a snapshot").digest(), digest);
        true
    }

    /// Queries answer what applying them answers, and change nothing.
    fn queries_change_nothing(seed: u64) -> bool {
        let mut inventor = Inventor::new(seed);
        let mut machine = started();
        let mut bytes = Vec::new();
        for _ in 0..300 {
            let input = inventor.input(&mut bytes);
            if Xenstore::classify(&input) != state_machine::Class::Query {
                apply(&mut machine, &input).expect("sound");
                continue;
            }
            let before = machine.digest();
            let mut out = Collector::default();
            machine.query(InputNo(1), &input, &mut out).expect("sound");
            assert_eq!(out.0, apply(&mut machine, &input).expect("sound"));
            assert_eq!(machine.digest(), before, "{input:?}");
        }
        true
    }

    fn garbage_is_answered(frames: Vec<Vec<u8>>) -> bool {
        let mut rig = Rig::new();
        for frame in &frames {
            let input = Input::Request { conn: ConnId(1), frame };
            assert_eq!(rig.input(&input).len(), 1);
        }
        true
    }

    /// A hostile snapshot is refused or restored, and never a panic.
    fn broken_snapshots(seed: u64) -> bool {
        let mut inventor = Inventor::new(seed);
        let mut machine = started();
        let mut bytes = Vec::new();
        for _ in 0..100 {
            let input = inventor.input(&mut bytes);
            apply(&mut machine, &input).expect("sound");
        }
        let whole = encoded(&machine);
        for _ in 0..50 {
            let mut broken = whole.clone();
            for _ in 0..=inventor.below(3) {
                let at = inventor.below(broken.len() as u64) as usize;
                broken[at] ^= 1 << inventor.below(8);
            }
            broken.truncate(broken.len() - inventor.below(3) as usize * 8);
            if let Ok(mut restored) = Xenstore::restore(&broken) {
                let _ = restored.digest();
                let _ = scrub(&mut restored);
                let _ = apply(&mut restored, &inventor.input(&mut bytes));
            }
        }
        true
    }

    /// A flipped bit is found by the scrubber, and by whoever would be told.
    fn a_flipped_bit_does_not_get_out(seed: u64) -> bool {
        let mut rig = Rig::new();
        let mut paths = Vec::new();
        for number in 0..60 {
            let path = alloc::format!("/d{}/e{}/f{number}", number % 3, number % 5).into_bytes();
            rig.write(&path, alloc::format!("value {number}").as_bytes());
            paths.push(path);
        }
        let machine = &mut rig.machine;
        let before = (machine.digest(), encoded(machine));
        machine.flip_bit(seed);
        assert_eq!(machine.digest(), before.0, "the digests know nothing of it");
        assert!(encoded(machine) != before.1, "something did change");
        assert!(scrub(machine).is_err());
        let sound = Xenstore::restore(&before.1).expect("a snapshot");
        for path in [&b"/"[..], b"/d0", b"/d1/e1", b"/tool", b"/tool/xenstored"]
            .into_iter()
            .chain(paths.iter().map(|path| &path[..]))
        {
            for kind in [Read, Directory, GetPerms] {
                let mut bytes = Vec::new();
                crate::wire::frame(kind, 1, 0, &crate::testing::text(&[path]), &mut bytes);
                let input = Input::Request { conn: ConnId(1), frame: &bytes };
                let (mut out, mut expected) = (Collector::default(), Collector::default());
                sound.query(InputNo(1), &input, &mut expected).expect("sound");
                match machine.query(InputNo(1), &input, &mut out) {
                    Ok(()) => assert_eq!(out.0, expected.0, "wrong data got out"),
                    Err(corruption) => assert!(!corruption.what.is_empty()),
                }
            }
        }
        true
    }
}

/// A request of the control domain, of a path and what follows it.
fn tell(machine: &mut Xenstore, kind: MessageType, path: &[u8], rest: &[u8]) {
    let open = Input::Open { conn: ConnId(9), domid: state_machine::DomId(0) };
    apply(machine, &open).expect("sound");
    let mut bytes = Vec::new();
    crate::wire::frame(kind, 1, 0, &[path, rest].concat(), &mut bytes);
    apply(machine, &Input::Request { conn: ConnId(9), frame: &bytes }).expect("sound");
}

/// However large the store is, and the last part need not be a full one.
#[test]
fn a_part_is_small() {
    for nodes in [0, 1, BIRTHS - 1, BIRTHS, BIRTHS + 1, 20 * BIRTHS, 20 * BIRTHS + 9] {
        let mut rig = Rig::new();
        let before = rig.machine.node_count();
        for number in 0..nodes {
            rig.write(alloc::format!("/node{number}").as_bytes(), b"value");
        }
        assert_eq!(rig.machine.node_count() - before, nodes as u64);
        let (frozen, mut cursor) = (rig.machine.freeze(), SnapshotCursor::default());
        let mut parts = Vec::new();
        loop {
            let mut part = Vec::new();
            let is_last = Xenstore::encode_part(&frozen, &mut cursor, &mut part);
            assert!((1..80 * BIRTHS).contains(&part.len()), "{} bytes", part.len());
            parts.push(part);
            if is_last {
                break;
            }
        }
        assert!((2 + nodes / BIRTHS..=4 + nodes / BIRTHS).contains(&parts.len()), "of {nodes}");
        let restored = Xenstore::restore(&parts.concat()).expect("a snapshot");
        assert_eq!(restored.digest(), rig.machine.digest());
    }
}

#[test]
fn the_digest_is_of_the_content_and_not_of_the_way_to_it() {
    let mut rig = Rig::new();
    rig.write(b"/a", b"x");
    let digest = rig.machine.state.store.tree().digest();
    let again = Xenstore::restore(&encoded(&rig.machine)).expect("a snapshot");
    assert_eq!(again.state.store.tree().digest(), digest);
    rig.write(b"/a", b"x");
    assert_ne!(rig.machine.state.store.tree().digest(), digest, "generations count");
}

#[test]
fn the_scrubber_copes_with_changes_between_slices() {
    let mut rig = Rig::new();
    for number in 0..200 {
        rig.write(alloc::format!("/a/{}/{number}", number % 9).as_bytes(), b"v");
    }
    for round in 0..300 {
        rig.machine.scrub(7).expect("sound");
        // The directory may be gone already.
        let path = alloc::format!("/a/{}/{}\0", round % 9, round % 200);
        let _ = rig.ask(1, Rm, 0, path.as_bytes());
        rig.write(alloc::format!("/a/{}/{round}", round % 7).as_bytes(), b"w");
        if round % 50 == 0 {
            rig.ok(Rm, alloc::format!("/a/{}\0", round % 9).as_bytes());
        }
    }
}

#[test]
fn an_open_transaction_survives_in_a_snapshot() {
    let mut rig = Rig::new();
    rig.write(b"/a/b", b"1");
    rig.ok(Watch, b"/\0t\0");
    let (one, two, three) = (rig.start(1), rig.start(1), rig.start(1));
    for (tx, kind, payload) in [
        (one, Read, &b"/a/b\0"[..]),
        (one, Write, b"/a/b\x002"),
        (one, Write, b"/new/node\x003"),
        (one, SetPerms, b"@releaseDomain\0r0\0"),
        (two, Rm, b"/a\0"),
        (two, Mkdir, b"/a\0"),
    ] {
        rig.ask(1, kind, tx, payload).expect("allowed");
    }
    rig.write(b"/later", b"x");
    rig.machine = Xenstore::restore(&encoded(&rig.machine)).expect("a snapshot");
    assert_eq!(rig.ask(1, Read, one, b"/a/b\0"), Ok(b"2".to_vec()));
    assert_eq!(rig.ask(1, Read, three, b"/later\0"), Err(crate::wire::Errno::ENOENT));
    assert_eq!(rig.ask(1, Directory, two, b"/a\0"), Ok(Vec::new()));
    rig.fired();
    assert_eq!(rig.commit(1, one), Ok(()));
    assert_eq!(rig.fired().len(), 2, "none for @releaseDomain");
    assert_eq!(rig.read(b"/new/node"), Ok(b"3".to_vec()));
    assert_eq!(rig.commit(1, two), Ok(()));
    assert_eq!(rig.ask(1, Directory, 0, b"/a\0"), Ok(Vec::new()));
}

/// A transaction that nothing has happened to puts its own tree in place. A bit that
/// flipped after it began did so there as well: the scrubber finds it afterwards.
#[test]
fn a_flipped_bit_is_that_of_open_transactions_too() {
    let mut rig = Rig::new();
    for number in 0..60 {
        rig.write(alloc::format!("/d/{number}").as_bytes(), b"value");
    }
    let sound = rig.machine.clone();
    let mut committed = 0;
    for seed in 0..100 {
        rig.machine = sound.clone();
        let (transaction, idle) = (rig.start(1), rig.start(1));
        rig.ask(1, Write, transaction, b"/d/new\0x").expect("allowed");
        let digest = rig.machine.digest();
        rig.machine.flip_bit(seed);
        assert_eq!(rig.machine.digest(), digest, "the digests know nothing of it");
        for id in [transaction, idle] {
            let mut machine = rig.machine.clone();
            let mut bytes = Vec::new();
            crate::wire::frame(TransactionEnd, 1, id, b"T\0", &mut bytes);
            let commit = Input::Request { conn: ConnId(1), frame: &bytes };
            // What lies on its way it may look at itself.
            if apply(&mut machine, &commit).is_ok() {
                assert!(scrub(&mut machine).is_err(), "seed {seed}, transaction {id}");
                committed += u32::from(id == transaction);
            }
        }
    }
    assert!(committed > 50, "{committed} of 100 were left to the scrubber");
}

/// What the store replaces before the scrubber has come, a transaction may still have.
#[test]
fn damage_that_only_an_open_transaction_has_is_found() {
    let mut rig = Rig::new();
    for number in 0..60 {
        rig.write(alloc::format!("/d{}/{number}", number % 7).as_bytes(), b"value");
    }
    let sound = rig.machine.state.store.clone();
    for seed in 0..100 {
        for is_early in [true, false] {
            let mut rig = rig.clone();
            // The transaction shares the node that is damaged, or has one of its own.
            if is_early {
                rig.machine.flip_bit(seed);
            }
            rig.start(1);
            rig.start(1);
            if !is_early {
                rig.machine.flip_bit(seed);
            }
            rig.machine.state.store = sound.clone();
            assert!(scrub(&mut rig.machine).is_err(), "seed {seed}");
        }
    }
}

/// What transactions share with the store is not checked once more for each.
#[test]
fn the_scrubber_looks_but_once_at_what_is_shared() {
    let mut rig = Rig::new();
    for number in 0..60 {
        rig.write(alloc::format!("/d{}/{number}", number % 6).as_bytes(), b"value");
    }
    let slices = |rig: &mut Rig| {
        let mut slices = 1;
        while rig.machine.scrub(1).expect("sound") == ScrubProgress::Within {
            slices += 1;
        }
        slices
    };
    let alone = slices(&mut rig);
    for _ in 0..5 {
        rig.start(1);
    }
    let beside = slices(&mut rig);
    assert!(beside <= alone + 10, "{beside} slices instead of {alone}");
    // Of its own are those on the way to the change, and those beside them.
    let transaction = rig.start(1);
    rig.ask(1, Write, transaction, b"/d1/new\0x").expect("allowed");
    let beside = slices(&mut rig);
    assert!((alone + 15..alone + 40).contains(&beside), "{beside} slices instead of {alone}");
}

#[test]
fn quarantine_and_poison() {
    let mut rig = Rig::new();
    let poison = Input::Poison;
    assert!(apply(&mut rig.machine.clone(), &poison).is_err());
    let before = rig.machine.digest();
    let mut bytes = Vec::new();
    crate::wire::frame(Write, 7, 0, b"/a\0x", &mut bytes);
    let request = Input::Request { conn: ConnId(1), frame: &bytes };
    let mut out = Collector::default();
    for input in [poison, request, Input::Boot] {
        rig.machine.quarantine(InputNo(9), &input, &mut out);
    }
    let answered = out.0.iter().map(|out| match out {
        Out::Reply { conn, req_id, payload, .. } => (*conn, *req_id, &payload[..]),
        other => panic!("{other:?}"),
    });
    let answered: Vec<_> = answered.collect();
    assert_eq!(answered, [(0, 0, &b"EIO\0"[..]), (1, 7, b"EIO\0")]);
    assert_eq!(rig.machine.digest(), before);
}
