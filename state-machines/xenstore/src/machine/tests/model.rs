//! Random operations against a simple reference: a sorted map of paths, watches
//! looked for one by one, and transactions on whole copies. The reference says
//! what every reply and every event has to be.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use quickcheck::quickcheck;

use crate::testing::{Inventor, Rig, text};
use crate::wire::{
    Errno,
    MessageType::{self, *},
};

type Path = Vec<u8>;
type Reply = Result<Vec<u8>, Errno>;
type Event = (u64, Vec<u8>, Vec<u8>);

#[derive(Clone, Debug, PartialEq)]
struct Node {
    value: Vec<u8>,
    /// Letter and domain, the owner's first.
    perms: Vec<(u8, u16)>,
    /// Place in the order of creation.
    born: u64,
}

#[derive(Clone, Debug, Default)]
struct Nodes {
    all: BTreeMap<Path, Node>,
    clock: u64,
}

/// What a change was, for the events.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    None,
    Put,
    Removed,
}

fn parent(path: &[u8]) -> Path {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/".to_vec(),
        Some(slash) => path[..slash].to_vec(),
    }
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    above == b"/" || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Bits: 1 read, 2 write, 4 own.
fn rights(perms: &[(u8, u16)], domid: u16) -> u8 {
    if domid == 0 || perms[0].1 == domid {
        return 7;
    }
    let entry = perms[1..].iter().find(|entry| entry.1 == domid).unwrap_or(&perms[0]);
    match entry.0 {
        b'r' => 1,
        b'w' => 2,
        b'b' => 3,
        _ => 0,
    }
}

fn canonical(given: &[u8], domid: u16) -> Result<Path, Errno> {
    let mut path = Vec::new();
    if given.first() != Some(&b'/') {
        path.extend_from_slice(alloc::format!("/local/domain/{domid}/").as_bytes());
    }
    path.extend_from_slice(given);
    let ends = path.len() > 1 && path.ends_with(b"/");
    if ends || path.windows(2).any(|pair| pair == b"//") { Err(Errno::EINVAL) } else { Ok(path) }
}

impl Nodes {
    fn children(&self, path: &[u8]) -> Vec<Path> {
        let mut found: Vec<_> = self
            .all
            .iter()
            .filter(|(other, _)| *other != b"/" && *other != path && parent(other) == path)
            .collect();
        found.sort_by_key(|(_, node)| node.born);
        found.into_iter().map(|(path, _)| path.clone()).collect()
    }

    /// The subtree, children before parents or after.
    fn subtree(&self, path: &[u8], parents_first: bool) -> Vec<Path> {
        let mut found = Vec::new();
        if parents_first {
            found.push(path.to_vec());
        }
        for child in self.children(path) {
            found.extend(self.subtree(&child, parents_first));
        }
        if !parents_first {
            found.push(path.to_vec());
        }
        found
    }

    fn get(&self, path: &[u8], domid: u16, need: u8) -> Result<&Node, Errno> {
        if let Some(node) = self.all.get(path) {
            let enough = rights(&node.perms, domid) & need == need;
            return if enough { Ok(node) } else { Err(Errno::EACCES) };
        }
        let mut above = parent(path);
        while !self.all.contains_key(&above) {
            above = parent(&above);
        }
        let some = rights(&self.all[&above].perms, domid) & need != 0;
        Err(if some { Errno::ENOENT } else { Errno::EACCES })
    }

    fn create(&mut self, path: &[u8], domid: u16) {
        let above = parent(path);
        if !self.all.contains_key(&above) {
            self.create(&above, domid);
        }
        let mut perms = self.all[&above].perms.clone();
        if domid != 0 {
            perms[0].1 = domid;
        }
        self.clock += 1;
        self.all.insert(path.to_vec(), Node { value: Vec::new(), perms, born: self.clock });
    }

