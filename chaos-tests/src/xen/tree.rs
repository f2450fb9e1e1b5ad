//! A store as `xenstore-ls -f -p` shows it, made comparable with another run's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Nodes whose values are of one run only: references that Xen and kernels give out,
/// and times.
const OF_ONE_RUN: &[&str] = &[
    "event-channel",
    "event-channel-rx",
    "event-channel-tx",
    "port",
    "ring-ref",
    "rx-ring-ref",
    "start_time",
    "tty",
    "tx-ring-ref",
];
/// Nodes whose values are the number of a domain.
const OF_A_DOMAIN: &[&str] = &["domid", "frontend-id"];

/// Why a text is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A line is not `PATH = "VALUE" (PERMISSIONS)`.
    #[error("no node: {0}")]
    Line(String),
    /// A path occurs twice.
    #[error("{0} is there twice")]
    Twice(String),
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its value, escaped as it was shown.
    pub value: String,
    /// Who may do what, such as `n0,r3`.
    pub perms: String,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" ({})", self.value, self.perms)
    }
}

/// A whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// A node that two stores do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// What the one store has there.
    pub left: Option<Node>,
    /// What the other one has.
    pub right: Option<Node>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |node: &Option<Node>| node.as_ref().map_or("none".to_owned(), Node::to_string);
        write!(f, "{}: {} | {}", self.path, show(&self.left), show(&self.right))
    }
}

impl Tree {
    /// Reads lines as `xenstore-ls -f -p` prints them into a file.
    ///
    /// # Errors
    /// [`TreeError`] at the first line that is none.
    pub fn parse(lines: &[&str]) -> Result<Self, TreeError> {
        let mut nodes = BTreeMap::new();
        for line in lines {
            let split = || {
                // A value may hold anything, the permissions nothing odd.
                let (path, rest) = line.split_once(" = \"")?;
                let (value, perms) = rest.rsplit_once('(')?;
                let node = Node {
                    value: value.trim_end().strip_suffix('"')?.to_owned(),
                    perms: perms.strip_suffix(')')?.to_owned(),
                };
                path.starts_with('/').then(|| (path.to_owned(), node))
            };
            let (path, node) = split().ok_or_else(|| TreeError::Line((*line).to_owned()))?;
            if nodes.insert(path.clone(), node).is_some() {
                return Err(TreeError::Twice(path));
            }
        }
        Ok(Self { nodes })
    }

    /// The same store with what differs from run to run replaced: numbers of
    /// guests by their names, references and times by `*`. (UUIDs and MAC
    /// addresses are the same in each run already, by the guests' configuration.)
    #[must_use]
    pub fn normalized(&self) -> Self {
        let names = self.names();
        let nodes = self.nodes.iter().map(|(path, node)| {
            let key = path.rsplit('/').next().unwrap_or_default();
            let value = if OF_ONE_RUN.contains(&key) && !node.value.is_empty() {
                "*".to_owned()
            } else if OF_A_DOMAIN.contains(&key) {
                named(&names, &node.value)
            } else if node.value.starts_with('/') {
                renamed(&names, &node.value)
            } else {
                node.value.clone()
            };
            let perms: Vec<_> =
                node.perms.split(',').map(|perm| perm_named(&names, perm)).collect();
            (renamed(&names, path), Node { value, perms: perms.join(",") })
        });
        Self { nodes: nodes.collect() }
    }

    /// The names of the guests that have one, by their numbers.
    fn names(&self) -> BTreeMap<&str, &str> {
        let names = self.nodes.iter().filter_map(|(path, node)| {
            let number = path.strip_prefix("/local/domain/")?.strip_suffix("/name")?;
            (number != "0" && !number.contains('/')).then_some((number, node.value.as_str()))
        });
        names.collect()
    }

    /// Where this store and another are not alike, by path.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let paths: BTreeSet<&String> = self.nodes.keys().chain(other.nodes.keys()).collect();
        let difference = |path: &String| {
            let (left, right) = (self.nodes.get(path), other.nodes.get(path));
            (left != right).then(|| Difference {
                path: path.clone(),
                left: left.cloned(),
                right: right.cloned(),
            })
        };
        paths.into_iter().filter_map(difference).collect()
    }
}

/// A guest's name in brackets, if `domid` is one that has a name.
fn named(names: &BTreeMap<&str, &str>, domid: &str) -> String {
    names.get(domid).map_or_else(|| domid.to_owned(), |name| format!("<{name}>"))
}

