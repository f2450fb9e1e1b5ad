//! Guests: permissions, and what Xen's security advisories were about.

use alloc::format;
use alloc::vec::Vec;

use state_machine::{ConnId, DomId, Input};

use crate::Effect;
use crate::testing::{Rig, pair, text};
use crate::wire::{
    Errno,
    MessageType::{self, *},
};

/// Domain 5 on connection 5 and domain 6 on connection 6, each with a home.
fn rig() -> Rig {
    let mut rig = Rig::new();
    for domid in [5_u16, 6] {
        rig.introduce(domid, u64::from(domid));
        let home = format!("/local/domain/{domid}");
        rig.ok(Mkdir, &text(&[home.as_bytes()]));
        rig.ok(SetPerms, &text(&[home.as_bytes(), format!("n{domid}").as_bytes()]));
    }
    rig.fired();
    rig.effects.clear();
    rig
}

fn as5(rig: &mut Rig, kind: MessageType, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    rig.ask(5, kind, 0, payload)
}

const OK: Result<&[u8], Errno> = Ok(b"OK\0");

#[test]
fn what_a_guest_may_do() {
    let mut rig = rig();
    rig.write(b"/secret/leaf", b"s");
    rig.write(b"/shared", b"s");
    rig.ok(SetPerms, b"/shared\0n0\0r5\0");
    for (kind, payload, expected) in [
        (Write, &b"data\0x"[..], OK),
        (Read, b"/local/domain/5/data\0", Ok(&b"x"[..])),
        (GetPerms, b"data\0", Ok(b"n5\0")),
        (Directory, b"/local/domain/5\0", Ok(b"data\0")),
        (SetPerms, b"data\0n5\0r6\0", OK),
        (SetPerms, b"data\0n6\0", Err(Errno::EPERM)),
        (SetPerms, b"data\0n9\0", Err(Errno::ENOENT)),
        (Rm, b"data\0", OK),
        (Read, b"/shared\0", Ok(b"s")),
        (Write, b"/shared\0x", Err(Errno::EACCES)),
        (Write, b"/shared/x\0x", Err(Errno::EACCES)),
        (Rm, b"/shared\0", Err(Errno::EACCES)),
        (SetPerms, b"/shared\0n5\0", Err(Errno::EACCES)),
        // Nothing tells whether there is something.
        (Read, b"/secret/leaf\0", Err(Errno::EACCES)),
        (Read, b"/secret/none\0", Err(Errno::EACCES)),
        (Read, b"/local/domain/6/x\0", Err(Errno::EACCES)),
        (Read, b"/local/domain/5/none\0", Err(Errno::ENOENT)),
        (Read, b"/shared/none\0", Err(Errno::ENOENT)),
        (Rm, b"none/x\0", Err(Errno::ENOENT)),
        (Write, b"/x\0x", Err(Errno::EACCES)),
        (Control, b"check\0", Err(Errno::EACCES)),
        (Control, b"print\0x\0", Err(Errno::EACCES)),
        (Introduce, b"7\x001\x001\0", Err(Errno::EACCES)),
        (Release, b"6\0", Err(Errno::EACCES)),
        (Resume, b"6\0", Err(Errno::EACCES)),
        (SetTarget, b"5\x006\0", Err(Errno::EACCES)),
        (IsDomainIntroduced, b"6\0", Err(Errno::EACCES)),
        (GetQuota, b"", Err(Errno::EACCES)),
        (SetQuota, b"nodes\x001\0", Err(Errno::EACCES)),
        (SetFeature, b"6\x000\0", Err(Errno::EACCES)),
        (GetFeature, b"6\0", Err(Errno::EACCES)),
        (GetFeature, b"", Ok(b"6\0")),
        (GetDomainPath, b"6\0", Ok(b"/local/domain/6\0")),
    ] {
        let shown = alloc::string::String::from_utf8_lossy(payload);
        let reply = as5(&mut rig, kind, payload);
        assert_eq!(reply, expected.map(<[u8]>::to_vec), "{kind:?} {shown:?}");
    }
    assert_eq!(rig.effects, []);
}

