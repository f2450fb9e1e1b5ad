//! The limit on the whole store: what counts, what is refused, what never is.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use quickcheck::quickcheck;
use state_machine::{ConnId, DomId, Input, InputNo, StateMachine};

use crate::machine::Xenstore;
use crate::node::Node;
use crate::path::ROOT_HASH;
use crate::size::{CONN_BYTES, DOMAIN_BYTES, NODE_BYTES, TRANSACTION_BYTES, WATCH_BYTES, of_text};
use crate::state::State;
use crate::store::Store;
use crate::testing::{Collector, Inventor, Rig, pair, text};
use crate::transaction::OPERATION_BYTES;
use crate::tree::{Go, Order, walk};
use crate::wire::{Errno, MessageType::*};

fn rig(limit_kib: u32) -> Rig {
    let mut rig = Rig::new();
    limit(&mut rig, limit_kib);
    rig
}

fn limit(rig: &mut Rig, kib: u32) {
    rig.ok(Control, format!("quota\0set\0store-kib\0{kib}\0").as_bytes());
}

fn size(rig: &Rig) -> u64 {
    rig.machine.state.size()
}

/// Hands over each node with its path.
fn nodes<'s>(store: &'s Store, visit: &mut dyn FnMut(&'s Node, &[u8])) {
    fn go<'s>(node: &'s Node, path: &[u8], visit: &mut dyn FnMut(&'s Node, &[u8])) {
        visit(node, path);
        let Some(children) = node.children() else { return };
        children.by_key().visit(&mut |_, child| {
            let parent = if path == b"/" { b"" } else { path };
            go(child, &[parent, b"/", child.name()].concat(), visit);
            true
        });
    }
    go(store.tree().root(), b"/", visit);
}

/// What the nodes of a store take, counted one by one.
fn counted(store: &Store) -> u64 {
    let mut bytes = 0;
    let root = store.tree().root();
    walk(root, root, b"/", ROOT_HASH, Order::Before, &mut |met| {
        let own = 24 + 8 * met.node.perms().entries().len() + met.node.value().len();
        bytes += NODE_BYTES + of_text((own + met.path.len()) as u64 + met.node.child_list_len());
        Go::On
    });
    bytes
}

/// What `working` has in memory that `committed` has not; a node at least its text
/// and what a node is.
fn really_apart(working: &Store, committed: &Store) -> u64 {
    let mut shared = BTreeSet::new();
    nodes(committed, &mut |node, _| {
        shared.insert(core::ptr::from_ref(node));
    });
    let mut bytes = 0;
    nodes(working, &mut |node, _| {
        if !shared.contains(&core::ptr::from_ref(node)) {
            bytes += (node.name().len() + node.value().len() + size_of::<Node>()) as u64;
        }
    });
    bytes
}

/// The size, counted anew; what transactions have for themselves as it is told.
fn recount(state: &State) -> u64 {
    let mut bytes = counted(&state.store);
    state.domains.visit(&mut |_| bytes += DOMAIN_BYTES);
    state.conns.visit(&mut |id, _| {
        bytes += CONN_BYTES;
        for watch in state.watches.of(*id) {
            bytes += WATCH_BYTES + of_text((watch.path.len() + watch.token.len()) as u64);
        }
        true
    });
    state.transactions.visit(&mut |_, open| {
        bytes += TRANSACTION_BYTES + open.apart(&state.store);
        assert!(open.apart(&state.store) <= counted(&open.working));
        assert!(open.apart(&state.store) >= really_apart(&open.working, &state.store));
        for operation in open.operations() {
            bytes += of_text(OPERATION_BYTES + operation.payload.len() as u64);
        }
        true
    });
    bytes
}

/// Whether an input may make the state larger than its limit: to remove something is
/// never refused, and a connection is open when the store hears of it.
fn is_exempt(input: &Input<'_>) -> bool {
    match input {
        Input::Request { frame, .. } => {
            crate::wire::split(frame).is_some_and(|(header, payload)| {
                let kind = crate::wire::MessageType::from_u32(header.kind);
                let sets_a_limit = payload.starts_with(b"quota\0set\0store");
                matches!(kind, Some(Rm | Release | TransactionEnd)) || sets_a_limit
            })
        }
        _ => true,
    }
}