    fn perform(&mut self, kind: MessageType, payload: &[u8], domid: u16) -> (Reply, Path, Change) {
        let nul = payload.iter().position(|byte| *byte == 0).expect("invented with a path");
        let (given, rest) = (&payload[..nul], &payload[nul + 1..]);
        let mut change = Change::None;
        let path = canonical(given, domid);
        let known = path.clone().unwrap_or_default();
        // That the owner exists is checked before the path.
        if kind == SetPerms && parse_perms(rest)[0].1 == 7 {
            return (Err(Errno::ENOENT), known, Change::None);
        }
        let reply = path.and_then(|path| match kind {
            Read => Ok(self.get(&path, domid, 1)?.value.clone()),
            Directory | DirectoryPart => {
                self.get(&path, domid, 1)?;
                let names = self.children(&path).into_iter().flat_map(|child| {
                    let at = child.iter().rposition(|byte| *byte == b'/').expect("absolute");
                    [&child[at + 1..], b"\0"].concat()
                });
                let names: Vec<u8> = names.collect();
                if kind == Directory {
                    return Ok(names);
                }
                let from = match rest {
                    b"0\0" => 0,
                    b"2\0" => 2,
                    _ => 99,
                };
                let tail = names.get(from..).unwrap_or(b"");
                // Two NULs end the list, one an empty rest.
                Ok([tail, b"\0"].concat())
            }
            GetPerms => {
                let perms = &self.get(&path, domid, 1)?.perms;
                let strings = perms.iter().map(|(letter, domid)| {
                    alloc::format!("{}{domid}\0", char::from(*letter)).into_bytes()
                });
                Ok(strings.collect::<Vec<_>>().concat())
            }
            Write | Mkdir => {
                match self.get(&path, domid, 2) {
                    Ok(_) if kind == Mkdir => return Ok(b"OK\0".to_vec()),
                    Ok(_) => {}
                    Err(Errno::ENOENT) => self.create(&path, domid),
                    Err(errno) => return Err(errno),
                }
                if kind == Write {
                    self.all.get_mut(&path).expect("it is there now").value = rest.to_vec();
                }
                change = Change::Put;
                Ok(b"OK\0".to_vec())
            }
            Rm => {
                match self.get(&path, domid, 2) {
                    Ok(_) if path == b"/" => return Err(Errno::EINVAL),
                    Ok(_) => change = Change::Removed,
                    Err(Errno::ENOENT) if self.all.contains_key(&parent(&path)) => {}
                    Err(errno) => return Err(errno),
                }
                if change == Change::Removed {
                    self.all.retain(|other, _| !is_below(other, &path));
                }
                Ok(b"OK\0".to_vec())
            }
            SetPerms => {
                let node = self.get(&path, domid, 6)?;
                let perms = parse_perms(rest);
                if domid != 0 && perms[0].1 != node.perms[0].1 {
                    return Err(Errno::EPERM);
                }
                self.all.get_mut(&path).expect("just seen").perms = perms;
                change = Change::Put;
                Ok(b"OK\0".to_vec())
            }
            other => unreachable!("{other:?}"),
        });
        (reply, known, change)
    }
}

fn parse_perms(strings: &[u8]) -> Vec<(u8, u16)> {
    let entries = strings.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    entries.map(|entry| (entry[0], u16::from(entry[1] - b'0'))).collect()
}

#[derive(Clone, Debug)]
struct Watched {
    conn: u64,
    path: Path,
    prefix: usize,
    token: Vec<u8>,
    depth: Option<usize>,
}

#[derive(Clone, Debug)]
struct Open {
    nodes: Nodes,
    /// What was asked and answered, and whether it changed something.
    done: Vec<(MessageType, Vec<u8>, Reply, bool)>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    nodes: Nodes,
    /// In the order of registration.
    watches: Vec<Watched>,
    open: BTreeMap<(u64, u32), Open>,
}