/// XSA-115: events tell of nodes that the watcher cannot read.
#[test]
fn no_events_for_unreadable_nodes() {
    let mut rig = rig();
    for path in [&b"/"[..], b"/secret", b"@introduceDomain", b"@releaseDomain"] {
        assert_eq!(as5(&mut rig, Watch, &text(&[path, b"t"])), Ok(b"OK\0".to_vec()));
    }
    rig.fired();
    rig.write(b"/secret/x", b"");
    rig.ok(SetPerms, b"/secret/x\0n0\0r6\0");
    rig.ok(Rm, b"/secret\0");
    rig.introduce(7, 7);
    rig.ok(Release, b"7\0");
    let tx = rig.start(1);
    rig.ask(1, Write, tx, b"/secret/y\0").expect("allowed");
    rig.commit(1, tx).expect("no conflict");
    assert_eq!(rig.fired(), []);
    // What it could read before, or can read now, it may know of.
    rig.write(b"/open", b"");
    rig.ok(SetPerms, b"/open\0n0\0r5\0");
    rig.ok(SetPerms, b"/open\0n0\0");
    rig.ok(SetPerms, b"/open\0n0\0r5\0");
    assert_eq!(rig.fired().len(), 3);
    rig.ok(SetPerms, b"@releaseDomain\0n0\0r5\0");
    rig.introduce(7, 8);
    rig.fired();
    rig.ok(Release, b"7\0");
    assert_eq!(rig.fired(), [(5, b"@releaseDomain".to_vec(), b"t".to_vec())]);
}

/// A watcher is told of a removed node if it could read that or its parent.
#[test]
fn removal_is_told_to_those_who_could_read() {
    let mut rig = rig();
    as5(&mut rig, Write, b"a/b\0").expect("its own");
    rig.ok(SetPerms, b"/local/domain/5/a/b\0n0\0");
    for path in [&b"a"[..], b"a/b"] {
        as5(&mut rig, Watch, &text(&[path, b"t"])).expect("its own");
    }
    rig.fired();
    rig.ok(Rm, b"/local/domain/5/a\0");
    let fired: Vec<_> = rig.fired().into_iter().map(|(_, path, _)| path).collect();
    assert_eq!(fired, [&b"a/b"[..], b"a"]);
}

/// XSA-322 and 419: what belonged to a domain does not pass to the next one
/// with its number, and does not stay behind.
#[test]
fn a_released_domain_leaves_nothing() {
    let mut rig = rig();
    as5(&mut rig, Write, b"a/b\0").expect("its own");
    as5(&mut rig, Watch, b"a\0t\0").expect("its own");
    rig.write(b"/granted", b"s");
    rig.ok(SetPerms, b"/granted\0n0\0r5\0");
    rig.write(b"/elsewhere/owned/x", b"");
    rig.ok(SetPerms, b"/elsewhere/owned\0n5\0");
    rig.ok(SetPerms, b"@releaseDomain\0n5\0");
    rig.ok(Watch, b"/\0w\0");
    rig.ok(Watch, b"@releaseDomain\0w\0");
    rig.fired();
    rig.input(&Input::DomainGone { domid: DomId(5) });
    let fired: Vec<_> = rig.fired().into_iter().map(|(conn, path, _)| (conn, path)).collect();
    let expected = [&b"/local/domain/5"[..], b"/elsewhere/owned", b"@releaseDomain"];
    assert_eq!(fired, expected.map(|path| (1, path.to_vec())));
    assert_eq!(rig.effects, [Effect::DomainReleased { domid: DomId(5) }]);
    assert_eq!(rig.ask(5, Read, 0, b"a\0"), Err(Errno::ENOTCONN));
    assert_eq!(rig.read(b"/elsewhere/owned"), Err(Errno::ENOENT));
    assert_eq!(rig.ask(1, GetPerms, 0, b"@releaseDomain\0"), Ok(b"n0\0".to_vec()));
    assert_eq!(rig.ask(1, SetPerms, 0, b"/granted\0n5\0"), Err(Errno::ENOENT));
    assert_eq!(rig.machine.state.store.owned(DomId(5)).nodes, 0);
    rig.input(&Input::Close { conn: ConnId(5) });
    rig.introduce(5, 55);
    assert_eq!(rig.ask(55, Read, 0, b"/granted\0"), Err(Errno::EACCES));
    // Not even once somebody writes the node.
    rig.write(b"/granted", b"t");
    assert_eq!(rig.ask(55, Read, 0, b"/granted\0"), Err(Errno::EACCES));
    rig.write(b"/granted/below", b"t");
    assert_eq!(rig.ask(55, Read, 0, b"/granted/below\0"), Err(Errno::EACCES));
    assert_eq!(rig.ask(55, GetFeature, 0, b""), Ok(b"6\0".to_vec()));
    // Gone twice is gone.
    rig.fired();
    rig.input(&Input::DomainGone { domid: DomId(99) });
    rig.input(&Input::DomainGone { domid: DomId(0) });
    assert_eq!(rig.fired(), []);
}

