//! A group, its network and its host, and what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consensus::{
    AckPolicy, Actions, Change, FenceEpoch, LogIndex, Peer, PeerConfig, PeerId, Role, StepError,
};

use crate::store::SimStore;

/// A state machine that remembers every proposal and its index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) applied: u64,
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
}

impl Machine {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, data) in &self.entries {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&(data.len() as u32).to_le_bytes());
            out.extend_from_slice(data);
        }
        out
    }

    fn decode(applied: u64, mut bytes: &[u8]) -> Self {
        let mut entries = Vec::new();
        while let Some((index, rest)) = bytes.split_first_chunk() {
            let (len, rest) = rest.split_first_chunk().expect("whole entries");
            let (data, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
            entries.push((u64::from_le_bytes(*index), data.to_vec()));
            bytes = rest;
        }
        Self { applied, entries }
    }
}

pub(crate) struct Node {
    pub(crate) peer: Option<Peer>,
    pub(crate) store: SimStore,
    pub(crate) machine: Machine,
    /// Certificates it was given.
    certificates: usize,
}

#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) from: PeerId,
    pub(crate) to: PeerId,
    pub(crate) frame: Vec<u8>,
}

pub(crate) struct World {
    policy: AckPolicy,
    pub(crate) nodes: BTreeMap<PeerId, Node>,
    pub(crate) net: VecDeque<Packet>,
    /// The dead as of each certificate; certificate 0 names nobody.
    certificates: Vec<BTreeSet<PeerId>>,
    /// Replicas that the host relies on: settled voters that nobody takes out.
    pub(crate) counted: BTreeSet<PeerId>,
    leaving: BTreeSet<PeerId>,
    /// The term in which each was promoted last: an earlier leader's view of it
    /// is out of date.
    promoted: BTreeMap<PeerId, u64>,
    tune: fn(&mut PeerConfig),
    // What must always hold is judged by these.
    canon: BTreeMap<u64, (u64, Vec<u8>)>,
    leaders: BTreeMap<u64, PeerId>,
    pub(crate) released: u64,
}

impl World {
    pub(crate) fn new(policy: AckPolicy, voters: u64) -> Self {
        Self::tuned(policy, voters, |_| {})
    }

    pub(crate) fn tuned(policy: AckPolicy, voters: u64, tune: fn(&mut PeerConfig)) -> Self {
        let ids: Vec<PeerId> = (1..=voters).map(PeerId).collect();
        let mut world = Self {
            policy,
            nodes: BTreeMap::new(),
            net: VecDeque::new(),
            certificates: vec![BTreeSet::new()],
            counted: BTreeSet::new(),
            leaving: BTreeSet::new(),
            promoted: BTreeMap::new(),
            tune,
            canon: BTreeMap::new(),
            leaders: BTreeMap::new(),
            released: 0,
        };
        for &id in &ids {
            let peer = Peer::bootstrap(world.config(id), &ids).expect("a sound configuration");
            world.insert(id, peer);
        }
        for &id in &ids {
            world.poll(id);
        }
        world.counted.extend(ids);
        world
    }

    fn config(&self, id: PeerId) -> PeerConfig {
        let mut config = PeerConfig { ack: self.policy, ..PeerConfig::new(id) };
        (self.tune)(&mut config);
        config
    }

    fn insert(&mut self, id: PeerId, peer: Peer) {
        let certificates = self.certificates.len() - 1;
        let node = Node {
            peer: Some(peer),
            store: SimStore::default(),
            machine: Machine::default(),
            certificates,
        };
        assert!(self.nodes.insert(id, node).is_none(), "ids are never used again");
    }

    /// Starts a replica that knows nothing but the host's latest certificate.
    pub(crate) fn join(&mut self) -> PeerId {
        let id = PeerId(self.nodes.keys().map(|id| id.0).max().unwrap_or(0) + 1);
        let mut peer = Peer::join(self.config(id)).expect("a sound configuration");
        let (epoch, dead) = self.certificate(self.certificates.len() - 1);
        peer.fence(epoch, &dead).expect("a joining peer takes any certificate");
        self.insert(id, peer);
        self.poll(id);
        id
    }

