use alloc::borrow::Cow;
use alloc::string::ToString;
use alloc::vec::Vec;
use alloc::{format, vec};

use quickcheck::{Arbitrary, Gen, QuickCheck};
use state_machine::DomId;

use super::*;

fn write(version: Version, records: &[Record<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, version);
    for record in records {
        writer.put(record).unwrap();
    }
    writer.end();
    out
}

fn read(stream: &[u8]) -> Result<Vec<Record<'_>>, StreamError> {
    Reader::new(stream)?.collect()
}

/// What C xenstored 4.17 writes for the root node, a socket connection and a
/// watch, byte for byte (tools/xenstore: xenstore_state.h and the dump_state_*
/// functions).
const GOLDEN: &[u8] = b"xenstore\0\0\0\x01\0\0\0\0\
    \x01\0\0\0\x08\0\0\0\x05\0\0\0\xff\xff\xff\xff\
    \x02\0\0\0\x20\0\0\0\x01\0\0\0\x01\0\0\0\x0b\0\0\0\0\0\0\0\
    \x02\0\x03\0\x03\0\0\0abxyz\0\0\0\
    \x03\0\0\0\x18\0\0\0\x01\0\0\0\x0a\0\x02\0@released\0t\0\0\0\0\0\
    \x04\0\0\0\x08\0\0\0\x01\0\0\0\x07\0\0\0\
    \x05\0\0\0\x28\0\0\0\0\0\0\0\0\0\0\0\x09\0\x05\0\0\0\x02\0\
    n\0\0\0r\x01\x03\0/vm/name\0hello\0\0\
    \0\0\0\0\0\0\0\0";

fn golden_records<'a>() -> Vec<Record<'a>> {
    let conn = StreamConn(1);
    vec![
        Record::Global(Global { socket_fd: 5, evtchn_fd: -1 }),
        Record::Connection(Connection {
            id: conn,
            via: Via::Socket { fd: 11, read_only: false },
            unprocessed: b"ab",
            unsent: b"xyz",
            unsent_partial: 3,
        }),
        Record::Watch(Watch { conn, path: b"@released", token: b"t", depth: None }),
        Record::Transaction(Transaction { conn, id: 7 }),
        Record::Node(Node {
            pending: None,
            path: b"/vm/name",
            value: b"hello",
            perms: Cow::Owned(vec![
                Perm { access: Access::None, domid: DomId(0), stale: false },
                Perm { access: Access::Read, domid: DomId(3), stale: true },
            ]),
        }),
    ]
}

#[test]
fn the_layout_is_that_of_c_xenstored() {
    assert_eq!(write(Version::One, &golden_records()), GOLDEN);
    assert_eq!(read(GOLDEN).unwrap(), golden_records());
}

#[test]
fn version_two_layout_is_that_of_c_xenstored() {
    let records = [
        Record::GlobalQuota(GlobalQuota {
            per_domain: Cow::Owned(vec![
                Quota { name: b"nodes", value: 1000 },
                Quota { name: b"soft-nodes", value: 800 },
            ]),
            global: Cow::Owned(vec![]),
        }),
        Record::Connection(Connection {
            id: StreamConn(2),
            via: Via::Ring {
                domid: DomId(5),
                target: None,
                evtchn: 9,
                unique_id: Some(0x0102_0304_0506_0708),
            },
            unprocessed: b"",
            unsent: b"",
            unsent_partial: 0,
        }),
        Record::Watch(Watch { conn: StreamConn(2), path: b"a", token: b"t", depth: Some(1) }),
        Record::Domain(Domain { domid: DomId(5), features: 3, quotas: Cow::Owned(vec![]) }),
        Record::Own { tag: 2, bytes: b"own" },
    ];
    let expected: &[u8] = b"xenstore\0\0\0\x02\0\0\0\0\
        \x06\0\0\0\x20\0\0\0\x02\0\0\0\xe8\x03\0\0\x20\x03\0\0nodes\0soft-nodes\0\0\0\0\
        \x02\0\0\0\x20\0\0\0\x02\0\0\0\0\0\x01\0\x05\0\xf4\x7f\x09\0\0\0\0\0\0\0\0\0\0\0\
        \x08\x07\x06\x05\x04\x03\x02\x01\
        \x08\0\0\0\x10\0\0\0\x02\0\0\0\x02\0\x02\0\x01\0\0\0a\0t\0\
        \x07\0\0\0\x08\0\0\0\x05\0\0\0\x03\0\0\0\
        \x02MVR\x08\0\0\0\x03\0\0\0own\0\
        \0\0\0\0\0\0\0\0";
    assert_eq!(write(Version::Two, &records), expected);
    assert_eq!(read(expected).unwrap(), records);
}

