//! Transactions against each other.

use crate::testing::{Rig, pair};
use crate::wire::{
    Errno,
    MessageType::{self, *},
};

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.open(2, 0);
    rig.write(b"/a", b"1");
    rig.write(b"/b", b"1");
    rig
}

fn done(rig: &mut Rig, conn: u64, tx: u32, kind: MessageType, payload: &[u8]) {
    rig.ask(conn, kind, tx, payload).expect("it is allowed");
}

#[test]
fn reads_are_of_one_moment() {
    let mut rig = rig();
    let tx = rig.start(1);
    assert_eq!(rig.ask(1, Read, tx, b"/a\0"), Ok(b"1".to_vec()));
    let other = rig.start(2);
    done(&mut rig, 2, other, Write, b"/a\x002");
    done(&mut rig, 2, other, Write, b"/b\x002");
    assert_eq!(rig.commit(2, other), Ok(()));
    assert_eq!(rig.ask(1, Read, tx, b"/b\0"), Ok(b"1".to_vec()), "not torn");
    assert_eq!(rig.commit(1, tx), Ok(()), "only read, never refused");
}

#[test]
fn own_writes_are_seen_and_others_are_not() {
    let mut rig = rig();
    let tx = rig.start(1);
    done(&mut rig, 1, tx, Write, b"/c/d\0x");
    done(&mut rig, 1, tx, Rm, b"/a\0");
    assert_eq!(rig.ask(1, Read, tx, b"/c/d\0"), Ok(b"x".to_vec()));
    assert_eq!(rig.ask(1, Read, tx, b"/a\0"), Err(Errno::ENOENT));
    assert_eq!(rig.ask(2, Read, 0, b"/c/d\0"), Err(Errno::ENOENT));
    rig.write(b"/e", b"x");
    assert_eq!(rig.commit(1, tx), Ok(()));
    assert_eq!(rig.ask(2, Directory, 0, b"/\0"), Ok(b"tool\0b\0e\0c\0".to_vec()));
}

#[test]
fn conflicts_are_what_somebody_could_have_seen() {
    type Steps = &'static [(MessageType, &'static [u8])];
    let cases: [(Steps, Steps, Result<(), Errno>); 12] = [
        // Siblings, and blind writes, merge.
        (&[(Write, b"/d/x\0")], &[(Write, b"/d/y\0")], Ok(())),
        (&[(Write, b"/a\x007")], &[(Write, b"/b\x007")], Ok(())),
        (&[(Write, b"/a\x007")], &[(Write, b"/a\x008")], Ok(())),
        (&[(Mkdir, b"/d\0")], &[(Mkdir, b"/d\0")], Ok(())),
        (&[(Rm, b"/a\0")], &[(Write, b"/a/x\0")], Ok(())),
        // What was read must not have changed,
        (&[(Read, b"/a\0"), (Write, b"/b\0")], &[(Write, b"/a\x008")], Err(Errno::EAGAIN)),
        (&[(Read, b"/n\0"), (Write, b"/b\0")], &[(Write, b"/n\0")], Err(Errno::EAGAIN)),
        (&[(Directory, b"/\0"), (Write, b"/b\0")], &[(Write, b"/n\0")], Err(Errno::EAGAIN)),
        (&[(GetPerms, b"/a\0"), (Write, b"/b\0")], &[(SetPerms, b"/a\0r0\0")], Err(Errno::EAGAIN)),
        (&[(SetPerms, b"/a\0r0\0")], &[(Rm, b"/a\0")], Err(Errno::EAGAIN)),
        // by its value, and only that.
        (&[(Read, b"/a\0"), (Write, b"/b\0")], &[(Write, b"/a\x001")], Ok(())),
        (&[(Read, b"/a\0"), (Write, b"/b\0")], &[(Write, b"/a/x\0")], Ok(())),
    ];
    for (number, (mine, theirs, expected)) in cases.iter().enumerate() {
        for direct in [false, true] {
            let mut rig = rig();
            let tx = rig.start(1);
            for (kind, payload) in *mine {
                let _ = rig.ask(1, *kind, tx, payload);
            }
            let other = if direct { 0 } else { rig.start(2) };
            for (kind, payload) in *theirs {
                done(&mut rig, 2, other, *kind, payload);
            }
            if !direct {
                assert_eq!(rig.commit(2, other), Ok(()));
            }
            assert_eq!(rig.commit(1, tx), *expected, "case {number}");
            assert_eq!(rig.commit(1, tx), Err(Errno::ENOENT), "it is over in any case");
        }
    }
}

