//! Random steps: mostly sensible requests on a small tree, so that clients meet
//! each other, with every kind of nonsense in between.

use xenstore::wire::{MAX_PAYLOAD, MessageType as Type};

use super::CONNECTIONS;
use super::op::{Act, ConnAt, Op, TxHandle, TxRef};
use crate::rng::Rng;

/// Transactions that one connection has open at most.
const MAX_OPEN: usize = 4;

/// Draws steps from a seed.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: Rng,
    last_handle: u32,
    last_value: u32,
    /// The connection that works alone for so many steps: transactions that
    /// nobody disturbs have to commit.
    alone: Option<(ConnAt, u32)>,
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "device-0", "x_y-z@"];

const ODD_PATHS: [&[u8]; 19] = [
    b"",
    b"/",
    b"//",
    b"/t/",
    b"/t//a",
    b"/t/ a",
    b"/t/a:b",
    b"/t/\x7f",
    b"/t/\xc3\xa9",
    b"/t/..",
    b"/t/a.b",
    b"t",
    b"t/a",
    b"a",
    b"@introduceDomain",
    b"@releaseDomain",
    b"@foo",
    b"/local/domain",
    b"/local",
];

const PERMS: [&str; 16] = [
    "n0", "n1", "n2", "b0", "b1", "b2", "r0", "r1", "r2", "w1", "w2", "n5", "r99", "b99", "x1", "1",
];