fn domid(conn: u64) -> u16 {
    if conn < 3 { 0 } else { conn as u16 }
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        let root = Node { value: Vec::new(), perms: vec![(b'n', 0)], born: 0 };
        model.nodes.all.insert(b"/".to_vec(), root);
        model.nodes.create(b"/tool/xenstored", 0);
        model
    }

    fn fire(&self, old: &Nodes, path: &[u8], exact: bool, removing: bool, events: &mut Vec<Event>) {
        let before = events.len();
        let mut fired: Vec<&Watched> = self.watches.iter().collect();
        fired.sort_by_key(|watch| watch.conn);
        for watch in fired {
            let levels = |path: &[u8]| match path {
                b"/" => 0,
                path => path.iter().filter(|byte| **byte == b'/').count(),
            };
            let hit = match exact {
                true => watch.path == path,
                false => {
                    is_below(path, &watch.path)
                        && watch.depth.is_none_or(|d| levels(path) - levels(&watch.path) <= d)
                }
            };
            let domid = domid(watch.conn);
            let readable = |nodes: &Nodes, path: &[u8]| {
                nodes.all.get(path).is_some_and(|node| rights(&node.perms, domid) & 1 != 0)
            };
            let (was, is) = (old.all.contains_key(path), self.nodes.all.contains_key(path));
            let above = parent(path);
            let may_know = (was && readable(old, path))
                || (is && (readable(&self.nodes, path) || readable(&self.nodes, &above)))
                || (removing && readable(old, &above));
            if hit && may_know {
                let event = (watch.conn, path[watch.prefix..].to_vec(), watch.token.clone());
                // Nothing is told twice.
                if !events[before..].contains(&event) {
                    events.push(event);
                }
            }
        }
    }

    fn plain(
        &mut self,
        conn: u64,
        kind: MessageType,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Reply {
        let old = self.nodes.clone();
        let (reply, path, change) = self.nodes.perform(kind, payload, domid(conn));
        match change {
            Change::None => {}
            Change::Put => self.fire(&old, &path, false, false, events),
            Change::Removed => {
                for gone in old.subtree(&path, false) {
                    self.fire(&old, &gone, gone != path, true, events);
                }
            }
        }
        reply
    }

    fn end(&mut self, conn: u64, tx: u32, commit: bool, events: &mut Vec<Event>) -> Reply {
        let open = self.open.remove(&(conn, tx)).ok_or(Errno::ENOENT)?;
        let ok = Ok(b"OK\0".to_vec());
        let mut nodes = self.nodes.clone();
        let mut paths: Vec<(Path, Option<bool>)> = Vec::new();
        if !commit || !open.done.iter().any(|(.., changed)| *changed) {
            return ok;
        }
        for (kind, payload, original, _) in &open.done {
            let before = nodes.clone();
            let (reply, path, change) = nodes.perform(*kind, payload, domid(conn));
            if reply != *original {
                return Err(Errno::EAGAIN);
            }
            let mut note = |path: Path, exact: Option<bool>| match paths
                .iter_mut()
                .find(|known| known.0 == path)
            {
                None => paths.push((path, exact)),
                Some(known) => {
                    known.1 = match (known.1, exact) {
                        (Some(one), Some(two)) => Some(one && two),
                        (one, two) => one.or(two),
                    }
                }
            };
            if path.is_empty() {
                continue;
            }
            note(path.clone(), (change != Change::None).then_some(false));
            if change == Change::Removed {
                // Those that it made itself nobody ever saw.
                let below = before.subtree(&path, true);
                let seen = below.into_iter().skip(1).filter(|p| self.nodes.all.contains_key(p));
                seen.for_each(|below| note(below, Some(true)));
            }
        }
        let old = core::mem::replace(&mut self.nodes, nodes);
        for (path, exact) in paths {
            if let Some(exact) = exact {
                self.fire(&old, &path, exact, false, events);
            }
        }
        ok
    }

    fn watch(&mut self, conn: u64, payload: &[u8]) -> Reply {
        let parts: Vec<&[u8]> = payload.split(|byte| *byte == 0).collect();
        let path = canonical(parts[0], domid(conn))?;
        let mine = |watch: &Watched| watch.conn == conn && watch.path == path;
        if self.watches.iter().any(|watch| mine(watch) && watch.token == parts[1]) {
            return Err(Errno::EEXIST);
        }
        let prefix =
            path.len() - if parts[0].starts_with(b"/") { path.len() } else { parts[0].len() };
        let depth = (parts.len() > 3).then(|| usize::from(parts[2][0] - b'0'));
        self.watches.push(Watched { conn, path, prefix, token: parts[1].to_vec(), depth });
        Ok(b"OK\0".to_vec())
    }

    fn unwatch(&mut self, conn: u64, payload: &[u8]) -> Reply {
        let parts: Vec<&[u8]> = payload.split(|byte| *byte == 0).collect();
        let path = canonical(parts[0], domid(conn))?;
        let at = self
            .watches
            .iter()
            .position(|watch| watch.conn == conn && watch.path == path && watch.token == parts[1]);
        self.watches.remove(at.ok_or(Errno::ENOENT)?);
        Ok(b"OK\0".to_vec())
    }
}

/// The reply without a directory's generation, which the model does not count.
fn comparable(kind: MessageType, reply: Reply) -> Reply {
    match (kind, reply) {
        (DirectoryPart, Ok(reply)) => {
            let nul = reply.iter().position(|byte| *byte == 0).expect("a generation");
            Ok(reply[nul + 1..].to_vec())
        }
        (_, reply) => reply,
    }
}

