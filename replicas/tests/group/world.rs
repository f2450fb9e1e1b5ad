//! Replicas, the links between them, and a host that decides with the real
//! decision maker. Everything happens in an order that a seed chooses.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use consensus::{AckPolicy, LogIndex, MemoryStore, Peer, PeerConfig};
use hypervisor::decision::{
    self, Cause, Decision, DecisionMaker, Event, IntakeNo, LogPosition, Phase, Policy, SpawnMode,
    Standing,
};
use hypervisor::{Generation, ReplicaId};
use replica::background::{Background, Job};
use replica::core::{Link, Progress, Replica, Role};
use replica::executor::Local;
use replica::outbox::Watermarks;
use replica::protocol::{FromReplica, ToReplica, peer_id};
use replica::snapshot::Encoded;
use state_machine::{Class, ConnId, Digest, DomId, Input, InputNo, Reader, StateMachine};

use crate::host::Host;
use crate::machine::{self, Board};

/// Messages that a link between two replicas holds.
const LINK_ROOM: usize = 24;
/// Requests that a connection may have under way.
const OUTSTANDING: usize = 4;
const CONNS: u64 = 5;

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state_machine::mix64(self.0)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("small")
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| items[self.below(items.len())])
    }
}

/// Jobs that are done when the seed wants.
#[derive(Clone, Default)]
pub(crate) struct Desk(Rc<RefCell<(Option<Job>, Option<Encoded>)>>);

impl Desk {
    fn has_work(&self) -> bool {
        self.0.borrow().0.is_some()
    }

    pub(crate) fn work(&self) {
        let mut desk = self.0.borrow_mut();
        if let Some(job) = desk.0.take() {
            desk.1 = Some(job());
        }
    }
}

impl Background for Desk {
    fn give(&mut self, job: Job) -> bool {
        let mut desk = self.0.borrow_mut();
        let is_free = desk.0.is_none() && desk.1.is_none();
        if is_free {
            desk.0 = Some(job);
        }
        is_free
    }

    fn take(&mut self) -> Option<Encoded> {
        self.0.borrow_mut().1.take()
    }
}

struct Node {
    replica: Replica<Local<Board>>,
    store: MemoryStore,
    control: VecDeque<ToReplica>,
    next_input: InputNo,
    desk: Desk,
    /// Of whom nothing is read any more.
    cut: BTreeSet<ReplicaId>,
    wire: Wire,
    /// What it shows in its page.
    page: Progress,
}

/// What a replica has written, by reader.
#[derive(Default)]
struct Wire {
    to_host: VecDeque<Vec<u8>>,
    to_peers: BTreeMap<ReplicaId, VecDeque<Vec<u8>>>,
    digests: BTreeMap<LogIndex, Digest>,
}

impl Link for Wire {
    fn to_host(&mut self, bytes: &[u8]) {
        self.to_host.push_back(bytes.to_vec());
    }

    fn to_peer(&mut self, to: ReplicaId, bytes: &[u8]) -> bool {
        let link = self.to_peers.entry(to).or_default();
        let has_room = link.len() < LINK_ROOM;
        if has_room {
            link.push_back(bytes.to_vec());
        }
        has_room
    }

    fn show_digest(&mut self, index: LogIndex, digest: Digest) {
        self.digests.insert(index, digest);
    }
}

/// Where a replica may be killed.
struct Killed;

pub(crate) struct World {
    chance: Chance,
    pub(crate) maker: DecisionMaker,
    pub(crate) host: Host,
    ack: AckPolicy,
    nodes: BTreeMap<ReplicaId, Node>,
    /// The voters in the log, the dead included, as a primary told last.
    logged: BTreeSet<ReplicaId>,
    /// Who may have got a vote since, and from whom.
    joining: Option<(ReplicaId, ReplicaId)>,
    /// Killed, and not yet confirmed gone.
    dying: Vec<ReplicaId>,
    poison: Option<InputNo>,
    /// Commands until the next kill in the middle of a step.
    fuse: Option<usize>,
    calm: bool,
    pub(crate) kills: usize,
    pub(crate) handovers: usize,
    pub(crate) installs: usize,
    /// Promotions of replicas on their way in or out.
    pub(crate) stopgaps: usize,
}

