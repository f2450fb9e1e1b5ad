//! Making steps on both sides and comparing what comes back.

use std::collections::HashMap;

use xenstore::wire::MessageType as Type;

use super::CONNECTIONS;
use super::endpoint::{Answer, Endpoint, EndpointError};
use super::generate::Generator;
use super::judge::{
    absolute, class_of, fires_several, is_always_there, is_change, may_fire, once, related,
    sort_both, sorted, tx_id,
};
use super::op::{Act, ConnAt, Op, TxHandle, TxRef};
use super::report::{Failure, Report};
use super::rules::{Answered, Rule, explain, special};
use super::tree;

/// No daemon gives this id: they count up from 1.
const BOGUS_TX: u32 = 0x7eee_eeee;
/// How often a commit may be refused for the sake of other connections: a shield
/// wears off after 32 refusals.
const MAX_TURNS: u32 = 32;
/// How often the whole stores are compared.
const COMPARE_EVERY: u64 = 2000;

/// Runs random steps.
///
/// # Errors
/// The first [`Failure`].
pub fn random_run(
    ours: &mut dyn Endpoint,
    theirs: &mut dyn Endpoint,
    seed: u64,
    steps: u64,
) -> Result<Report, Box<Failure>> {
    let mut generator = Generator::new(seed);
    let mut run = Run::new(ours, theirs)?;
    for _ in 0..steps {
        let op = generator.step(&run.open_handles());
        run.step(op).map_err(|mut failure| {
            failure.seed = Some(seed);
            failure
        })?;
    }
    run.compare_stores()?;
    Ok(run.report)
}

/// Runs the given steps.
///
/// # Errors
/// The first [`Failure`].
pub fn replay(
    ours: &mut dyn Endpoint,
    theirs: &mut dyn Endpoint,
    ops: &[Op],
) -> Result<Report, Box<Failure>> {
    let mut run = Run::new(ours, theirs)?;
    for op in ops {
        run.step(op.clone())?;
    }
    run.compare_stores()?;
    Ok(run.report)
}

/// A transaction that both sides have open.
struct OpenTx {
    conn: ConnAt,
    ids: [u32; 2],
    /// How many changes there had been when it was opened.
    since: usize,
    /// What was asked in it, with our answer's success.
    requests: Vec<(u32, Vec<u8>, bool)>,
    /// The sides disagreed on a change in it.
    torn: bool,
}

impl OpenTx {
    /// Whether a request in it that would have changed something was refused.
    fn refused_a_change(&self) -> bool {
        self.requests
            .iter()
            .any(|(kind, _, granted)| !granted && Type::from_u32(*kind).is_some_and(is_change))
    }

    fn changes(&self) -> impl Iterator<Item = (Type, Vec<u8>)> + '_ {
        let domid = CONNECTIONS[self.conn].domid;
        self.requests.iter().filter_map(move |(kind, payload, granted)| {
            let kind = Type::from_u32(*kind).filter(|kind| *granted && is_change(*kind))?;
            Some((kind, absolute(domid, payload)))
        })
    }
}

struct Run<'a> {
    /// Ours and theirs.
    sides: [&'a mut dyn Endpoint; 2],
    open: HashMap<TxHandle, OpenTx>,
    /// The paths that were changed, in order.
    changes: Vec<Vec<u8>>,
    ops: Vec<Op>,
    report: Report,
    desync: bool,
    /// A node that runs rely on was removed.
    uprooted: bool,
    /// The last commit changed permissions.
    set_perms: bool,
}

type Step<T> = Result<T, Box<Failure>>;

impl<'a> Run<'a> {
    fn new(ours: &'a mut dyn Endpoint, theirs: &'a mut dyn Endpoint) -> Step<Self> {
        let mut run = Self {
            sides: [ours, theirs],
            open: HashMap::new(),
            changes: Vec::new(),
            ops: Vec::new(),
            report: Report::default(),
            desync: false,
            uprooted: false,
            set_perms: false,
        };
        run.lay_out()?;
        Ok(run)
    }