/// Toolstacks make a domain's nodes its own before they introduce it.
#[test]
fn a_domain_that_exists_owns_what_it_was_given_before_it_was_introduced() {
    let mut rig = rig();
    rig.ok(Write, b"/local/domain/9/data\0");
    let give = b"/local/domain/9/data\0n9\0";
    assert_eq!(rig.ask(1, SetPerms, 0, give), Err(Errno::ENOENT));
    rig.input(&Input::DomainExists { domid: DomId(9) });
    rig.ok(SetPerms, give);
    rig.ok(Write, b"/local/domain/9/data\0again");
    rig.ok(Introduce, b"9\x001\x002\0");
    assert_eq!(rig.ask(1, GetPerms, 0, b"/local/domain/9/data\0"), Ok(b"n9\0".to_vec()));
    rig.open(9, 9);
    assert!(rig.ask(9, Write, 0, b"data\0mine").is_ok());
    rig.input(&Input::DomainGone { domid: DomId(9) });
    assert_eq!(rig.read(b"/local/domain/9/data"), Err(Errno::ENOENT));
}

/// Toolstacks destroy a domain that has shut down; they hear of it as of a release.
#[test]
fn a_domain_that_has_shut_down_is_told_of_and_stays() {
    let mut rig = rig();
    rig.ok(Watch, b"@releaseDomain\0w\0");
    as5(&mut rig, Write, b"a\0b").expect("its own");
    rig.fired();
    rig.input(&Input::DomainShutDown);
    let fired: Vec<_> = rig.fired().into_iter().map(|(conn, path, _)| (conn, path)).collect();
    assert_eq!(fired, [(1, b"@releaseDomain".to_vec())]);
    assert_eq!((rig.effects.len(), as5(&mut rig, Read, b"a\0")), (0, Ok(b"b".to_vec())));
}

#[test]
fn a_target_lends_its_rights() {
    let mut rig = rig();
    rig.ok(SetTarget, b"5\x006\0");
    assert_eq!(as5(&mut rig, Write, b"/local/domain/6/x\0y"), Ok(b"OK\0".to_vec()));
    rig.write(b"/for6", b"v");
    rig.ok(SetPerms, b"/for6\0n0\0r6\0");
    assert_eq!(as5(&mut rig, Read, b"/for6\0"), Ok(b"v".to_vec()));
    assert_eq!(rig.ask(6, Read, 0, b"/local/domain/5\0"), Err(Errno::EACCES));
    rig.ok(Release, b"6\0");
    rig.introduce(6, 66);
    rig.ok(SetPerms, b"/for6\0n0\0r6\0");
    assert_eq!(as5(&mut rig, Read, b"/for6\0"), Err(Errno::EACCES));
    assert_eq!(rig.ask(1, SetTarget, 0, b"5\x009\0"), Err(Errno::ENOENT));
    assert_eq!(rig.ask(1, SetTarget, 0, b"9\x005\0"), Err(Errno::ENOENT));
    assert_eq!(rig.ask(1, SetTarget, 0, b"5\0"), Err(Errno::EINVAL));
}