impl World {
    pub(crate) fn new(seed: u64, ack: AckPolicy, replication_factor: u8) -> Self {
        let policy = Policy {
            ack: match ack {
                AckPolicy::AllLive => decision::AckPolicy::AllLive,
                AckPolicy::Quorum => decision::AckPolicy::Quorum,
            },
            rebuild: true,
            replication_factor,
        };
        let mut world = Self {
            chance: Chance(seed),
            maker: DecisionMaker::new(policy, ReplicaId(1), Generation(0)),
            host: Host::default(),
            ack,
            nodes: BTreeMap::new(),
            logged: BTreeSet::new(),
            joining: None,
            dying: Vec::new(),
            poison: None,
            fuse: None,
            calm: false,
            kills: 0,
            handovers: 0,
            installs: 0,
            stopgaps: 0,
        };
        world.decide(Event::Form);
        for conn in 1..=CONNS {
            world.host.admit(&Input::Open { conn: ConnId(conn), domid: DomId(0) });
        }
        world
    }

    fn decide(&mut self, event: Event) {
        for decision in self.maker.step(event) {
            self.carry_out(decision);
        }
    }

    fn carry_out(&mut self, decision: Decision) {
        match decision {
            Decision::Spawn { id, mode, .. } => self.spawn(id, &mode),
            Decision::Kill { id, .. } => {
                self.nodes.remove(&id);
                self.dying.push(id);
            }
            Decision::Isolate { generation, certificate, fenced } => {
                let message = ToReplica::Isolate { generation, certificate, fenced };
                for node in self.nodes.values_mut() {
                    node.control.push_back(message.clone());
                }
            }
            Decision::Promote { id, generation, quarantine } => {
                self.stopgaps += usize::from(!self.survivors().contains(&id));
                let quarantine = quarantine.into_iter().map(|no| InputNo(no.0)).collect();
                self.tell(id, ToReplica::Promote { generation, quarantine });
            }
            Decision::Drain { id } => {
                self.handovers += 1;
                self.tell(id, ToReplica::Drain);
            }
            Decision::AddLearner { primary, id } => self.tell(primary, ToReplica::AddLearner(id)),
            Decision::AddVoter { primary, id } => {
                self.joining = Some((id, primary));
                self.tell(primary, ToReplica::AddVoter(id));
            }
            Decision::Remove { primary, id } => self.tell(primary, ToReplica::Remove(id)),
            Decision::DeclareLost { why } => panic!("lost: {why:?}: {:?}", self.maker),
        }
    }

    fn tell(&mut self, id: ReplicaId, message: ToReplica) {
        self.nodes.get_mut(&id).expect("lives").control.push_back(message);
    }

    fn spawn(&mut self, id: ReplicaId, mode: &SpawnMode) {
        let config = PeerConfig {
            ack: self.ack,
            election_ticks: 20,
            max_message_bytes: 128 << 10,
            ..PeerConfig::new(peer_id(id))
        };
        let peer = match mode {
            SpawnMode::Bootstrap { voters } => {
                let voters: Vec<_> = voters.iter().copied().map(peer_id).collect();
                Peer::bootstrap(config, &voters)
            }
            _ => Peer::join(config),
        };
        let desk = Desk::default();
        let executor = Local::new(Box::new(desk.clone()));
        let replica = Replica::new(id, peer.expect("sound"), executor);
        let Decision::Isolate { generation, certificate, fenced } = self.maker.isolation() else {
            unreachable!("that is what it is")
        };
        let page = replica.progress();
        let node = Node {
            replica,
            store: MemoryStore,
            control: VecDeque::from([ToReplica::Isolate { generation, certificate, fenced }]),
            next_input: InputNo(1),
            desk,
            cut: BTreeSet::new(),
            wire: Wire::default(),
            page,
        };
        self.nodes.insert(id, node);
    }

    fn watermarks(&self) -> Watermarks {
        Watermarks { freed_input: self.host.freed, delivered_output: self.host.delivered }
    }

