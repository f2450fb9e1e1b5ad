//! The host as its own client: what it has to ask of the component itself goes
//! the way of every request, through the intake and the log.

use std::collections::VecDeque;

use state_machine::{ConnId, DomId, Input};
use xenstore::wire::{self, Errno, MessageType};

use crate::events::{Events, Tag};
use crate::inlet::Inlet;

/// Requests under way at once.
const OUTSTANDING: usize = 64;

/// Is told whether all requests succeeded, or how many failed and how.
pub(crate) type Done = Box<dyn FnOnce(Result<(), String>)>;

/// Requests of the host, in order, on one connection.
#[derive(Default)]
pub(crate) struct InnerClient {
    conn: Option<ConnId>,
    opened: bool,
    todo: VecDeque<Vec<u8>>,
    under_way: usize,
    done: u64,
    errors: u64,
    first_error: Option<String>,
    /// Whoever waits until all is done.
    caller: Option<Done>,
}

impl InnerClient {
    /// Whether it is at work.
    pub(crate) fn is_busy(&self) -> bool {
        self.conn.is_some()
    }

    /// Whether this connection is the host's own.
    pub(crate) fn owns(&self, conn: ConnId) -> bool {
        self.conn == Some(conn)
    }

    /// Begins to ask `requests` on the fresh connection `conn`; `caller` hears
    /// when all are answered.
    pub(crate) fn begin(
        &mut self,
        conn: ConnId,
        requests: VecDeque<Vec<u8>>,
        caller: Option<Done>,
    ) {
        *self = Self { conn: Some(conn), todo: requests, caller, ..Self::default() };
    }

    /// The requests that set the quotas as configured, and the limit on the whole store.
    pub(crate) fn quota_requests(quotas: &[(&'static str, u32)]) -> VecDeque<Vec<u8>> {
        quotas
            .iter()
            .map(|(name, value)| {
                let mut frame = Vec::new();
                // CONTROL would not take 0, no limit.
                let payload = format!("{name}\0{value}\0");
                wire::frame(MessageType::SetQuota, 0, 0, payload.as_bytes(), &mut frame);
                frame
            })
            .collect()
    }

    /// Hands in what it can; to be called again after each answer, and when the
    /// intake has room again.
    pub(crate) fn go_on(&mut self, inlet: &mut Inlet) {
        let Some(conn) = self.conn else { return };
        if !self.opened {
            if inlet.push(&Input::Open { conn, domid: DomId(0) }).is_err() {
                return;
            }
            self.opened = true;
        }
        while self.under_way < OUTSTANDING {
            let Some(frame) = self.todo.front() else { break };
            if inlet.push(&Input::Request { conn, frame }).is_err() {
                return;
            }
            self.under_way += 1;
            self.todo.pop_front();
        }
        if self.todo.is_empty() && self.under_way == 0 && inlet.push(&Input::Close { conn }).is_ok()
        {
            self.conn = None;
            self.tell_caller();
        }
    }

    /// An answer came.
    pub(crate) fn answered(&mut self, frame: &[u8], events: &Events) {
        self.under_way = self.under_way.saturating_sub(1);
        self.done += 1;
        let error = wire::split(frame)
            .filter(|(header, _)| header.kind == MessageType::Error.to_u32())
            .map(|(_, payload)| payload);
        if let Some(payload) = error {
            self.errors += 1;
            let name = Errno::from_name(payload)
                .map_or_else(|| String::from_utf8_lossy(payload).into_owned(), |e| e.to_string());
            let text = format!("request {} of the host itself was answered {name}", self.done);
            events.warn(&[Tag::Xenstore], text.clone());
            self.first_error.get_or_insert(text);
        }
    }

    fn tell_caller(&mut self) {
        let Some(caller) = self.caller.take() else { return };
        caller(match &self.first_error {
            None => Ok(()),
            Some(first) => {
                Err(format!("{} of {} requests failed; the first: {first}", self.errors, self.done))
            }
        });
    }
}
