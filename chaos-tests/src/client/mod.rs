//! A synchronous xenstore client: small, fast, and strict about what a daemon
//! may answer.
//!
//! Requests go out one at a time ([`Client::call`]) or pipelined
//! ([`Client::queue`], [`Client::flush`], [`Client::reply`]); a daemon answers
//! each connection in order, and anything else is an error here. Watch events
//! that come in between are kept in a bounded queue.

mod calls;
mod event;
mod transport;

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use xenstore::wire::{Errno, HEADER_LEN, Header, MAX_PAYLOAD, MessageType};

pub use calls::{Perm, PermAccess};
pub use event::Event;
pub use transport::{Socket, Transport, wait_readable};

/// How long a client waits for an answer unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How many unread watch events a client keeps; one more is an error.
pub const MAX_EVENTS: usize = 1 << 17;

const IN_BUFFER: usize = 64 << 10;

/// Why a request got no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon answered with an error of the protocol.
    #[error("{0}")]
    Daemon(Errno),
    /// The daemon answered with an error that the protocol does not have.
    #[error("unknown error {0:?}")]
    UnknownErrno(String),
    /// The daemon closed the connection.
    #[error("connection closed by the daemon")]
    Closed,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The stream failed.
    #[error("stream: {0}")]
    Io(io::Error),
    /// The answer belongs to another request, or is of another type.
    #[error(
        "answer to request {got_id} of type {got}, but request {want_id} of type {want} is due"
    )]
    Mismatch {
        /// Type of the request.
        want: u32,
        /// Id of the request.
        want_id: u32,
        /// Type of the answer.
        got: u32,
        /// Id in the answer.
        got_id: u32,
    },
    /// The answer breaks the protocol.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// More than [`MAX_EVENTS`] events were left unread.
    #[error("watch events were left unread")]
    TooManyEvents,
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl ClientError {
    /// The protocol's error, if the daemon sent one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Daemon(errno) => Some(*errno),
            _ => None,
        }
    }
}

/// What calls return.
pub type Result<T> = std::result::Result<T, ClientError>;

/// An open transaction, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tx(pub u32);

impl Tx {
    /// Outside of any transaction.
    pub const NONE: Self = Self(0);
}

/// A connection to a xenstore daemon.
#[derive(Debug)]
pub struct Client<T = Socket> {
    transport: T,
    timeout: Duration,
    input: Box<[u8]>,
    /// Bytes of `input` that were received and not yet used.
    unread: std::ops::Range<usize>,
    output: Vec<u8>,
    last_id: u32,
    /// Requests that are not answered yet, oldest first.
    due: VecDeque<(u32, u32)>,
    events: VecDeque<Event>,
}

impl Client<Socket> {
    /// Connects to the daemon at `path`.
    ///
    /// # Errors
    /// What `connect` reports.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::over(Socket::new(UnixStream::connect(path)?)))
    }
}

impl<T: Transport> Client<T> {
    /// A client over any transport.
    #[must_use]
    pub fn over(transport: T) -> Self {
        Self {
            transport,
            timeout: DEFAULT_TIMEOUT,
            input: vec![0; IN_BUFFER].into_boxed_slice(),
            unread: 0..0,
            output: Vec::with_capacity(HEADER_LEN + MAX_PAYLOAD),
            last_id: 0,
            due: VecDeque::with_capacity(64),
            events: VecDeque::new(),
        }
    }

