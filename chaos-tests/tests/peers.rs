//! The client and Xen's own daemons understand each other.

use std::time::Duration;

use chaos::client::{Client, ClientError, Perm, PermAccess, Tx};
use chaos::peers::{Kit, KitPart, Peer, PeerKind};
use chaos::skip::skip;
use xenstore::wire::{Errno, MessageType};

fn peer(test: &str, kind: PeerKind) -> Option<(Peer, tempfile::TempDir)> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    match Kit::fetch(KitPart::Daemons).and_then(|kit| Peer::start(&kit, kind, dir.path())) {
        Ok(peer) => Some((peer, dir)),
        Err(error) => {
            skip(test, &error);
            None
        }
    }
}

fn exercise(peer: &Peer) {
    let mut client = Client::connect(peer.socket()).expect("connects");
    client.write(Tx::NONE, "/t/a", b"one").expect("writes");
    assert_eq!(client.read(Tx::NONE, "/t/a").expect("reads"), b"one");
    client.mkdir(Tx::NONE, "/t/b").expect("makes");
    let mut children = client.directory(Tx::NONE, "/t").expect("lists");
    children.sort();
    assert_eq!(children, [b"a", b"b"]);
    let missing = client.read(Tx::NONE, "/t/none").map_err(|e| e.errno());
    assert_eq!(missing, Err(Some(Errno::ENOENT)));

    let mut watcher = Client::connect(peer.socket()).expect("connects");
    watcher.watch("/t", "tok").expect("watches");
    let event = watcher.wait_event(Duration::from_secs(5)).expect("waits");
    assert_eq!(event.expect("fires at once").path(), b"/t");
    let tx = client.start().expect("starts");
    client.write(tx, "/t/a", b"two").expect("writes");
    assert_eq!(client.read(Tx::NONE, "/t/a").expect("reads"), b"one");
    assert!(client.commit(tx).expect("commits"));
    let event = watcher.wait_event(Duration::from_secs(5)).expect("waits");
    assert_eq!(event.expect("fires").path(), b"/t/a");

    for n in 0..16 {
        client.queue(MessageType::Read, Tx::NONE, &[b"/t/a\0"]);
        assert_eq!(client.in_flight(), n + 1);
    }
    client.flush().expect("sends");
    for _ in 0..16 {
        assert_eq!(client.reply().expect("answers"), b"two");
    }

    let mut guest = peer.guest(7).expect("introduces");
    assert!(client.is_introduced(7).expect("asks"));
    let refused = guest.write(Tx::NONE, "/t/a", b"mine");
    assert_eq!(refused.map_err(|error| error.errno()), Err(Some(Errno::EACCES)));
    let home = client.domain_path(7).expect("asks");
    client.write(Tx::NONE, &home, b"").expect("writes");
    let owner = Perm { access: PermAccess::None, domid: 7 };
    client.set_perms(Tx::NONE, &home, &[owner]).expect("gives away");
    guest.write(Tx::NONE, "data/x", b"guest").expect("writes");
    let path = format!("{home}/data/x");
    assert_eq!(client.read(Tx::NONE, &path).expect("reads"), b"guest");
    assert_eq!(client.get_perms(Tx::NONE, &path).expect("asks"), [owner]);
    // More than a ring holds, in both directions.
    let big = vec![b'x'; 2000];
    guest.write(Tx::NONE, "data/big", &big).expect("writes");
    assert_eq!(guest.read(Tx::NONE, "data/big").expect("reads"), big);

    client.watch("@releaseDomain", "gone").expect("watches");
    peer.destroy_domain(7).expect("ends");
    let mut events = Vec::new();
    while let Some(event) = client.wait_event(Duration::from_millis(300)).expect("waits") {
        events.push(event.path().to_vec());
    }
    assert!(events.len() >= 2 && events.iter().all(|path| path == b"@releaseDomain"));
    assert!(!client.is_introduced(7).expect("asks"));
}

#[test]
fn c_daemon() {
    if let Some((peer, _dir)) = peer("c_daemon", PeerKind::C) {
        exercise(&peer);
        let mut client = Client::connect(peer.socket()).expect("connects");
        for n in 0..600 {
            let path = format!("/many/child-number-{n:05}");
            client.write(Tx::NONE, &path, b"").expect("writes");
        }
        let listed = client.directory(Tx::NONE, "/many");
        assert_eq!(listed.map_err(|e| e.errno()), Err(Some(Errno::E2BIG)));
        let mut names = client.directory_by_parts(Tx::NONE, "/many").expect("lists");
        names.sort();
        assert_eq!(names.len(), 600);
        assert_eq!(names[599], b"child-number-00599");
    }
}

#[test]
fn ocaml_daemon() {
    if let Some((peer, _dir)) = peer("ocaml_daemon", PeerKind::Ocaml) {
        exercise(&peer);
    }
}

#[test]
fn a_dead_daemon_is_told_as_closed() {
    if let Some((peer, _dir)) = peer("a_dead_daemon_is_told_as_closed", PeerKind::C) {
        let mut client = Client::connect(peer.socket()).expect("connects");
        drop(peer);
        let answer = client.read(Tx::NONE, "/");
        assert!(matches!(answer, Err(ClientError::Closed)), "{answer:?}");
    }
}
