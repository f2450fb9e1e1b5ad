use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::ring::RingError;
use crate::{Generation, ReplicaId};

fn slot(index: u8) -> SlotId {
    SlotId::new(index).unwrap()
}

fn small() -> FabricConfig {
    FabricConfig {
        intake_bytes: 16 << 10,
        output_bytes: 8 << 10,
        peer_ring_bytes: 4 << 10,
        control_bytes: 4 << 10,
        backlog_bytes: 1 << 20,
        message_bytes: 1 << 20,
    }
}

fn join(host: &mut HostFabric, index: u8, id: u64) -> ReplicaFabric {
    host.reset_slot(slot(index), ReplicaId(id)).unwrap();
    let fds = host.descriptors(slot(index)).unwrap();
    ReplicaFabric::attach(fds, slot(index), ReplicaId(id)).unwrap()
}

fn receive(receiver: &mut crate::ring::Receiver) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let some = receiver.receive(&mut out).unwrap();
    receiver.release();
    some.then_some(out)
}

fn send(sender: &mut crate::ring::Sender, message: &[u8]) {
    sender.send(message).unwrap();
    sender.flush();
}

#[test]
fn inputs_controls_and_outputs_flow() {
    let mut host = HostFabric::new(small()).unwrap();
    let mut replica = join(&mut host, 3, 1);
    assert_eq!(host.replica_page(slot(3)).replica(), ReplicaId(1));
    host.intake().push(1, b"input").unwrap();
    let mut out = Vec::new();
    assert_eq!(replica.intake().next(&mut out), Ok(Some(1)));
    assert_eq!(out, b"input");
    send(host.control(slot(3)), b"control");
    assert_eq!(receive(replica.control()), Some(b"control".to_vec()));
    send(replica.outputs(), b"output");
    assert_eq!(receive(host.outputs(slot(3)).unwrap()), Some(b"output".to_vec()));
    assert!(host.outputs(slot(2)).is_none());
}

#[test]
fn pages_tell_what_was_published() {
    let mut host = HostFabric::new(small()).unwrap();
    let replica = join(&mut host, 0, 4);
    host.page().set_generation(Generation(9));
    host.page().set_primary(ReplicaId(4));
    host.page().set_delivered_output(11);
    host.page().set_freed_input(12);
    let seen = replica.host_page();
    assert_eq!((seen.generation(), seen.primary()), (Generation(9), ReplicaId(4)));
    assert_eq!((seen.delivered_output(), seen.freed_input()), (11, 12));

    let page = replica.page();
    page.set_role(Role::Primary);
    page.set_generation(Generation(9));
    page.beat();
    page.beat();
    page.set_last_log_index(100);
    page.set_last_log_term(3);
    page.set_commit_index(99);
    page.set_applied_index(98);
    page.set_released_index(97);
    page.set_applying_input(50);
    page.set_last_applied_input(49);
    let seen = host.replica_page(slot(0));
    assert_eq!((seen.role(), seen.generation(), seen.beats()), (Role::Primary, Generation(9), 2));
    assert_eq!((seen.last_log_index(), seen.last_log_term()), (100, 3));
    assert_eq!((seen.commit_index(), seen.applied_index(), seen.released_index()), (99, 98, 97));
    assert_eq!((seen.applying_input(), seen.last_applied_input()), (50, 49));
    assert!(seen.is_intact(ReplicaId(4)));
    assert!(!seen.is_intact(ReplicaId(5)));
    assert_eq!(seen.crash_reason(), None);
    page.mark_crashed(b"first\n");
    page.mark_crashed(b"second");
    assert_eq!(seen.crash_reason().as_deref(), Some("first "));
}

#[test]
fn a_page_that_was_overwritten_is_known() {
    use crate::memory::PAGE_BYTES;
    const LINE: usize = 64;
    // What is written at random hits the lines with what changes all the time.
    for start in [0, 2, 3, 4, 9].map(|line| line * LINE) {
        let mut host = HostFabric::new(small()).unwrap();
        let replica = join(&mut host, 0, 4);
        assert!(host.replica_page(slot(0)).is_intact(ReplicaId(4)));
        for offset in (start..start + LINE).step_by(8) {
            replica.memory().store(offset, 0x5a5a_5a5a);
        }
        assert!(!host.replica_page(slot(0)).is_intact(ReplicaId(4)), "line at {start}");
        assert!(start + LINE <= PAGE_BYTES);
    }
}

