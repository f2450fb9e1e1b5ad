//! The clients of the simulated host, and the sockets between: those are real.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::event::{Timespec, epoll};
use rustix::io::ioctl_fionread;
use state_machine::{ConnId, DomId};

use super::checkers::Checker;
use super::client::{Action, SimClient};
use super::judge::Closer;
use super::world::World;

/// Bytes that wait at most in a socket of a client that does not read.
const UNREAD_BYTES: u64 = 32 * 1024;

/// A client with its connection.
pub(super) struct Person {
    pub(super) client: SimClient,
    stream: Option<UnixStream>,
    /// Which of its connections this is.
    attempt: u64,
    /// What the host calls the connection, once it has accepted it.
    pub(super) conn: Option<ConnId>,
    unsent: Vec<u8>,
    /// It does not read before then.
    reads_from_us: u64,
    pub(super) next_us: u64,
    /// The host has told that it cannot go on with its connection.
    pub(super) is_abandoned: bool,
}

impl Person {
    pub(super) fn new(client: SimClient) -> Self {
        Self {
            client,
            stream: None,
            attempt: 0,
            conn: None,
            unsent: Vec::new(),
            reads_from_us: 0,
            next_us: u64::MAX,
            is_abandoned: false,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether it still waits at the door for the connection of this number.
    pub(super) fn knocks(&self, attempt: u64) -> bool {
        self.attempt == attempt && self.stream.is_some()
    }

    /// It reads again, as soon as something comes.
    pub(super) fn resume_reading(&mut self) {
        self.reads_from_us = 0;
    }

    /// Whether so much waits in its socket that it has to be read. How much more
    /// would fit is the kernel's affair, and not the same in each run.
    fn is_full(&self) -> bool {
        let unread = self.stream.as_ref().and_then(|stream| ioctl_fionread(stream).ok());
        unread.is_some_and(|bytes| bytes > UNREAD_BYTES)
    }

    /// Writes what the socket takes.
    fn flush(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match stream.write(&self.unsent[sent..]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Full, or closed: reading tells.
                Err(_) => break,
            }
        }
        self.unsent.drain(..sent);
        sent > 0
    }
}

impl World {
    /// A client does what it wants to do now.
    pub(super) fn person_acts(&mut self, index: usize) {
        let now_us = self.now_us();
        self.person_reads(index);
        for _ in 0..64 {
            let action = self.people[index].client.wake(now_us);
            match action {
                Action::Connect => self.connect(index),
                Action::Send(bytes) => {
                    let length = bytes.len() as u64;
                    self.people[index].unsent.extend_from_slice(&bytes);
                    self.people[index].flush();
                    self.note("client", index as u64, "sends", [length, 0, 0, 0]);
                    self.wake_host_for_socket();
                }
                Action::StopReading { until_us } => {
                    self.people[index].reads_from_us = until_us;
                    self.call_person(index, until_us);
                }
                Action::HangUp => self.hang_up(index),
                Action::Wait { until_us } => {
                    if until_us != u64::MAX {
                        self.call_person(index, until_us.max(now_us + 1));
                    }
                    break;
                }
            }
        }
        self.look_at_registers(index);
    }

    fn wake_host_for_socket(&mut self) {
        let delay = self.delay(1, 30);
        self.call_host(self.now_us() + delay);
    }

    /// Where a domain's clients connect.
    pub(super) fn socket_path(&self, domid: DomId) -> PathBuf {
        match domid {
            DomId(0) => self.directory.path().join("socket"),
            DomId(other) => self.directory.path().join(format!("domains/{other}.socket")),
        }
    }