    fn certificate(&self, number: usize) -> (FenceEpoch, Vec<PeerId>) {
        let dead = self.certificates[number].iter().copied().collect();
        (FenceEpoch(number as u32), dead)
    }

    pub(crate) fn peer(&mut self, id: PeerId) -> &mut Peer {
        self.nodes.get_mut(&id).and_then(|node| node.peer.as_mut()).expect("a living peer")
    }

    pub(crate) fn alive(&self) -> Vec<PeerId> {
        self.nodes.iter().filter(|(_, node)| node.peer.is_some()).map(|(id, _)| *id).collect()
    }

    pub(crate) fn is_dead(&self, id: PeerId) -> bool {
        self.certificates.last().is_some_and(|dead| dead.contains(&id))
    }

    /// The living leader of the latest term.
    pub(crate) fn leader(&self) -> Option<PeerId> {
        let leaders = self.nodes.iter().filter_map(|(id, node)| {
            node.peer.as_ref().filter(|peer| peer.is_leader()).map(|peer| (peer.term(), *id))
        });
        leaders.max().map(|(_, id)| id)
    }

    /// Polls a peer and does what it asks for.
    pub(crate) fn poll(&mut self, id: PeerId) -> Actions {
        let node = self.nodes.get_mut(&id).expect("a known peer");
        let Some(peer) = node.peer.as_mut() else { return Actions::default() };
        let mut out: Vec<(PeerId, Vec<u8>)> = Vec::new();
        let actions = peer.poll(&mut node.store, &mut out).expect("the store never fails");
        if let Some(install) = &actions.install {
            node.machine = Machine::decode(install.index.0, &install.data);
        }
        for entry in &actions.committed {
            assert_eq!(entry.index.0, node.machine.applied + 1, "{id}: no gaps");
            node.machine.applied = entry.index.0;
            if !entry.data.is_empty() {
                node.machine.entries.push((entry.index.0, entry.data.clone()));
            }
            let found = (entry.term.0, entry.data.clone());
            let canon = self.canon.entry(entry.index.0).or_insert_with(|| found.clone());
            assert_eq!(*canon, found, "{id}: entry {} was committed differently", entry.index);
        }
        peer.applied(LogIndex(node.machine.applied));
        if actions.snapshot_wanted {
            let state = node.machine.encode();
            // Too old is possible, right after a snapshot was installed.
            let _ = peer.offer_snapshot(LogIndex(node.machine.applied), state);
        }
        self.net.extend(out.into_iter().map(|(to, frame)| Packet { from: id, to, frame }));
        self.judge(id);
        actions
    }

    /// Checks what must hold whatever happens.
    fn judge(&mut self, id: PeerId) {
        let Some(peer) = self.nodes[&id].peer.as_ref() else { return };
        if peer.is_leader() {
            let leader = *self.leaders.entry(peer.term().0).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {}", peer.term());
            for other in peer.status().peers {
                let is_current =
                    self.promoted.get(&other.id).is_none_or(|term| *term <= peer.term().0);
                if other.is_settled && is_current && !self.leaving.contains(&other.id) {
                    self.counted.insert(other.id);
                }
            }
        }
        self.released = self.released.max(peer.released().0);
        if self.policy == AckPolicy::AllLive {
            for survivor in self.counted.iter().filter(|id| !self.is_dead(**id)) {
                let last = self.nodes[survivor].store.last();
                assert!(
                    last >= self.released,
                    "{survivor} ends at {last}, but {id} released {}",
                    self.released
                );
            }
        }
    }

    /// Log matching: where two logs have an entry of the same term, they are the
    /// same up to there; and no log contradicts what was committed and applied.
    pub(crate) fn judge_logs(&self) {
        let nodes: Vec<_> = self.nodes.values().collect();
        for (place, left) in nodes.iter().enumerate() {
            for right in &nodes[place + 1..] {
                let both: Vec<_> = left
                    .store
                    .entries
                    .iter()
                    .filter_map(|(index, entry)| {
                        right.store.entries.get(index).map(|other| (index, entry, other))
                    })
                    .collect();
                let same = both.iter().rposition(|(_, left, right)| left.term == right.term);
                for (index, left, right) in both.iter().take(same.map_or(0, |same| same + 1)) {
                    assert_eq!(left, right, "entry {index}");
                }
            }
        }
        for node in nodes {
            for (index, data) in &node.machine.entries {
                assert_eq!(&self.canon[index].1, data, "entry {index}");
            }
        }
    }