    fn open_handles(&self) -> Vec<Vec<TxHandle>> {
        let mut handles = vec![Vec::new(); CONNECTIONS.len()];
        for (handle, tx) in &self.open {
            handles[tx.conn].push(*handle);
        }
        for handles in &mut handles {
            handles.sort_unstable_by_key(|handle| handle.0);
        }
        handles
    }

    /// Makes both stores equal: empties what a run touches and lays it out.
    fn lay_out(&mut self) -> Step<()> {
        let abandoned: Vec<_> = self.open.drain().map(|(_, tx)| tx).collect();
        for tx in abandoned {
            for (side, id) in self.sides.iter_mut().zip(tx.ids) {
                side.request(tx.conn, Type::TransactionEnd.to_u32(), id, b"F\0");
            }
        }
        let layout: [(Type, &[u8]); 17] = [
            (Type::Write, b"/\0"),
            (Type::SetPerms, b"/\0r0\0"),
            (Type::SetPerms, b"@introduceDomain\0n0\0"),
            (Type::SetPerms, b"@releaseDomain\0n0\0"),
            (Type::Rm, b"/t\0"),
            (Type::Rm, b"/local\0"),
            (Type::Mkdir, b"/t\0"),
            (Type::SetPerms, b"/t\0n0\0r1\0"),
            (Type::Mkdir, b"/t/both\0"),
            (Type::SetPerms, b"/t/both\0n0\0b1\0b2\0"),
            (Type::Mkdir, b"/local/domain\0"),
            (Type::SetPerms, b"/local\0n0\0"),
            (Type::Mkdir, b"/local/domain/1\0"),
            (Type::SetPerms, b"/local/domain/1\0n1\0"),
            (Type::Mkdir, b"/local/domain/2\0"),
            (Type::SetPerms, b"/local/domain/2\0n2\0r1\0"),
            (Type::Mkdir, b"/local/domain/1/data\0"),
        ];
        for at in 0..2 {
            for (kind, payload) in layout {
                let answer = self.sides[at].request(0, kind.to_u32(), 0, payload);
                if !answer.is_ok() && kind != Type::Rm {
                    let name = ["ours", "theirs"][at];
                    return Err(self.failure(
                        "layout",
                        format!("{name} refuses to lay out the store: {kind:?} {answer:?}"),
                    ));
                }
            }
            if let Err(error) = self.sides[at].events() {
                return Err(self.broken(&error));
            }
        }
        self.changes.push(b"/".to_vec());
        (self.desync, self.uprooted) = (false, false);
        Ok(())
    }

    fn failure(&mut self, class: &str, what: String) -> Box<Failure> {
        Box::new(Failure {
            class: class.to_owned(),
            what,
            ops: std::mem::take(&mut self.ops),
            seed: None,
        })
    }

    fn broken(&mut self, error: &EndpointError) -> Box<Failure> {
        self.failure("broken", error.to_string())
    }

    fn count(&mut self, rule: &Rule) {
        *self.report.rules.entry(rule.name).or_default() += 1;
        self.desync |= rule.desync;
    }

    fn step(&mut self, op: Op) -> Step<()> {
        self.ops.push(op.clone());
        self.report.steps += 1;
        match &op.act {
            Act::Start(handle) => self.start(op.conn, *handle)?,
            Act::Reconnect => {
                self.open.retain(|_, tx| tx.conn != op.conn);
                for at in 0..2 {
                    let done = self.sides[at].reconnect(op.conn);
                    done.map_err(|error| self.broken(&error))?;
                }
            }
            Act::Request { kind, tx, payload } => {
                let ends = *kind == Type::TransactionEnd.to_u32() && payload == b"T\0";
                match tx {
                    TxRef::Open(handle) if ends && self.open.contains_key(handle) => {
                        self.commit(op.conn, *handle)?;
                    }
                    _ => self.request(&op, *kind, *tx, payload)?,
                }
            }
        }
        if may_fire(&op) {
            self.compare_events(&op)?;
        }
        if self.desync || self.uprooted {
            self.lay_out()?;
        } else if self.report.steps.is_multiple_of(COMPARE_EVERY) {
            self.compare_stores()?;
        }
        Ok(())
    }