/// T1 reads A and writes B, T2 reads B and writes A; missing keys at that.
#[test]
fn no_write_skew() {
    let mut rig = rig();
    let (one, two) = (rig.start(1), rig.start(2));
    assert_eq!(rig.ask(1, Read, one, b"/x\0"), Err(Errno::ENOENT));
    assert_eq!(rig.ask(2, Read, two, b"/y\0"), Err(Errno::ENOENT));
    done(&mut rig, 1, one, Write, b"/y\0");
    done(&mut rig, 2, two, Write, b"/x\0");
    assert_eq!(rig.commit(1, one), Ok(()));
    assert_eq!(rig.commit(2, two), Err(Errno::EAGAIN));
}

#[test]
fn a_transaction_sees_that_its_domain_came_or_went() {
    let mut rig = rig();
    rig.introduce(5, 5);
    let tx = rig.start(1);
    done(&mut rig, 1, tx, SetPerms, b"/a\0n5\0");
    rig.ok(Release, b"5\0");
    assert_eq!(rig.commit(1, tx), Err(Errno::EAGAIN));
    assert_eq!(rig.ask(1, GetPerms, 0, b"/a\0"), Ok(b"n0\0".to_vec()));
}

/// Eight clients read, modify and write one key, step by step in several
/// orders: each of them gets its turn.
#[test]
fn nobody_starves() {
    for stride in [1, 3, 5, 7] {
        let mut rig = rig();
        for conn in 2..10 {
            rig.open(conn, 0);
        }
        rig.write(b"/n", b"0");
        let mut open: [Option<(u32, bool)>; 10] = [None; 10];
        let (mut won, mut waited, mut lost) = ([0_u32; 10], [0_u32; 10], 0_u32);
        for turn in 0..8 * 3 * 200_usize {
            let conn = 2 + (turn * stride) % 8;
            let id = conn as u64;
            match open[conn] {
                None => open[conn] = Some((rig.start(id), false)),
                Some((tx, false)) => {
                    let reply = rig.ask(id, Read, tx, b"/n\0").expect("it is there");
                    let text = core::str::from_utf8(&reply).expect("text");
                    let next = 1 + text.parse::<u32>().expect("a number");
                    let next = alloc::format!("{next}");
                    done(&mut rig, id, tx, Write, &pair(b"/n", next.as_bytes()));
                    open[conn] = Some((tx, true));
                }
                Some((tx, true)) => {
                    open[conn] = None;
                    let committed = rig.commit(id, tx);
                    if committed.is_ok() {
                        won[conn] += 1;
                        waited[conn] = 0;
                        continue;
                    }
                    assert_eq!(committed, Err(Errno::EAGAIN));
                    lost += 1;
                    waited[conn] += 1;
                    assert!(waited[conn] < 40, "{conn} starves: {won:?}");
                }
            }
        }
        let total: u32 = won.iter().sum();
        let shown = alloc::format!("{total}");
        assert_eq!(rig.read(b"/n"), Ok(shown.into_bytes()), "no lost update");
        let (least, most) = (won[2..].iter().min(), won[2..].iter().max());
        assert!(most <= least.map(|least| least * 2 + 2).as_ref(), "{won:?}, {lost} lost");
    }
}

/// Who sleeps in a shielded transaction is not waited for.
#[test]
fn a_shield_wears_off() {
    let mut rig = rig();
    let tx = rig.start(1);
    let _ = rig.ask(1, Read, tx, b"/a\0");
    done(&mut rig, 1, tx, Write, b"/a\0x");
    done(&mut rig, 2, 0, Write, b"/a\0y");
    assert_eq!(rig.commit(1, tx), Err(Errno::EAGAIN));
    let sleeper = rig.start(1);
    let _ = rig.ask(1, Read, sleeper, b"/a\0");
    let mut refused = 0;
    loop {
        let tx = rig.start(2);
        done(&mut rig, 2, tx, Write, b"/a\0z");
        match rig.commit(2, tx) {
            Ok(()) => break,
            Err(_) => refused += 1,
        }
        assert!(refused < 100);
    }
    assert!(refused > 0, "there was a shield");
    // A plain write never waits.
    done(&mut rig, 2, 0, Write, b"/a\0w");
}

/// A guest cannot hold up the control domain.
#[test]
fn a_shield_does_not_stop_the_more_privileged() {
    let mut rig = rig();
    rig.introduce(5, 5);
    rig.ok(SetPerms, b"/a\0b5\0");
    let tx = rig.start(5);
    let _ = rig.ask(5, Read, tx, b"/a\0");
    done(&mut rig, 5, tx, Write, b"/a\0x");
    rig.write(b"/a", b"y");
    assert_eq!(rig.commit(5, tx), Err(Errno::EAGAIN));
    let tx = rig.start(5);
    let _ = rig.ask(5, Read, tx, b"/a\0");
    assert!(rig.machine.state.fair.shield.is_some());
    let mine = rig.start(1);
    done(&mut rig, 1, mine, Write, b"/a\0z");
    assert_eq!(rig.commit(1, mine), Ok(()));
}