    /// Delivers the packet at `place`.
    pub(crate) fn deliver(&mut self, place: usize) {
        let Some(packet) = self.net.remove(place) else { return };
        let Some(peer) = self.nodes.get_mut(&packet.to).and_then(|node| node.peer.as_mut()) else {
            return;
        };
        match peer.step(packet.from, &packet.frame) {
            Ok(())
            | Err(
                StepError::Fenced(_)
                | StepError::NotMember(_)
                | StepError::EarlierEpoch(_)
                | StepError::LaterEpoch(_),
            ) => {}
            Err(error) => panic!("{} to {}: {error}", packet.from, packet.to),
        }
        self.judge(packet.to);
    }

    /// Delivers, in order, the packets at hand that `wanted` picks.
    pub(crate) fn deliver_some(&mut self, wanted: impl Fn(&Packet) -> bool) {
        let mut place = 0;
        for _ in 0..self.net.len() {
            if wanted(&self.net[place]) {
                self.deliver(place);
            } else {
                place += 1;
            }
        }
    }

    /// Polls and delivers, in order, until nothing moves. With `lost`, packets to
    /// those are dropped.
    pub(crate) fn settle_without(&mut self, lost: &[PeerId]) {
        for _ in 0..10_000 {
            for id in self.alive() {
                if !lost.contains(&id) {
                    self.poll(id);
                }
            }
            if self.net.is_empty() {
                return;
            }
            for _ in 0..self.net.len() {
                if lost.contains(&self.net[0].to) {
                    self.net.pop_front();
                } else {
                    self.deliver(0);
                }
            }
        }
        panic!("the group never comes to rest");
    }

    pub(crate) fn settle(&mut self) {
        self.settle_without(&[]);
    }

    /// Has `id` elected, and the group at rest.
    pub(crate) fn elect(&mut self, id: PeerId) {
        self.peer(id).campaign().expect("a member");
        self.settle();
        assert_eq!(self.peer(id).role(), Role::Leader);
    }

    /// Lets the followers know the commit index.
    pub(crate) fn announce(&mut self) {
        let leader = self.leader().expect("a leader");
        self.peer(leader).announce_commit();
        self.settle();
    }

    /// The process of `id` ends for ever; the host certifies it. Survivors are
    /// told by [`Self::tell`].
    pub(crate) fn kill(&mut self, id: PeerId) {
        self.nodes.get_mut(&id).expect("a known peer").peer = None;
        let mut dead = self.certificates.last().cloned().unwrap_or_default();
        dead.insert(id);
        self.certificates.push(dead);
        self.counted.remove(&id);
    }

    /// Tells `id` the latest certificate, if it does not know it.
    pub(crate) fn tell(&mut self, id: PeerId) {
        let latest = self.certificates.len() - 1;
        let (epoch, dead) = self.certificate(latest);
        let node = self.nodes.get_mut(&id).expect("a known peer");
        let Some(peer) = node.peer.as_mut() else { return };
        if node.certificates < latest {
            node.certificates = latest;
            let told = peer.fence(epoch, &dead);
            if self.policy == AckPolicy::AllLive {
                told.expect("the certificates are in order");
            }
            self.judge(id);
        }
    }

    pub(crate) fn tell_all(&mut self) {
        for id in self.alive() {
            self.tell(id);
        }
    }

    /// The process of `id` ends; its disk stays.
    pub(crate) fn stop(&mut self, id: PeerId) {
        self.nodes.get_mut(&id).expect("a known peer").peer = None;
    }

    /// Starts `id` from its disk, if it was stopped.
    pub(crate) fn start(&mut self, id: PeerId) {
        let config = self.config(id);
        let is_dead = self.is_dead(id);
        let node = self.nodes.get_mut(&id).expect("a known peer");
        if node.peer.is_some() || is_dead {
            return;
        }
        let peer = match node.store.state() {
            Some(state) => Peer::recover(config, state).expect("what was stored is sound"),
            None => Peer::join(config).expect("a sound configuration"),
        };
        // A certificate that was not stored in time is told again.
        node.certificates = peer.status().epoch.0 as usize;
        node.peer = Some(peer);
        node.machine = Machine::default();
        self.poll(id);
    }