    fn both(&mut self, conn: ConnAt, kind: u32, ids: [u32; 2], payload: &[u8]) -> [Answer; 2] {
        let ours = self.sides[0].request(conn, kind, ids[0], payload);
        let theirs = self.sides[1].request(conn, kind, ids[1], payload);
        [ours, theirs]
    }

    fn start(&mut self, conn: ConnAt, handle: TxHandle) -> Step<()> {
        let answers = self.both(conn, Type::TransactionStart.to_u32(), [0, 0], b"\0");
        match [tx_id(&answers[0]), tx_id(&answers[1])] {
            [Some(ours), Some(theirs)] => {
                let tx = OpenTx {
                    conn,
                    ids: [ours, theirs],
                    since: self.changes.len(),
                    requests: Vec::new(),
                    torn: false,
                };
                self.open.insert(handle, tx);
                Ok(())
            }
            [None, None] if answers[0] == answers[1] => Ok(()),
            _ => Err(self.differ("TransactionStart", &answers)),
        }
    }

    fn differ(&mut self, class: &str, answers: &[Answer; 2]) -> Box<Failure> {
        let class = format!("{class}: {} / {}", class_of(&answers[0]), class_of(&answers[1]));
        let what = format!("ours {:?}, theirs {:?}", answers[0], answers[1]);
        self.failure(&class, what)
    }

    fn request(&mut self, op: &Op, kind: u32, tx: TxRef, payload: &[u8]) -> Step<()> {
        let open = match tx {
            TxRef::Open(handle) => self.open.get(&handle).filter(|tx| tx.conn == op.conn),
            _ => None,
        };
        let ids = match (tx, open) {
            (TxRef::None, _) => [0, 0],
            (_, Some(open)) => open.ids,
            _ => [BOGUS_TX, BOGUS_TX],
        };
        let domid = CONNECTIONS[op.conn].domid;
        let path = absolute(domid, payload);
        let disturbed = open.is_some_and(|tx| {
            let since = &self.changes[tx.since..];
            since.iter().any(|change| related(change, &path))
        });
        let mut answers = self.both(op.conn, kind, ids, payload);
        if op.kind().is_some_and(|kind| self.normalize(kind, payload, &mut answers)) {
            self.count(special::DIRECTORY_ORDER);
        }
        let agreed = answers[0] == answers[1];
        if !agreed {
            let rule =
                explain(&Answered { op, domid, ours: &answers[0], theirs: &answers[1], disturbed });
            let Some(rule) = rule else {
                let class = format!("{:?} {:?}", op.kind(), tx != TxRef::None);
                return Err(self.differ(&class, &answers));
            };
            self.count(rule);
        }
        if let Answer::Dead(why) = &answers[0] {
            let why = why.clone();
            return Err(self.failure("dead", why));
        }
        let granted = answers[0].is_ok();
        self.report.granted += u64::from(granted && agreed);
        let changes = op.kind().is_some_and(is_change);
        if let (TxRef::Open(handle), false) = (tx, ids == [BOGUS_TX, BOGUS_TX]) {
            let ended = op.kind() == Some(Type::TransactionEnd) && granted;
            if ended {
                self.open.remove(&handle);
            } else if let Some(open) = self.open.get_mut(&handle) {
                open.torn |= changes && answers[0].is_ok() != answers[1].is_ok();
                open.requests.push((kind, payload.to_vec(), granted));
            }
        } else if granted && changes && tx == TxRef::None {
            self.uproots(op.kind(), &path);
            self.changes.push(path);
        } else if granted && op.kind() == Some(Type::ResetWatches) {
            self.open.retain(|_, tx| tx.conn != op.conn);
        } else if granted && op.kind() == Some(Type::Release) {
            // What a released domain owned may be gone now.
            self.changes.push(b"/".to_vec());
        }
        Ok(())
    }