fn run(seed: u64, steps: usize) {
    let mut inventor = Inventor::new(seed);
    let (mut rig, mut model) = (Rig::new(), Model::new());
    rig.open(2, 0);
    for guest in [5_u16, 6] {
        rig.introduce(guest, u64::from(guest));
        let home = alloc::format!("/local/domain/{guest}");
        let set = text(&[home.as_bytes(), alloc::format!("n{guest}").as_bytes()]);
        for (kind, payload) in [(Mkdir, text(&[home.as_bytes()])), (SetPerms, set)] {
            rig.ok(kind, &payload);
            model.plain(1, kind, &payload, &mut Vec::new()).expect("allowed");
        }
    }
    for step in 0..steps {
        let conn = *inventor.pick(&[1, 1, 2, 5, 6]);
        let (mut events, mut committed) = (Vec::new(), false);
        let mine = |model: &Model| -> Vec<u32> {
            model.open.keys().filter(|key| key.0 == conn).map(|key| key.1).collect()
        };
        match inventor.below(20) {
            0..=2 => {
                let open = mine(&model);
                if open.len() < 3 {
                    let tx = rig.start(conn);
                    let nodes = model.nodes.clone();
                    model.open.insert((conn, tx), Open { nodes, done: Vec::new() });
                }
            }
            3..=5 => {
                let open = mine(&model);
                let tx = if open.is_empty() { 0 } else { *inventor.pick(&open) };
                let commit = inventor.below(5) > 0;
                let shielded = rig.machine.state.fair.shield.is_some();
                let reply = rig.ask(conn, TransactionEnd, tx, if commit { b"T\0" } else { b"F\0" });
                if reply == Err(Errno::EAGAIN) && shielded {
                    // Refused in favour of somebody else, which is always safe.
                    model.open.remove(&(conn, tx));
                } else {
                    let expected = model.end(conn, tx, commit, &mut events);
                    committed = true;
                    assert_eq!(reply, expected, "seed {seed} step {step}: end of {tx}");
                }
            }
            6 => {
                let payload = match inventor.below(3) {
                    0 => text(&[&inventor.path(), b"1", b"1"]),
                    _ => text(&[&inventor.path(), b"2"]),
                };
                let reply = rig.ask(conn, Watch, 0, &payload);
                rig.fired();
                assert_eq!(reply, model.watch(conn, &payload), "seed {seed} step {step}");
            }
            7 => {
                let payload = text(&[&inventor.path(), b"2"]);
                let reply = rig.ask(conn, Unwatch, 0, &payload);
                assert_eq!(reply, model.unwatch(conn, &payload), "seed {seed} step {step}");
            }
            _ => {
                let (kind, payload) = inventor.on_nodes();
                let open = mine(&model);
                let inside = !open.is_empty() && inventor.below(2) == 0;
                let tx = if inside { *inventor.pick(&open) } else { 0 };
                let reply = comparable(kind, rig.ask(conn, kind, tx, &payload));
                let expected = match model.open.get_mut(&(conn, tx)) {
                    Some(open) => {
                        let (reply, _, change) = open.nodes.perform(kind, &payload, domid(conn));
                        let changed = change != Change::None;
                        open.done.push((kind, payload.clone(), reply.clone(), changed));
                        reply
                    }
                    None => model.plain(conn, kind, &payload, &mut events),
                };
                let shown = alloc::string::String::from_utf8_lossy(&payload);
                assert_eq!(
                    reply, expected,
                    "seed {seed} step {step}: {kind:?} in {tx} of {shown:?}"
                );
            }
        }
        let mut fired = rig.fired();
        if committed {
            // Below a directory that a transaction made anew and removed again,
            // the order of events is as before the transaction.
            fired.sort();
            events.sort();
        }
        assert_eq!(fired, events, "seed {seed} step {step}: events");
    }
    // The whole store, accounts and all.
    let mut owned: BTreeMap<u16, u64> = BTreeMap::new();
    for (path, node) in &model.nodes.all {
        *owned.entry(node.perms[0].1).or_default() += 1;
        if path != b"/" {
            assert_eq!(rig.read(path), Ok(node.value.clone()));
        }
    }
    for (domid, nodes) in owned {
        assert_eq!(rig.machine.state.store.owned(state_machine::DomId(domid)).nodes, nodes);
    }
    assert_eq!(rig.machine.node_count(), model.nodes.all.len() as u64);
}

quickcheck! {
    fn behaves_like_the_model(seed: u64) -> bool {
        run(seed, 300);
        true
    }
}
