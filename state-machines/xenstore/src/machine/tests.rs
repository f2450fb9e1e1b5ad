//! Each operation, and the errors that Xen's daemon has for it.

mod contention;
mod guests;
mod limits;
mod model;
mod size;
mod sound;
mod watching;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use state_machine::{Class, ConnId, DomId, Input, StateMachine};

use crate::machine::Xenstore;
use crate::testing::{Rig, pair, text};
use crate::wire::{Errno, MessageType::*, frame};

type Case<'a> = (crate::wire::MessageType, u32, &'a [u8], Result<&'a [u8], Errno>);

fn check(rig: &mut Rig, cases: &[Case<'_>]) {
    for (kind, tx, payload, expected) in cases {
        let reply = rig.ask(1, *kind, *tx, payload);
        let expected = expected.map(<[u8]>::to_vec);
        let shown = alloc::string::String::from_utf8_lossy(payload);
        assert_eq!(reply, expected, "{kind:?} in {tx} of {shown:?}");
    }
}

#[test]
fn nodes_are_written_read_and_removed() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            (Directory, 0, b"/\0", Ok(b"tool\0")),
            (Directory, 0, b"/tool\0", Ok(b"xenstored\0")),
            (GetPerms, 0, b"/\0", Ok(b"n0\0")),
            (Write, 0, b"/a/b/c\0value", Ok(b"OK\0")),
            (Read, 0, b"/a/b/c\0", Ok(b"value")),
            (Read, 0, b"/a/b\0", Ok(b"")),
            (Write, 0, b"/a/b/c\0other\0bytes\xff", Ok(b"OK\0")),
            (Read, 0, b"/a/b/c\0", Ok(b"other\0bytes\xff")),
            (Write, 0, b"/a/b/c\0", Ok(b"OK\0")),
            (Read, 0, b"/a/b/c\0", Ok(b"")),
            (Mkdir, 0, b"/a/z\0", Ok(b"OK\0")),
            (Mkdir, 0, b"/a/z\0", Ok(b"OK\0")),
            (Mkdir, 0, b"/a/c\0", Ok(b"OK\0")),
            (Directory, 0, b"/a\0", Ok(b"b\0z\0c\0")),
            (Rm, 0, b"/a/z\0", Ok(b"OK\0")),
            (Rm, 0, b"/a/z\0", Ok(b"OK\0")),
            (Mkdir, 0, b"/a/z\0", Ok(b"OK\0")),
            (Directory, 0, b"/a\0", Ok(b"b\0c\0z\0")),
            (Rm, 0, b"/a/x/y\0", Err(Errno::ENOENT)),
            (Rm, 0, b"/\0", Err(Errno::EINVAL)),
            (Read, 0, b"/a/x\0", Err(Errno::ENOENT)),
            (Write, 0, b"rel\0x", Ok(b"OK\0")),
            (Read, 0, b"/local/domain/0/rel\0", Ok(b"x")),
            (Rm, 0, b"/a\0", Ok(b"OK\0")),
            (Directory, 0, b"/\0", Ok(b"tool\0local\0")),
            (Read, 0, b"/a/b\0", Err(Errno::ENOENT)),
        ],
    );
}