impl Generator {
    /// The generator of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), last_handle: 0, last_value: 0, alone: None }
    }

    /// The next step; `open` holds each connection's open transactions.
    pub fn step(&mut self, open: &[Vec<TxHandle>]) -> Op {
        let conn = self.pick_conn();
        let own = &open[conn];
        if own.len() < MAX_OPEN && self.rng.percent(6) {
            self.last_handle += 1;
            let act = Act::Start(TxHandle(self.last_handle));
            return Op { conn, act };
        }
        if self.rng.below(300) == 0 {
            let act = Act::Reconnect;
            return Op { conn, act };
        }
        let tx = match self.rng.below(100) {
            0 => TxRef::Bogus,
            1..=60 if !own.is_empty() => TxRef::Open(*self.rng.pick(own)),
            _ => TxRef::None,
        };
        let (kind, mut payload) = self.request(conn, tx);
        // More closes the connection to C.
        payload.truncate(MAX_PAYLOAD);
        let act = Act::Request { kind, tx, payload };
        Op { conn, act }
    }

    fn pick_conn(&mut self) -> ConnAt {
        if let Some((conn, left)) = self.alone {
            self.alone = left.checked_sub(1).map(|left| (conn, left));
            return conn;
        }
        let conn = self.rng.below(CONNECTIONS.len());
        if self.rng.percent(3) {
            let steps = u32::try_from(self.rng.below(20)).unwrap_or(0);
            self.alone = Some((conn, steps));
        }
        conn
    }

    fn request(&mut self, conn: ConnAt, tx: TxRef) -> (u32, Vec<u8>) {
        let in_tx = tx != TxRef::None;
        if self.rng.percent(2) {
            return self.nonsense();
        }
        let (kind, payload) = match self.rng.below(if in_tx { 85 } else { 118 }) {
            0..18 => {
                let mut payload = self.path_nul(conn);
                payload.extend(self.value());
                (Type::Write, payload)
            }
            18..32 => (Type::Read, self.path_nul(conn)),
            32..38 => (Type::Mkdir, self.path_nul(conn)),
            38..45 => (Type::Rm, self.path_nul(conn)),
            45..52 => (Type::Directory, self.path_nul(conn)),
            52..56 => (Type::GetPerms, self.path_nul(conn)),
            56..62 => (Type::SetPerms, self.perms(conn, in_tx)),
            62..65 => (Type::DirectoryPart, self.part(conn)),
            65..85 if in_tx => {
                let end = *self.rng.pick(&["T\0", "T\0", "T\0", "T\0", "F\0", "x\0", ""]);
                (Type::TransactionEnd, end.into())
            }
            65..85 => {
                let mut payload = self.path_nul(conn);
                payload.extend(self.value());
                (Type::Write, payload)
            }
            85..95 => (Type::Watch, self.watch(conn)),
            95..101 => (Type::Unwatch, self.watch(conn)),
            101..103 => (Type::GetDomainPath, self.domid()),
            103..106 => (Type::IsDomainIntroduced, self.domid()),
            106..108 => {
                let mut payload = self.spare_domid();
                payload.extend(b"1\x005\0");
                (Type::Introduce, payload)
            }
            108..110 => (Type::Release, self.spare_domid()),
            110..111 => (Type::Resume, self.spare_domid()),
            111..112 => {
                let mut payload = self.spare_domid();
                payload.extend(self.rng.pick(&["1\0", "2\0", "77\0"]).as_bytes());
                (Type::SetTarget, payload)
            }
            112..113 => (Type::ResetWatches, b"\0".to_vec()),
            113..114 => (Type::Control, b"check\0".to_vec()),
            114..115 => (Type::TransactionEnd, b"T\0".to_vec()),
            115..116 => (Type::GetFeature, b"\0".to_vec()),
            116..117 => (Type::GetQuota, b"\0".to_vec()),
            _ => (Type::Read, self.path_nul(conn)),
        };
        (kind.to_u32(), payload)
    }

    /// Arguments that a request should not have, or a request that should not
    /// be.
    fn nonsense(&mut self) -> (u32, Vec<u8>) {
        const KINDS: [u32; 16] = [1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 14, 17, 20, 22, 27];
        const PAYLOADS: [&[u8]; 14] = [
            b"",
            b"\0",
            b"\0\0",
            b"\0\0\0",
            b"/t/a",
            b"/t/a\0x",
            b"/t/a\0\0",
            b"/t/a\0x\0",
            b"/t\0n0",
            b"/t\0n0\0r1",
            b"-1\0",
            b"77",
            b"70000\0",
            b"T",
        ];
        let kind = match self.rng.below(20) {
            0 => u32::try_from(self.rng.below(200) + 27).unwrap_or(27),
            // An event and an error are for daemons to send.
            1 => 15,
            2 => 16,
            _ => *self.rng.pick(&KINDS),
        };
        // Xen's C daemon of 4.17 answers these with whatever error it met last,
        // or not at all, when they are not just one string.
        let one_string = [1, 2, 3, 12, 13].contains(&kind);
        let payload = if one_string { b"\0" } else { *self.rng.pick(&PAYLOADS) };
        (kind, payload.to_vec())
    }

    fn path(&mut self, conn: ConnAt) -> Vec<u8> {
        let domid = CONNECTIONS[conn].domid;
        if self.rng.below(25) == 0 {
            return self.odd_path();
        }
        let base = match (domid, self.rng.below(10)) {
            (0, 0..5) | (_, 0..2) => "/t".to_owned(),
            (0, 5..7) => "/t/both".to_owned(),
            (0, _) | (_, 2..5) => format!("/local/domain/{}", self.rng.below(2) + 1),
            (_, 5..7) => format!("/local/domain/{domid}/data"),
            _ => self.rng.pick(&["data", "device", "shared"]).to_string(),
        };
        let mut path = base;
        for _ in 0..self.rng.below(4) {
            path.push('/');
            let name = self.rng.pick(&NAMES);
            path.push_str(name);
        }
        path.into_bytes()
    }

    fn odd_path(&mut self) -> Vec<u8> {
        match self.rng.below(24) {
            // Around the longest absolute and relative paths.
            0 => {
                let len = *self.rng.pick(&[3070, 3071, 3072, 3073]);
                let mut path = b"/t".to_vec();
                path.extend(b"/0123456789abcdef".iter().cycle().take(len - 2));
                path
            }
            1 => {
                let len = *self.rng.pick(&[2040, 2047, 2048, 2049]);
                b"r0123456789/".iter().copied().cycle().take(len).collect()
            }
            _ => self.rng.pick(&ODD_PATHS).to_vec(),
        }
    }

    fn path_nul(&mut self, conn: ConnAt) -> Vec<u8> {
        let mut path = self.path(conn);
        path.push(0);
        path
    }

    fn value(&mut self) -> Vec<u8> {
        self.last_value += 1;
        match self.rng.below(40) {
            0 => Vec::new(),
            1 => vec![0, 255, 10, 0],
            2 => vec![b'v'; self.rng.below(2100)],
            3 => vec![b'w'; 900],
            _ => format!("v{}", self.last_value).into_bytes(),
        }
    }

    fn perms(&mut self, conn: ConnAt, in_tx: bool) -> Vec<u8> {
        let mut payload = self.path_nul(conn);
        let sets = !in_tx && CONNECTIONS[conn].domid == 0 && !payload.starts_with(b"@foo");
        if payload.starts_with(b"@") && !sets {
            // C refuses these with whatever error it met last, or not at all;
            // or sets them at once, whatever becomes of the transaction.
            payload = b"/t\0".to_vec();
        }
        let count = match self.rng.below(10) {
            0 => 0,
            1 => 4 + self.rng.below(4),
            _ => 1 + self.rng.below(3),
        };
        for _ in 0..count {
            let among = if self.rng.percent(90) { 11 } else { PERMS.len() };
            payload.extend(self.rng.pick(&PERMS[..among]).as_bytes());
            payload.push(0);
        }
        payload
    }

    fn part(&mut self, conn: ConnAt) -> Vec<u8> {
        let mut payload = self.path_nul(conn);
        let offset = *self.rng.pick(&["0", "0", "0", "0", "2", "100000", "-1", "x", ""]);
        payload.extend(offset.as_bytes());
        payload.push(0);
        payload
    }

    fn watch(&mut self, conn: ConnAt) -> Vec<u8> {
        let mut payload = if self.rng.percent(10) {
            let special = [&b"@introduceDomain\0"[..], b"@releaseDomain\0", b"@foo\0"];
            self.rng.pick(&special).to_vec()
        } else {
            self.path_nul(conn)
        };
        let token = *self.rng.pick(&["tok", "tok", "other", "", "a b:c"]);
        payload.extend(token.as_bytes());
        payload.push(0);
        payload
    }

    /// For coming and going: the other guests are needed for the whole run.
    fn spare_domid(&mut self) -> Vec<u8> {
        let domid = *self.rng.pick(&["5", "5", "5", "65535"]);
        format!("{domid}\0").into_bytes()
    }

    fn domid(&mut self) -> Vec<u8> {
        let domid = *self.rng.pick(&["0", "1", "2", "5", "5", "5", "77", "65535", "x", ""]);
        format!("{domid}\0").into_bytes()
    }
}
