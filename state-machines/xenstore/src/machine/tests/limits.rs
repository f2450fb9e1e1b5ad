//! Quotas: XSA-326 and its kin, guests that want all of the memory.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use state_machine::DomId;

use crate::testing::{Rig, pair, text};
use crate::wire::{
    Errno,
    MessageType::{self, *},
};

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.introduce(5, 5);
    rig.ok(Mkdir, b"/local/domain/5\0");
    rig.ok(SetPerms, b"/local/domain/5\0n5\0");
    rig
}

fn quota(rig: &mut Rig, name: &str, value: u32) {
    rig.ok(SetQuota, format!("5\0{name}\0{value}\0").as_bytes());
}

fn as5(rig: &mut Rig, kind: MessageType, payload: &[u8]) -> Result<(), Errno> {
    rig.ask(5, kind, 0, payload).map(|_| ())
}

#[test]
fn nodes() {
    let mut rig = rig();
    quota(&mut rig, "nodes", 4);
    assert_eq!(as5(&mut rig, Write, b"a/b\0"), Ok(()));
    assert_eq!(as5(&mut rig, Write, b"c/d\0"), Err(Errno::ENOSPC));
    assert_eq!(as5(&mut rig, Read, b"c\0"), Err(Errno::ENOENT), "nothing half done");
    assert_eq!(as5(&mut rig, Mkdir, b"c\0"), Ok(()));
    assert_eq!(as5(&mut rig, Mkdir, b"d\0"), Err(Errno::ENOSPC));
    assert_eq!(as5(&mut rig, Write, b"a\0still"), Ok(()));
    assert_eq!(rig.machine.state.store.owned(DomId(5)).nodes, 4);
    assert_eq!(as5(&mut rig, Rm, b"a\0"), Ok(()));
    assert_eq!(rig.machine.state.store.owned(DomId(5)).nodes, 2);
    // The control domain is exempt.
    for number in 0..10 {
        rig.write(format!("/local/domain/5/x{number}").as_bytes(), b"");
    }
}

