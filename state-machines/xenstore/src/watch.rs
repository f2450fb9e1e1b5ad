//! Watches, found by the path that changed: one that has nothing to do with it
//! costs nothing.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use state_machine::{ConnId, Mixer};

use crate::path::Path;
use crate::pmap::{Measured, PMap};

/// A registered watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) conn: ConnId,
    /// Its place in the order of registration.
    pub(crate) number: u64,
    /// The absolute path.
    pub(crate) path: Box<[u8]>,
    /// The hash of the path.
    pub(crate) hash: u64,
    /// Bytes of the path that the client does not want to see in events.
    pub(crate) prefix: usize,
    pub(crate) token: Box<[u8]>,
    /// Levels below the path that count; none for no limit.
    pub(crate) depth: Option<u16>,
}

impl Watch {
    /// Bytes that the domain is accounted for.
    pub(crate) fn accounted(&self) -> u64 {
        (self.path.len() + self.token.len()) as u64
    }
}

impl Measured for Watch {
    fn digest(&self) -> u64 {
        let mixer = Mixer::new().word(self.conn.0).word(self.number).bytes(&self.path);
        let depth = self.depth.map_or(u64::MAX, u64::from);
        mixer.word(self.prefix as u64).word(depth).bytes(&self.token).finish()
    }
}

/// Which watches a change fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Those on the path and on what is above, as deep as they look.
    Subtree,
    /// Those on the path itself.
    Exact,
    /// For special events with a domain id: those on the path itself, and those
    /// above that gave a depth.
    WithDepth,
    /// For special events without one: those on the path that gave no depth.
    WithoutDepth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PathKey {
    hash: u64,
    conn: ConnId,
    number: u64,
}

/// All watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches {
    by_path: PMap<PathKey, Arc<Watch>>,
    by_conn: PMap<(ConnId, u64), Arc<Watch>>,
    registered: u64,
}