    fn connect(&mut self, index: usize) {
        let now_us = self.now_us();
        let domid = self.people[index].client.domid();
        let stream = UnixStream::connect(self.socket_path(domid)).and_then(|stream| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let person = &mut self.people[index];
        let Ok(stream) = stream else {
            person.client.refused(now_us);
            // Who knocked there and left before he was heard is never accepted.
            self.knocking.remove(&domid);
            return;
        };
        let data = epoll::EventData::new_u64(index as u64);
        if epoll::add(&self.people_epoll, &stream, data, epoll::EventFlags::IN).is_err() {
            person.client.refused(now_us);
            return;
        }
        person.attempt += 1;
        person.is_abandoned = false;
        person.stream = Some(stream);
        person.conn = None;
        person.unsent.clear();
        person.reads_from_us = 0;
        person.client.connected(now_us);
        let attempt = person.attempt;
        self.knocking.entry(domid).or_default().push_back((index, attempt));
        self.note("client", index as u64, "connects", [attempt, domid.0.into(), 0, 0]);
        self.wake_host_for_socket();
    }

    /// The host has accepted the oldest connection of this domain.
    pub(super) fn connection_accepted(&mut self, domid: DomId, conn: ConnId) {
        self.accepted.insert(conn);
        self.watch.count(Checker::Front, 1);
        let knocked = self.knocking.get_mut(&domid).and_then(|queue| queue.pop_front());
        let Some((index, attempt)) = knocked else {
            self.flaw("front", format_args!("{conn} was accepted, and nobody knocked"));
            return;
        };
        let person = &mut self.people[index];
        if person.attempt == attempt && person.stream.is_some() {
            person.conn = Some(conn);
        }
    }

    /// A client closes its connection, whatever is under way.
    pub(super) fn hang_up(&mut self, index: usize) {
        let now_us = self.now_us();
        self.note("client", index as u64, "hangs up", [0; 4]);
        let person = &mut self.people[index];
        person.stream = None;
        if let Some(conn) = person.conn.take() {
            self.judge.closed(conn, Closer::Client, now_us);
        }
        self.wake_host_for_socket();
    }

    /// Clients take what has come for them.
    pub(super) fn people_listen(&mut self) {
        // All at once: who is disconnected hears of it before the host can be back.
        let mut ready = Vec::with_capacity(self.people.len());
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let space = rustix::buffer::spare_capacity(&mut ready);
        if epoll::wait(&self.people_epoll, space, Some(&none)).is_err() {
            return;
        }
        let mut indexes: Vec<_> = ready.iter().map(|event| event.data.u64() as usize).collect();
        // A host that ends closes its sockets in no order that could be repeated.
        indexes.sort_unstable();
        for index in indexes {
            self.person_reads(index);
        }
    }

    fn person_reads(&mut self, index: usize) {
        let now_us = self.now_us();
        if self.people[index].reads_from_us > now_us && !self.people[index].is_full() {
            return;
        }
        self.people[index].flush();
        let mut buffer = std::mem::take(&mut self.read_buffer);
        loop {
            let person = &mut self.people[index];
            let Some(stream) = &mut person.stream else { break };
            match stream.read(&mut buffer) {
                Ok(0) => {
                    self.host_hung_up(index);
                    break;
                }
                Ok(len) => {
                    let heard = person.client.hear(&buffer[..len], now_us);
                    let conn = person.conn;
                    self.watch.count(Checker::Client, 1);
                    self.watch.count(Checker::Front, 1);
                    self.note("client", index as u64, "hears", [len as u64, 0, 0, 0]);
                    match conn {
                        Some(conn) => self.judge.delivered(conn, &buffer[..len], now_us),
                        None => self.flaw("front", "an answer before the connection is accepted"),
                    }
                    if let Err(complaint) = heard {
                        self.flaw("client", complaint);
                    }
                    let delay = self.delay(1, 60);
                    self.call_person(index, now_us + delay);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.host_hung_up(index);
                    break;
                }
            }
        }
        self.read_buffer = buffer;
    }

    /// The host has closed a connection.
    fn host_hung_up(&mut self, index: usize) {
        let now_us = self.now_us();
        self.note("client", index as u64, "is disconnected", [0; 4]);
        let person = &mut self.people[index];
        person.stream = None;
        // A slow reader may rightly be given up.
        let abandoned = std::mem::take(&mut person.is_abandoned);
        let provoked = abandoned || person.client.provoked() || self.lost || self.host.is_none();
        if let Some(conn) = person.conn.take() {
            self.watch.count(Checker::BrokenConnection, 1);
            self.judge.closed(conn, Closer::Host { provoked }, now_us);
        } else {
            // Never accepted: it is not in the queue any more either.
            let (attempt, domid) = (person.attempt, person.client.domid());
            if let Some(queue) = self.knocking.get_mut(&domid) {
                queue.retain(|knocking| *knocking != (index, attempt));
            }
        }
        let person = &mut self.people[index];
        person.client.closed(now_us);
        let delay = self.delay(1_000, 100_000);
        self.call_person(index, now_us + delay);
    }

    /// The black-box checker sees what this client saw of the shared nodes.
    fn look_at_registers(&mut self, index: usize) {
        let person = &mut self.people[index];
        let (id, events) = (person.client.id(), person.client.take_register_events());
        for event in events {
            if let Err(fault) = self.sampler.note(id, &event) {
                self.flaw("linearizability", format_args!("{fault:?}"));
                return;
            }
        }
    }
}
