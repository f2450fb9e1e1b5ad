//! The load is judged clean on a daemon that nobody breaks, and not clean on
//! one that is killed.

use std::time::Duration;

use chaos::peers::{Kit, KitPart, Peer, PeerKind};
use chaos::skip::skip;
use chaos::soak::{Soak, SoakConfig};

fn peer(test: &str) -> Option<(Kit, Peer, tempfile::TempDir)> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let started = Kit::fetch(KitPart::Daemons)
        .and_then(|kit| Peer::start(&kit, PeerKind::C, dir.path()).map(|peer| (kit, peer)));
    match started {
        Ok((kit, peer)) => Some((kit, peer, dir)),
        Err(error) => {
            skip(test, &error);
            None
        }
    }
}

#[test]
fn an_unbroken_daemon_is_clean() {
    let Some((_kit, peer, _dir)) = peer("an_unbroken_daemon_is_clean") else {
        return;
    };
    let soak = Soak::start(&peer.socket(), SoakConfig::default()).expect("starts");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(soak.counts().answered > 100);
    let verdict = soak.finish().expect("is judged");
    assert!(verdict.is_clean(), "{verdict}");
    assert!(verdict.events > 100, "{verdict}");
}

#[test]
fn a_daemon_that_forgets_is_not_clean() {
    let Some((kit, peer, dir)) = peer("a_daemon_that_forgets_is_not_clean") else {
        return;
    };
    let config = SoakConfig { timeout_ms: 1000, ..SoakConfig::default() };
    let soak = Soak::start(&peer.socket(), config).expect("starts");
    std::thread::sleep(Duration::from_millis(300));
    drop(peer);
    std::fs::remove_file(dir.path().join("socket")).expect("was there");
    let _anew = Peer::start(&kit, PeerKind::C, dir.path()).expect("starts again");
    std::thread::sleep(Duration::from_millis(300));
    let counts = soak.counts();
    assert!(counts.disconnects >= 8, "{counts:?}");
    // The counters are gone, so that the end cannot even be read.
    if let Ok(verdict) = soak.finish() {
        assert!(!verdict.is_clean(), "{verdict}");
        assert!(verdict.lost > 0, "{verdict}");
    }
}
