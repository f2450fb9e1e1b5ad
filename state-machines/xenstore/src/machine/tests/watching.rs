//! Watches and their events.

use alloc::vec;
use alloc::vec::Vec;

use crate::testing::{Out, Rig, pair, text};
use crate::wire::{Errno, MessageType::*};

fn watch(rig: &mut Rig, conn: u64, path: &[u8], token: &[u8]) {
    assert_eq!(rig.ask(conn, Watch, 0, &text(&[path, token])), Ok(b"OK\0".to_vec()));
}

fn paths(rig: &mut Rig) -> Vec<Vec<u8>> {
    rig.fired().into_iter().map(|(_, path, _)| path).collect()
}

#[test]
fn a_watch_fires_after_its_own_reply_and_before_that_of_a_write() {
    let mut rig = Rig::new();
    let out = rig.outputs(1, Watch, 0, &text(&[b"/a", b"t"]));
    assert!(matches!(&out[..], [Out::Reply { .. }, Out::Event { path, .. }] if path == b"/a"));
    let out = rig.outputs(1, Write, 0, &pair(b"/a/b", b"x"));
    assert!(matches!(&out[..], [Out::Event { path, .. }, Out::Reply { .. }] if path == b"/a/b"));
}

#[test]
fn what_fires() {
    let mut rig = Rig::new();
    watch(&mut rig, 1, b"/a", b"t");
    rig.fired();
    rig.write(b"/a/b/c", b"x");
    assert_eq!(paths(&mut rig), [b"/a/b/c"], "one event, though three nodes were made");
    rig.write(b"/a/b/c", b"x");
    assert_eq!(paths(&mut rig), [b"/a/b/c"], "the same value fires too");
    rig.ok(Mkdir, b"/a/b\0");
    rig.ok(Rm, b"/a/none\0");
    rig.read(b"/a/b/c").expect("it is there");
    assert_eq!(rig.fired(), []);
    rig.ok(SetPerms, b"/a/b\0r0\0");
    assert_eq!(paths(&mut rig), [b"/a/b"]);
    rig.write(b"/ab", b"x");
    rig.write(b"/", b"x");
    assert_eq!(rig.fired(), []);
}

#[test]
fn removal_fires_the_childrens_own_watches_first() {
    let mut rig = Rig::new();
    rig.write(b"/a/b/c", b"");
    rig.write(b"/a/d", b"");
    for path in [&b"/"[..], b"/a", b"/a/b/c", b"/a/d", b"/a/none"] {
        watch(&mut rig, 1, path, path);
    }
    rig.fired();
    rig.ok(Rm, b"/a\0");
    assert_eq!(paths(&mut rig), [&b"/a/b/c"[..], b"/a/d", b"/a", b"/a"]);
}

#[test]
fn removal_of_much_is_told_to_the_few_who_watch() {
    let mut rig = Rig::new();
    for number in 0..50 {
        rig.write(alloc::format!("/a/{number}/x").as_bytes(), b"");
    }
    watch(&mut rig, 1, b"/", b"top");
    rig.fired();
    rig.ok(Rm, b"/a/7\0");
    assert_eq!(paths(&mut rig), [b"/a/7"]);
    watch(&mut rig, 1, b"/a/8/x", b"below");
    watch(&mut rig, 1, b"/a/7/x", b"gone");
    rig.fired();
    rig.ok(Rm, b"/a\0");
    assert_eq!(paths(&mut rig), [&b"/a/8/x"[..], b"/a"]);
}

#[test]
fn relative_watches_see_relative_paths() {
    let mut rig = Rig::new();
    watch(&mut rig, 1, b"x", b"t");
    rig.write(b"/local/domain/0/x/y", b"");
    assert_eq!(paths(&mut rig), [&b"x"[..], b"x/y"]);
    // The same watch by its absolute path.
    assert_eq!(rig.ask(1, Watch, 0, &text(&[b"/local/domain/0/x", b"t"])), Err(Errno::EEXIST));
    rig.ok(Unwatch, &text(&[b"x", b"t"]));
    rig.write(b"x", b"");
    assert_eq!(rig.fired(), []);
}

#[test]
fn registration_errors() {
    let mut rig = Rig::new();
    for (kind, payload, errno) in [
        (Watch, &b"/a\0"[..], Errno::EINVAL),
        (Watch, b"/a\0t", Errno::EINVAL),
        (Watch, b"/a/\0t\0", Errno::EINVAL),
        (Watch, b"/a\0t\0-1\0", Errno::EINVAL),
        (Watch, b"/a\0t\x001\0x\0", Errno::EINVAL),
        (Unwatch, b"/a\0t\0", Errno::ENOENT),
        (Unwatch, b"/a\0", Errno::EINVAL),
        (Unwatch, b"/a\0t\0x\0", Errno::EINVAL),
    ] {
        assert_eq!(rig.ask(1, kind, 0, payload), Err(errno), "{kind:?} {payload:?}");
    }
    watch(&mut rig, 1, b"/a", b"t");
    assert_eq!(rig.ask(1, Watch, 0, b"/a\0t\0"), Err(Errno::EEXIST));
    watch(&mut rig, 1, b"/a", b"u");
    watch(&mut rig, 1, b"@foo", b"");
    // The transaction id of a WATCH is ignored.
    assert_eq!(rig.ask(1, Watch, 77, b"/b\0t\0"), Ok(b"OK\0".to_vec()));
    rig.ok(ResetWatches, b"");
    rig.fired();
    rig.write(b"/a", b"");
    assert_eq!(rig.fired(), []);
}

