//! A host with replicas, made small: everything that the promises allow a
//! failover to do happens here, drawn from a seed, and the judge must find
//! nothing wrong with it. The clients are the simulator's own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use state_machine::{Class, ConnId, DomId, Input, InputNo, Numbered, Output, StateMachine};
use xenstore::wire::{self, Errno, Framer, HEADER_LEN, Step};
use xenstore::{Effect, Xenstore};

use super::{Closer, Judge, Sampler};
use crate::rng::Rng;
use crate::sim::client::{Action, SimClient};

/// Does something wrong to outputs that are to be delivered; whether it could.
pub(crate) type Sabotage = fn(&mut Vec<Output>, &mut Rng) -> bool;

/// Requests under way from one connection.
const OUTSTANDING: usize = 32;

/// A connection, at the front door.
#[derive(Default)]
struct Door {
    client: usize,
    domid: DomId,
    framer: Framer,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    under_way: BTreeMap<InputNo, bool>,
    /// Not read before.
    deaf_until_us: u64,
}

/// What a primary holds back until `release` is released.
struct Held {
    release: InputNo,
    output: Output,
    query: bool,
}

#[derive(Default)]
struct Primary {
    machine: Numbered<Xenstore>,
    held: VecDeque<Held>,
    /// The next input of the intake.
    next: InputNo,
    last_command: InputNo,
    quarantine: BTreeSet<InputNo>,
}

/// Outputs to the host that it has not read yet.
type Ring = VecDeque<(Output, bool)>;

/// See the module.
pub(crate) struct Toy {
    pub(crate) judge: Judge,
    pub(crate) sampler: Sampler,
    pub(crate) clients: Vec<SimClient>,
    pub(crate) now_us: u64,
    pub(crate) failovers: u64,
    rng: Rng,
    doors: BTreeMap<ConnId, Door>,
    conns: Vec<Option<ConnId>>,
    due_us: Vec<u64>,
    last_conn: u64,
    listening: BTreeSet<DomId>,
    /// All inputs, encoded; number 1 comes first.
    inputs: Vec<Rc<[u8]>>,
    /// Answered inputs, and the last event or effect that was delivered.
    answered: BTreeSet<InputNo>,
    delivered: u64,
    primary: Primary,
    ring: Ring,
    /// The log that every standby has: logged inputs up to here.
    released: InputNo,
    /// State and undelivered outputs of the standbys.
    standby: Numbered<Xenstore>,
    kept: Vec<Output>,
    standby_next: InputNo,
    quarantine: BTreeSet<InputNo>,
    /// Percent of steps in which the primary dies.
    pub(crate) crash_per_mille: usize,
    pub(crate) quarantines: bool,
    /// A slip of the host, and from when on; gone once it was made.
    pub(crate) sabotage: Option<(Sabotage, u64)>,
}

impl Toy {
    pub(crate) fn new(seed: u64, clients: Vec<SimClient>, keys: u32) -> Self {
        let mut toy = Self {
            judge: Judge::new(0),
            sampler: Sampler::new(seed, keys, 24, 60),
            now_us: 0,
            failovers: 0,
            rng: Rng::new(seed ^ 0x746f_7921),
            doors: BTreeMap::new(),
            conns: vec![None; clients.len()],
            due_us: vec![0; clients.len()],
            clients,
            last_conn: 0,
            listening: BTreeSet::from([DomId(0)]),
            inputs: Vec::new(),
            answered: BTreeSet::new(),
            delivered: 0,
            primary: Primary { next: InputNo(1), ..Primary::default() },
            ring: Ring::new(),
            released: InputNo(0),
            standby: Numbered::default(),
            kept: Vec::new(),
            standby_next: InputNo(1),
            quarantine: BTreeSet::new(),
            crash_per_mille: 10,
            quarantines: true,
            sabotage: None,
        };
        toy.admit(&Input::Boot);
        toy
    }

    fn admit(&mut self, input: &Input<'_>) -> InputNo {
        let no = InputNo(self.inputs.len() as u64 + 1);
        let mut bytes = Vec::new();
        input.encode(no, &mut bytes);
        self.judge.admitted(no, &bytes, self.now_us);
        self.inputs.push(bytes.into());
        no
    }

    fn bytes(&self, no: InputNo) -> Option<Rc<[u8]>> {
        self.inputs.get(usize::try_from(no.0 - 1).ok()?).cloned()
    }