#[test]
fn introduction() {
    let mut rig = Rig::new();
    for (kind, payload, expected) in [
        (Introduce, &b"5\x001\0"[..], Err(Errno::EINVAL)),
        (Introduce, b"5\x001\x000\0", Err(Errno::EINVAL)),
        (Introduce, b"0\x001\x001\0", Err(Errno::EINVAL)),
        (Introduce, b"x\x001\x001\0", Err(Errno::EINVAL)),
        (Introduce, b"32752\x001\x001\0", Err(Errno::EINVAL)),
        (IsDomainIntroduced, b"5\0", Ok(&b"F\0"[..])),
        (IsDomainIntroduced, b"0\0", Ok(b"T\0")),
        (IsDomainIntroduced, b"32752\0", Ok(b"T\0")),
        (Release, b"5\0", Err(Errno::ENOENT)),
        (Release, b"0\0", Err(Errno::EINVAL)),
        (Resume, b"5\0", Err(Errno::ENOENT)),
        (Introduce, b"5\x007\x003\0", OK),
        (IsDomainIntroduced, b"5\0", Ok(b"T\0")),
        (Resume, b"5\0", OK),
        (Release, b"5\0", OK),
        (IsDomainIntroduced, b"5\0", Ok(b"F\0")),
    ] {
        let reply = rig.ask(1, kind, 0, payload);
        assert_eq!(reply, expected.map(<[u8]>::to_vec), "{kind:?} {payload:?}");
    }
    let domid = DomId(5);
    let introduced = Effect::DomainIntroduced { domid, gfn: 7, evtchn: 3 };
    assert_eq!(rig.effects, [introduced, Effect::DomainReleased { domid }]);
}

#[test]
fn introduced_again_is_reset() {
    let mut rig = rig();
    as5(&mut rig, Watch, b"a\0t\0").expect("its own");
    let tx = rig.start(5);
    rig.ok(Introduce, b"5\x001\x009\0");
    rig.fired();
    assert_eq!(rig.commit(5, tx), Err(Errno::ENOENT));
    assert_eq!(as5(&mut rig, Write, &pair(b"a", b"x")), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.fired(), []);
}

#[test]
fn features_are_set_before_introduction() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(1, GetFeature, 0, b""), Ok(b"6\0".to_vec()));
    assert_eq!(rig.ask(1, GetFeature, 0, b"5\0"), Err(Errno::ENOENT));
    assert_eq!(rig.ask(1, SetFeature, 0, b"5\x008\0"), Err(Errno::EINVAL));
    rig.ok(SetFeature, b"5\x002\0");
    assert_eq!(rig.ask(1, IsDomainIntroduced, 0, b"5\0"), Ok(b"F\0".to_vec()));
    rig.introduce(5, 5);
    assert_eq!(rig.ask(1, SetFeature, 0, b"5\x006\0"), Err(Errno::EBUSY));
    assert_eq!(rig.ask(1, SetFeature, 0, b"0\x006\0"), Err(Errno::EBUSY));
    assert_eq!(as5(&mut rig, GetFeature, b""), Ok(b"2\0".to_vec()));
    // Without the feature, a depth is an argument too many.
    assert_eq!(as5(&mut rig, Watch, b"a\0t\x001\0"), Err(Errno::EINVAL));
    assert_eq!(as5(&mut rig, Watch, b"a\0t\0"), Ok(b"OK\0".to_vec()));
}