quickcheck! {
    /// Whatever happens, the sums are those of a recount, and nothing but what must
    /// not be refused makes the state larger than its limit.
    fn sums_hold_and_growth_ends_at_the_limit(seed: u64) -> bool {
        let mut inventor = Inventor::new(seed);
        let mut machine = Xenstore::default();
        let mut bytes = Vec::new();
        let open = [(1, 0), (2, 0), (5, 5), (6, 6)];
        for (conn, domid) in open {
            let input = Input::Open { conn: ConnId(conn), domid: DomId(domid) };
            machine.apply(InputNo(1), &input, &mut Collector::default()).expect("sound");
        }
        for step in 0..600 {
            let kib = 4 + inventor.below(60);
            let input = if inventor.below(50) == 0 {
                bytes.clear();
                let payload = format!("quota\0set\0store-kib\0{kib}\0");
                crate::wire::frame(Control, 0, 0, payload.as_bytes(), &mut bytes);
                Input::Request { conn: ConnId(1), frame: &bytes }
            } else {
                inventor.input(&mut bytes)
            };
            let before = machine.state.size();
            machine.apply(InputNo(1), &input, &mut Collector::default()).expect("sound");
            let after = machine.state.size();
            assert_eq!(after, recount(&machine.state), "step {step}: {input:?}");
            let most = match machine.state.limit_kib {
                0 => u64::MAX,
                kib => before.max(u64::from(kib) * 1024),
            };
            assert!(after <= most || is_exempt(&input), "step {step}: {after} after {input:?}");
            if inventor.below(40) == 0 {
                let mut bytes = Vec::new();
                Xenstore::encode(&machine.freeze(), &mut bytes);
                let restored = Xenstore::restore(&bytes).expect("a snapshot");
                assert_eq!(restored.state.limit_kib, machine.state.limit_kib);
                assert_eq!(restored.state.size(), after, "restored at step {step}");
                assert_eq!(restored.digest(), machine.digest());
                machine = restored;
            }
        }
        true
    }
}

/// Does `each` until it is refused; how often it was not.
fn until_full(rig: &mut Rig, mut each: impl FnMut(&mut Rig, u32) -> Result<(), Errno>) -> u32 {
    for number in 0..100_000 {
        match each(rig, number) {
            Ok(()) => {}
            Err(Errno::ENOSPC) => return number,
            Err(other) => panic!("{other} at {number}"),
        }
        assert!(size(rig) <= rig.machine.state.limit().expect("there is one"));
    }
    panic!("never full");
}

fn write(rig: &mut Rig, path: &str, value: &[u8]) -> Result<(), Errno> {
    rig.ask(1, Write, 0, &pair(path.as_bytes(), value)).map(|_| ())
}

/// Asserts that `count` things of `each` bytes fill a store of 256 KiB.
fn assert_fills(count: u32, each: u64) {
    let filled = (u64::from(count) * each) as f64 / (256.0 * 1024.0);
    assert!((0.85..1.0).contains(&filled), "{count} of {each} bytes fill {filled} of it");
}

#[test]
fn everything_that_lasts_counts_also_for_the_control_domain() {
    let mut rig = rig(256);
    let empty = size(&rig);
    let large = until_full(&mut rig, |rig, n| write(rig, &format!("/l/{n}"), &[b'x'; 3000]));
    assert_fills(large, NODE_BYTES + of_text(3040));
    rig.ok(Rm, b"/l\0");
    let small = until_full(&mut rig, |rig, n| write(rig, &format!("/s/{n}"), b""));
    assert_fills(small, NODE_BYTES + of_text(40));
    rig.ok(Rm, b"/s\0");
    let deep = until_full(&mut rig, |rig, n| {
        let path = format!("/{n}{}", "/d".repeat(1000));
        rig.ask(1, Mkdir, 0, &text(&[path.as_bytes()])).map(|_| ())
    });
    assert_eq!(deep, 0, "a thousand nodes at once");
    let watches = until_full(&mut rig, |rig, n| {
        rig.ask(1, Watch, 0, &text(&[b"/x", format!("{n}").as_bytes()])).map(|_| ())
    });
    assert_fills(watches, WATCH_BYTES + of_text(5));
    rig.ok(ResetWatches, b"");
    let open = until_full(&mut rig, |rig, _| rig.ask(1, TransactionStart, 0, b"\0").map(|_| ()));
    assert_fills(open, TRANSACTION_BYTES);
    rig.ok(ResetWatches, b"");
    let tx = rig.start(1);
    let operations = until_full(&mut rig, |rig, n| {
        rig.ask(1, Read, tx, format!("/none/{n}\0").as_bytes()).map_or_else(
            |errno| if errno == Errno::ENOENT { Ok(()) } else { Err(errno) },
            |_| Ok(()),
        )
    });
    assert_fills(operations, of_text(OPERATION_BYTES + 10));
    assert_eq!(rig.ask(1, TransactionEnd, tx, b"F\0"), Ok(b"OK\0".to_vec()));
    let domains = until_full(&mut rig, |rig, n| {
        rig.ask(1, Introduce, 0, format!("{}\x001\x001\0", n + 1).as_bytes()).map(|_| ())
    });
    assert_fills(domains, DOMAIN_BYTES);
    let last = format!("{}\0nodes\x001\0", domains + 1);
    assert_eq!(rig.ask(1, SetQuota, 0, last.as_bytes()), Err(Errno::ENOSPC));
    assert_eq!(rig.ask(1, SetQuota, 0, b"1\0nodes\x001\0"), Ok(b"OK\0".to_vec()));
    for domid in 1..=domains {
        rig.ok(Release, format!("{domid}\0").as_bytes());
    }
    assert_eq!(size(&rig), empty);
}

