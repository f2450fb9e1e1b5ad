//! Where the production code runs. A replica is deterministic, so where a given
//! replica gets from a given state by a given event is found out once, and
//! remembered.
//!
//! Replicas cannot be copied. So a state is remembered as the shortest known
//! history of events that leads to it, and is brought about again from its
//! birth when a new event is to be tried on it. Two histories lead to the same
//! state when the replica describes itself in the same words
//! ([`Replica::describe`]).

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use chaos::background::NoSnapshots;
use consensus::{LogIndex, MemoryStore, Peer, PeerConfig, PeerId};
use hypervisor::ReplicaId;
use replica::core::{Link, Progress, Replica};
use replica::executor;
use replica::outbox::Watermarks;
use replica::protocol::{ToReplica, peer_id};
use state_machine::{Digest, Input, InputNo, Mixer, Reader};

use crate::machine::{Ask, Tally};

/// Raft never gets so far that its own clock decides anything: the host does.
const ELECTION_TICKS: usize = 1000;

/// Bytes on their way.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes {
    print: u64,
    bytes: Arc<[u8]>,
}

impl Bytes {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { print: Mixer::new().bytes(bytes).finish(), bytes: bytes.into() }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.print.hash(hasher);
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.print)
    }
}

/// What can happen to one replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stimulus {
    /// The next message of the host.
    Control(Bytes),
    /// The next message of another replica.
    Peer(ReplicaId, Bytes),
    /// So many inputs, from this one on, into one batch.
    Take(InputNo, u64),
    /// A beat of its clock.
    Beat,
}

/// A stimulus, and the host's watermarks at that time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Happening {
    stimulus: Stimulus,
    freed: u64,
    delivered: u64,
}

impl Happening {
    fn watermarks(&self) -> Watermarks {
        Watermarks {
            freed_input: InputNo(self.freed),
            delivered_output: state_machine::OutputNo(self.delivered),
        }
    }
}

/// How a replica came to be.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    pub(crate) id: ReplicaId,
    pub(crate) ack: consensus::AckPolicy,
    /// Empty for one that joins.
    pub(crate) founders: Vec<ReplicaId>,
}

/// One entry of a log: its term, and a print of all entries up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) chain: u64,
}

/// One state of one replica: what can be seen of it, and how it is reached.
#[derive(Debug)]
pub(crate) struct Local {
    print: u64,
    birth: Arc<Birth>,
    before: Option<(Arc<Self>, Happening)>,
    pub(crate) progress: Progress,
    pub(crate) wants_input: bool,
    /// The input that it takes next; `None` for the oldest that is not freed.
    pub(crate) next_input: Option<InputNo>,
    pub(crate) is_busy: bool,
    pub(crate) log: Vec<Entry>,
    /// Digest of the state after all entries up to an index, if nothing else is
    /// in the state.
    pub(crate) digest: Option<(LogIndex, Digest)>,
}

impl PartialEq for Local {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Hash for Local {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.print.hash(hasher);
    }
}

/// What comes of a stimulus.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) local: Arc<Local>,
    pub(crate) to_host: Vec<Bytes>,
    pub(crate) to_peers: Vec<(ReplicaId, Bytes)>,
    /// Why it had to stop.
    pub(crate) fatal: Option<String>,
}

/// Collects what a replica says.
#[derive(Default)]
struct Ear {
    to_host: Vec<Bytes>,
    to_peers: Vec<(ReplicaId, Bytes)>,
    digest: Option<(LogIndex, Digest)>,
}

impl Link for Ear {
    fn to_host(&mut self, bytes: &[u8]) {
        self.to_host.push(Bytes::new(bytes));
    }

    fn to_peer(&mut self, to: ReplicaId, bytes: &[u8]) -> bool {
        self.to_peers.push((to, Bytes::new(bytes)));
        true
    }

    fn show_digest(&mut self, index: LogIndex, digest: Digest) {
        self.digest = Some((index, digest));
    }
}

/// A replica that runs.
struct Live {
    replica: Replica<executor::Local<Tally>>,
    store: MemoryStore,
    next_input: Option<InputNo>,
}

#[derive(Default)]
struct Known {
    locals: HashMap<u64, Arc<Local>>,
    moves: HashMap<(u64, Happening), Arc<Outcome>>,
}

/// See the module.
pub(crate) struct Lab {
    inputs: Vec<Vec<u8>>,
    known: Mutex<Known>,
}

struct Print(Mixer);

impl fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.bytes(text.as_bytes());
        Ok(())
    }
}

impl Lab {
    pub(crate) fn new(asks: &[Ask]) -> Self {
        let inputs = asks.iter().zip(1..).map(|(ask, no)| ask.encode(InputNo(no))).collect();
        Self { inputs, known: Mutex::default() }
    }

    /// States of single replicas, and steps of theirs, that were brought about.
    pub(crate) fn figures(&self) -> (usize, usize) {
        let known = self.known.lock().expect("nobody panics here");
        (known.locals.len(), known.moves.len())
    }

