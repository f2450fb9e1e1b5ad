//! Who is there: sorts of clients and their pace, drawn from the seed.

use state_machine::DomId;

use super::SimClient;
use super::script::Script;
use super::scripts::{Counters, Guest, Hostile, Registers, Replayer, Toolstack, Tree, Watcher};
use crate::rng::Rng;
use crate::sim::mix::Mix;

/// A sort of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Reads and writes few shared nodes, one request at a time.
    Register,
    /// The same with many requests at once.
    Pipeliner,
    /// The same, and does not read for a while.
    SlowReader,
    /// Transactions that meet each other.
    Transactions,
    /// A tree of its own, with permissions.
    Tree,
    /// Watches.
    Watcher,
    /// Watches, and does not read for a while.
    SlowWatcher,
    /// A guest within its quotas.
    Guest,
    /// A guest beyond them.
    GreedyGuest,
    /// Sends what no client should.
    Hostile,
    /// Introduces and releases domains.
    Toolstack,
    /// Replays what a real program said.
    Replayer,
}

impl Kind {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Pipeliner => "pipeliner",
            Self::SlowReader => "slow-reader",
            Self::Transactions => "transactions",
            Self::Tree => "tree",
            Self::Watcher => "watcher",
            Self::SlowWatcher => "slow-watcher",
            Self::Guest => "guest",
            Self::GreedyGuest => "greedy-guest",
            Self::Hostile => "hostile",
            Self::Toolstack => "toolstack",
            Self::Replayer => "replayer",
        }
    }
}

/// Domains that clients speak for.
const GUESTS: [u16; 3] = [1, 2, 3];

/// How many clients there are, and how fast they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Population {
    /// All choices derive from it.
    pub seed: u64,
    /// Clients; one more than the toolstack at least.
    pub clients: usize,
    /// Pause of a client between two requests, on average, microseconds.
    pub think_us: u64,
    /// Nodes that the register clients share; [`super::super::judge::Sampler`]
    /// wants the same number.
    pub keys: u32,
    /// Whether who asks much at once does so in a transaction and beside it.
    pub entangled: bool,
}

impl Population {
    /// A population of ordinary size and pace: up to a dozen clients, and some
    /// dozen requests a simulated second.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x706f_7075);
        let clients = 3 + rng.below(10);
        let per_second = 10 + rng.below(90);
        let think_us = ((clients * 1_000_000 / per_second) as u64).min(300_000);
        Self {
            seed,
            clients,
            think_us,
            keys: u32::try_from(2 + rng.below(6)).unwrap_or(2),
            entangled: false,
        }
    }

    /// The clients; some of them replay one of `mixes`, if there are any.
    #[must_use]
    pub fn clients(&self, mixes: &[Mix]) -> Vec<SimClient> {
        let mut rng = Rng::new(self.seed ^ 0x636c_6965);
        let rough = rng.percent(40);
        let toolstack = Toolstack::new(GUESTS.to_vec(), self.think_us, rough);
        let seed = rng.next_u64();
        let mut clients =
            vec![SimClient::new(0, Kind::Toolstack, DomId(0), seed, Box::new(toolstack))];
        for id in 1..u32::try_from(self.clients.max(2)).unwrap_or(2) {
            clients.push(self.client(id, &mut rng, mixes));
        }
        clients
    }

    fn client(&self, id: u32, rng: &mut Rng, mixes: &[Mix]) -> SimClient {
        let think_us = self.think_us;
        let guest = DomId(*rng.pick(&GUESTS));
        let seed = rng.next_u64();
        let drawn = rng.below(if mixes.is_empty() { 88 } else { 100 });
        let none = DomId(0);
        let (kind, domid, script): (Kind, DomId, Box<dyn Script>) = match drawn {
            0..18 => (Kind::Register, none, self.registers(id, 1, false)),
            18..26 => (Kind::Pipeliner, none, self.registers(id, 2 + rng.below(30), false)),
            26..31 => (Kind::SlowReader, none, self.registers(id, 1 + rng.below(10), true)),
            31..45 => (Kind::Transactions, none, Box::new(Counters::new(think_us))),
            45..55 => {
                let root = format!("/sim/t/{id}");
                (Kind::Tree, none, Box::new(Tree::new(root, think_us)))
            }
            55..65 => (Kind::Watcher, none, Box::new(Watcher::new(think_us, false))),
            65..69 => (Kind::SlowWatcher, none, Box::new(Watcher::new(think_us, true))),
            69..78 => (Kind::Guest, guest, Box::new(Guest::new(think_us, false))),
            78..82 => (Kind::GreedyGuest, guest, Box::new(Guest::new(think_us, true))),
            82..88 => {
                let speaks_for = if rng.percent(50) { guest } else { none };
                let hostile = Hostile::new(seed, think_us);
                (Kind::Hostile, speaks_for, Box::new(hostile))
            }
            _ => {
                let mix = rng.pick(mixes).clone();
                (Kind::Replayer, none, Box::new(Replayer::new(mix, think_us)))
            }
        };
        SimClient::new(id, kind, domid, seed, script)
    }

    fn registers(&self, id: u32, depth: usize, lazy: bool) -> Box<dyn Script> {
        // Who asks much at once asks seldom.
        let think_us = self.think_us * (1 + depth as u64 / 2);
        let registers = Registers::new(id, self.keys, depth, think_us, lazy);
        Box::new(if self.entangled { registers.entangled() } else { registers })
    }
}
