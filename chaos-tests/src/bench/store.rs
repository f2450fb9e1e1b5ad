//! The nodes that are measured with.

use std::path::Path;
use std::time::Instant;

use xenstore::wire::MessageType;

use super::row::Sample;
use crate::client::{Client, ClientError, Result, Tx};
use crate::rng::Rng;

/// What every node holds, 20 bytes as an average node of a real host.
pub(super) const VALUE: &[u8] = b"a value of 20 bytes.";
/// The node with the watches.
pub(super) const WATCHED: &str = "/bench/watched";

const ROOT: &str = "/bench";
const IN_FLIGHT: usize = 16;
const PER_DIR: u32 = 100;

pub(super) fn path(node: u32) -> String {
    format!("{ROOT}/{}/{}", node / PER_DIR, node % PER_DIR)
}

/// Picks nodes at random.
#[derive(Clone)]
pub(super) struct Picker {
    nodes: u32,
    rng: Rng,
}

impl Picker {
    pub(super) fn new(nodes: u32, seed: u64) -> Self {
        let rng = Rng::new(seed);
        Self { nodes, rng }
    }

    /// Another one for the client of that number.
    pub(super) fn fork(&self, number: u32) -> Self {
        let seed = self.rng.clone().next_u64().wrapping_add(u64::from(number));
        Self::new(self.nodes, seed)
    }

    pub(super) fn next_path(&mut self) -> String {
        let node = self.rng.below(self.nodes as usize);
        path(u32::try_from(node).unwrap_or(0))
    }
}

pub(super) fn read(client: &mut Client, picker: &mut Picker) -> Result<()> {
    client.read_raw(Tx::NONE, &picker.next_path()).map(|_| ())
}

pub(super) fn write(client: &mut Client, picker: &mut Picker) -> Result<()> {
    client.write(Tx::NONE, &picker.next_path(), VALUE)
}

/// Creates the nodes from `there` to `nodes`; the sample is creations a second.
pub(super) fn populate(socket: &Path, there: u32, nodes: u32) -> Result<Sample> {
    let mut client = Client::connect(socket)?;
    let began = Instant::now();
    for node in there..nodes {
        let path = path(node);
        client.queue(MessageType::Write, Tx::NONE, &[path.as_bytes(), b"\0", VALUE]);
        if client.in_flight() == IN_FLIGHT {
            client.flush()?;
            client.reply()?;
            while client.has_answer() {
                client.reply()?;
            }
        }
    }
    client.flush()?;
    while client.in_flight() > 0 {
        client.reply()?;
    }
    let count = u64::from(nodes.saturating_sub(there));
    Ok(Sample::of_rate(count, began.elapsed(), None))
}

/// The first of the nodes below `nodes` that is not what [`populate`] left, in
/// words, if there is one.
pub(super) fn first_difference(socket: &Path, nodes: u32) -> Result<Option<String>> {
    const BATCH: u32 = 16;
    let mut client = Client::connect(socket)?;
    let mut first = None;
    for begin in (0..nodes).step_by(BATCH as usize) {
        let batch = begin..nodes.min(begin + BATCH);
        for node in batch.clone() {
            client.queue(MessageType::Read, Tx::NONE, &[path(node).as_bytes(), b"\0"]);
        }
        client.flush()?;
        // Answers come in the order of the questions, also those that are errors.
        for node in batch {
            let difference = match client.reply() {
                Ok(value) if value == VALUE => continue,
                Ok(value) => format!("holds {:?}", value.escape_ascii().to_string()),
                Err(ClientError::Daemon(errno)) => format!("cannot be read: {errno}"),
                Err(error) => return Err(error),
            };
            first.get_or_insert_with(|| format!("{} {difference}", path(node)));
        }
        if first.is_some() {
            break;
        }
    }
    Ok(first)
}

/// Removes all that was measured with, directory by directory: one request that
/// removes 100,000 nodes would stop some daemons for seconds.
pub(super) fn empty(socket: &Path) -> Result<()> {
    let mut client = Client::connect(socket)?;
    let names = match client.directory_by_parts(Tx::NONE, ROOT) {
        Ok(names) => names,
        Err(error) if error.errno().is_some() => Vec::new(),
        Err(error) => return Err(error),
    };
    for name in names {
        let name = String::from_utf8_lossy(&name);
        client.rm_if_there(&format!("{ROOT}/{name}"))?;
    }
    client.rm_if_there(ROOT)
}