    /// One turn of a replica's loop, as its runtime makes it. Its end, should it
    /// be killed in the middle.
    fn run(&mut self, id: ReplicaId) {
        let Some(mut node) = self.nodes.remove(&id) else { return };
        match self.turn(id, &mut node) {
            Ok(()) => {
                self.nodes.insert(id, node);
            }
            Err(Killed) => {
                // What it has written stays in its memory, but nobody reads it.
                let poisoned = self.poison.filter(|no| node.next_input > *no);
                let cause = if poisoned.is_some() { Cause::Crashed } else { Cause::Killed };
                self.nodes.insert(id, node);
                self.fail(id, cause, poisoned);
            }
        }
    }

    fn burn(&mut self) -> Result<(), Killed> {
        match &mut self.fuse {
            Some(0) => {
                self.fuse = None;
                Err(Killed)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn turn(&mut self, id: ReplicaId, node: &mut Node) -> Result<(), Killed> {
        let is_primary = self.maker.primary() == Some(id);
        while let Some(message) = node.control.pop_front() {
            if let ToReplica::Isolate { fenced, .. } = &message {
                node.cut.extend(fenced);
            }
            node.replica.on_control(message).expect("no replica has to stop");
        }
        for (&peer, other) in &mut self.nodes {
            let Some(link) = other.wire.to_peers.get_mut(&id) else { continue };
            for _ in 0..self.chance.below(6) {
                let Some(bytes) = link.pop_front() else { break };
                if !node.cut.contains(&peer) {
                    node.replica.on_peer(peer, &bytes);
                }
            }
        }
        if node.replica.take_became_primary() {
            node.next_input = self.host.freed.next();
        }
        for _ in 0..self.chance.below(8) {
            if !node.replica.wants_input(0) {
                break;
            }
            let Some(bytes) = self.host.input(node.next_input) else { break };
            let (no, input) = Input::decode(&mut Reader::new(bytes)).expect("encoded");
            node.next_input = no.next();
            if input == Input::Poison && !node.replica.is_quarantined(no) {
                return Err(Killed);
            }
            node.replica.on_inputs(&[(no, input)], &mut node.wire).expect("sound");
            if is_primary {
                self.burn()?;
            }
        }
        if self.chance.one_in(8) {
            node.replica.tick().expect("sound");
        }
        let idle = self.chance.one_in(6);
        let watermarks = self.watermarks();
        let applied = node.replica.progress().applied;
        node.replica
            .turn(&mut node.store, watermarks, idle, &mut node.wire)
            .expect("no replica has to stop");
        let progress = node.replica.progress();
        self.installs += usize::from(applied.0 == 0 && progress.applied.0 > 1);
        if is_primary {
            self.burn()?;
        }
        if node.desk.has_work() && self.chance.one_in(4) {
            node.desk.work();
        }
        node.replica.snapshots(watermarks).expect("a sound state");
        if idle {
            node.replica.show_digest_now(&mut node.wire);
            node.replica.compact(16, 4);
        }
        node.page = node.replica.progress();
        Ok(())
    }

    fn fail(&mut self, id: ReplicaId, cause: Cause, applying: Option<InputNo>) {
        self.kills += 1;
        let applying = applying.map(|no| IntakeNo(no.0));
        self.decide(Event::Failed { id, cause, applying });
    }

    /// The host looks at its pages and rings.
    fn look(&mut self) {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for &id in &ids {
            self.decide(Event::Ready { id });
        }
        let waiting: Vec<_> = match self.maker.phase() {
            Phase::Electing { waiting, .. } => waiting.iter().copied().collect(),
            _ => Vec::new(),
        };
        for id in waiting {
            let Some(node) = self.nodes.get(&id) else { continue };
            let generation = self.maker.generation();
            if node.page.generation == generation {
                let page = node.page;
                let log = LogPosition { term: page.last_term, index: page.last_index.0 };
                self.decide(Event::Acknowledged { id, generation, log });
            }
        }
        for _ in 0..self.chance.below(12) {
            if !self.take_output() {
                break;
            }
        }
        if self.chance.one_in(3)
            && let Some(id) = self.dying.pop()
        {
            self.decide(Event::Gone { id });
        }
        if self.poison.is_some_and(|no| self.host.is_answered(no)) {
            self.poison = None;
        }
        self.compare_digests();
    }

    fn take_output(&mut self) -> bool {
        let id = match *self.maker.phase() {
            Phase::Serving { primary } | Phase::Draining { primary } => primary,
            Phase::Promoting { candidate } => candidate,
            _ => return false,
        };
        let Some(bytes) = self.nodes.get_mut(&id).and_then(|node| node.wire.to_host.pop_front())
        else {
            return false;
        };
        let (generation, message) = FromReplica::decode(&bytes).expect("a message");
        if generation != self.maker.generation() {
            return true;
        }
        match message {
            FromReplica::Output(output) => self.host.deliver(output),
            FromReplica::Released(no) => self.host.release(no),
            FromReplica::Promoted { .. } => self.decide(Event::Promoted { id, generation }),
            FromReplica::Drained => self.decide(Event::Drained { id }),
            FromReplica::CaughtUp(id) => self.decide(Event::CaughtUp { id }),
            FromReplica::Membership { voters, learners, logged } => {
                self.logged = logged.iter().copied().collect();
                self.joining.take_if(|(new, by)| *by != id || self.logged.contains(new));
                self.decide(Event::Membership {
                    voters: voters.into_iter().collect(),
                    learners: learners.into_iter().collect(),
                    logged: logged.into_iter().collect(),
                });
            }
            FromReplica::Exported { snapshot, .. } => {
                Board::restore(&snapshot).expect("a component's snapshot");
            }
        }
        true
    }

    /// Those that live show the same digest at the same place of the log.
    fn compare_digests(&self) {
        let mut shown: BTreeMap<LogIndex, Digest> = BTreeMap::new();
        for (id, node) in &self.nodes {
            for (&index, &digest) in &node.wire.digests {
                let first = *shown.entry(index).or_insert(digest);
                assert_eq!(digest, first, "replica {id} differs at entry {index}");
            }
        }
    }

    fn survivors(&self) -> Vec<ReplicaId> {
        let voters = self.maker.members().filter(|(_, _, s)| *s == Standing::Voter);
        voters.map(|(id, _, _)| id).collect()
    }

    /// Whether the wanted replicas are there, and nobody else.
    fn is_whole(&self) -> bool {
        let all_vote = self.maker.members().all(|(_, _, s)| s == Standing::Voter);
        matches!(self.maker.phase(), Phase::Serving { .. }) && all_vote
    }

    fn may_kill(&self, id: ReplicaId) -> bool {
        let others = self.survivors().into_iter().filter(|other| *other != id).count();
        self.poison.is_none()
            && match self.ack {
                AckPolicy::AllLive => others > 0,
                AckPolicy::Quorum => self.leaves_a_majority(id),
            }
    }

    /// Whether without `id` a majority lives of the voters that the host was told
    /// of last, and of what they become by the change that is under way: then the
    /// others have to go on, or come to an end without `id`.
    fn leaves_a_majority(&self, id: ReplicaId) -> bool {
        let lives = |other: &&ReplicaId| **other != id && self.nodes.contains_key(other);
        let (voters, alive) = (self.logged.len(), self.logged.iter().filter(lives).count());
        let joins = self.joining.is_some_and(|(new, _)| new != id && self.nodes.contains_key(&new));
        let leaves = self.maker.members().any(|(other, _, standing)| {
            standing == Standing::Leaving && self.logged.contains(&other)
        });
        2 * (alive + usize::from(joins)) > voters + usize::from(self.joining.is_some())
            && 2 * alive > voters
            && (!leaves || 2 * (alive - 1) > voters - 1)
    }

    fn ask(&mut self) {
        let conn = ConnId(self.chance.next() % CONNS + 1);
        let (under_way, has_query) = self.host.under_way(conn);
        let kinds = [
            machine::GET,
            machine::GET,
            machine::PUT,
            machine::PUT,
            machine::BEGIN,
            machine::TX_GET,
            machine::TX_PUT,
            machine::TX_PUT,
            machine::COMMIT,
            machine::WATCH,
        ];
        let kind = self.chance.pick(&kinds).expect("there are some");
        let bytes = self.chance.next().to_le_bytes();
        let frame = [kind, bytes[0] % 4, bytes[1]];
        let input = Input::Request { conn, frame: &frame };
        // As the host does it: what comes after a query might be logged before
        // the query is answered, which a new primary would answer anew.
        let overtakes = has_query && Board::classify(&input) != Class::Query;
        if under_way < OUTSTANDING && !overtakes {
            self.host.admit(&input);
        }
    }

    fn trouble(&mut self) {
        let living: Vec<_> = self.nodes.keys().copied().collect();
        let one = self.chance.pick(&living);
        match self.chance.below(8) {
            0..3 => self.fuse = Some(self.chance.below(12)),
            3 => {
                if let Some(id) = one.filter(|id| self.may_kill(*id)) {
                    self.fail(id, Cause::Hung, None);
                }
            }
            4 | 5 => {
                if let Some(id) = one {
                    self.decide(Event::OperatorPromote { id });
                }
            }
            6 if self.poison.is_none() => {
                let wanted = usize::from(self.chance.next().to_le_bytes()[0] % 5 + 1);
                let least = if self.ack == AckPolicy::Quorum { 3 } else { 1 };
                let replication_factor = u8::try_from(wanted.max(least)).expect("small");
                self.decide(Event::OperatorScale { replication_factor });
            }
            7 if self.may_poison() => self.poison = Some(self.host.admit(&Input::Poison)),
            _ => {}
        }
    }

    fn may_poison(&self) -> bool {
        let is_free = self.poison.is_none() && self.fuse.is_none();
        // A wish for one replica may be known and not yet carried out.
        let wanted = self.maker.policy().replication_factor;
        let can_bear = self.ack == AckPolicy::AllLive && self.survivors().len() > 1 && wanted > 1;
        is_free && can_bear && self.is_whole()
    }

    /// Asks the primary to add members that have their votes as learners.
    pub(crate) fn ask_again_for_members(&mut self) {
        let Some(primary) = self.maker.primary() else { return };
        for id in self.survivors().into_iter().filter(|id| *id != primary) {
            self.tell(primary, ToReplica::AddLearner(id));
        }
        self.logged.clear();
    }

    /// How many voters the primary told of last.
    pub(crate) fn logged(&self) -> usize {
        self.logged.len()
    }

    pub(crate) fn step(&mut self) {
        // A fuse that was lit for one primary does not kill another's heir.
        if !self.maker.primary().is_some_and(|id| self.may_kill(id)) {
            self.fuse = None;
        }
        match self.chance.below(100) {
            0..60 => {
                let living: Vec<_> = self.nodes.keys().copied().collect();
                if let Some(id) = self.chance.pick(&living) {
                    self.run(id);
                }
            }
            60..80 => self.look(),
            80..98 if !self.calm => self.ask(),
            98 if !self.calm => self.trouble(),
            99 => {
                if let Some(id) = self.maker.primary() {
                    self.tell(id, ToReplica::Export { ticket: 7 });
                }
            }
            _ => {}
        }
    }

    /// Without trouble, everything gets answered and the group gets whole.
    pub(crate) fn heal(&mut self) {
        self.calm = true;
        self.fuse = None;
        for _ in 0..40_000 {
            self.step();
            let wanted = usize::from(self.maker.policy().replication_factor);
            if self.host.is_idle()
                && self.is_whole()
                && self.survivors().len() == wanted
                && self.agree()
            {
                return;
            }
        }
        let roles: Vec<_> = self.nodes.iter().map(|(id, node)| (id, node.page)).collect();
        panic!("it does not heal: {:?}, freed {}, {roles:?}", self.maker, self.host.freed);
    }

    fn agree(&self) -> bool {
        let mut standbys = self.nodes.values().filter(|n| n.replica.role() == Role::Standby);
        let Some(primary) = self.maker.primary().and_then(|id| self.nodes.get(&id)) else {
            return false;
        };
        let at = |node: &Node| (node.page.last_input, node.page.commit, node.page.applied);
        standbys.all(|node| at(node) == at(primary))
    }
}
