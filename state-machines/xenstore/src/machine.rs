//! The state machine: inputs in, outputs out.

use alloc::vec::Vec;

use state_machine::{
    Class, ConnId, Corruption, Digest, DomId, Input, InputNo, Outputs, RestoreError, ScrubProgress,
    StateMachine,
};

use crate::answer::Answer;
use crate::graves::Graves;
use crate::ops::{control, domains, limits, nodes, transactions, watches};
use crate::quota::Quota;
use crate::scrub::Cursor;
use crate::snapshot;
use crate::state::{Conn, Events, State};
use crate::store::Fail;
use crate::watch::Watch;
use crate::wire::{Errno, HEADER_LEN, Header, MAX_PAYLOAD, MessageType, split};

/// Xen's xenstore.
#[derive(Clone, Debug, Default)]
pub struct Xenstore {
    pub(crate) state: State,
    cursor: Cursor,
    answer: Answer,
    event: Vec<u8>,
    graves: Graves,
}

impl From<State> for Xenstore {
    fn from(state: State) -> Self {
        Self { state, ..Self::default() }
    }
}

impl Clone for Answer {
    /// Scratch memory is not worth copying.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A frozen store; see [`StateMachine::freeze`].
#[derive(Clone, Debug)]
pub struct Snapshot(pub(crate) State);

/// How much of a [`Snapshot`] is encoded; see [`StateMachine::encode_part`].
#[derive(Clone, Debug, Default)]
pub struct SnapshotCursor(snapshot::Cursor);

/// A request taken apart.
struct Request<'a> {
    header: Header,
    kind: MessageType,
    payload: &'a [u8],
}

/// What a frame that is no request is answered with.
struct Refusal {
    header: Header,
    errno: Errno,
}

impl<'a> Request<'a> {
    fn parse(frame: &'a [u8]) -> Result<Self, Refusal> {
        let Some((header, payload)) = split(frame) else {
            let nothing = Header { kind: 0, req_id: 0, tx_id: 0, len: 0 };
            let header = Header::decode(frame).unwrap_or(nothing);
            let too_long = frame.len() > HEADER_LEN + MAX_PAYLOAD;
            let errno = if too_long { Errno::E2BIG } else { Errno::EINVAL };
            return Err(Refusal { header, errno });
        };
        use MessageType::{Error, Removed, WatchEvent};
        match MessageType::from_u32(header.kind) {
            None | Some(WatchEvent | Error | Removed) => {
                Err(Refusal { header, errno: Errno::ENOSYS })
            }
            Some(kind) => Ok(Self { header, kind, payload }),
        }
    }

    /// Whether only the control domain may ask for it.
    fn is_privileged(&self) -> bool {
        use MessageType::{
            Control, GetQuota, Introduce, IsDomainIntroduced, Release, Resume, SetFeature,
            SetQuota, SetTarget,
        };
        matches!(
            self.kind,
            Control
                | GetQuota
                | Introduce
                | IsDomainIntroduced
                | Release
                | Resume
                | SetFeature
                | SetQuota
                | SetTarget
        )
    }

    /// Whether it changes nothing of what is not a transaction's own.
    fn only_asks(&self) -> bool {
        use MessageType::{GetDomainPath, GetFeature, GetQuota, IsDomainIntroduced};
        match self.kind {
            GetDomainPath | GetFeature | GetQuota | IsDomainIntroduced => true,
            MessageType::Control => control::only_asks(self.payload),
            kind => nodes::looks(kind),
        }
    }

    /// The transaction that it belongs to. As in Xen's daemon, WATCH and UNWATCH
    /// never belong to one.
    fn transaction(&self) -> Option<u32> {
        let outside = matches!(self.kind, MessageType::Watch | MessageType::Unwatch);
        Some(self.header.tx_id).filter(|id| *id != 0 && !outside)
    }

    fn class(&self) -> Class {
        let in_transaction = self.header.tx_id != 0;
        match (self.only_asks(), in_transaction) {
            (true, false) => Class::Query,
            (true, true) if self.kind != MessageType::Control => Class::Tentative,
            (false, true) if nodes::alters(self.kind) => Class::Tentative,
            // Nobody else is told of it.
            (false, _) if self.kind == MessageType::Unwatch => Class::Tentative,
            (false, false) if self.kind == MessageType::TransactionStart => Class::Opening,
            _ => Class::Command,
        }
    }

