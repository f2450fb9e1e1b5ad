//! Simulated clients: bytes in, bytes out, time from outside. Whoever drives
//! them moves the bytes through real sockets.
//!
//! A client checks what only it can: that what it hears are frames, that answers
//! come in the order of its requests and repeat their ids, that events bear a
//! token of its own, and what it alone may know of the store's content.

mod line;
mod population;
mod script;
mod scripts;

use state_machine::DomId;
use xenstore::wire::MessageType;

use crate::rng::Rng;
use line::{Heard, Line};
use script::{Script, Turn};

pub use population::{Kind, Population};

/// What a client wants from whoever drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to the socket of [`SimClient::domid`]; then
    /// [`SimClient::connected`] or [`SimClient::refused`] is to be called.
    Connect,
    /// Send these bytes; what the socket does not take at once, later.
    Send(Vec<u8>),
    /// Do not read from the socket until then, simulated microseconds.
    StopReading {
        /// Until when.
        until_us: u64,
    },
    /// Close the connection at once, whatever is unsent or unread. Nothing is to
    /// be called for that.
    HangUp,
    /// Nothing to do before then, unless something is heard.
    Wait {
        /// Until when, simulated microseconds.
        until_us: u64,
    },
}

/// What a request on a register is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    /// Writes the value; no value is written twice.
    Write(u64),
    /// Reads.
    Read,
}

/// Something that happened to a register, from a client's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterEvent {
    /// A request was sent.
    Invoked {
        /// The client's number of it.
        op: u64,
        /// The register.
        key: u32,
        /// What it is to do.
        call: RegisterCall,
    },
    /// Its answer came; `seen` is what a read saw.
    Returned {
        /// The client's number of it.
        op: u64,
        /// What a read saw; `None` for a register that is not there.
        seen: Option<u64>,
    },
    /// Its answer will never come.
    Unknown {
        /// The client's number of it.
        op: u64,
    },
}

/// Something that a client must never hear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client {client} ({kind}): {what}")]
pub struct Complaint {
    /// Who complains.
    pub client: u32,
    /// What sort of client that is.
    pub kind: &'static str,
    /// What was wrong.
    pub what: String,
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// None; to be tried (again) then.
    Down {
        until_us: u64,
    },
    /// Asked for.
    Connecting,
    Up,
}

/// The last fresh request, after everything was healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finale {
    /// Not yet.
    Before,
    /// To be asked.
    Due,
    /// Asked.
    Asked,
    /// Answered.
    Done,
}

/// Time until a client that was refused or closed tries again.
const RETRY_US: u64 = 50_000;

/// A simulated client.
pub struct SimClient {
    id: u32,
    kind: Kind,
    domid: DomId,
    rng: Rng,
    line: Line,
    script: Box<dyn Script>,
    link: Link,
    next_us: u64,
    finale: Finale,
    /// Close the connection with the next action.
    hang_up: bool,
    /// It has sent what no client sends on its present connection.
    provoked: bool,
    /// It has left its present connection unread for a while.
    deaf: bool,
    registers: Vec<RegisterEvent>,
}

impl std::fmt::Debug for SimClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimClient")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("link", &self.link)
            .field("due", &self.line.due())
            .finish_non_exhaustive()
    }
}

impl SimClient {
    fn new(id: u32, kind: Kind, domid: DomId, seed: u64, script: Box<dyn Script>) -> Self {
        Self {
            id,
            kind,
            domid,
            rng: Rng::new(seed),
            line: Line::default(),
            script,
            link: Link::Down { until_us: 0 },
            next_us: 0,
            finale: Finale::Before,
            hang_up: false,
            provoked: false,
            deaf: false,
            registers: Vec::new(),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What sort of client it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The domain that it speaks for, and so the socket that it connects to.
    #[must_use]
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// Whether it has given the host reason to close its present connection: it
    /// has sent what no client sends, or did not read.
    #[must_use]
    pub fn provoked(&self) -> bool {
        self.provoked || self.deaf
    }

    /// Requests that were sent, whole or not.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.line.sent
    }

    /// Answers that came.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.line.answered
    }