#[test]
fn the_last_digests_are_kept() {
    let mut host = HostFabric::new(small()).unwrap();
    let replica = join(&mut host, 0, 4);
    for index in 1..=20 {
        replica.page().publish_digest(DigestRecord { log_index: index * 10, digest: !index });
    }
    let digests = host.replica_page(slot(0)).digests();
    let expected: Vec<_> =
        (5..=20).map(|index| DigestRecord { log_index: index * 10, digest: !index }).collect();
    assert_eq!(digests, expected);
}

#[test]
fn digests_are_never_torn() {
    let mut host = HostFabric::new(small()).unwrap();
    let replica = join(&mut host, 0, 4);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for log_index in 1..2_000_000 {
                replica.page().publish_digest(DigestRecord { log_index, digest: !log_index });
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            for record in host.replica_page(slot(0)).digests() {
                assert_eq!(record.digest, !record.log_index);
            }
        }
    });
}

#[test]
fn peers_talk_and_a_successor_begins_anew() {
    let mut host = HostFabric::new(small()).unwrap();
    let mut a = join(&mut host, 0, 1);
    let mut b = join(&mut host, 1, 2);
    a.bind_peer(slot(1), ReplicaId(2));
    b.bind_peer(slot(0), ReplicaId(1));
    for round in 0..500u32 {
        send(a.peer_tx(slot(1)).unwrap(), &round.to_le_bytes().repeat(20));
        assert_eq!(receive(b.peer_rx(slot(0)).unwrap()), Some(round.to_le_bytes().repeat(20)));
    }
    // b dies with a message in its ring and some in the backlog.
    for _ in 0..100 {
        send(a.peer_tx(slot(1)).unwrap(), &[7; 100]);
    }
    drop(b);
    let mut b = join(&mut host, 1, 3);
    b.bind_peer(slot(0), ReplicaId(1));
    assert_eq!(receive(b.peer_rx(slot(0)).unwrap()), None, "meant for the predecessor");
    a.unbind_peer(slot(1));
    assert!(a.peer_tx(slot(1)).is_none());
    a.bind_peer(slot(1), ReplicaId(3));
    send(a.peer_tx(slot(1)).unwrap(), b"welcome");
    assert_eq!(receive(b.peer_rx(slot(0)).unwrap()), Some(b"welcome".to_vec()));
    send(b.peer_tx(slot(0)).unwrap(), b"unheard yet");
    assert_eq!(receive(a.peer_rx(slot(1)).unwrap()), Some(b"unheard yet".to_vec()));

    // a dies too; its successor has a ring that begins at zero.
    drop(a);
    let mut a = join(&mut host, 0, 4);
    a.bind_peer(slot(1), ReplicaId(3));
    b.bind_peer(slot(0), ReplicaId(4));
    send(a.peer_tx(slot(1)).unwrap(), b"from a successor");
    assert_eq!(receive(b.peer_rx(slot(0)).unwrap()), Some(b"from a successor".to_vec()));
    send(b.peer_tx(slot(0)).unwrap(), b"to a successor");
    assert_eq!(receive(a.peer_rx(slot(1)).unwrap()), Some(b"to a successor".to_vec()));
}

#[test]
fn a_slot_is_used_again_from_scratch() {
    let mut host = HostFabric::new(small()).unwrap();
    for id in 1..5 {
        let mut replica = join(&mut host, 2, id);
        assert_eq!(host.replica_page(slot(2)).beats(), 0);
        assert_eq!(receive(replica.control()), None);
        assert_eq!(receive(host.outputs(slot(2)).unwrap()), None);
        for round in 0..200u32 {
            send(host.control(slot(2)), &round.to_le_bytes());
            assert_eq!(receive(replica.control()), Some(round.to_le_bytes().to_vec()));
            send(replica.outputs(), &[id as u8; 70]);
            assert_eq!(receive(host.outputs(slot(2)).unwrap()), Some(vec![id as u8; 70]));
        }
        // Left over when it dies.
        replica.page().beat();
        send(host.control(slot(2)), b"too late");
        send(replica.outputs(), b"unread");
    }
}

