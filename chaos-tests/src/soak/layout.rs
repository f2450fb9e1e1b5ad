//! Where in the store the load takes place.

use std::collections::{BTreeMap, BTreeSet};

use xenstore::wire::Errno;

use super::tally::Mark;
use super::{Shared, SoakConfig, SoakError};
use crate::client::{Client, ClientError, Result, Tx};

/// Pairs of counters that all clients increment in transactions.
pub(super) const COUNTERS: u32 = 4;

pub(super) fn register(config: &SoakConfig, key: u32) -> String {
    format!("{}/r/{key}", config.root)
}

/// One of the two nodes of a counter; both always hold the same number.
pub(super) fn counter(config: &SoakConfig, number: u32, half: char) -> String {
    format!("{}/n/{number}/{half}", config.root)
}

/// A client's part of a counter, which nobody else writes.
pub(super) fn counter_part(config: &SoakConfig, number: u32, client: u16) -> String {
    format!("{}/n/{number}/by/{client}", config.root)
}

/// The directory that a client creates nodes in and removes them from.
pub(super) fn own_dir(config: &SoakConfig, client: u16) -> String {
    format!("{}/e/{client}", config.root)
}

/// What the watchers watch.
pub(super) fn watched(config: &SoakConfig) -> String {
    format!("{}/e", config.root)
}

fn end(config: &SoakConfig) -> String {
    format!("{}/e/end", config.root)
}

/// The number under which histories know a node of [`own_dir`].
pub(super) fn path_id(client: u16, node: u32) -> u64 {
    u64::from(client) << 32 | u64::from(node)
}

/// What the path of a watch event means.
pub(super) enum Watched {
    /// A node of a client's own directory, as [`path_id`].
    Node(u64),
    /// The end of the stream.
    End,
    /// Fired for the directory itself when the watch was registered.
    Start,
}

/// Reads the path of an event below [`watched`].
pub(super) fn parse_event(config: &SoakConfig, path: &[u8]) -> Option<Watched> {
    let below = path.strip_prefix(watched(config).as_bytes())?;
    match below {
        b"" => return Some(Watched::Start),
        b"/end" => return Some(Watched::End),
        _ => {}
    }
    let below = std::str::from_utf8(below.strip_prefix(b"/")?).ok()?;
    let (client, node) = below.split_once('/')?;
    Some(Watched::Node(path_id(client.parse().ok()?, node.parse().ok()?)))
}

fn client(shared: &Shared) -> Result<Client> {
    let mut client = Client::connect(&shared.socket)?;
    client.set_timeout(shared.timeout());
    Ok(client)
}

/// Empties the place of the load and lays it out anew.
pub(super) fn prepare(shared: &Shared) -> std::result::Result<(), SoakError> {
    let config = &shared.config;
    let lay_out = || {
        let mut client = client(shared)?;
        client.rm_if_there(&config.root)?;
        for number in 0..COUNTERS {
            client.write(Tx::NONE, &counter(config, number, 'a'), b"0")?;
            client.write(Tx::NONE, &counter(config, number, 'b'), b"0")?;
            for writer in 0..config.clients {
                let part = Mark::default().to_string();
                let path = counter_part(config, number, writer);
                client.write(Tx::NONE, &path, part.as_bytes())?;
            }
        }
        for number in 0..config.clients {
            client.mkdir(Tx::NONE, &own_dir(config, number))?;
        }
        Ok(())
    };
    lay_out().map_err(|source| SoakError::Client { what: "laying out the store", source })
}

/// Lets the watchers know that no event follows.
pub(super) fn end_events(shared: &Shared) -> std::result::Result<(), SoakError> {
    client(shared)
        .and_then(|mut client| client.write(Tx::NONE, &end(&shared.config), b""))
        .map_err(|source| SoakError::Client { what: "ending the events", source })
}

/// What a counter holds when all clients are done.
pub(super) struct FinalCounter {
    /// Both halves.
    pub(super) halves: [Vec<u8>; 2],
    /// Each client's part; empty when it is not there.
    pub(super) parts: Vec<Vec<u8>>,
}

/// What the store holds when all clients are done.
pub(super) struct Finals {
    /// Each register's text, if it was ever written.
    pub(super) registers: BTreeMap<u32, Option<Vec<u8>>>,
    /// The counters.
    pub(super) counters: Vec<FinalCounter>,
    /// The nodes in each client's own directory.
    pub(super) own_dirs: Vec<BTreeSet<Vec<u8>>>,
}

/// Reads what the store holds in the end.
pub(super) fn read_finals(shared: &Shared) -> std::result::Result<Finals, SoakError> {
    let config = &shared.config;
    let read = || {
        let mut client = client(shared)?;
        let mut finals =
            Finals { registers: BTreeMap::new(), counters: Vec::new(), own_dirs: Vec::new() };
        for key in 0..config.keys {
            let value = client.read_if_there(&register(config, key))?;
            finals.registers.insert(key, value);
        }
        for number in 0..COUNTERS {
            // What is not there any more is lost, and no reason not to judge.
            let mut read = |path: &str| client.read_if_there(path).map(Option::unwrap_or_default);
            let a = read(&counter(config, number, 'a'))?;
            let b = read(&counter(config, number, 'b'))?;
            let parts = (0..config.clients).map(|writer| counter_part(config, number, writer));
            let parts = parts.map(|path| read(&path)).collect::<Result<_>>()?;
            finals.counters.push(FinalCounter { halves: [a, b], parts });
        }
        for number in 0..config.clients {
            let names = match client.directory(Tx::NONE, &own_dir(config, number)) {
                Err(ClientError::Daemon(Errno::ENOENT)) => Vec::new(),
                names => names?,
            };
            finals.own_dirs.push(names.into_iter().collect());
        }
        Ok(finals)
    };
    read().map_err(|source| SoakError::Client { what: "reading the store in the end", source })
}