    /// Takes out of both answers what is each daemon's own affair; whether that
    /// was the order of names.
    fn normalize(&self, kind: Type, payload: &[u8], answers: &mut [Answer; 2]) -> bool {
        let [Answer::Ok(ours), Answer::Ok(theirs)] = answers else {
            return false;
        };
        match kind {
            Type::Directory => sort_both(ours, theirs),
            Type::DirectoryPart => {
                for list in [&mut *ours, &mut *theirs] {
                    // The generation in front is a number of the daemon's own.
                    let end = list.iter().position(|byte| *byte == 0).unwrap_or(0);
                    let digits = list[..end].iter().all(u8::is_ascii_digit);
                    list.drain(..if digits { end } else { 0 });
                }
                let from_start = payload.ends_with(b"\x000\0");
                if !from_start && ours != theirs && ours.len() == theirs.len() {
                    theirs.clone_from(ours);
                    return true;
                }
                from_start && sort_both(ours, theirs)
            }
            Type::Control => {
                theirs.clone_from(ours);
                false
            }
            _ => false,
        }
    }

    fn commit(&mut self, conn: ConnAt, handle: TxHandle) -> Step<()> {
        let end = Type::TransactionEnd.to_u32();
        // `step` found it open.
        let Some(tx) = self.open.remove(&handle) else {
            return Ok(());
        };
        if tx.conn != conn {
            let answers = self.both(conn, end, [BOGUS_TX, BOGUS_TX], b"T\0");
            self.open.insert(handle, tx);
            return if answers[0] == answers[1] {
                Ok(())
            } else {
                Err(self.differ("TransactionEnd", &answers))
            };
        }
        let disturbed = self.changes.len() > tx.since;
        let set_perms = Type::SetPerms.to_u32();
        self.set_perms = tx.requests.iter().any(|(kind, ..)| *kind == set_perms);
        // Changes that met those of others may have come before or after them.
        let met = tx.torn || self.meets_others(&tx);
        let answers = self.both(conn, end, tx.ids, b"T\0");
        let again = [0, 1].map(|at| answers[at].is_error("EAGAIN"));
        if answers[1].is_error("ENOMEM") && tx.refused_a_change() && !answers[0].is_error("ENOMEM")
        {
            self.count(special::HALF_DONE);
            return Ok(());
        }
        let known = std::iter::zip(&answers, again).all(|(answer, again)| answer.is_ok() || again);
        if met && known {
            self.count(special::MET_CHANGES);
            return Ok(());
        }
        match again {
            [false, false] if answers[0] == answers[1] => self.report.commits += 1,
            [true, true] if disturbed => return Ok(()),
            [true, false] if disturbed && answers[1].is_ok() => self.try_again(0, &tx, 0)?,
            [false, true] if disturbed && answers[0].is_ok() => self.try_again(1, &tx, 0)?,
            // Nothing else can have it refused than another's turn.
            [true, false] if answers[1].is_ok() && self.others_are_open(conn) => {
                self.count(special::FAIR_TURN);
                self.try_again(0, &tx, 1)?;
            }
            _ => {
                let class = format!("commit, disturbed {disturbed}");
                return Err(self.differ(&class, &answers));
            }
        }
        if answers.iter().any(Answer::is_ok) {
            for (kind, path) in tx.changes() {
                self.uproots(Some(kind), &path);
                self.changes.push(path);
            }
        }
        Ok(())
    }

    /// Has the store laid out anew when a node that runs rely on was removed.
    fn uproots(&mut self, kind: Option<Type>, path: &[u8]) {
        self.uprooted |= kind == Some(Type::Rm) && is_always_there(path);
    }