impl Watches {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_conn.is_empty()
    }

    pub(crate) fn count(&self) -> u64 {
        self.by_conn.total().count
    }

    /// How many were registered so far.
    pub(crate) fn registered(&self) -> u64 {
        self.registered
    }

    pub(crate) fn set_registered(&mut self, registered: u64) {
        self.registered = registered;
    }

    /// The number of the next watch.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.registered += 1;
        self.registered
    }

    pub(crate) fn add(&mut self, watch: Watch) {
        let watch = Arc::new(watch);
        let key = PathKey { hash: watch.hash, conn: watch.conn, number: watch.number };
        self.by_conn.insert((watch.conn, watch.number), watch.clone());
        self.by_path.insert(key, watch);
    }

    /// The watch of `conn` with this path and token.
    pub(crate) fn find(&self, conn: ConnId, path: &Path<'_>, token: &[u8]) -> Option<&Arc<Watch>> {
        let hash = path.hash();
        let mut found = None;
        self.by_path.visit_from(&PathKey { hash, conn, number: 0 }, &mut |key, watch| {
            if key.hash != hash || key.conn != conn {
                return false;
            }
            if *watch.path == *path.text() && *watch.token == *token {
                found = Some(watch);
            }
            found.is_none()
        });
        found
    }

    pub(crate) fn remove(&mut self, watch: &Watch) {
        let key = PathKey { hash: watch.hash, conn: watch.conn, number: watch.number };
        self.by_path.remove(&key);
        self.by_conn.remove(&(watch.conn, watch.number));
    }

    /// The watches of a connection, in the order of registration.
    pub(crate) fn of(&self, conn: ConnId) -> Vec<Arc<Watch>> {
        let mut all = Vec::new();
        self.by_conn.visit_from(&(conn, 0), &mut |key, watch| {
            if key.0 == conn {
                all.push(watch.clone());
            }
            key.0 == conn
        });
        all
    }

    /// Whether any watch is on the very path with this hash and text.
    pub(crate) fn any_on(&self, hash: u64) -> bool {
        let from = PathKey { hash, conn: ConnId(0), number: 0 };
        self.by_path.next_from(&from).is_some_and(|(key, _)| key.hash == hash)
    }

    /// Whether any watch is on a path below this one. Looks through them all.
    pub(crate) fn any_below(&self, path: &[u8]) -> bool {
        let is_below = |watch: &Watch| {
            watch.path.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        !self.by_conn.visit(&mut |_, watch| !is_below(watch))
    }

    /// The watches that a change of `path` fires, ordered by connection and
    /// registration.
    pub(crate) fn firing(&self, path: &Path<'_>, mode: Match) -> Vec<&Watch> {
        let mut fired: Vec<&Watch> = Vec::new();
        if self.by_path.is_empty() {
            return fired;
        }
        let mut on = |hash, text: &[u8], below: u16| {
            if !self.any_on(hash) {
                return false;
            }
            let from = PathKey { hash, conn: ConnId(0), number: 0 };
            let before = fired.len();
            self.by_path.visit_from(&from, &mut |key, watch| {
                if key.hash != hash {
                    return false;
                }
                let looks = match mode {
                    Match::Exact => true,
                    Match::WithDepth => below == 0 || watch.depth.is_some_and(|d| d >= below),
                    Match::WithoutDepth => watch.depth.is_none(),
                    Match::Subtree => watch.depth.is_none_or(|depth| depth >= below),
                };
                if looks && *watch.path == *text {
                    fired.push(watch);
                }
                true
            });
            fired.len() > before
        };
        let mut sources = 0;
        if path.is_special() {
            let text = path.text();
            let mut below = 0;
            let mut end = text.len();
            loop {
                let above = &text[..end];
                let hash = crate::path::special_hash(above);
                sources += usize::from(on(hash, above, below));
                match above.iter().rposition(|byte| *byte == b'/') {
                    Some(slash) if mode == Match::WithDepth => (end, below) = (slash, below + 1),
                    _ => break,
                }
            }
        } else {
            let from = if mode == Match::Subtree { 0 } else { path.len() };
            for len in from..=path.len() {
                let below = u16::try_from(path.len() - len).unwrap_or(u16::MAX);
                sources += usize::from(on(path.hash_at(len), path.text_at(len), below));
            }
        }
        if sources > 1 {
            fired.sort_unstable_by_key(|watch| (watch.conn, watch.number));
        }
        fired
    }

    pub(crate) fn mix(&self, mixer: Mixer) -> Mixer {
        mixer.word(self.by_conn.total().digest).word(self.registered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state_machine::DomId;

    fn path(text: &[u8]) -> Path<'_> {
        Path::parse(text, DomId(0), None, true).expect("valid")
    }

    fn add(watches: &mut Watches, conn: u64, text: &[u8], depth: Option<u16>) {
        let path = path(text);
        let number = watches.next_number();
        watches.add(Watch {
            conn: ConnId(conn),
            number,
            path: path.text().into(),
            hash: path.hash(),
            prefix: 0,
            token: (*b"t").into(),
            depth,
        });
    }

    fn fired(watches: &Watches, text: &[u8], mode: Match) -> Vec<u64> {
        watches.firing(&path(text), mode).iter().map(|watch| watch.number).collect()
    }

    #[test]
    fn watches_see_what_is_below_them() {
        let mut watches = Watches::default();
        add(&mut watches, 2, b"/a/b", None); // 1
        add(&mut watches, 1, b"/a", None); // 2
        add(&mut watches, 1, b"/", Some(1)); // 3
        add(&mut watches, 2, b"/", Some(2)); // 4
        add(&mut watches, 2, b"/ab", None); // 5
        assert_eq!(fired(&watches, b"/a/b", Match::Subtree), [2, 1, 4]);
        assert_eq!(fired(&watches, b"/a", Match::Subtree), [2, 3, 4]);
        assert_eq!(fired(&watches, b"/a/b/c", Match::Subtree), [2, 1]);
        assert_eq!(fired(&watches, b"/a/b", Match::Exact), [1]);
        assert!(watches.any_below(b"/a") && !watches.any_below(b"/ab"));
        assert!(!watches.any_below(b"/a/b"));
        let gone = watches.of(ConnId(2));
        assert_eq!(gone.len(), 3);
        for watch in gone {
            watches.remove(&watch);
        }
        assert_eq!(fired(&watches, b"/a/b", Match::Subtree), [2]);
        assert!(watches.any_on(path(b"/a").hash()) && !watches.any_on(path(b"/ab").hash()));
    }

    #[test]
    fn special_events_with_and_without_domain() {
        let mut watches = Watches::default();
        add(&mut watches, 1, b"@releaseDomain", None); // 1
        add(&mut watches, 1, b"@releaseDomain", Some(1)); // 2
        add(&mut watches, 1, b"@releaseDomain/5", None); // 3
        add(&mut watches, 1, b"@releaseDomain", Some(0)); // 4
        assert_eq!(fired(&watches, b"@releaseDomain", Match::WithoutDepth), [1]);
        assert_eq!(fired(&watches, b"@releaseDomain/5", Match::WithDepth), [2, 3]);
        assert_eq!(fired(&watches, b"@releaseDomain/6", Match::WithDepth), [2]);
    }
}