#[test]
fn malformed_requests() {
    let mut rig = Rig::new();
    rig.write(b"/a", b"x");
    for kind in [Read, Directory, GetPerms, Mkdir, Rm, GetDomainPath, IsDomainIntroduced, Resume] {
        for bad in [&b""[..], b"/a", b"/a\0/a\0", b"/a\0x", b"\0", b"//\0", b"/a/\0", b"/a b\0"] {
            assert_eq!(rig.ask(1, kind, 0, bad), Err(Errno::EINVAL), "{kind:?} {bad:?}");
        }
    }
    check(
        &mut rig,
        &[
            (Write, 0, b"", Err(Errno::EINVAL)),
            (Write, 0, b"/a", Err(Errno::EINVAL)),
            (Write, 0, b"/a/\0x", Err(Errno::EINVAL)),
            (Write, 0, b"@releaseDomain\0x", Err(Errno::EINVAL)),
            (Read, 0, b"@releaseDomain\0", Err(Errno::EINVAL)),
            (Mkdir, 0, b"@foo\0", Err(Errno::EINVAL)),
            (DirectoryPart, 0, b"/a\0", Err(Errno::EINVAL)),
            (DirectoryPart, 0, b"/a\x000\x000\0", Err(Errno::EINVAL)),
            (SetPerms, 0, b"/a\0", Err(Errno::EINVAL)),
            (SetPerms, 0, b"/a\0x0\0", Err(Errno::EINVAL)),
            (SetPerms, 0, b"/a\0n\0", Err(Errno::EINVAL)),
            (SetPerms, 0, b"/a\0n7\0", Err(Errno::ENOENT)),
            (SetPerms, 0, b"/b\0n0\0", Err(Errno::ENOENT)),
            (SetPerms, 0, b"@foo\0n0\0", Err(Errno::ENOENT)),
            (GetPerms, 0, b"@foo\0", Err(Errno::ENOENT)),
            (TransactionEnd, 0, b"T\0", Err(Errno::ENOENT)),
            (TransactionEnd, 0, b"x\0", Err(Errno::EINVAL)),
            (TransactionEnd, 0, b"T", Err(Errno::EINVAL)),
            (Read, 99, b"/a\0", Err(Errno::ENOENT)),
            (TransactionStart, 99, b"\0", Err(Errno::ENOENT)),
            (TransactionEnd, 99, b"T\0", Err(Errno::ENOENT)),
            (GetDomainPath, 99, b"5\0", Err(Errno::ENOENT)),
            (Removed, 0, b"5\0", Err(Errno::ENOSYS)),
            (WatchEvent, 0, b"", Err(Errno::ENOSYS)),
            (Error, 0, b"", Err(Errno::ENOSYS)),
        ],
    );
}

#[test]
fn permissions_are_set_and_kept() {
    let mut rig = Rig::new();
    rig.introduce(5, 5);
    check(
        &mut rig,
        &[
            (Write, 0, b"/a\0x", Ok(b"OK\0")),
            (SetPerms, 0, b"/a\0b5\0r0\0w77\0", Ok(b"OK\0")),
            (GetPerms, 0, b"/a\0", Ok(b"b5\0r0\0w77\0")),
            (Write, 0, b"/a/b\0x", Ok(b"OK\0")),
            (GetPerms, 0, b"/a/b\0", Ok(b"b5\0r0\0w77\0")),
            (SetPerms, 0, b"@releaseDomain\0n0\0r5\0", Ok(b"OK\0")),
            (GetPerms, 0, b"@releaseDomain\0", Ok(b"n0\0r5\0")),
            // Reserved bytes after the last NUL count for nothing.
            (SetPerms, 0, b"/a\0n0\0junk", Ok(b"OK\0")),
            (GetPerms, 0, b"/a\0", Ok(b"n0\0")),
        ],
    );
}

