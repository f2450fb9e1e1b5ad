//! The bare state machine, without any process around it.

use state_machine::{Class, ConnId, DomId, Input, InputNo, Numbered, Output, StateMachine};
use xenstore::wire::{self, Header, MessageType};

use super::CONNECTIONS;
use super::endpoint::{Answer, Endpoint, EndpointError};
use super::op::ConnAt;
use crate::client::Event;

/// How often the machine is written out and read back.
const RESTORE_EVERY: u64 = 997;

/// A state machine that is given requests directly. From time to time it goes on
/// from its own snapshot, and a second machine that never does has to agree.
pub struct MachineEndpoint<M> {
    machine: Numbered<M>,
    unbroken: Numbered<M>,
    last_input: InputNo,
    last_conn: u64,
    conns: Vec<ConnId>,
    events: Vec<Vec<Event>>,
    outputs: Vec<Output>,
}

fn failed(why: impl ToString) -> EndpointError {
    EndpointError::Machine(why.to_string())
}

impl<M: StateMachine> MachineEndpoint<M> {
    /// A new machine with the connections and guests of a run.
    ///
    /// # Errors
    /// [`EndpointError::Machine`] when it refuses them.
    pub fn new() -> Result<Self, EndpointError> {
        let mut endpoint = Self {
            machine: Numbered::default(),
            unbroken: Numbered::default(),
            last_input: InputNo(0),
            last_conn: 0,
            conns: Vec::new(),
            events: vec![Vec::new(); CONNECTIONS.len()],
            outputs: Vec::new(),
        };
        endpoint.apply(&Input::Boot)?;
        let control = endpoint.open(0)?;
        for who in CONNECTIONS.iter().filter(|who| who.domid != 0) {
            let payload = format!("{0}\x001\x00{0}\0", who.domid);
            let answer =
                endpoint.send(control, MessageType::Introduce.to_u32(), 0, payload.as_bytes());
            if !answer.is_ok() {
                return Err(failed(format!("INTRODUCE: {answer:?}")));
            }
        }
        for who in CONNECTIONS {
            let conn = endpoint.open(who.domid)?;
            endpoint.conns.push(conn);
        }
        endpoint.apply(&Input::Close { conn: control })?;
        endpoint.route()?;
        Ok(endpoint)
    }

    fn open(&mut self, domid: u16) -> Result<ConnId, EndpointError> {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let domid = DomId(domid);
        self.apply(&Input::Open { conn, domid })?;
        Ok(conn)
    }

    fn apply(&mut self, input: &Input<'_>) -> Result<(), EndpointError> {
        self.last_input = self.last_input.next();
        let no = self.last_input;
        if M::classify(input) == Class::Query {
            let digest = self.machine.digest();
            self.machine.query(no, input, &mut self.outputs).map_err(failed)?;
            if self.machine.digest() != digest {
                return Err(failed(format!("{input:?} is a query and changed the state")));
            }
            return Ok(());
        }
        self.machine.apply(no, input, false, &mut self.outputs).map_err(failed)?;
        let mut other = Vec::new();
        self.unbroken.apply(no, input, false, &mut other).map_err(failed)?;
        if self.machine.digest() != self.unbroken.digest() {
            return Err(failed(format!("{input:?}: the digest differs after a restored snapshot")));
        }
        if no.0.is_multiple_of(RESTORE_EVERY) {
            self.restore()?;
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<(), EndpointError> {
        let mut bytes = Vec::new();
        Numbered::<M>::encode(&self.machine.freeze(), &mut bytes);
        let mut reader = state_machine::Reader::new(&bytes);
        self.machine = Numbered::restore(&mut reader).map_err(failed)?;
        if self.machine.digest() != self.unbroken.digest() {
            return Err(failed("a snapshot restores to another digest"));
        }
        Ok(())
    }

    fn send(&mut self, conn: ConnId, kind: u32, tx_id: u32, payload: &[u8]) -> Answer {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let req_id = 7;
        let header = Header { kind, req_id, tx_id, len };
        let mut frame = header.encode().to_vec();
        frame.extend_from_slice(payload);
        if let Err(error) = self.apply(&Input::Request { conn, frame: &frame }) {
            return Answer::Dead(error.to_string());
        }
        match self.route_reply(conn) {
            Ok(Some((header, payload))) if header.req_id == req_id => {
                Answer::of_frame(&header, &payload)
            }
            Ok(Some((header, _))) => Answer::Dead(format!("answer to {}", header.req_id)),
            Ok(None) => Answer::Dead("no answer".to_owned()),
            Err(error) => Answer::Dead(error.to_string()),
        }
    }

    /// Takes the outputs; the reply to `conn`, if there is one.
    fn route_reply(&mut self, to: ConnId) -> Result<Option<(Header, Vec<u8>)>, EndpointError> {
        let mut reply = None;
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Reply { conn, frame, .. } => {
                    let (header, payload) =
                        wire::split(&frame).ok_or_else(|| failed("a broken reply frame"))?;
                    if conn == to && reply.replace((header, payload.to_vec())).is_some() {
                        return Err(failed("two replies to one request"));
                    }
                }
                Output::Event { conn, frame, .. } => {
                    let (_, payload) =
                        wire::split(&frame).ok_or_else(|| failed("a broken event frame"))?;
                    let event =
                        Event::parse(payload).ok_or_else(|| failed("a broken watch event"))?;
                    if let Some(at) = self.conns.iter().position(|known| *known == conn) {
                        self.events[at].push(event);
                    }
                }
                Output::Effect { .. } => {}
            }
        }
        Ok(reply)
    }

    fn route(&mut self) -> Result<(), EndpointError> {
        self.route_reply(ConnId::HOST).map(|_| ())
    }
}

impl<M: StateMachine> Endpoint for MachineEndpoint<M> {
    fn request(&mut self, conn: ConnAt, kind: u32, tx_id: u32, payload: &[u8]) -> Answer {
        self.send(self.conns[conn], kind, tx_id, payload)
    }

    fn events(&mut self) -> Result<Vec<Vec<Event>>, EndpointError> {
        self.route()?;
        Ok(self.events.iter_mut().map(std::mem::take).collect())
    }

    fn reconnect(&mut self, conn: ConnAt) -> Result<(), EndpointError> {
        let who = CONNECTIONS[conn];
        if who.domid == 0 {
            let old = self.conns[conn];
            self.apply(&Input::Close { conn: old })?;
            self.conns[conn] = self.open(0)?;
            self.route()
        } else {
            let kind = MessageType::ResetWatches.to_u32();
            match self.request(conn, kind, 0, b"\0") {
                answer if answer.is_ok() => Ok(()),
                answer => Err(failed(format!("RESET_WATCHES: {answer:?}"))),
            }
        }
    }
}