#[test]
fn guests_are_held_to_it_as_well() {
    let mut rig = rig(64);
    rig.introduce(5, 5);
    rig.ok(Mkdir, b"/local/domain/5\0");
    rig.ok(SetPerms, b"/local/domain/5\0n5\0");
    until_full(&mut rig, |rig, n| {
        rig.ask(5, Write, 0, &pair(format!("{n}").as_bytes(), b"v")).map(|_| ())
    });
    assert_eq!(rig.ask(5, Read, 0, b"0\0"), Ok(b"v".to_vec()));
    assert_eq!(rig.ask(5, Rm, 0, b"0\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(write(&mut rig, "/local/domain/5/0", b"v"), Ok(()));
}

/// A host with a small memory gives a store that is larger already a limit.
#[test]
fn what_is_too_large_already_stays_and_can_only_shrink() {
    let mut rig = rig(2048);
    rig.introduce(5, 5);
    for number in 0..200 {
        rig.write(format!("/n/{number}").as_bytes(), &[b'x'; 1000]);
    }
    rig.ok(Watch, b"/n\0t\0");
    let (committed, aborted) = (rig.start(1), rig.start(1));
    assert_eq!(rig.ask(1, Rm, committed, b"/n/1\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.ask(1, Write, aborted, b"/n/2\0y"), Ok(b"OK\0".to_vec()));
    limit(&mut rig, 1);
    let full = size(&rig);
    for (kind, payload) in [
        (Write, &b"/n/new\0"[..]),
        (Mkdir, b"/n/new\0"),
        (Watch, b"/n\0u\0"),
        (TransactionStart, b"\0"),
        (Introduce, b"6\x001\x001\0"),
        (SetPerms, b"/n/1\0n0\0r5\0"),
    ] {
        assert_eq!(rig.ask(1, kind, 0, payload), Err(Errno::ENOSPC), "{kind:?}");
    }
    assert_eq!(size(&rig), full);
    assert_eq!(rig.read(b"/n/1"), Ok(vec![b'x'; 1000]));
    assert!(rig.ask(1, Directory, 0, b"/n\0").is_ok());
    // What others still need of it is kept: even to replace takes memory.
    assert_eq!(rig.ask(1, Write, 0, b"/n/2\0z"), Err(Errno::ENOSPC));
    assert_eq!(rig.ask(1, Read, aborted, b"/n/3\0"), Err(Errno::ENOSPC));
    assert_eq!(rig.ask(1, TransactionEnd, aborted, b"F\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.commit(1, committed), Ok(()));
    assert_eq!(rig.read(b"/n/1"), Err(Errno::ENOENT));
    // Nobody needs it now.
    rig.write(b"/n/2", b"z");
    rig.ok(Rm, b"/n/3\0");
    rig.ok(Unwatch, b"/n\0t\0");
    rig.ok(Release, b"5\0");
    rig.ok(Rm, b"/n\0");
    assert!(size(&rig) < full / 10);
    limit(&mut rig, 1024);
    rig.write(b"/n/new", b"");
}

#[test]
fn a_commit_that_would_be_too_large_changes_nothing() {
    let mut rig = rig(192);
    rig.write(b"/a", b"old");
    let tx = rig.start(1);
    for number in 0..10 {
        let payload = pair(format!("/b/{number}").as_bytes(), &[b'x'; 1000]);
        assert_eq!(rig.ask(1, Write, tx, &payload), Ok(b"OK\0".to_vec()));
    }
    assert_eq!(rig.ask(1, Write, tx, b"/a\0new"), Ok(b"OK\0".to_vec()));
    // Others fill what is left, and more; so all is done again on another store.
    let large = vec![b'x'; 2900];
    until_full(&mut rig, |rig, n| write(rig, &format!("/c/{n}"), &large));
    limit(&mut rig, 60);
    let before = rig.machine.state.store.tree().digest();
    rig.fired();
    assert_eq!(rig.commit(1, tx), Err(Errno::ENOSPC));
    assert_eq!(rig.machine.state.store.tree().digest(), before);
    assert_eq!(rig.read(b"/a"), Ok(b"old".to_vec()));
    assert_eq!(rig.commit(1, tx), Err(Errno::ENOENT), "it is gone, as after any end");
    assert_eq!(rig.fired(), []);
    // The same where nothing happened in between.
    limit(&mut rig, 1024);
    let tx = rig.start(1);
    assert_eq!(rig.ask(1, Write, tx, b"/d\0"), Ok(b"OK\0".to_vec()));
    rig.machine.state.limit_kib = 1;
    assert_eq!(rig.commit(1, tx), Err(Errno::ENOSPC));
    assert_eq!(rig.machine.state.store.tree().digest(), before);
}

/// A client that sleeps in a transaction keeps what others replace, but no more than
/// the store was.
#[test]
fn what_transactions_keep_is_bounded_and_counts() {
    let mut rig = rig(3 * 1024);
    for number in 0..50 {
        rig.write(format!("/n/{number}").as_bytes(), &[b'x'; 1000]);
    }
    let (alone, store) = (size(&rig), rig.machine.state.store.size());
    let rewrite = |rig: &mut Rig| {
        for number in 0..50 {
            write(rig, &format!("/n/{number}"), &[b'y'; 1000])?;
        }
        Ok(())
    };
    let sleeper = rig.start(1);
    for _ in 0..20 {
        rewrite(&mut rig).expect("there is room for two versions");
    }
    assert_eq!(size(&rig), alone + TRANSACTION_BYTES + store);
    let versions = until_full(&mut rig, |rig, _| {
        rig.ask(1, TransactionStart, 0, b"\0")?;
        rewrite(rig)
    });
    assert!((5..20).contains(&versions), "{versions}");
    assert_eq!(rig.ask(1, Read, sleeper, b"/n/0\0"), Ok(vec![b'x'; 1000]), "its reserve");
    rig.ok(ResetWatches, b"");
    assert_eq!(size(&rig), alone);
    rewrite(&mut rig).expect("there is room again");
}

/// Even in a full store a toolstack can remove something the way that it is used to.
#[test]
fn there_is_a_reserve_for_transactions_that_remove() {
    let mut rig = rig(256);
    until_full(&mut rig, |rig, n| write(rig, &format!("/vm/{n}"), &[b'x'; 100]));
    let tx = rig.start(1);
    assert_eq!(rig.ask(1, Read, tx, b"/vm/1\0"), Ok(vec![b'x'; 100]));
    assert_eq!(rig.ask(1, Rm, tx, b"/vm/1\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(rig.ask(1, Write, tx, b"/vm/2/new\0"), Err(Errno::ENOSPC));
    assert_eq!(rig.commit(1, tx), Ok(()));
    assert_eq!(rig.read(b"/vm/1"), Err(Errno::ENOENT));
    assert!(rig.read(b"/vm/2").is_ok());
}

#[test]
fn the_limit_is_part_of_the_state_and_is_told() {
    let mut rig = rig(1000);
    let digest = rig.machine.digest();
    rig.ok(SetQuota, b"store-kib\x002000\0");
    assert_ne!(rig.machine.digest(), digest);
    assert_eq!(rig.ask(1, GetQuota, 0, b"store-kib\0"), Ok(b"2000\0".to_vec()));
    let list = rig.ask(1, Control, 0, b"quota\0").expect("a list");
    let line = b"store-kib        :     2000 Size of the whole store, KiB";
    assert!(list.windows(line.len()).any(|text| text == line));
    let report = rig.ask(1, Control, 0, b"memreport\0").expect("a report");
    let line = b"of 2000 KiB\n";
    assert!(report.windows(line.len()).any(|text| text == line));
    // It is nobody's quota, and no limit is none.
    assert_eq!(rig.ask(1, SetQuota, 0, b"0\0store-kib\x001\0"), Err(Errno::EINVAL));
    rig.ok(SetQuota, b"store-kib\x000\0");
    assert_eq!(rig.machine.state.limit(), None);
}
