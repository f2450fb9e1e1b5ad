//! Whether replicas that have applied the same log hold the same state.

use std::collections::BTreeMap;

use crate::harness::{ComponentStatus, StateDigest};

/// What replicas have shown, from status to status.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// By place in the log: each replica with its digest.
    places: BTreeMap<u64, BTreeMap<u64, String>>,
}

impl Shown {
    /// Takes in what a status shows.
    pub(super) fn add(&mut self, status: &ComponentStatus) {
        for replica in status.running() {
            if let Some(StateDigest { log_index, digest }) = &replica.digest {
                let place = self.places.entry(*log_index).or_default();
                place.insert(replica.id, digest.clone());
            }
        }
    }

    /// Whether all that run have shown theirs at one and the same place.
    pub(super) fn is_complete(&self, status: &ComponentStatus) -> bool {
        self.places.values().any(|shown| status.running().all(|r| shown.contains_key(&r.id)))
    }

    /// How many digests could be compared with another one.
    pub(super) fn compared(&self) -> u64 {
        let compared = self.places.values().map(BTreeMap::len).filter(|shown| *shown > 1);
        compared.sum::<usize>() as u64
    }

    /// The first place at which two differ, in words.
    pub(super) fn difference(&self) -> Option<String> {
        self.places.iter().find_map(|(log_index, shown)| {
            let (first, digest) = shown.iter().next()?;
            let (other, theirs) = shown.iter().find(|(_, theirs)| *theirs != digest)?;
            Some(format!(
                "after log entry {log_index}, replica {first} has the digest {digest} and replica \
                 {other} {theirs}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(digests: &[(u64, &str)]) -> ComponentStatus {
        let replica = |(id, (log_index, digest)): (usize, &(u64, &str))| {
            serde_json::json!({
                "id": id, "pid": 8, "role": "standby", "state": "running", "last_input": 5,
                "commit_index": 4, "digest": { "log_index": log_index, "digest": digest },
            })
        };
        let json = serde_json::json!({
            "name": "xenstore", "generation": 3, "ack_policy": "all-live",
            "durability": "volatile", "replication_factor": 2, "failovers": [],
            "replicas": digests.iter().enumerate().map(replica).collect::<Vec<_>>(),
        });
        serde_json::from_value(json).expect("is a status")
    }

    #[test]
    fn digests_are_compared_at_the_same_place_only() {
        let mut shown = Shown::default();
        let apart = status(&[(40, "aa"), (41, "bb")]);
        shown.add(&apart);
        assert_eq!((shown.compared(), shown.difference()), (0, None));
        assert!(!shown.is_complete(&apart));
        let level = status(&[(41, "bb"), (41, "bb")]);
        shown.add(&level);
        assert_eq!((shown.compared(), shown.difference()), (2, None));
        assert!(shown.is_complete(&level));
    }

    #[test]
    fn silent_divergence_is_found() {
        let mut shown = Shown::default();
        shown.add(&status(&[(41, "bb"), (41, "cc"), (41, "bb")]));
        let words = shown.difference().expect("they differ");
        assert!(words.starts_with("after log entry 41, replica 0 has the digest bb"), "{words}");
        assert!(words.ends_with("replica 1 cc"), "{words}");
    }
}