    fn is_request(&self, no: InputNo) -> bool {
        self.bytes(no).is_some_and(|bytes| matches!(decode(&bytes), Input::Request { .. }))
    }

    /// Lets the clients work for so long, with a primary that dies now and then;
    /// then heals everything and has the judge finish.
    pub(crate) fn run(&mut self, for_us: u64) -> Result<(), String> {
        while self.now_us < for_us {
            self.turn()?;
        }
        self.crash_per_mille = 0;
        for client in &mut self.clients {
            client.heal(self.now_us);
        }
        self.due_us.fill(0);
        for door in self.doors.values_mut() {
            door.deaf_until_us = 0;
        }
        for _ in 0..20_000 {
            if self.clients.iter().all(SimClient::is_done) && self.judge.waiting() == 0 {
                break;
            }
            self.turn()?;
        }
        if let Some(left) = self.clients.iter().find(|client| !client.is_done()) {
            return Err(format!("{left:?} is not served"));
        }
        self.sampler.end().map_err(|fault| fault.why)?;
        match self.judge.finish(self.now_us) {
            [] => Ok(()),
            [first, ..] => Err(first.to_string()),
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        let next = self.due_us.iter().copied().min().unwrap_or(0);
        self.now_us = next.clamp(self.now_us + 1, self.now_us + 400);
        for at in 0..self.clients.len() {
            if self.due_us[at] <= self.now_us {
                self.wake(at)?;
            }
        }
        let conns: Vec<ConnId> = self.doors.keys().copied().collect();
        for conn in conns {
            self.pump(conn);
        }
        if self.rng.below(1000) < self.crash_per_mille {
            self.fail_over();
        }
        for _ in 0..self.rng.below(4) {
            self.work();
        }
        if self.rng.percent(40) {
            self.release();
        }
        if self.rng.percent(60) {
            self.read_ring();
        }
        self.send()
    }

    fn wake(&mut self, at: usize) -> Result<(), String> {
        loop {
            let action = self.clients[at].wake(self.now_us);
            for event in self.clients[at].take_register_events() {
                let id = self.clients[at].id();
                self.sampler.note(id, &event).map_err(|fault| fault.why)?;
            }
            match action {
                Action::Wait { until_us } => {
                    self.due_us[at] = until_us;
                    return Ok(());
                }
                Action::Connect => {
                    let domid = self.clients[at].domid();
                    if !self.listening.contains(&domid) {
                        self.clients[at].refused(self.now_us);
                        continue;
                    }
                    self.last_conn += 1;
                    let conn = ConnId(self.last_conn);
                    let door = Door { client: at, domid, ..Door::default() };
                    self.doors.insert(conn, door);
                    self.conns[at] = Some(conn);
                    self.admit(&Input::Open { conn, domid });
                    self.clients[at].connected(self.now_us);
                }
                Action::Send(bytes) => {
                    if let Some(door) = self.conns[at].and_then(|c| self.doors.get_mut(&c)) {
                        door.inbox.extend_from_slice(&bytes);
                    }
                }
                Action::StopReading { until_us } => {
                    if let Some(door) = self.conns[at].and_then(|c| self.doors.get_mut(&c)) {
                        door.deaf_until_us = until_us;
                    }
                }
                Action::HangUp => {
                    if let Some(conn) = self.conns[at].take() {
                        self.judge.closed(conn, Closer::Client, self.now_us);
                        self.pump(conn);
                        self.doors.remove(&conn);
                        self.admit(&Input::Close { conn });
                    }
                }
            }
        }
    }

    fn pump(&mut self, conn: ConnId) {
        let mut closes = false;
        loop {
            let Some(door) = self.doors.get_mut(&conn) else { return };
            if door.under_way.len() >= OUTSTANDING {
                return;
            }
            let mut framer = door.framer;
            match framer.step(&door.inbox) {
                Step::NeedMore(_) => break,
                Step::Skip(len) => drop(door.inbox.drain(..len)),
                Step::Close(_) => {
                    closes = true;
                    break;
                }
                Step::Oversized(header) => {
                    if !door.under_way.is_empty() {
                        return;
                    }
                    wire::error_frame(Errno::E2BIG, header.req_id, header.tx_id, &mut door.outbox);
                    door.inbox.drain(..HEADER_LEN);
                }
                Step::Frame(len) => {
                    let frame = &door.inbox[..len];
                    let query = Xenstore::classify(&Input::Request { conn, frame }) == Class::Query;
                    if !query && door.under_way.values().any(|query| *query) {
                        return;
                    }
                    let frame: Vec<u8> = door.inbox.drain(..len).collect();
                    let no = self.admit(&Input::Request { conn, frame: &frame });
                    if let Some(door) = self.doors.get_mut(&conn) {
                        door.under_way.insert(no, query);
                    }
                }
            }
            if let Some(door) = self.doors.get_mut(&conn) {
                door.framer = framer;
            }
        }
        if closes {
            self.end(conn);
        }
    }

    fn end(&mut self, conn: ConnId) {
        let Some(door) = self.doors.remove(&conn) else { return };
        self.admit(&Input::Close { conn });
        let client = &mut self.clients[door.client];
        let provoked = client.provoked();
        self.judge.closed(conn, Closer::Host { provoked }, self.now_us);
        client.closed(self.now_us);
        self.conns[door.client] = None;
        self.due_us[door.client] = 0;
    }

    /// The primary takes an input.
    fn work(&mut self) {
        let no = self.primary.next;
        let Some(bytes) = self.bytes(no) else { return };
        let input = decode(&bytes);
        let class = Xenstore::classify(&input);
        let quarantined = self.primary.quarantine.contains(&no);
        let mut outputs = Vec::new();
        let last_command = self.primary.last_command;
        let query = class == Class::Query;
        let mut machine = std::mem::take(&mut self.primary.machine);
        if query && quarantined {
            let mut other = Numbered::<Xenstore>::default();
            other.apply(no, &input, true, &mut outputs).expect("sound");
        } else if query {
            machine.query(no, &input, &mut outputs).expect("sound");
        } else {
            machine.apply(no, &input, quarantined, &mut outputs).expect("sound");
        }
        let class = if quarantined && !query { Class::Command } else { class };
        self.primary.machine = machine;
        self.primary.next = no.next();
        if class == Class::Command && no > self.released {
            self.primary.last_command = no;
        }
        for output in outputs {
            let release = match (class, &output) {
                (Class::Query, _) => last_command,
                (Class::Tentative, Output::Reply { .. }) => InputNo(0),
                (Class::Opening, Output::Reply { .. }) => last_command,
                _ => no,
            };
            self.hold(Held { release, output, query });
        }
    }

    fn hold(&mut self, held: Held) {
        let conn = conn_of(&held.output);
        let waits = self.primary.held.iter().any(|other| conn_of(&other.output) == conn);
        if held.release <= self.released && !waits {
            self.ring.push_back((held.output, held.query));
        } else {
            self.primary.held.push_back(held);
        }
    }

    /// Standbys get some of the log.
    fn release(&mut self) {
        let last = InputNo(self.primary.next.0 - 1);
        if last <= self.released {
            return;
        }
        let span = usize::try_from(last.0 - self.released.0).unwrap_or(0);
        let to = InputNo(self.released.0 + 1 + self.rng.below(span) as u64);
        self.standby_to(to);
        self.released = to;
        while self.primary.held.front().is_some_and(|held| held.release <= to) {
            let Some(held) = self.primary.held.pop_front() else { break };
            self.ring.push_back((held.output, held.query));
        }
    }

    fn standby_to(&mut self, to: InputNo) {
        let mut standby = std::mem::take(&mut self.standby);
        let mut outputs = Vec::new();
        while self.standby_next <= to {
            let no = self.standby_next;
            let quarantined = self.quarantine.contains(&no);
            let Some(bytes) = self.bytes(no) else { break };
            let input = decode(&bytes);
            if Xenstore::classify(&input) != Class::Query {
                standby.apply(no, &input, quarantined, &mut outputs).expect("sound");
            }
            self.standby_next = no.next();
        }
        self.standby = standby;
        self.kept.append(&mut outputs);
        let (answered, delivered) = (&self.answered, self.delivered);
        self.kept.retain(|output| match output {
            Output::Reply { input, .. } => !answered.contains(input),
            Output::Event { no, .. } | Output::Effect { no, .. } => no.0 > delivered,
        });
    }

    /// The primary dies; a standby, perhaps with more of the log, takes over.
    fn fail_over(&mut self) {
        self.failovers += 1;
        let read = self.rng.below(self.ring.len() + 1);
        self.ring.truncate(read);
        self.read_ring();
        // A primary that reads the intake again is behind its log.
        let proposed = (self.primary.next.0 - 1).max(self.released.0);
        let span = usize::try_from(proposed - self.released.0).unwrap_or(0);
        let to = InputNo(self.released.0 + self.rng.below(span + 1) as u64);
        self.standby_to(to);
        // The log ends with a logged input.
        self.released = self.standby.last_input();
        self.standby_next = self.released.next();
        let next = self.standby_next;
        // From the oldest input without an answer.
        let oldest = (1..=self.inputs.len() as u64)
            .map(InputNo)
            .find(|no| !self.answered.contains(no) && self.is_request(*no));
        if self.quarantines && self.rng.percent(30) {
            let suspect = if self.rng.percent(50) { Some(next) } else { oldest };
            let suspect = suspect.filter(|no| {
                let query = self.bytes(*no).map(|bytes| Xenstore::classify(&decode(&bytes)));
                let logged = *no <= self.released && query != Some(Class::Query);
                self.is_request(*no) && !self.answered.contains(no) && !logged
            });
            self.quarantine.extend(suspect);
        }
        for no in &self.quarantine {
            self.judge.quarantined(*no, self.now_us);
        }
        self.judge.promoted(self.released, self.now_us);
        self.judge.replica_state(self.released, self.standby.digest(), self.now_us);
        self.primary = Primary {
            machine: self.standby.clone(),
            held: VecDeque::new(),
            next: oldest.unwrap_or(next).min(next),
            last_command: InputNo(0),
            quarantine: self.quarantine.clone(),
        };
        self.ring = self.kept.iter().map(|output| (output.clone(), false)).collect();
    }

    fn read_ring(&mut self) {
        let ring = std::mem::take(&mut self.ring);
        let mut outputs: Vec<Output> = Vec::new();
        for (output, _) in ring {
            let new = match &output {
                Output::Reply { input, .. } => self.answered.insert(*input),
                Output::Event { no, .. } | Output::Effect { no, .. } => {
                    let new = no.0 > self.delivered;
                    self.delivered = self.delivered.max(no.0);
                    new
                }
            };
            if new {
                outputs.push(output);
            }
        }
        if let Some((sabotage, from_us)) = self.sabotage
            && self.now_us >= from_us
            && !outputs.is_empty()
            && sabotage(&mut outputs, &mut self.rng)
        {
            self.sabotage = None;
        }
        for output in outputs {
            self.deliver(output);
        }
    }

    fn deliver(&mut self, output: Output) {
        match output {
            Output::Reply { input, conn, frame } => {
                if let Some(door) = self.doors.get_mut(&conn) {
                    door.under_way.remove(&input);
                    door.outbox.extend_from_slice(&frame);
                }
            }
            Output::Event { conn, frame, .. } => {
                if let Some(door) = self.doors.get_mut(&conn) {
                    door.outbox.extend_from_slice(&frame);
                }
            }
            Output::Effect { bytes, .. } => {
                self.judge.effect(&bytes, self.now_us);
                match Effect::decode(&bytes) {
                    Ok(Effect::DomainIntroduced { domid, .. }) => {
                        self.listening.insert(domid);
                    }
                    Ok(Effect::DomainReleased { domid }) => {
                        self.listening.remove(&domid);
                        let theirs: Vec<ConnId> = self
                            .doors
                            .iter()
                            .filter(|(_, door)| door.domid == domid)
                            .map(|(conn, _)| *conn)
                            .collect();
                        for conn in theirs {
                            self.end(conn);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self) -> Result<(), String> {
        let conns: Vec<ConnId> = self.doors.keys().copied().collect();
        for conn in conns {
            let Some(door) = self.doors.get_mut(&conn) else { continue };
            if door.outbox.is_empty() || door.deaf_until_us > self.now_us {
                continue;
            }
            // Pieces of any size.
            let len = match self.rng.percent(10) {
                true => 1 + self.rng.below(door.outbox.len()),
                false => door.outbox.len(),
            };
            let bytes: Vec<u8> = door.outbox.drain(..len).collect();
            let at = door.client;
            self.judge.delivered(conn, &bytes, self.now_us);
            self.clients[at].hear(&bytes, self.now_us).map_err(|complaint| {
                format!("{complaint}\n{}", self.clients[at].transcript().join("\n"))
            })?;
            self.wake(at)?;
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Input<'_> {
    Input::decode(&mut state_machine::Reader::new(bytes)).expect("was encoded").1
}

pub(super) fn conn_of(output: &Output) -> Option<ConnId> {
    match output {
        Output::Reply { conn, .. } | Output::Event { conn, .. } => Some(*conn),
        Output::Effect { .. } => None,
    }
}