    /// The checks that come before any operation.
    fn admit(&self, state: &State, conn: &Conn) -> Result<(), Errno> {
        if self.is_privileged() && conn.domid != DomId(0) {
            return Err(Errno::EACCES);
        }
        match self.transaction() {
            Some(id) if state.transactions.get(&(conn.id, id)).is_none() => Err(Errno::ENOENT),
            _ => Ok(()),
        }
    }
}

impl Xenstore {
    /// How many requests a domain may have outstanding, for the front doors to
    /// enforce; `None` for no limit.
    #[must_use]
    pub fn outstanding_quota(&self, domid: DomId) -> Option<u32> {
        self.state.limits(domid).get(Quota::Outstanding)
    }

    /// Number of nodes, the special ones not counted.
    #[must_use]
    pub fn node_count(&self) -> u64 {
        self.state.store.nodes()
    }

    /// What the state takes of memory at most, bytes, copies that are frozen or being
    /// freed not counted.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.state.size()
    }

    /// Whether a store with a limit of so many KiB could be made what this one is.
    #[must_use]
    pub fn fits_into(&self, limit_kib: u32) -> bool {
        self.state.fits_into(limit_kib)
    }

    /// Answers a request that only asks.
    fn ask(
        state: &State,
        conn: &Conn,
        request: &Request<'_>,
        answer: &mut Answer,
    ) -> Result<(), Fail> {
        let (payload, out) = (request.payload, answer.payload());
        match request.kind {
            MessageType::GetDomainPath => Ok(domains::domain_path(payload, out)?),
            MessageType::IsDomainIntroduced => Ok(domains::is_introduced(state, payload, out)?),
            MessageType::GetFeature => Ok(limits::get_feature(state, conn, payload, out)?),
            MessageType::GetQuota => Ok(limits::get_quota(state, payload, out)?),
            MessageType::Control => control::ask(state, payload, out),
            kind => {
                let (caller, limits) = (state.domains.caller(conn.domid), state.limits(conn.domid));
                nodes::look(&state.store, &caller, &limits, kind, payload, out)
            }
        }
    }

    /// Does a request; yields a watch that is to fire after the reply.
    fn execute(
        &mut self,
        conn: &Conn,
        request: &Request<'_>,
        answer: &mut Answer,
        events: &mut Events<'_>,
    ) -> Result<Option<Watch>, Fail> {
        let state = &mut self.state;
        let payload = request.payload;
        request.admit(state, conn)?;
        if let Some(id) = request.transaction() {
            if nodes::looks(request.kind) {
                transactions::perform(state, conn, id, request.kind, payload, answer)?;
                return Ok(None);
            }
            if nodes::alters(request.kind) {
                transactions::perform(state, conn, id, request.kind, payload, answer)?;
                answer.acknowledge();
                return Ok(None);
            }
        }
        if request.only_asks() {
            Self::ask(state, conn, request, answer)?;
            return Ok(None);
        }
        let mut registered = None;
        match request.kind {
            MessageType::TransactionStart if request.header.tx_id != 0 => {
                return Err(Errno::EBUSY.into());
            }
            MessageType::TransactionStart => {
                transactions::start(state, conn, answer)?;
                return Ok(None);
            }
            MessageType::TransactionEnd => {
                transactions::end(state, conn, request.header.tx_id, payload, events)?;
            }
            MessageType::Watch => registered = Some(watches::watch(state, conn, payload)?),
            MessageType::Unwatch => watches::unwatch(state, conn, payload)?,
            MessageType::ResetWatches => state.reset_conn(conn.id),
            MessageType::Introduce => domains::introduce(state, payload, events)?,
            MessageType::Release => domains::release(state, payload, events)?,
            MessageType::Resume => domains::resume(state, payload)?,
            MessageType::SetTarget => domains::set_target(state, payload)?,
            MessageType::SetFeature => limits::set_feature(state, payload)?,
            MessageType::SetQuota => limits::set_quota(state, payload)?,
            MessageType::Control => control::order(state, payload, events.out)?,
            kind if nodes::alters(kind) => state.alter(conn, kind, payload, events)?,
            // Those that only ask are answered above.
            _ => return Err(Errno::ENOSYS.into()),
        }
        answer.acknowledge();
        Ok(registered)
    }

    fn request(
        &mut self,
        conn: ConnId,
        frame: &[u8],
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        let mut answer = core::mem::take(&mut self.answer);
        let mut event = core::mem::take(&mut self.event);
        let mut graves = core::mem::take(&mut self.graves);
        graves.free();
        answer.begin();
        let request = match Self::known(&self.state, conn, frame) {
            Ok((conn, request)) => {
                let mut events = Events { out, frame: &mut event, graves: &mut graves };
                let done = self.execute(&conn, &request, &mut answer, &mut events);
                Ok((request.header, done))
            }
            Err(refusal) => Err(refusal),
        };
        let (header, done) = match request {
            Ok((header, done)) => (header, done),
            Err(Refusal { header, errno }) => (header, Err(errno.into())),
        };
        let (result, registered) = match done {
            Ok(registered) => (Ok(()), registered),
            Err(Fail::Errno(errno)) => (Err(errno), None),
            Err(Fail::Corrupt(corruption)) => return Err(corruption),
        };
        out.reply(conn, answer.finish(&header, result));
        if let Some(watch) = registered {
            let mut events = Events { out, frame: &mut event, graves: &mut graves };
            events.send(&watch, &watch.path);
        }
        (self.answer, self.event, self.graves) = (answer, event, graves);
        Ok(())
    }

    /// A request of a known connection.
    fn known<'a>(
        state: &State,
        conn: ConnId,
        frame: &'a [u8],
    ) -> Result<(Conn, Request<'a>), Refusal> {
        let request = Request::parse(frame)?;
        match state.conns.get(&conn) {
            Some(conn) => Ok((*conn, request)),
            None => Err(Refusal { header: request.header, errno: Errno::ENOTCONN }),
        }
    }

    fn exists(&mut self, domid: DomId) {
        if !self.state.domains.is_live(domid) {
            let domain = domains::revive(&mut self.state, domid);
            self.state.domains.put(domain);
            self.state.touch();
        }
    }

    fn open(&mut self, conn: ConnId, domid: DomId) {
        self.state.drop_conn(conn);
        self.exists(domid);
        self.state.conns.insert(conn, Conn { id: conn, domid, last_transaction: 0 });
    }

    fn boot(&mut self, out: &mut dyn Outputs) {
        let mut conns = Vec::new();
        self.state.conns.visit(&mut |id, _| {
            conns.push(*id);
            true
        });
        for conn in conns {
            self.state.drop_conn(conn);
        }
        domains::reconnect(&self.state, out);
    }

    fn gone(&mut self, domid: DomId, out: &mut dyn Outputs) -> Result<(), Corruption> {
        let mut event = core::mem::take(&mut self.event);
        let mut events = Events { out, frame: &mut event, graves: &mut self.graves };
        match domains::gone(&mut self.state, domid, &mut events) {
            Err(Fail::Corrupt(corruption)) => return Err(corruption),
            // No client's mistake can be behind it.
            Ok(()) | Err(Fail::Errno(_)) => {}
        }
        self.event = event;
        Ok(())
    }

    fn shut_down(&mut self, out: &mut dyn Outputs) {
        let mut event = core::mem::take(&mut self.event);
        let mut events = Events { out, frame: &mut event, graves: &mut self.graves };
        domains::shut_down(&self.state, &mut events);
        self.event = event;
    }
}