#[test]
fn depth_limits_what_a_watch_sees() {
    let mut rig = Rig::new();
    rig.ok(Watch, b"/a\0t\x001\0");
    rig.ok(Watch, b"/a\0zero\x000\0");
    rig.fired();
    rig.write(b"/a/b/c", b"");
    assert_eq!(rig.fired(), []);
    rig.write(b"/a/b", b"");
    assert_eq!(rig.fired(), [(1, b"/a/b".to_vec(), b"t".to_vec())]);
    rig.write(b"/a", b"");
    assert_eq!(rig.fired().len(), 2);
}

#[test]
fn events_of_many_watches_keep_the_order_of_registration() {
    let mut rig = Rig::new();
    rig.open(2, 0);
    watch(&mut rig, 2, b"/a", b"1");
    watch(&mut rig, 1, b"/", b"2");
    watch(&mut rig, 2, b"/", b"3");
    watch(&mut rig, 1, b"/a/b", b"4");
    rig.fired();
    rig.write(b"/a/b", b"");
    let fired: Vec<_> = rig.fired().into_iter().map(|(conn, _, token)| (conn, token)).collect();
    let token = |text: &[u8]| text.to_vec();
    assert_eq!(fired, [(1, token(b"2")), (1, token(b"4")), (2, token(b"1")), (2, token(b"3"))]);
}

#[test]
fn nothing_is_told_twice() {
    let mut rig = Rig::new();
    for path in [&b"/a"[..], b"/", b"/a/b"] {
        watch(&mut rig, 1, path, b"same");
    }
    watch(&mut rig, 1, b"/a", b"other");
    rig.fired();
    rig.write(b"/a/b", b"");
    assert_eq!(rig.fired().len(), 2);
}

#[test]
fn a_commit_fires_once_a_path() {
    for disturbed in [false, true] {
        let mut rig = Rig::new();
        rig.write(b"/a/old/x", b"");
        for path in [&b"/a"[..], b"/a/old/x"] {
            watch(&mut rig, 1, path, b"t");
        }
        let tx = rig.start(1);
        for (kind, payload) in [
            (Read, &b"/a/2\0"[..]),
            (Write, b"/a/1\0x"),
            (Write, b"/a/2\0x"),
            (Write, b"/a/1\0y"),
            (SetPerms, b"/a/2\0r0\0"),
            (Rm, b"/a/old\0"),
            (Write, b"/a/new\0x"),
            (Rm, b"/a/new\0"),
        ] {
            let _ = rig.ask(1, kind, tx, payload);
        }
        if disturbed {
            rig.write(b"/elsewhere", b"");
        }
        rig.fired();
        rig.commit(1, tx).expect("no conflict");
        let expected: Vec<&[u8]> = vec![b"/a/2", b"/a/1", b"/a/old", b"/a/old/x"];
        assert_eq!(paths(&mut rig), expected);
    }
}

#[test]
fn nothing_fires_for_an_aborted_transaction() {
    let mut rig = Rig::new();
    watch(&mut rig, 1, b"/a", b"t");
    rig.fired();
    let tx = rig.start(1);
    assert_eq!(rig.ask(1, Write, tx, b"/a\0x"), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.ask(1, TransactionEnd, tx, b"F\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.fired(), []);
    assert_eq!(rig.read(b"/a"), Err(Errno::ENOENT));
}

#[test]
fn domains_come_and_go() {
    let mut rig = Rig::new();
    watch(&mut rig, 1, b"@introduceDomain", b"i");
    watch(&mut rig, 1, b"@releaseDomain", b"r");
    rig.ok(Watch, b"@releaseDomain\0d\x001\0");
    rig.fired();
    rig.introduce(5, 5);
    assert_eq!(paths(&mut rig), [b"@introduceDomain"]);
    rig.ok(Introduce, b"5\x001\x007\0");
    assert_eq!(rig.fired(), [], "introduced again is not introduced");
    rig.ok(Release, b"5\0");
    assert_eq!(paths(&mut rig), [&b"@releaseDomain"[..], b"@releaseDomain/5"]);
}

/// An event on a special path makes tools look for domains, so that new
/// permissions of it fire nothing.
#[test]
fn permissions_of_special_paths_are_set_in_silence() {
    let mut rig = Rig::new();
    rig.introduce(5, 5);
    for path in [&b"@introduceDomain"[..], b"@releaseDomain", b"/"] {
        watch(&mut rig, 1, path, b"t");
    }
    rig.fired();
    rig.ok(SetPerms, b"@introduceDomain\0n5\0");
    assert_eq!(rig.fired(), []);
    let tx = rig.start(1);
    rig.ask(1, SetPerms, tx, b"@releaseDomain\0n5\0").expect("allowed");
    rig.ask(1, Write, tx, b"/a\0x").expect("allowed");
    rig.commit(1, tx).expect("no conflict");
    assert_eq!(paths(&mut rig), [b"/a"]);
    assert_eq!(rig.ask(1, GetPerms, 0, b"@releaseDomain\0"), Ok(b"n5\0".to_vec()));
}

/// Special paths are not below `/`, whose permissions do not count for them.
#[test]
fn who_reads_the_root_is_not_told_of_domains() {
    let mut rig = Rig::new();
    rig.introduce(5, 5);
    rig.ok(SetPerms, b"/\0n5\0b0\0");
    for path in [&b"@introduceDomain"[..], b"@releaseDomain"] {
        watch(&mut rig, 5, path, b"t");
    }
    rig.fired();
    rig.introduce(6, 6);
    rig.ok(Release, b"6\0");
    assert_eq!(rig.fired(), []);
    rig.ok(SetPerms, b"@introduceDomain\0n0\0r5\0");
    rig.introduce(6, 6);
    rig.ok(Release, b"6\0");
    assert_eq!(rig.fired(), [(5, b"@introduceDomain".to_vec(), b"t".to_vec())]);
}