#[test]
fn an_isolated_replica_is_not_heard() {
    let mut host = HostFabric::new(small()).unwrap();
    let mut replica = join(&mut host, 2, 1);
    send(replica.outputs(), b"before");
    host.isolate_slot(slot(2));
    send(replica.outputs(), b"after");
    assert!(host.outputs(slot(2)).is_none());
}

#[test]
fn a_replica_can_only_write_its_own_region() {
    let host = HostFabric::new(small()).unwrap();
    let fds = host.descriptors(slot(1)).unwrap();
    let writable: Vec<bool> = fds
        .into_iter()
        .take(1 + SLOTS)
        .map(|fd| crate::memory::Segment::from_fd(fd).unwrap().map_writable().is_ok())
        .collect();
    let mut expected = vec![false; 1 + SLOTS];
    expected[2] = true;
    assert_eq!(writable, expected);
}

#[test]
fn wrong_descriptors_and_sizes_are_refused() {
    let host = HostFabric::new(small()).unwrap();
    let mut fds = host.descriptors(slot(1)).unwrap();
    let wrong_slot = host.descriptors(slot(2)).unwrap();
    assert!(ReplicaFabric::attach(wrong_slot, slot(1), ReplicaId(1)).is_err());
    fds.pop();
    assert!(ReplicaFabric::attach(fds, slot(1), ReplicaId(1)).is_err());
    let fds = host.descriptors(slot(1)).unwrap();
    assert!(ReplicaFabric::attach(fds, slot(1), ReplicaId::NONE).is_err());
    for output_bytes in [0, 5000, 2048, 2 << 30] {
        let config = FabricConfig { output_bytes, ..small() };
        assert!(matches!(HostFabric::new(config), Err(FabricError::Size { .. })));
    }
}

#[test]
fn who_comes_back_under_its_id_begins_anew() {
    let mut host = HostFabric::new(small()).unwrap();
    let mut first = join(&mut host, 0, 1);
    send(first.outputs(), b"from the first life");
    assert!(receive(host.outputs(slot(0)).unwrap()).is_some());
    drop(first);
    send(host.control(slot(0)), b"for the first life");
    host.isolate_slot(slot(0));
    let mut replica = join(&mut host, 0, 1);
    let mut heard = Vec::new();
    assert!(!replica.control().receive(&mut heard).unwrap());
    send(host.control(slot(0)), b"for the second");
    assert!(replica.control().receive(&mut heard).unwrap());
    assert_eq!(heard, b"for the second");
    send(replica.outputs(), b"from the second");
    assert_eq!(receive(host.outputs(slot(0)).unwrap()).unwrap(), b"from the second");
}

#[test]
fn a_hostile_output_ring_is_an_error_for_the_host_alone() {
    let mut host = HostFabric::new(small()).unwrap();
    host.reset_slot(slot(0), ReplicaId(1)).unwrap();
    let fds = host.descriptors(slot(0)).unwrap();
    let own = fds[1].try_clone().unwrap();
    let mut replica = ReplicaFabric::attach(fds, slot(0), ReplicaId(1)).unwrap();
    send(replica.outputs(), b"fine");
    let own = crate::memory::Segment::from_fd(own).unwrap().map_writable().unwrap();
    own.store(2 * crate::memory::PAGE_BYTES, u64::MAX);
    let outcome = host.outputs(slot(0)).unwrap().receive(&mut Vec::new());
    assert!(matches!(outcome, Err(RingError::Corrupt(_))));
}

fn survives_any_page(words: Vec<(u16, u64)>) -> bool {
    let segment = crate::memory::Segment::create("test", crate::memory::PAGE_BYTES).unwrap();
    let memory = segment.map_writable().unwrap();
    let page = ReplicaPageView::new(memory.read_only());
    for (place, word) in words {
        memory.store(usize::from(place) % 120 * 8, word);
        let _ = (page.role(), page.digests(), page.must_be_woken());
        if page.crash_reason().is_some_and(|reason| reason.chars().count() > CRASH_REASON_MAX) {
            return false;
        }
    }
    true
}