    pub(crate) fn born(&self, birth: Birth) -> Arc<Local> {
        let birth = Arc::new(birth);
        let live = self.bear(&birth);
        self.known_as(look(&live, birth, None))
    }

    fn known_as(&self, local: Local) -> Arc<Local> {
        let mut known = self.known.lock().expect("nobody panics here");
        known.locals.entry(local.print).or_insert_with(|| Arc::new(local)).clone()
    }

    fn bear(&self, birth: &Birth) -> Live {
        let config = PeerConfig {
            ack: birth.ack,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            ..PeerConfig::new(peer_id(birth.id))
        };
        let founders: Vec<PeerId> = birth.founders.iter().copied().map(peer_id).collect();
        let peer = match founders.as_slice() {
            [] => Peer::join(config),
            founders => Peer::bootstrap(config, founders),
        };
        let replica = Replica::new(
            birth.id,
            peer.expect("sound"),
            executor::Local::new(Box::new(NoSnapshots)),
        );
        Live { replica, store: MemoryStore, next_input: None }
    }

    pub(crate) fn step(
        &self,
        local: &Arc<Local>,
        stimulus: Stimulus,
        watermarks: Watermarks,
    ) -> Arc<Outcome> {
        let (freed, delivered) = (watermarks.freed_input.0, watermarks.delivered_output.0);
        let happening = Happening { stimulus, freed, delivered };
        let key = (local.print, happening);
        if let Some(outcome) = self.known.lock().expect("nobody panics here").moves.get(&key) {
            return outcome.clone();
        }
        let (_, happening) = &key;
        let mut live = self.relive(local);
        let mut ear = Ear::default();
        let fatal = self.happen(&mut live, happening, &mut ear).err();
        let before = Some((local.clone(), happening.clone()));
        let local = self.known_as(look(&live, local.birth.clone(), before));
        let Ear { to_host, to_peers, .. } = ear;
        let outcome = Arc::new(Outcome { local, to_host, to_peers, fatal });
        let mut known = self.known.lock().expect("nobody panics here");
        known.moves.insert(key, outcome.clone());
        outcome
    }

    /// Brings a state about again.
    fn relive(&self, local: &Local) -> Live {
        let mut history = Vec::new();
        let mut at = local;
        while let Some((before, happening)) = &at.before {
            history.push(happening);
            at = before;
        }
        let mut live = self.bear(&local.birth);
        for happening in history.into_iter().rev() {
            self.happen(&mut live, happening, &mut Ear::default()).expect("it went well before");
        }
        live
    }

    /// One stimulus, and turns until nothing moves any more, as the runtime's
    /// loop has it.
    fn happen(&self, live: &mut Live, happening: &Happening, ear: &mut Ear) -> Result<(), String> {
        let said = |error: replica::error::Fatal| error.to_string();
        let replica = &mut live.replica;
        let mut idle = false;
        match &happening.stimulus {
            Stimulus::Control(bytes) => {
                let message = ToReplica::decode(bytes.as_slice()).expect("encoded by the host");
                replica.on_control(message).map_err(said)?;
            }
            Stimulus::Peer(from, bytes) => replica.on_peer(*from, bytes.as_slice()),
            Stimulus::Take(first, count) => {
                for no in first.0..first.0 + count {
                    let place = usize::try_from(no - 1).expect("small");
                    let (no, input) =
                        Input::decode(&mut Reader::new(&self.inputs[place])).expect("encoded");
                    replica.on_inputs(&[(no, input)], ear).map_err(said)?;
                    live.next_input = Some(no.next());
                }
            }
            Stimulus::Beat => {
                replica.tick().map_err(said)?;
                idle = true;
            }
        }
        loop {
            let moved =
                replica.turn(&mut live.store, happening.watermarks(), idle, ear).map_err(said)?;
            idle = false;
            if replica.take_became_primary() {
                live.next_input = None;
            }
            if !moved && !replica.has_due_batch() {
                return Ok(());
            }
        }
    }
}

fn look(live: &Live, birth: Arc<Birth>, before: Option<(Arc<Local>, Happening)>) -> Local {
    let replica = &live.replica;
    let mut print = Print(Mixer::new());
    replica.describe(&mut print).expect("a print takes everything");
    write!(print, "{:?} {:?}", live.next_input, birth.ack).expect("a print takes everything");
    let mut chain = Mixer::new();
    let log = replica.log_entries().map(|(_, term, is_change, data)| {
        chain = chain.word(term.0).word(u64::from(is_change)).bytes(data);
        Entry { term: term.0, chain: chain.finish() }
    });
    let log = log.collect();
    let mut ear = Ear::default();
    replica.show_digest_now(&mut ear);
    Local {
        print: print.0.finish(),
        birth,
        before,
        progress: replica.progress(),
        wants_input: replica.wants_input(0),
        next_input: live.next_input,
        is_busy: replica.is_waiting_for_peers() || ear.digest.is_none(),
        log,
        digest: ear.digest,
    }
}