/// A permission, which is a letter and the number of a domain, with its name.
fn perm_named(names: &BTreeMap<&str, &str>, perm: &str) -> String {
    let domid = perm.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    format!("{}{}", &perm[..perm.len() - domid.len()], named(names, domid))
}

/// A path with the numbers of domains replaced by their names.
fn renamed(names: &BTreeMap<&str, &str>, path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let before = |at: usize, back: usize| at.checked_sub(back).map(|at| parts[at]);
    let rename = |(at, part): (usize, &&str)| {
        let is_domain = matches!(before(at, 1), Some("domain" | "libxl"))
            // backend/KIND/DOMAIN/DEVICE
            || before(at, 2) == Some("backend");
        if is_domain { named(names, part) } else { (*part).to_owned() }
    };
    parts.iter().enumerate().map(rename).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest as it is shown, under another number and with other references.
    fn guest(domid: u32, reference: u32) -> Tree {
        let text = format!(
            "/local/domain/0/name = \"Domain-0\"   (n0)
/local/domain/0/backend/vif/{domid}/0/frontend = \"/local/domain/{domid}/device/vif/0\"   (n0,r{domid})
/local/domain/0/backend/vif/{domid}/0/frontend-id = \"{domid}\"   (n0,r{domid})
/local/domain/0/backend/vif/{domid}/0/handle = \"{domid}\"   (n0,r{domid})
/local/domain/{domid}/name = \"pv\"   (n0,r{domid})
/local/domain/{domid}/store/ring-ref = \"{reference}\"   (n0,r{domid})
/local/domain/{domid}/device/suspend/event-channel = \"\"   (n{domid})
/libxl/{domid}/type = \"pv\"   (n0)"
        );
        Tree::parse(&text.lines().collect::<Vec<_>>()).expect("is a tree")
    }

    #[test]
    fn nodes_are_read_whatever_they_hold() {
        let tree = Tree::parse(&["/a = \"\"   (n0)", "/a/b = \"x = \"(n1)\"   (n0,b12)"]);
        let node = |value: &str, perms: &str| Node { value: value.into(), perms: perms.into() };
        let nodes = tree.expect("is a tree").nodes;
        assert_eq!(nodes["/a"], node("", "n0"));
        assert_eq!(nodes["/a/b"], node("x = \"(n1)", "n0,b12"));
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        for line in
            ["", "/a", "/a = \"b\"", "/a = \"b (n0)", "a = \"b\"   (n0)", "/a = \"b\"   (n0"]
        {
            assert!(Tree::parse(&[line]).is_err(), "{line}");
        }
        let error = Tree::parse(&["/a = \"\"   (n0)", "/a = \"\"   (n0)"]).expect_err("is twice");
        assert_eq!(error.to_string(), "/a is there twice");
    }

    #[test]
    fn the_same_guest_under_another_number_is_the_same() {
        let (left, right) = (guest(3, 4711).normalized(), guest(12, 815).normalized());
        // A value that happens to be the same number means something else.
        let differences = left.differences(&right);
        let shown: Vec<String> = differences.iter().map(Difference::to_string).collect();
        let path = "/local/domain/0/backend/vif/<pv>/0/handle";
        assert_eq!(shown, [format!("{path}: \"3\" (n0,r<pv>) | \"12\" (n0,r<pv>)")]);
        assert!(left.nodes.contains_key("/libxl/<pv>/type"));
        assert_eq!(left.nodes["/local/domain/<pv>/store/ring-ref"].value, "*");
        assert_eq!(left.nodes["/local/domain/<pv>/device/suspend/event-channel"].value, "");
    }

    #[test]
    fn what_one_has_and_the_other_not_is_told() {
        let one = Tree::parse(&["/a = \"\"   (n0)", "/b = \"\"   (n0)"]).expect("is a tree");
        let other = Tree::parse(&["/a = \"\"   (n1)", "/c = \"\"   (n0)"]).expect("is a tree");
        let differences = one.differences(&other);
        let shown: Vec<String> = differences.iter().map(Difference::to_string).collect();
        let expected =
            ["/a: \"\" (n0) | \"\" (n1)", "/b: \"\" (n0) | none", "/c: none | \"\" (n0)"];
        assert_eq!(shown, expected);
    }
}