/// The header of a request, if `input` is one that has a header.
fn asked(input: &Input<'_>) -> Header {
    let nothing = Header { kind: 0, req_id: 0, tx_id: 0, len: 0 };
    match input {
        Input::Request { frame, .. } => Header::decode(frame).unwrap_or(nothing),
        _ => nothing,
    }
}

impl StateMachine for Xenstore {
    type Snapshot = Snapshot;
    type Cursor = SnapshotCursor;

    fn classify(input: &Input<'_>) -> Class {
        match input {
            // What is no request changes nothing.
            Input::Request { frame, .. } => {
                Request::parse(frame).map_or(Class::Query, |request| request.class())
            }
            // Nobody is told of a connection's beginning and end. What they free or take
            // of its domain's quotas, whoever applies them again frees or takes as well.
            Input::Open { .. } | Input::Close { .. } => Class::Tentative,
            _ => Class::Command,
        }
    }

    /// [`Input::Poison`] is reported as corruption: that stops a replica, and
    /// the host finds it dead while it was applying that input.
    fn apply(
        &mut self,
        no: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        match *input {
            Input::Boot => self.boot(out),
            Input::Open { conn, domid } => self.open(conn, domid),
            Input::Close { conn } => self.state.drop_conn(conn),
            Input::Request { conn, frame } => return self.request(conn, frame, out),
            Input::DomainGone { domid } => return self.gone(domid, out),
            Input::DomainExists { domid } => self.exists(domid),
            Input::DomainShutDown => self.shut_down(out),
            Input::Poison => {
                return Err(Corruption { what: alloc::format!("input {no} is poisoned") });
            }
        }
        Ok(())
    }