#[test]
fn a_length_without_its_padding_is_read_too() {
    const WATCH_LEN_AT: usize = 16 + 16 + 40 + 4;
    let mut stream = GOLDEN.to_vec();
    assert_eq!(stream[WATCH_LEN_AT], 24);
    stream[WATCH_LEN_AT] = 20;
    assert_eq!(read(&stream).unwrap(), golden_records());
}

#[test]
fn every_cut_and_every_flip_is_noticed_or_harmless() {
    for len in 0..GOLDEN.len() {
        let error = read(&GOLDEN[..len]).unwrap_err();
        assert!(error.offset <= len, "{error}");
    }
    for at in 0..GOLDEN.len() {
        for bit in 0..8 {
            let mut stream = GOLDEN.to_vec();
            stream[at] ^= 1 << bit;
            let _ = read(&stream);
        }
    }
}

#[test]
fn errors_name_the_place() {
    let error = read(b"xenstore\0\0\0\x03\0\0\0\0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "xenstore stream, offset 8: version 3 is not known (1 and 2 are)"
    );
    let error = read(&GOLDEN[..16]).unwrap_err();
    assert_eq!(error, StreamError { offset: 16, flaw: Flaw::NoEnd });
    let mut stream = GOLDEN.to_vec();
    stream.push(0);
    let error = read(&stream).unwrap_err();
    assert_eq!(error, StreamError { offset: GOLDEN.len(), flaw: Flaw::TrailingBytes(1) });
    let error = read(b"xenstore\0\0\0\x01\0\0\0\x01").unwrap_err();
    assert_eq!(error.flaw, Flaw::UnknownFlags(1));
}

#[test]
fn what_the_format_cannot_say_is_refused_and_leaves_no_trace() {
    let mut out = vec![0xaa; 3];
    let mut writer = Writer::new(&mut out, Version::One);
    let watch =
        Record::Watch(Watch { conn: StreamConn(1), path: b"/a", token: b"t", depth: Some(2) });
    let error = writer.put(&watch).unwrap_err();
    assert_eq!(error, StreamError { offset: 16, flaw: Flaw::NeedsVersionTwo("a watch's depth") });
    let value = vec![0; 70_000];
    let node =
        Record::Node(Node { pending: None, path: b"/a", value: &value, perms: Cow::Borrowed(&[]) });
    let error = writer.put(&node).unwrap_err();
    assert_eq!(error.flaw, Flaw::TooLong { field: "node value", len: 70_000 });
    writer.end();
    assert_eq!(read(&out[3..]).unwrap(), []);
}

/// Owns what a random record borrows.
#[derive(Clone, Debug)]
struct Parts {
    shape: u8,
    numbers: (u32, u32, u16),
    texts: Vec<Vec<u8>>,
    blobs: [Vec<u8>; 2],
    perms: Vec<Perm>,
    flags: (bool, bool),
}