#[test]
fn nodes_in_transactions() {
    let mut rig = rig();
    quota(&mut rig, "nodes", 2);
    let (one, two) = (rig.start(5), rig.start(5));
    assert_eq!(rig.ask(5, Mkdir, one, b"a\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.ask(5, Mkdir, one, b"b\0"), Err(Errno::ENOSPC));
    assert_eq!(rig.ask(5, Mkdir, two, b"c\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.commit(5, one), Ok(()));
    assert_eq!(rig.commit(5, two), Err(Errno::EAGAIN), "there is no room any more");
    assert_eq!(rig.machine.state.store.owned(DomId(5)).nodes, 2);
}

#[test]
fn sizes_and_lengths() {
    let mut rig = rig();
    let value = vec![b'v'; 2047 - 24 - 8];
    let more = vec![b'v'; value.len() + 1];
    assert_eq!(as5(&mut rig, Write, &pair(b"a", &value)), Ok(()));
    assert_eq!(as5(&mut rig, Write, &pair(b"a", &more)), Err(Errno::ENOSPC));
    assert_eq!(as5(&mut rig, Write, &pair(b"b", &more)), Err(Errno::ENOSPC));
    // The names of the children count as well.
    let mut made = 0;
    while as5(&mut rig, Mkdir, format!("dir/{made:04}\0").as_bytes()) == Ok(()) {
        made += 1;
    }
    assert_eq!(made, (2047 - 24 - 8) / 5);
    quota(&mut rig, "path-max", 10);
    assert_eq!(as5(&mut rig, Mkdir, b"/local/domain/5/0123456789\0"), Ok(()));
    assert_eq!(as5(&mut rig, Mkdir, b"/local/domain/5/0123456789a\0"), Err(Errno::EINVAL));
    assert_eq!(as5(&mut rig, Mkdir, b"0123456789a\0"), Err(Errno::EINVAL));
}

#[test]
fn permissions() {
    let mut rig = rig();
    let perms = |count: usize| {
        let mut strings = vec![&b"/local/domain/5"[..]];
        strings.resize(count + 1, b"n5");
        text(&strings)
    };
    assert_eq!(as5(&mut rig, SetPerms, &perms(5)), Ok(()));
    assert_eq!(as5(&mut rig, SetPerms, &perms(6)), Err(Errno::ENOSPC));
    rig.ok(SetPerms, &perms(60));
}

#[test]
fn watches_and_transactions() {
    let mut rig = rig();
    for number in 0..128 {
        assert_eq!(as5(&mut rig, Watch, format!("a\0{number}\0").as_bytes()), Ok(()));
    }
    assert_eq!(as5(&mut rig, Watch, b"a\0x\0"), Err(Errno::E2BIG));
    assert_eq!(as5(&mut rig, Unwatch, b"a\x0077\0"), Ok(()));
    assert_eq!(as5(&mut rig, Watch, b"a\0x\0"), Ok(()));
    let open: Vec<u32> = (0..10).map(|_| rig.start(5)).collect();
    assert_eq!(as5(&mut rig, TransactionStart, b"\0"), Err(Errno::ENOSPC));
    assert_eq!(rig.ask(5, TransactionStart, open[0], b"\0"), Err(Errno::EBUSY));
    assert_eq!(rig.commit(5, open[3]), Ok(()));
    rig.start(5);
    assert_eq!(as5(&mut rig, ResetWatches, b""), Ok(()));
    let held = rig.machine.state.domains.held(DomId(5));
    assert_eq!((held.watches, held.transactions, held.bytes), (0, 0, 0));
}

#[test]
fn nodes_of_a_transaction() {
    let mut rig = rig();
    quota(&mut rig, "transaction-nodes", 3);
    let tx = rig.start(5);
    for _ in 0..100 {
        for path in [&b"a\0"[..], b"b\0", b"c\0"] {
            assert_eq!(rig.ask(5, Mkdir, tx, path), Ok(b"OK\0".to_vec()));
            assert!(rig.ask(5, Directory, tx, path).is_ok());
        }
    }
    assert_eq!(rig.ask(5, Read, tx, b"d\0"), Err(Errno::ENOSPC));
    assert_eq!(rig.commit(5, tx), Ok(()));
}

#[test]
fn memory() {
    let mut rig = rig();
    quota(&mut rig, "memory", 1000);
    let value = [b'v'; 400];
    assert_eq!(as5(&mut rig, Write, &pair(b"a", &value)), Ok(()));
    assert_eq!(as5(&mut rig, Write, &pair(b"b", &value)), Ok(()));
    assert_eq!(as5(&mut rig, Write, &pair(b"c", &value)), Err(Errno::ENOMEM));
    let token = [b't'; 400];
    assert_eq!(as5(&mut rig, Watch, &text(&[b"w", &token])), Err(Errno::ENOMEM));
    assert_eq!(as5(&mut rig, Write, b"a\0"), Ok(()), "less is always fine");
    assert_eq!(as5(&mut rig, Watch, &text(&[b"w", &token])), Ok(()));
    let tx = rig.start(5);
    assert_eq!(rig.ask(5, Write, tx, &pair(b"a", &value)), Err(Errno::ENOMEM));
}

/// Reading in a loop must not fill the memory.
#[test]
fn a_transaction_is_bounded_for_everybody() {
    let mut rig = Rig::new();
    rig.write(b"/a", b"x");
    let tx = rig.start(1);
    for _ in 0..70_000 {
        rig.ask(1, Read, tx, b"/a\0").expect("reads may repeat");
    }
    let mut done = 0;
    while rig.ask(1, Write, tx, b"/a\0y").is_ok() {
        done += 1;
    }
    assert_eq!(done, crate::transaction::MAX_OPERATIONS - 1);
    assert_eq!(rig.ask(1, Write, tx, b"/a\0y"), Err(Errno::ENOSPC));
    assert_eq!(rig.commit(1, tx), Ok(()));
    assert_eq!(rig.read(b"/a"), Ok(b"y".to_vec()));
}

#[test]
fn quotas_by_request() {
    let mut rig = rig();
    let names = rig.ask(1, GetQuota, 0, b"").expect("names");
    assert!(names.starts_with(b"nodes watches ") && names.ends_with(b" permissions\0"));
    for (kind, payload, expected) in [
        (GetQuota, &b"nodes\0"[..], Ok(&b"1000\0"[..])),
        (SetQuota, b"nodes\x0020\0", Ok(b"OK\0")),
        (GetQuota, b"nodes\0", Ok(b"20\0")),
        (GetQuota, b"5\0nodes\0", Ok(b"20\0")),
        (SetQuota, b"5\0nodes\x000\0", Ok(b"OK\0")),
        (GetQuota, b"5\0nodes\0", Ok(b"0\0")),
        (GetQuota, b"soft-memory\0", Ok(b"2097152\0")),
        (GetQuota, b"foo\0", Err(Errno::EINVAL)),
        (GetQuota, b"9\0nodes\0", Err(Errno::ENOENT)),
        (GetQuota, b"5\0nodes\0x\0", Err(Errno::EINVAL)),
        (SetQuota, b"nodes\0", Err(Errno::EINVAL)),
        (SetQuota, b"nodes\0-1\0", Err(Errno::EINVAL)),
        (SetQuota, b"nodes\x004294967295\0", Err(Errno::EINVAL)),
        (SetQuota, b"0\0nodes\x005\0", Err(Errno::EINVAL)),
        (SetQuota, b"7\0nodes\x005\0", Ok(b"OK\0")),
        (GetQuota, b"7\0nodes\0", Ok(b"5\0")),
    ] {
        let reply = rig.ask(1, kind, 0, payload);
        assert_eq!(reply, expected.map(<[u8]>::to_vec), "{kind:?} {payload:?}");
    }
    assert_eq!(rig.machine.outstanding_quota(DomId(5)), Some(20));
    assert_eq!(rig.machine.outstanding_quota(DomId(0)), None);
}