    /// Waits at most so long for any answer from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// What carries the bytes.
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// What carries the bytes.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// What carries the bytes, without the client.
    #[must_use]
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// Requests that were queued or sent and are not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.due.len()
    }

    /// Appends a request made of `parts` to what [`Self::flush`] sends.
    pub fn queue(&mut self, kind: MessageType, tx: Tx, parts: &[&[u8]]) -> u32 {
        self.queue_raw(kind.to_u32(), tx, parts)
    }

    /// As [`Self::queue`], with any number as the type.
    pub fn queue_raw(&mut self, kind: u32, tx: Tx, parts: &[&[u8]]) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let header = Header {
            kind,
            req_id: self.last_id,
            tx_id: tx.0,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        self.output.extend_from_slice(&header.encode());
        for part in parts {
            self.output.extend_from_slice(part);
        }
        self.due.push_back((kind, self.last_id));
        self.last_id
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] when the daemon does not take it, and failures
    /// of the stream.
    pub fn flush(&mut self) -> Result<()> {
        if !self.output.is_empty() {
            let sent = self.transport.send(&self.output, self.timeout);
            self.output.clear();
            sent?;
        }
        Ok(())
    }

    /// Waits for the answer to the oldest request and returns its payload.
    ///
    /// # Errors
    /// Any [`ClientError`]. After another one than [`ClientError::Daemon`] or
    /// [`ClientError::UnknownErrno`] the connection is of no more use.
    pub fn reply(&mut self) -> Result<&[u8]> {
        let (header, payload) = self.raw_reply()?;
        if header.kind != MessageType::Error.to_u32() {
            return Ok(&self.input[payload]);
        }
        let name = &self.input[payload];
        Err(Errno::from_name(name).map_or_else(
            || ClientError::UnknownErrno(String::from_utf8_lossy(name).into_owned()),
            ClientError::Daemon,
        ))
    }

    /// As [`Self::reply`], with the header and with errors taken as answers.
    ///
    /// # Errors
    /// Any [`ClientError`] but those of the daemon.
    pub fn reply_frame(&mut self) -> Result<(Header, &[u8])> {
        let (header, payload) = self.raw_reply()?;
        Ok((header, &self.input[payload]))
    }

    fn raw_reply(&mut self) -> Result<(Header, std::ops::Range<usize>)> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let (header, payload) = self.next_frame(deadline)?;
            if header.kind == MessageType::WatchEvent.to_u32() {
                self.keep_event(payload)?;
                continue;
            }
            let Some((want, want_id)) = self.due.pop_front() else {
                return Err(ClientError::Malformed("an answer to no request"));
            };
            let of_type = header.kind == want || header.kind == MessageType::Error.to_u32();
            if header.req_id != want_id || !of_type {
                return Err(ClientError::Mismatch {
                    want,
                    want_id,
                    got: header.kind,
                    got_id: header.req_id,
                });
            }
            return Ok((header, payload));
        }
    }

    /// Whether [`Self::reply`] need not wait: a whole frame is here already, and
    /// it is not a watch event.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        let have = &self.input[self.unread.clone()];
        Header::decode(have).is_some_and(|header| {
            header.kind != MessageType::WatchEvent.to_u32()
                && have.len() - HEADER_LEN >= header.len as usize
        })
    }

    /// Sends one request and waits for its answer's payload.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn call(&mut self, kind: MessageType, tx: Tx, parts: &[&[u8]]) -> Result<&[u8]> {
        self.queue(kind, tx, parts);
        self.flush()?;
        self.reply()
    }

    /// The next watch event that is there already.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Waits for a watch event; `None` when none came within `timeout`.
    ///
    /// # Errors
    /// Failures of the stream, and an answer that no request waits for.
    pub fn wait_event(&mut self, timeout: Duration) -> Result<Option<Event>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        match self.next_frame(Instant::now() + timeout) {
            Ok((header, payload)) if header.kind == MessageType::WatchEvent.to_u32() => {
                self.keep_event(payload)?;
                Ok(self.events.pop_front())
            }
            Ok(_) => Err(ClientError::Malformed("an answer to no request")),
            Err(ClientError::Timeout) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keep_event(&mut self, payload: std::ops::Range<usize>) -> Result<()> {
        if self.events.len() == MAX_EVENTS {
            return Err(ClientError::TooManyEvents);
        }
        let event = Event::parse(&self.input[payload])
            .ok_or(ClientError::Malformed("a watch event without path and token"))?;
        self.events.push_back(event);
        Ok(())
    }

    /// Takes one frame off the stream; its payload lies in `input`.
    fn next_frame(&mut self, deadline: Instant) -> Result<(Header, std::ops::Range<usize>)> {
        loop {
            let have = &self.input[self.unread.clone()];
            if let Some(header) = Header::decode(have) {
                let len = header.len as usize;
                if len > IN_BUFFER / 2 {
                    return Err(ClientError::Malformed("an answer of absurd length"));
                }
                if have.len() >= HEADER_LEN + len {
                    let payload = self.unread.start + HEADER_LEN;
                    self.unread.start = payload + len;
                    return Ok((header, payload..payload + len));
                }
            }
            self.fill(deadline)?;
        }
    }

    fn fill(&mut self, deadline: Instant) -> Result<()> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.end == self.input.len() {
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let got = self.transport.recv(&mut self.input[self.unread.end..], left)?;
        if got == 0 {
            return Err(ClientError::Closed);
        }
        self.unread.end += got;
        Ok(())
    }
}