#[test]
fn large_directories_come_in_parts() {
    let mut rig = Rig::new();
    let mut list = Vec::new();
    for number in 0..3000 {
        let name = format!("child{number}");
        rig.write(format!("/d/{name}").as_bytes(), b"v");
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    assert_eq!(rig.ask(1, Directory, 0, b"/d\0"), Err(Errno::E2BIG));
    let part = |rig: &mut Rig, offset: usize| {
        let reply = rig.ask(1, DirectoryPart, 0, &text(&[b"/d", format!("{offset}").as_bytes()]));
        let reply = reply.expect("a part");
        assert!(reply.len() <= 4096);
        let nul = reply.iter().position(|byte| *byte == 0).expect("a generation");
        (reply[..nul].to_vec(), reply[nul + 1..].to_vec())
    };
    let (mut got, mut parts) = (Vec::new(), 0);
    let (generation, _) = part(&mut rig, 0);
    loop {
        let (same, names) = part(&mut rig, got.len());
        assert_eq!(same, generation);
        parts += 1;
        assert!(!names.is_empty(), "progress");
        if names.ends_with(b"\0\0") {
            got.extend_from_slice(&names[..names.len() - 1]);
            break;
        }
        got.extend_from_slice(&names);
    }
    assert_eq!(got, list);
    assert!((8..=10).contains(&parts), "{parts} parts");
    assert_eq!(part(&mut rig, list.len()), (generation.clone(), vec![0]));
    assert_eq!(part(&mut rig, list.len() + 5), (generation.clone(), vec![0]));
    // An offset within a name gives the rest of that name.
    assert!(part(&mut rig, 2).1.starts_with(b"ild0\0child1\0"));
    // A change of the directory shows; a change below it does not.
    rig.write(b"/d/child7", b"w");
    assert_eq!(part(&mut rig, 0).0, generation);
    rig.ok(Rm, b"/d/child7\0");
    assert_ne!(part(&mut rig, 0).0, generation);
    assert_eq!(
        rig.ask(1, DirectoryPart, 0, b"/d/child8\x000\0").map(|r| r.last().copied()),
        Ok(Some(0))
    );
}

#[test]
fn the_longest_frames() {
    let mut rig = Rig::new();
    let value = vec![b'v'; 4096 - 3];
    rig.write(b"/a", &value);
    assert_eq!(rig.read(b"/a"), Ok(value));
    let path = [b"/", &vec![b'p'; 3071][..]].concat();
    rig.write(&path, b"x");
    assert_eq!(rig.read(&path), Ok(b"x".to_vec()));
    let path = [b"/", &vec![b'p'; 3072][..]].concat();
    assert_eq!(rig.read(&path), Err(Errno::EINVAL));
    let mut bytes = Vec::new();
    frame(Read, 1, 0, &vec![0; 4097], &mut bytes);
    let input = Input::Request { conn: ConnId(1), frame: &bytes };
    assert_eq!(crate::testing::reply_of(&rig.input(&input)), Err(Errno::E2BIG));
}

#[test]
fn deep_trees_are_no_danger() {
    let mut rig = Rig::new();
    let path = b"/x".repeat(1536);
    rig.write(&path, b"deep");
    assert_eq!(rig.read(&path), Ok(b"deep".to_vec()));
    rig.ok(Control, b"check\0");
    rig.ok(Rm, b"/x\0");
    assert_eq!(rig.machine.node_count(), 3);
}

#[test]
fn removed_nodes_are_freed_in_time() {
    let mut rig = Rig::new();
    for number in 0..5000 {
        rig.write(format!("/a/{}/{number}", number % 50).as_bytes(), b"value");
    }
    let tx = rig.start(1);
    rig.ask(1, Rm, tx, b"/a/7\0").expect("allowed");
    rig.commit(1, tx).expect("no conflict");
    rig.ok(Rm, b"/a\0");
    assert!(!rig.machine.graves.is_empty());
    for _ in 0..500 {
        rig.ok(Mkdir, b"/b\0");
    }
    assert!(rig.machine.graves.is_empty());
}

#[test]
fn control_answers_as_xens_daemon() {
    let mut rig = Rig::new();
    let mut ask = |payload: &[u8]| {
        let reply = rig.ask(1, Control, 0, payload);
        reply.map(|reply| alloc::string::String::from_utf8(reply).expect("text"))
    };
    assert_eq!(ask(b"check\0").as_deref(), Ok("OK\0"));
    assert!(ask(b"help\0").is_ok_and(|text| text.contains("quota-soft\t[set <name> <val>]")));
    let quotas = ask(b"quota\0").expect("a list");
    assert!(quotas.starts_with("Quota settings:\nnodes            :     1000 Nodes per domain\n"));
    assert!(quotas.contains("permissions      :        5 Max. number of permissions per node\n"));
    assert_eq!(ask(b"quota\0set\0nodes\x001001\0").as_deref(), Ok("OK\0"));
    assert!(ask(b"quota\0").is_ok_and(|text| text.contains("nodes            :     1001")));
    assert!(
        ask(b"quota\x000\0")
            .is_ok_and(|text| text.starts_with("Domain 0:\nnodes           :        3\n"))
    );
    assert_eq!(ask(b"quota\x005\0"), Err(Errno::ENOENT));
    assert_eq!(ask(b"quota-soft\0set\0memory\x005\0").as_deref(), Ok("OK\0"));
    assert!(ask(b"quota-soft\0").is_ok_and(|text| text.contains("memory           :        5")));
    for bad in [
        &b""[..],
        b"check",
        b"\0",
        b"foo\0",
        b"check\0x\0",
        b"quota\0set\0nodes\x000\0",
        b"quota\0set\0nod\x005\0",
        b"quota\0set\0nodes\0",
        b"quota-soft\0set\0nodes\x005\0",
        b"log\0",
        b"log\0+foo\0",
        b"logfile\0",
        b"print\0",
        b"live-update\0",
        b"help\0x\0",
    ] {
        assert_eq!(ask(bad), Err(Errno::EINVAL), "{bad:?}");
    }
    assert!(ask(b"live-update\0-s\0").is_ok_and(|text| text.starts_with("Not in live-update")));
    assert!(ask(b"memreport\0").is_ok_and(|text| text.contains("nodes: 3,")));
    for command in [&b"log\0on\0"[..], b"log\0off\0", b"logfile\0/x\0", b"print\0hello\0"] {
        assert_eq!(ask(command).as_deref(), Ok("OK\0"));
    }
    use crate::Effect;
    let expected = [
        Effect::Log { on: true },
        Effect::Log { on: false },
        Effect::LogFile { name: b"/x".to_vec() },
        Effect::Print { text: b"hello".to_vec() },
    ];
    assert_eq!(rig.effects, expected);
}

#[test]
fn classes() {
    let class = |kind, tx, payload: &[u8]| {
        let mut bytes = Vec::new();
        frame(kind, 1, tx, payload, &mut bytes);
        Xenstore::classify(&Input::Request { conn: ConnId(1), frame: &bytes })
    };
    for kind in [Read, Directory, DirectoryPart, GetPerms, GetDomainPath, GetFeature, GetQuota] {
        assert_eq!((class(kind, 0, b""), class(kind, 1, b"")), (Class::Query, Class::Tentative));
    }
    for kind in [Write, Mkdir, Rm, SetPerms] {
        assert_eq!((class(kind, 0, b""), class(kind, 1, b"")), (Class::Command, Class::Tentative));
    }
    let start = |tx| class(TransactionStart, tx, b"\0");
    assert_eq!((start(0), start(1)), (Class::Opening, Class::Command));
    for kind in [TransactionEnd, Watch, ResetWatches, Introduce] {
        assert_eq!((class(kind, 0, b""), class(kind, 1, b"")), (Class::Command, Class::Command));
    }
    assert_eq!(
        (class(Unwatch, 0, b""), class(Unwatch, 1, b"")),
        (Class::Tentative, Class::Tentative)
    );
    assert_eq!(class(Control, 0, b"quota\0"), Class::Query);
    assert_eq!(class(Control, 1, b"quota\0"), Class::Command);
    assert_eq!(class(Control, 0, b"quota\0set\0"), Class::Command);
    assert_eq!(class(Removed, 0, b""), Class::Query);
    for input in [Input::Boot, Input::Poison, Input::DomainGone { domid: DomId(1) }] {
        assert_eq!(Xenstore::classify(&input), Class::Command);
    }
    let conn = ConnId(1);
    for input in [Input::Open { conn, domid: DomId(1) }, Input::Close { conn }] {
        assert_eq!(Xenstore::classify(&input), Class::Tentative);
    }
}

#[test]
fn boot_drops_connections_and_keeps_the_rest() {
    let mut rig = Rig::new();
    rig.introduce(5, 5);
    rig.write(b"/a", b"x");
    rig.ok(Watch, &text(&[b"/a", b"t"]));
    rig.start(1);
    rig.fired();
    rig.effects.clear();
    rig.input(&Input::Boot);
    assert_eq!(rig.ask(1, Read, 0, b"/a\0"), Err(Errno::ENOTCONN));
    rig.open(10, 0);
    assert_eq!(rig.ask(10, Read, 0, b"/a\0"), Ok(b"x".to_vec()));
    assert_eq!(rig.ask(10, Write, 0, &pair(b"/a", b"y")), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.fired(), []);
    assert_eq!(rig.effects.len(), 1, "the host is to connect to domain 5 again");
    let held = rig.machine.state.domains.held(state_machine::DomId(0));
    assert_eq!((held.watches, held.transactions, held.bytes), (0, 0, 0));
}