    /// Asks the leader for a change of members; the host stops relying on those
    /// that leave.
    pub(crate) fn change(&mut self, change: Change) -> bool {
        let Some(leader) = self.leader() else { return false };
        let is_taken = self.peer(leader).change(change).is_ok();
        match change {
            Change::Remove(id) | Change::AddLearner(id) => {
                self.counted.remove(&id);
                self.leaving.insert(id);
            }
            // Its return is told by a leader.
            Change::PromoteToVoter(id) if is_taken => {
                self.leaving.remove(&id);
                let term = self.peer(leader).term().0;
                self.promoted.insert(id, term);
            }
            Change::PromoteToVoter(_) => {}
        }
        is_taken
    }

    pub(crate) fn propose(&mut self, data: &[u8]) -> Option<u64> {
        let leader = self.leader()?;
        self.peer(leader).propose(data.to_vec()).ok().map(|index| index.0)
    }

    /// Every proposal that `id` has applied.
    pub(crate) fn applied(&self, id: PeerId) -> Vec<&[u8]> {
        self.nodes[&id].machine.entries.iter().map(|(_, data)| data.as_slice()).collect()
    }

    /// Ends all trouble and checks that the group works, and that it has lost
    /// nothing that was committed.
    pub(crate) fn heal(&mut self) {
        let known: Vec<PeerId> = self.nodes.keys().copied().collect();
        for id in known {
            self.start(id);
            self.tell(id);
        }
        let marker = b"healed";
        for round in 0..400 {
            if !self.leader().is_some_and(|id| self.is_accepted(id)) {
                self.campaign_longest(round);
            }
            self.settle();
            for id in self.alive() {
                self.peer(id).tick();
            }
            self.settle();
            let Some(leader) = self.leader() else { continue };
            if !self.applied(leader).contains(&marker.as_slice()) {
                self.propose(marker);
            } else if self.is_in_step(leader) {
                self.judge_logs();
                let have: BTreeMap<u64, &[u8]> = self.nodes[&leader]
                    .machine
                    .entries
                    .iter()
                    .map(|(index, data)| (*index, data.as_slice()))
                    .collect();
                for (index, (_, data)) in
                    self.canon.iter().filter(|(_, (_, data))| !data.is_empty())
                {
                    assert_eq!(have.get(index), Some(&data.as_slice()), "entry {index} is lost");
                }
                return;
            }
        }
        let statuses: Vec<_> =
            self.nodes.values().filter_map(|node| node.peer.as_ref()).map(Peer::status).collect();
        panic!("the group does not recover: {statuses:?}");
    }

    fn is_accepted(&self, leader: PeerId) -> bool {
        let status = |id: &PeerId| self.nodes[id].peer.as_ref().map(Peer::status);
        let Some(view) = status(&leader) else { return false };
        view.effective.voters.iter().all(|id| {
            status(id).is_some_and(|other| other.leader == Some(leader) && other.term == view.term)
        })
    }

    pub(crate) fn campaign_longest(&mut self, round: usize) {
        let mut members: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| node.peer.as_ref().map(|peer| (peer, *id)))
            .filter(|(peer, _)| peer.role() != Role::Outsider)
            .map(|(peer, id)| {
                let (last, term) = peer.log_end();
                (term, last, id)
            })
            .collect();
        members.sort_unstable();
        // Now and then another one, should the longest log be a leftover.
        let place = members.len().saturating_sub(1 + round % 3);
        if let Some((_, _, id)) = members.get(place.min(members.len().saturating_sub(1))) {
            let _ = self.peer(*id).campaign();
        }
    }

    fn is_in_step(&self, leader: PeerId) -> bool {
        let Some(view) = self.nodes[&leader].peer.as_ref().map(Peer::status) else { return false };
        let have = &self.nodes[&leader].machine.entries;
        view.fenced.iter().all(|id| !view.members.contains(*id))
            && view
                .members
                .voters
                .iter()
                .chain(&view.members.learners)
                .all(|id| &self.nodes[id].machine.entries == have)
    }
}
