//! The whole visible store, for comparing it now and then.

use std::collections::BTreeMap;

use xenstore::wire::MessageType;

use super::endpoint::{Answer, Endpoint};

/// What is compared; what a daemon keeps about itself is not.
const ROOTS: [&str; 2] = ["/t", "/local"];
/// Deeper than any path of a run.
const MAX_NODES: usize = 100_000;

/// A node: its value and its permissions, as answered.
pub(super) type Nodes = BTreeMap<String, (Answer, Answer)>;

/// Reads all nodes below the roots, as the control domain sees them.
pub(super) fn read(endpoint: &mut dyn Endpoint) -> Nodes {
    let mut nodes = Nodes::new();
    let mut left: Vec<String> = ROOTS.map(str::to_owned).to_vec();
    while let Some(path) = left.pop() {
        let mut ask = |kind: MessageType| {
            endpoint.request(0, kind.to_u32(), 0, format!("{path}\0").as_bytes())
        };
        let value = ask(MessageType::Read);
        let perms = ask(MessageType::GetPerms);
        if let Answer::Ok(list) = ask(MessageType::Directory) {
            for name in list.split(|byte| *byte == 0).filter(|n| !n.is_empty()) {
                left.push(format!("{path}/{}", String::from_utf8_lossy(name)));
            }
        }
        nodes.insert(path, (value, perms));
        if nodes.len() > MAX_NODES {
            break;
        }
    }
    nodes
}

/// The first difference of two stores, in words.
pub(super) fn difference(ours: &Nodes, theirs: &Nodes) -> Option<String> {
    for path in ours.keys().chain(theirs.keys()) {
        let (our, their) = (ours.get(path), theirs.get(path));
        if our != their {
            return Some(format!("{path}: ours {our:?}, theirs {their:?}"));
        }
    }
    None
}