#[test]
fn no_harm_from_any_page() {
    quickcheck::quickcheck(survives_any_page as fn(Vec<(u16, u64)>) -> bool);
}

#[test]
fn nobody_rings_for_those_who_are_awake() {
    let mut host = HostFabric::new(small()).unwrap();
    let mut replica = join(&mut host, 0, 1);
    host.ring_doorbell(slot(0));
    replica.ring_host();
    assert_eq!(replica.wait(Duration::ZERO, |_| false), Wake::Timeout);
    assert!(!Doorbell::from_fd(host.doorbell_fd().try_clone_to_owned().unwrap()).drain());
    let wake = replica.wait(Duration::from_secs(10), |_| {
        host.ring_doorbell(slot(0));
        false
    });
    assert_eq!(wake, Wake::Rung);
    assert_eq!(replica.wait(Duration::from_secs(10), |_| true), Wake::Work);
}

/// One party publishes while the other falls asleep, over and over at the same
/// moment: either the news is seen or the sleeper.
#[test]
fn news_or_sleeper_one_is_always_seen() {
    const ROUNDS: u64 = 50_000;
    let segment = crate::memory::Segment::create("test", 2 * crate::memory::PAGE_BYTES).unwrap();
    let memory = segment.map_writable().unwrap();
    let page = ReplicaPage::new(memory.part_mut(0, crate::memory::PAGE_BYTES));
    let news = memory.part_mut(crate::memory::PAGE_BYTES, 64);
    let arrived = AtomicU64::new(0);
    // Both leave at nearly the same moment; on a single core they take turns.
    let meet = |target: u64| {
        arrived.fetch_add(1, Ordering::SeqCst);
        for spin in 0u32.. {
            if arrived.load(Ordering::SeqCst) >= target {
                return;
            }
            if spin % 1000 == 999 {
                std::thread::yield_now();
            }
        }
    };
    let saw_sleeper = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                meet(round * 4 - 2);
                news.store(0, round);
                saw_sleeper.store(page.must_be_woken(), Ordering::Relaxed);
                meet(round * 4);
            }
        });
        for round in 1..=ROUNDS {
            meet(round * 4 - 2);
            page.announce_sleep();
            let saw_news = news.load(0) == round;
            meet(round * 4);
            // The other one writes this again only after the next meeting.
            assert!(saw_news || saw_sleeper.load(Ordering::Relaxed), "round {round}");
            page.end_sleep();
        }
    });
}

/// Ping-pong through sleeping parties: a single lost wake-up costs a whole
/// timeout and fails the test.
#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: u64 = 5_000;
    const LONG: Duration = Duration::from_secs(20);
    let mut host = HostFabric::new(small()).unwrap();
    let mut replica = join(&mut host, 0, 1);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut out = Vec::new();
            for round in 1..=ROUNDS {
                while replica.intake().next(&mut out).unwrap() != Some(round) {
                    let wake = replica.wait(LONG, |replica| replica.intake().has_more());
                    assert_ne!(wake, Wake::Timeout);
                }
                send(replica.outputs(), &out);
                replica.ring_host();
            }
        });
        let mut out = Vec::new();
        let bell = Doorbell::from_fd(host.doorbell_fd().try_clone_to_owned().unwrap());
        for round in 1..=ROUNDS {
            host.intake().push(round, &round.to_le_bytes()).unwrap();
            host.ring_doorbell(slot(0));
            while !host.outputs(slot(0)).unwrap().receive(&mut out).unwrap() {
                host.prepare_sleep();
                if !host.outputs(slot(0)).unwrap().receive(&mut out).unwrap() {
                    assert!(bell.wait(LONG), "round {round}");
                    host.cancel_sleep();
                    continue;
                }
                host.cancel_sleep();
                break;
            }
            assert_eq!(out, round.to_le_bytes());
            host.outputs(slot(0)).unwrap().release();
            host.intake().free_through(round);
        }
    });
    assert!(begin.elapsed() < LONG);
}