    /// Whether others changed what a transaction changes, while it was open.
    fn meets_others(&self, tx: &OpenTx) -> bool {
        let since = &self.changes[tx.since..];
        tx.changes().any(|(_, path)| since.iter().any(|change| related(change, &path)))
    }

    /// Whether another connection than `conn` has a transaction open.
    fn others_are_open(&self, conn: ConnAt) -> bool {
        self.open.values().any(|tx| tx.conn != conn)
    }

    /// Runs a transaction again on the side that refused to commit it, so that
    /// both sides have done it; `turns` of others it has waited for already.
    fn try_again(&mut self, at: usize, tx: &OpenTx, mut turns: u32) -> Step<()> {
        if turns == 0 {
            self.count(special::COMMIT_CONFLICT);
        }
        let ours = at == 0;
        loop {
            let (done, differs) = self.do_again(at, tx)?;
            if done.is_ok() {
                if differs {
                    self.count(special::REPLAY_DIFFERS);
                }
                return Ok(());
            }
            // Nobody disturbs this try.
            let others_turn = ours && done.is_error("EAGAIN") && self.others_are_open(tx.conn);
            if !others_turn || turns == MAX_TURNS {
                let what = format!("try {} fails: {done:?}", turns + 2);
                return Err(self.failure("again", what));
            }
            turns += 1;
            self.count(special::FAIR_TURN);
        }
    }

    /// Does a transaction once more on one side: the answer to its end, and
    /// whether another request was granted than the first time.
    fn do_again(&mut self, at: usize, tx: &OpenTx) -> Step<(Answer, bool)> {
        let side = &mut self.sides[at];
        let started = side.request(tx.conn, Type::TransactionStart.to_u32(), 0, b"\0");
        let Some(id) = tx_id(&started) else {
            return Err(self.failure("again", format!("no new transaction: {started:?}")));
        };
        let mut differs = false;
        for (kind, payload, granted) in &tx.requests {
            let answer = side.request(tx.conn, *kind, id, payload);
            differs |= answer.is_ok() != *granted;
        }
        let done = side.request(tx.conn, Type::TransactionEnd.to_u32(), id, b"T\0");
        Ok((done, differs))
    }

    fn compare_events(&mut self, op: &Op) -> Step<()> {
        let mut events = Vec::new();
        for at in 0..2 {
            match self.sides[at].events() {
                Ok(of_side) => events.push(of_side),
                Err(error) => return Err(self.broken(&error)),
            }
        }
        if self.desync {
            return Ok(());
        }
        for (conn, (ours, theirs)) in std::iter::zip(&events[0], &events[1]).enumerate() {
            self.report.events += ours.len() as u64;
            if ours == theirs {
                continue;
            }
            let (ours_once, theirs_once) = (once(ours), once(theirs));
            if ours_once == theirs_once {
                self.count(special::EQUAL_EVENTS);
                continue;
            }
            if op.kind().is_some_and(fires_several) && sorted(ours_once) == sorted(theirs_once) {
                self.count(special::EVENT_ORDER);
                continue;
            }
            let commits = op.kind() == Some(Type::TransactionEnd);
            if commits && self.set_perms && CONNECTIONS[conn].domid != 0 {
                self.count(special::COMMIT_PERMISSIONS);
                continue;
            }
            let class = format!("events of {:?}", op.kind());
            let what = format!("events at {}: ours {ours:?}, theirs {theirs:?}", CONNECTIONS[conn]);
            return Err(self.failure(&class, what));
        }
        Ok(())
    }

    fn compare_stores(&mut self) -> Step<()> {
        let [ours, theirs] = &mut self.sides;
        let (ours, theirs) = (tree::read(*ours), tree::read(*theirs));
        self.report.stores_compared += 1;
        match tree::difference(&ours, &theirs) {
            None => Ok(()),
            Some(what) => Err(self.failure("stores", format!("the stores differ: {what}"))),
        }
    }
}
