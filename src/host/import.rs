//! A migration stream as requests: how the store of another xenstored is brought
//! in while clients are served.
//!
//! What a stream holds beside nodes, domains and quotas belongs to connections
//! of the other daemon (its sockets, their watches and transactions) and cannot
//! be carried over; it is counted.

use std::collections::VecDeque;

use state_machine::ConnId;
use xenstore::Xenstore;
use xenstore::stream::{Node, Reader, Record, StreamError, Via};
use xenstore::wire::{self, MessageType};

/// What an import will do.
#[derive(Debug, Default)]
pub(super) struct Import {
    /// The requests, in order.
    pub(super) requests: VecDeque<Vec<u8>>,
    nodes: u64,
    domains: u64,
    dropped: u64,
}

impl Import {
    /// Reads a whole stream; nothing is asked of the store before all of it is
    /// understood.
    ///
    /// # Errors
    /// [`StreamError`] with the place of the flaw.
    pub(super) fn read(stream: &[u8]) -> Result<Self, StreamError> {
        let mut import = Self::default();
        let mut nodes = Vec::new();
        for record in Reader::new(stream)? {
            match record? {
                Record::Connection(connection) => import.connection(&connection.via),
                Record::Node(node) if node.pending.is_none() => nodes.push(node),
                Record::GlobalQuota(quotas) => {
                    for quota in quotas.per_domain.iter() {
                        let name = String::from_utf8_lossy(quota.name);
                        let payload = format!("quota\0set\0{name}\0{}\0", quota.value);
                        import.ask(MessageType::Control, payload.as_bytes());
                    }
                }
                Record::Watch(_) | Record::Transaction(_) | Record::Node(_) => import.dropped += 1,
                Record::Domain(_)
                | Record::Global(_)
                | Record::Own { .. }
                | Record::Unknown { .. } => {}
            }
        }
        // Domains come first: nobody else may own a node.
        for node in &nodes {
            import.node(node);
        }
        Ok(import)
    }

    /// Whether a store with a limit of `limit_kib` has room for what a stream holds:
    /// half an import would be of no use to anybody.
    ///
    /// # Errors
    /// What to do if not.
    pub(super) fn check_room(stream: &[u8], limit_kib: u32) -> Result<(), String> {
        // What the store cannot hold for other reasons is told request by request.
        let Ok(imported) = Xenstore::import(stream, ConnId(1)) else { return Ok(()) };
        if imported.store.fits_into(limit_kib) {
            return Ok(());
        }
        let size_kib = imported.store.size_bytes().div_ceil(1024);
        Err(format!(
            "its nodes, watches and domains take {size_kib} KiB, and all of the store must not take \
             more than {limit_kib} KiB; raise limits.memory_mib"
        ))
    }

    /// What was read, for people.
    pub(super) fn describe(&self) -> String {
        format!(
            "imported {} nodes and {} domains; {} connections, watches and transactions of the \
             other daemon are left out",
            self.nodes, self.domains, self.dropped
        )
    }

    fn ask(&mut self, kind: MessageType, payload: &[u8]) {
        let mut frame = Vec::new();
        wire::frame(kind, 0, 0, payload, &mut frame);
        self.requests.push_back(frame);
    }

    fn connection(&mut self, via: &Via) {
        match via {
            Via::Ring { domid, target, evtchn, .. } if domid.0 != 0 => {
                self.domains += 1;
                // The stream does not say where the ring page is; the grant does.
                let payload = format!("{domid}\x000\0{evtchn}\0");
                self.ask(MessageType::Introduce, payload.as_bytes());
                if let Some(target) = target {
                    let payload = format!("{domid}\0{target}\0");
                    self.ask(MessageType::SetTarget, payload.as_bytes());
                }
            }
            Via::Ring { .. } | Via::Socket { .. } => self.dropped += 1,
        }
    }

    fn node(&mut self, node: &Node<'_>) {
        self.nodes += 1;
        let is_special = node.path == b"/" || node.path.starts_with(b"@");
        let mut payload = node.path.to_vec();
        payload.push(0);
        if !is_special {
            let mut write = payload.clone();
            write.extend_from_slice(node.value);
            self.ask(MessageType::Write, &write);
        }
        for perm in node.perms.iter().filter(|perm| !perm.stale) {
            payload.push(perm.access.letter());
            payload.extend_from_slice(format!("{}\0", perm.domid).as_bytes());
        }
        self.ask(MessageType::SetPerms, &payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state_machine::{DomId, Input, InputNo, Outputs, StateMachine};
    use xenstore::stream::Version;

    /// Keeps the replies.
    #[derive(Default)]
    struct Replies(Vec<Vec<u8>>);

    impl Outputs for Replies {
        fn reply(&mut self, _: ConnId, frame: &[u8]) {
            self.0.push(frame.to_vec());
        }
        fn event(&mut self, _: ConnId, _: &[u8]) {}
        fn effect(&mut self, _: &[u8]) {}
    }

    fn apply(store: &mut Xenstore, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let conn = ConnId(9);
        let mut replies = Replies::default();
        store.apply(InputNo(1), &Input::Open { conn, domid: DomId(0) }, &mut replies).unwrap();
        for (no, frame) in (2..).zip(frames) {
            store.apply(InputNo(no), &Input::Request { conn, frame }, &mut replies).unwrap();
        }
        replies.0
    }

    fn frame(kind: MessageType, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::frame(kind, 0, 0, payload, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_exported_comes_back_in() {
        let mut original = Xenstore::default();
        let setup = [
            frame(MessageType::Introduce, b"3\x001\x002\0"),
            frame(MessageType::Write, b"/local/domain/3/name\0guest"),
            frame(MessageType::SetPerms, b"/local/domain/3/name\0n3\0r0\0"),
            frame(MessageType::Write, b"/a/b\0value"),
        ];
        apply(&mut original, &setup);
        let stream = original.export(Version::One).unwrap();

        let import = Import::read(&stream).unwrap();
        let mut copy = Xenstore::default();
        let replies = apply(&mut copy, &Vec::from(import.requests.clone()));
        let errors = replies.iter().filter(|reply| {
            wire::split(reply).is_none_or(|(header, _)| header.kind == MessageType::Error.to_u32())
        });
        assert_eq!(errors.count(), 0, "{}", import.describe());
        assert_eq!(copy.export(Version::One).unwrap(), stream);
    }

    #[test]
    fn what_there_is_no_room_for_is_not_begun() {
        let mut original = Xenstore::default();
        let write = |number| {
            let path = format!("/a/{number}\0").into_bytes();
            frame(MessageType::Write, &[path, vec![b'x'; 1000]].concat())
        };
        apply(&mut original, &(0..100).map(write).collect::<Vec<_>>());
        let stream = original.export(Version::One).unwrap();
        assert_eq!(Import::check_room(&stream, 1000), Ok(()));
        let refused = Import::check_room(&stream, 300).unwrap_err();
        assert!(refused.contains("more than 300 KiB; raise limits.memory_mib"), "{refused}");
    }

    #[test]
    fn half_a_stream_asks_nothing() {
        let stream = Xenstore::default().export(Version::One).unwrap();
        assert!(Import::read(&stream[..stream.len() - 4]).is_err());
        assert!(Import::read(b"garbage").is_err());
    }
}