impl Arbitrary for Parts {
    fn arbitrary(g: &mut Gen) -> Self {
        let mut texts = Vec::<Vec<u8>>::arbitrary(g);
        for text in &mut texts {
            text.retain(|&byte| byte != 0);
        }
        texts.resize(texts.len().max(2), b"/t".to_vec());
        let perms = Vec::<(u8, u16, bool)>::arbitrary(g)
            .into_iter()
            .map(|(access, domid, stale)| {
                let access = Access::from_letter(b"nrwb"[usize::from(access % 4)]).unwrap();
                Perm { access, domid: DomId(domid), stale }
            })
            .chain([Perm { access: Access::None, domid: DomId(0), stale: false }])
            .collect();
        Self {
            shape: u8::arbitrary(g),
            numbers: (u32::arbitrary(g).max(1), u32::arbitrary(g), u16::arbitrary(g) % 0x7ff0),
            texts,
            blobs: [Arbitrary::arbitrary(g), Arbitrary::arbitrary(g)],
            perms,
            flags: Arbitrary::arbitrary(g),
        }
    }
}

impl Parts {
    fn record(&self) -> Record<'_> {
        let (id, number, short) = self.numbers;
        let conn = StreamConn(id);
        let transaction = Transaction { conn, id: number };
        let quotas: Vec<_> =
            self.texts.iter().map(|name| Quota { name, value: name.len() as u32 }).collect();
        match self.shape % 8 {
            0 => Record::Global(Global { socket_fd: id as i32, evtchn_fd: number as i32 }),
            1 => Record::Connection(Connection {
                id: conn,
                via: if self.flags.0 {
                    Via::Socket { fd: number as i32, read_only: self.flags.1 }
                } else {
                    Via::Ring {
                        domid: DomId(short),
                        target: self.flags.1.then_some(DomId(short / 2)),
                        evtchn: number,
                        unique_id: (number % 2 == 0).then_some(number.into()),
                    }
                },
                unprocessed: &self.blobs[0],
                unsent: &self.blobs[1],
                unsent_partial: self.blobs[1].len() as u16 / 2,
            }),
            2 => Record::Watch(Watch {
                conn,
                path: &self.texts[0],
                token: &self.texts[1],
                depth: self.flags.0.then_some(short),
            }),
            3 => Record::Transaction(transaction),
            4 => Record::Node(Node {
                pending: self.flags.0.then_some(Pending {
                    transaction,
                    read: self.flags.1,
                    written: number % 2 == 0,
                }),
                path: &self.texts[0],
                value: &self.blobs[0],
                perms: Cow::Borrowed(&self.perms),
            }),
            5 => {
                let (per_domain, global) = quotas.split_at(1);
                Record::GlobalQuota(GlobalQuota {
                    per_domain: Cow::Owned(per_domain.to_vec()),
                    global: Cow::Owned(global.to_vec()),
                })
            }
            6 => Record::Domain(Domain {
                domid: DomId(short),
                features: number,
                quotas: Cow::Owned(quotas),
            }),
            _ => Record::Own { tag: id as u8, bytes: &self.blobs[0] },
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    fn round_trip(parts: Vec<Parts>) -> bool {
        let records: Vec<_> = parts.iter().map(Parts::record).collect();
        let stream = write(Version::Two, &records);
        stream.len().is_multiple_of(ALIGN) && read(&stream).unwrap() == records
    }
    QuickCheck::new().tests(500).quickcheck(round_trip as fn(Vec<Parts>) -> bool);
}

#[test]
fn hostile_bytes_never_panic() {
    // A sound stream, so that the damage reaches deep, with random bytes over it.
    fn survives(parts: Vec<Parts>, damage: Vec<(usize, u8)>) -> bool {
        let records: Vec<_> = parts.iter().map(Parts::record).collect();
        let mut stream = write(Version::Two, &records);
        for (at, byte) in damage {
            let len = stream.len();
            stream[at % len] = byte;
        }
        match read(&stream) {
            Ok(records) => records.len() <= stream.len() / RECORD_HEADER_LEN,
            Err(error) => error.offset <= stream.len() && !format!("{error}").is_empty(),
        }
    }
    QuickCheck::new().tests(2000).quickcheck(survives as fn(Vec<Parts>, Vec<(usize, u8)>) -> bool);
}
