//! The shortest path through a group: elect, propose, commit.

use consensus::{MemoryStore, Peer, PeerConfig, PeerId, Role};

#[test]
fn three_peers_commit() {
    let ids = [PeerId(1), PeerId(2), PeerId(3)];
    let mut peers: Vec<Peer> =
        ids.iter().map(|&id| Peer::bootstrap(PeerConfig::new(id), &ids).unwrap()).collect();
    peers[0].campaign().unwrap();
    let mut committed = [const { Vec::new() }; 3];
    let mut proposed = false;
    for _ in 0..20 {
        let mut mail = Vec::new();
        for (peer, committed) in peers.iter_mut().zip(&mut committed) {
            let from = peer.status().id;
            let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
            let actions = peer.poll(&mut MemoryStore, &mut out).unwrap();
            committed.extend(actions.committed);
            mail.extend(out.into_iter().map(|(to, frame)| (from, to, frame)));
        }
        if peers[0].role() == Role::Leader && !proposed {
            proposed = true;
            assert_eq!(peers[0].propose(b"hello".to_vec()).unwrap().0, 3);
        }
        if mail.is_empty() {
            peers[0].announce_commit();
        }
        for (from, to, frame) in mail {
            peers[to.0 as usize - 1].step(from, &frame).unwrap();
        }
    }
    for committed in &committed {
        assert_eq!(committed.last().unwrap().data, b"hello");
        assert_eq!(committed.len(), 3);
    }
}