    fn query(
        &self,
        _no: InputNo,
        input: &Input<'_>,
        out: &mut dyn Outputs,
    ) -> Result<(), Corruption> {
        let Input::Request { conn, frame } = *input else { return Ok(()) };
        let mut answer = Answer::default();
        answer.begin();
        let (header, done) = match Self::known(&self.state, conn, frame) {
            Ok((conn, request)) if request.only_asks() => {
                let admitted = request.admit(&self.state, &conn).map_err(Fail::from);
                let done =
                    admitted.and_then(|()| Self::ask(&self.state, &conn, &request, &mut answer));
                (request.header, done)
            }
            // Not a query: the caller's mistake.
            Ok((_, request)) => (request.header, Err(Errno::EINVAL.into())),
            Err(Refusal { header, errno }) => (header, Err(errno.into())),
        };
        let result = match done {
            Ok(()) => Ok(()),
            Err(Fail::Errno(errno)) => Err(errno),
            Err(Fail::Corrupt(corruption)) => return Err(corruption),
        };
        out.reply(conn, answer.finish(&header, result));
        Ok(())
    }

    fn quarantine(&mut self, _no: InputNo, input: &Input<'_>, out: &mut dyn Outputs) {
        let conn = match *input {
            Input::Request { conn, .. } => conn,
            Input::Poison => ConnId::HOST,
            _ => return,
        };
        let mut answer = Answer::default();
        answer.begin();
        out.reply(conn, answer.finish(&asked(input), Err(Errno::EIO)));
    }

    /// It bears what the request bore, and is of its type or an error.
    fn can_answer(input: &Input<'_>, frame: &[u8]) -> bool {
        let asked = asked(input);
        split(frame).is_some_and(|(header, _)| {
            let kinds = [asked.kind, MessageType::Error.to_u32()];
            (header.req_id, header.tx_id) == (asked.req_id, asked.tx_id)
                && kinds.contains(&header.kind)
        })
    }

    fn can_be_event(frame: &[u8]) -> bool {
        split(frame).is_some_and(|(header, _)| {
            let kind = MessageType::WatchEvent.to_u32();
            (header.kind, header.req_id, header.tx_id) == (kind, 0, 0)
        })
    }

    fn digest(&self) -> Digest {
        self.state.digest()
    }

    fn freeze(&self) -> Self::Snapshot {
        Snapshot(self.state.clone())
    }

    fn encode_part(
        snapshot: &Self::Snapshot,
        cursor: &mut Self::Cursor,
        out: &mut Vec<u8>,
    ) -> bool {
        snapshot::encode_part(&snapshot.0, &mut cursor.0, out)
    }

    fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        snapshot::restore(bytes).map(Self::from)
    }

    fn scrub(&mut self, budget: usize) -> Result<ScrubProgress, Corruption> {
        self.graves.free();
        self.cursor.advance(&self.state, budget)
    }

    fn flip_bit(&mut self, seed: u64) {
        self.state.flip_bit(seed);
    }
}

#[cfg(test)]
mod tests;