    /// Events that came.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.line.events
    }

    /// The last frames that it sent (`>`) and heard (`<`), for people.
    #[must_use]
    pub fn transcript(&self) -> Vec<String> {
        self.line.transcript()
    }

    /// What happened to registers since the last call.
    pub fn take_register_events(&mut self) -> Vec<RegisterEvent> {
        std::mem::take(&mut self.registers)
    }

    /// What to do now. To be called at the start, when the time of a
    /// [`Action::Wait`] has come, and after every other call; again and again
    /// until it waits.
    pub fn wake(&mut self, now_us: u64) -> Action {
        match self.link {
            Link::Down { until_us } if until_us > now_us => return Action::Wait { until_us },
            Link::Down { .. } => {
                self.link = Link::Connecting;
                return Action::Connect;
            }
            Link::Connecting => return Action::Wait { until_us: u64::MAX },
            Link::Up => {}
        }
        if std::mem::take(&mut self.hang_up) {
            self.lose(now_us, RETRY_US);
            return Action::HangUp;
        }
        if self.line.has_output() {
            return Action::Send(self.line.take_output());
        }
        let may_end = self.finale == Finale::Due && self.script.is_settled();
        if may_end && self.line.due() == 0 {
            // The daemon's own node: it is always there, or lawfully not.
            self.line.ask(MessageType::Directory.to_u32(), 0, b"/\0", script::FINALE);
            self.finale = Finale::Asked;
            return Action::Send(self.line.take_output());
        }
        if may_end || matches!(self.finale, Finale::Asked | Finale::Done) {
            return Action::Wait { until_us: u64::MAX };
        }
        if self.next_us > now_us {
            return Action::Wait { until_us: self.next_us };
        }
        let turn = self.script.turn(&mut self.line, &mut self.rng, now_us, &mut self.registers);
        match turn {
            Turn::Think { until_us } => self.next_us = until_us.max(now_us + 1),
            Turn::StopReading { until_us } => {
                self.deaf = true;
                return Action::StopReading { until_us };
            }
            Turn::HangUp => self.hang_up = true,
            Turn::Provoke => self.provoked = true,
        }
        if self.line.has_output() {
            return Action::Send(self.line.take_output());
        }
        if self.hang_up {
            return self.wake(now_us);
        }
        Action::Wait { until_us: self.next_us }
    }

    /// The connection stands.
    pub fn connected(&mut self, now_us: u64) {
        self.link = Link::Up;
        (self.provoked, self.deaf) = (false, false);
        self.line.reset();
        self.script.connected();
        self.next_us = now_us;
    }

    /// There is nobody to connect to; it will try again.
    pub fn refused(&mut self, now_us: u64) {
        self.link = Link::Down { until_us: now_us + RETRY_US };
    }

    /// The host has closed the connection; it will connect again. Whether the
    /// host may do so is the judge's to say.
    pub fn closed(&mut self, now_us: u64) {
        self.lose(now_us, RETRY_US);
    }

    fn lose(&mut self, now_us: u64, pause_us: u64) {
        self.line.reset();
        self.script.lost(&mut self.registers);
        self.hang_up = false;
        self.link = Link::Down { until_us: now_us + pause_us };
        if self.finale == Finale::Asked {
            self.finale = Finale::Due;
        }
    }

    /// Everything is healed: no new requests but one, which has to be answered.
    /// Reading must be resumed by whoever drives the client.
    pub fn heal(&mut self, now_us: u64) {
        if self.finale == Finale::Before {
            self.finale = Finale::Due;
        }
        if self.provoked && self.link == Link::Up {
            // Nobody can tell what becomes of a stream that makes no sense.
            self.hang_up = true;
        }
        if let Link::Down { .. } = self.link {
            self.link = Link::Down { until_us: now_us };
        }
        self.next_us = now_us;
    }

    /// Whether its last request is answered, and nothing is under way.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.finale == Finale::Done && self.line.due() == 0
    }

    /// Takes bytes that came.
    ///
    /// # Errors
    /// [`Complaint`] when they are not what a client must hear.
    pub fn hear(&mut self, bytes: &[u8], now_us: u64) -> Result<(), Complaint> {
        self.line.take_in(bytes);
        loop {
            let heard = match self.line.next() {
                Ok(Some(heard)) => heard,
                Ok(None) => return Ok(()),
                // After nonsense, nobody knows which answer is which.
                Err(_) if self.provoked => {
                    self.line.discard();
                    return Ok(());
                }
                Err(what) => return Err(self.complaint(what)),
            };
            let checked = match heard {
                Heard::Event { path, token } => self.script.event(&path, &token),
                Heard::Answer { tag: script::FINALE, .. } => {
                    self.finale = Finale::Done;
                    Ok(())
                }
                Heard::Answer { tag, answer } => {
                    let answer = answer.as_deref().map_err(|errno| *errno);
                    self.script.answer(tag, answer, &mut self.rng, now_us, &mut self.registers)
                }
            };
            if let Err(what) = checked
                && !self.provoked
            {
                return Err(self.complaint(what));
            }
            self.next_us = self.next_us.min(self.script.eager(now_us).unwrap_or(u64::MAX));
        }
    }

    fn complaint(&self, what: String) -> Complaint {
        Complaint { client: self.id, kind: self.kind.name(), what }
    }
}

#[cfg(test)]
mod tests;
