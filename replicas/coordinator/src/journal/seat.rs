//! What a connection must not lose.

use hypervisor::memory::{PAGE_BYTES, ViewMut, WORD_BYTES};
use hypervisor::xen::RemotePort;
use state_machine::{ConnId, DomId, InputNo, OutputNo};

use super::Mark;
use super::tape::{End, Tape, TapeError};
use crate::inlet::Inlet;

/// Half of a ring's tape for what was read and not handed in, bytes.
const IN_BYTES: usize = 20 * PAGE_BYTES;
/// Where the tapes begin.
const HEAD: usize = 256;
/// A tape on which nothing matters begins anew at this length, bytes: so few pages
/// are touched.
const TAPE_BYTES: usize = 2048;
/// A seat that has taken more is given back, bytes.
const LARGE: usize = 64 << 10;
/// The bit of what was sent that says that more is being sent just now.
const SENDING: u64 = 1 << 63;
/// What an output stands for that does not count yet.
const REPLY: u64 = 1;
const EVENT: u64 = 2;
const SKIPPED: u64 = 3;
/// A place that no stream reaches: a skip is written before its place is, and must not
/// count at the one that was there before.
const NOWHERE: u64 = u64::MAX;
/// An input number that no input bears.
const NO_INPUT: u64 = u64::MAX;

pub(super) fn bytes(out_bytes: usize) -> usize {
    2 * (out_bytes + IN_BYTES)
}

/// Where everything is, bytes from the start of the seat.
mod word {
    // Who it is: written once.
    pub(super) const CONN: usize = 8;
    pub(super) const DOMID: usize = 16;
    pub(super) const KIND: usize = 24;
    pub(super) const PORT: usize = 32;
    pub(super) const IN_START: usize = 40;
    pub(super) const OUT_START: usize = 48;
    pub(super) const EFFECT: usize = 56;
    // The inputs that open and close it.
    pub(super) const OPEN_NO: usize = 64;
    pub(super) const CLOSE_NO: usize = 72;
    // How far its stream was handed in: so far; or so far once that input is there.
    pub(super) const TAKEN: usize = 80;
    pub(super) const NEXT_NO: usize = 88;
    pub(super) const NEXT_TAKEN: usize = 96;
    // Of a socket: how far its stream was looked at, and taken from the kernel.
    pub(super) const LOOKED: usize = 112;
    pub(super) const SETTLED: usize = 120;
    pub(super) const SETTLING: usize = 128;
    // How much was sent in all, with SENDING; whether what is unsent is not on the tape.
    pub(super) const SENT: usize = 136;
    pub(super) const LOST: usize = 152;
    // Up to where the tapes count; up to where that of outputs will, with the mark.
    pub(super) const IN_END: usize = 160;
    pub(super) const OUT_END: usize = 168;
    pub(super) const OUT_NEXT: usize = 176;
    pub(super) const MARK: usize = 184;
    /// Two of them: place in the stream, bytes to be skipped there.
    pub(super) const SKIPS: [usize; 2] = [192, 208];
}

/// What a connection goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A socket.
    Socket,
    /// A ring.
    Ring {
        /// The domain's end of the event channel.
        port: RemotePort,
        /// Where the ring's request index stood when the connection began.
        consumed: u32,
        /// Where its response index stood.
        produced: u32,
        /// The effect that asked for it, if one did.
        effect: OutputNo,
    },
}

/// Whether a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It does.
    Open,
    /// It has ended, and the component may not know.
    Closing,
}

/// How far a connection's requests were handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    /// Bytes of its stream.
    pub(crate) taken: u64,
    /// Bytes after these that are to be skipped.
    pub(crate) skip: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Seat {
    index: u32,
    /// 0 when nobody has it.
    state: ViewMut,
    head: ViewMut,
    out: Tape,
    /// Of a ring: what was read and not handed in.
    inbox: Option<Tape>,
    conn: ConnId,
    domid: DomId,
    kind: Kind,
    taken: u64,
    sent: u64,
    /// Which of the two skips is to be written next.
    next_skip: usize,
    lost: bool,
    is_large: bool,
}

/// Where a seat is.
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) state: ViewMut,
    pub(super) memory: ViewMut,
    pub(super) out_bytes: usize,
}

/// What of its memory is what.
struct Parts {
    head: ViewMut,
    out_end: ViewMut,
    out: [ViewMut; 2],
    in_end: ViewMut,
    inbox: [ViewMut; 2],
}

impl Place {
    fn parts(&self) -> Parts {
        let (memory, out_bytes) = (&self.memory, self.out_bytes);
        let rest = 2 * out_bytes;
        Parts {
            head: memory.part_mut(0, HEAD),
            out_end: memory.part_mut(word::OUT_END, WORD_BYTES),
            out: [
                memory.part_mut(HEAD, out_bytes - HEAD),
                memory.part_mut(out_bytes, out_bytes - HEAD),
            ],
            in_end: memory.part_mut(word::IN_END, WORD_BYTES),
            inbox: [memory.part_mut(rest, IN_BYTES), memory.part_mut(rest + IN_BYTES, IN_BYTES)],
        }
    }
}

impl Mark {
    fn to_word(self) -> u64 {
        match self {
            Self::Reply(no) => no.0 << 2 | REPLY,
            Self::Event(no) => no.0 << 2 | EVENT,
        }
    }
}

impl Seat {
    /// A seat that nobody had is taken.
    pub(super) fn taken(place: Place, conn: ConnId, domid: DomId, kind: Kind) -> Self {
        let parts = place.parts();
        let Place { index, state, .. } = place;
        let head = parts.head;
        for offset in (0..HEAD).step_by(WORD_BYTES) {
            head.store(offset, 0);
        }
        head.store_release(word::CONN, conn.0);
        head.store_release(word::DOMID, domid.0.into());
        head.store_release(word::OPEN_NO, NO_INPUT);
        head.store_release(word::CLOSE_NO, NO_INPUT);
        head.store_release(word::NEXT_NO, NO_INPUT);
        for skip in word::SKIPS {
            head.store_release(skip, NOWHERE);
        }
        if let Kind::Ring { port, consumed, produced, effect } = kind {
            head.store_release(word::KIND, 1);
            head.store_release(word::PORT, port.0.into());
            head.store_release(word::IN_START, consumed.into());
            head.store_release(word::OUT_START, produced.into());
            head.store_release(word::EFFECT, effect.0);
        }
        let out = Tape::new(parts.out_end, parts.out);
        let is_ring = kind != Kind::Socket;
        let inbox = is_ring.then(|| Tape::new(parts.in_end, parts.inbox));
        state.store_release(0, 1);
        Self {
            index,
            state,
            head,
            out,
            inbox,
            conn,
            domid,
            kind,
            taken: 0,
            sent: 0,
            next_skip: 0,
            lost: false,
            is_large: false,
        }
    }

    /// The seat as another host has left it.
    pub(super) fn found(place: Place) -> Self {
        let parts = place.parts();
        let Place { index, state, .. } = place;
        let head = parts.head;
        let short = |word| head.load(word) as u32;
        let kind = match head.load(word::KIND) {
            0 => Kind::Socket,
            _ => Kind::Ring {
                port: RemotePort(short(word::PORT)),
                consumed: short(word::IN_START),
                produced: short(word::OUT_START),
                effect: OutputNo(head.load(word::EFFECT)),
            },
        };
        Self {
            index,
            state,
            out: Tape::found(parts.out_end, parts.out),
            inbox: (kind != Kind::Socket).then(|| Tape::found(parts.in_end, parts.inbox)),
            conn: ConnId(head.load(word::CONN)),
            domid: DomId(head.load(word::DOMID) as u16),
            kind,
            taken: head.load(word::TAKEN),
            sent: head.load(word::SENT) & !SENDING,
            // The one that does not hold, if one does.
            next_skip: usize::from(head.load(word::SKIPS[0]) == head.load(word::TAKEN)),
            lost: head.load(word::LOST) != 0,
            is_large: true,
            head,
        }
    }

    /// To be called for all seats of a host that has ended, before the next one hands
    /// anything in: inputs that did not come to be will be others.
    pub(crate) fn forget_inputs_after(&self, last: InputNo) {
        for word in [word::OPEN_NO, word::CLOSE_NO, word::NEXT_NO] {
            if self.head.load(word) > last.0 {
                self.head.store_release(word, NO_INPUT);
            }
        }
    }

    /// Nobody has it any more; its index, and whether it has taken much memory.
    pub(super) fn leave(self) -> (u32, bool) {
        self.state.store_release(0, 0);
        (self.index, self.is_large)
    }

    pub(crate) fn conn(&self) -> ConnId {
        self.conn
    }

    pub(crate) fn domid(&self) -> DomId {
        self.domid
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn state(&self) -> State {
        if self.state.load(0) == 1 { State::Open } else { State::Closing }
    }

    /// The connection has ended.
    pub(crate) fn close(&self) {
        self.state.store_release(0, 2);
    }

    /// The component is about to be told of the connection by this input.
    pub(crate) fn opening(&self, no: InputNo) {
        self.head.store_release(word::OPEN_NO, no.0);
    }

    /// It was not, after all.
    pub(crate) fn not_opened(&self) {
        self.head.store_release(word::OPEN_NO, NO_INPUT);
    }

    /// Whether the component was told of the connection, when `last` is the last
    /// input.
    pub(crate) fn was_opened(&self, last: InputNo) -> bool {
        self.head.load(word::OPEN_NO) <= last.0
    }

    /// The component is about to be told of the connection's end by this input.
    pub(crate) fn ending(&self, no: InputNo) {
        self.head.store_release(word::CLOSE_NO, no.0);
    }

    /// It was not, after all.
    pub(crate) fn not_ended(&self) {
        self.head.store_release(word::CLOSE_NO, NO_INPUT);
    }

    /// Whether it was told of the end.
    pub(crate) fn was_ended(&self, last: InputNo) -> bool {
        self.head.load(word::CLOSE_NO) <= last.0
    }

    /// A request is about to be handed in as this input, and with it all of the
    /// stream up to `taken`.
    pub(crate) fn handing(&mut self, no: InputNo, taken: u64) {
        self.head.store_release(word::TAKEN, self.taken);
        self.head.store_release(word::NEXT_NO, NO_INPUT);
        self.head.store_release(word::NEXT_TAKEN, taken);
        self.head.store_release(word::NEXT_NO, no.0);
        self.taken = taken;
    }

    /// It was not, after all: all up to `taken` was.
    pub(crate) fn not_handed(&mut self, taken: u64) {
        self.head.store_release(word::NEXT_NO, NO_INPUT);
        self.taken = taken;
    }

    /// What cannot be handed in is left out, up to `taken` and `skip` bytes more, and
    /// answered with `error`; `outbox` is what is not sent, without that.
    pub(crate) fn skipped(&mut self, taken: u64, skip: usize, error: &[u8], outbox: &[u8]) {
        self.head.store_release(word::TAKEN, self.taken);
        self.head.store_release(word::NEXT_NO, NO_INPUT);
        let next = word::SKIPS[self.next_skip];
        self.next_skip = 1 - self.next_skip;
        self.head.store_release(next + WORD_BYTES, skip as u64);
        self.head.store_release(next, taken);
        let end = if error.is_empty() { None } else { self.write(error, outbox) };
        if let Some(end) = end {
            self.announce(end, taken << 2 | SKIPPED);
        }
        self.head.store_release(word::TAKEN, taken);
        self.taken = taken;
        if let Some(end) = end {
            self.settle(end);
        }
    }

    /// How far requests were handed in, when `last` is the last input.
    pub(crate) fn handed(&mut self, last: InputNo) -> Handed {
        if self.head.load(word::NEXT_NO) <= last.0 {
            self.taken = self.head.load(word::NEXT_TAKEN);
        }
        let mut skips = word::SKIPS.into_iter();
        let skip = skips.find(|skip| self.head.load(*skip) == self.taken);
        let skip = skip.map_or(0, |skip| self.head.load(skip + WORD_BYTES));
        Handed { taken: self.taken, skip: usize::try_from(skip).unwrap_or(0) }
    }

    /// So much of a socket's stream was looked at.
    pub(crate) fn looked(&self, looked: u64) {
        self.head.store_release(word::LOOKED, looked);
    }

    /// A socket's stream is about to be taken up to `settled`.
    pub(crate) fn settling(&self, settled: u64) {
        self.head.store_release(word::SETTLING, settled);
    }

    /// It was.
    pub(crate) fn settled(&self, settled: u64) {
        self.head.store_release(word::SETTLED, settled);
    }

    /// How much of a socket's stream was taken from the socket, which has shown `ahead`
    /// bytes more. Nobody can be in the middle of a look and of a taking at once.
    pub(crate) fn settled_now(&self, ahead: u64) -> u64 {
        let settled = self.head.load(word::SETTLED);
        if self.head.load(word::SETTLING) == settled {
            settled
        } else {
            self.head.load(word::LOOKED).saturating_sub(ahead)
        }
    }

    /// Keeps what was read from a ring; `inbox` is all that is not handed in, and ends
    /// with it.
    pub(crate) fn keep_read(&mut self, read: &[u8], inbox: &[u8]) {
        let Some(tape) = &mut self.inbox else { return };
        if let Some(end) = tape.write(read) {
            tape.set_end(end);
        } else {
            // Who has so much unread is not read from.
            let kept = tape.restart(self.taken, inbox);
            debug_assert!(kept, "an inbox fits into half of a tape");
        }
    }

    /// All that was read is handed in.
    pub(crate) fn inbox_is_empty(&mut self) {
        if let Some(tape) = self.inbox.as_mut().filter(|tape| tape.len() > TAPE_BYTES) {
            tape.restart(self.taken, &[]);
        }
    }

    /// What was read from a ring and not handed in, and where that ends in the stream;
    /// after [`Self::handed`].
    pub(crate) fn inbox(&self) -> Result<(Vec<u8>, u64), TapeError> {
        let (place, mut bytes) = self.inbox.as_ref().ok_or(TapeError)?.read()?;
        let end = place + bytes.len() as u64;
        let handed = self.taken.checked_sub(place).ok_or(TapeError)?;
        let handed = usize::try_from(handed).map_err(|_| TapeError)?;
        if handed > bytes.len() {
            return Err(TapeError);
        }
        bytes.drain(..handed);
        Ok((bytes, end))
    }

    /// Keeps an output, and marks it as delivered; `outbox` is what is not sent, without
    /// it.
    pub(crate) fn queue(&mut self, frame: &[u8], outbox: &[u8], mark: Mark, inlet: &Inlet) {
        match self.write(frame, outbox) {
            Some(end) => {
                self.announce(end, mark.to_word());
                inlet.mark(mark);
                self.settle(end);
            }
            None => inlet.mark(mark),
        }
    }

    /// Writes an output down that does not count yet; `None` when there is no room.
    fn write(&mut self, frame: &[u8], outbox: &[u8]) -> Option<End> {
        let mut end = self.out.write(frame);
        if end.is_none() && !self.lost && self.out.restart(self.sent, outbox) {
            end = self.out.write(frame);
        }
        self.is_large |= self.out.len() > LARGE;
        if end.is_none() && !self.lost {
            // It does not read; the connection does not outlive this host.
            self.lost = true;
            self.head.store_release(word::LOST, 1);
        }
        end.filter(|_| !self.lost)
    }

    /// What was written down counts once that does which `mark` stands for.
    fn announce(&self, end: End, mark: u64) {
        self.head.store_release(word::OUT_NEXT, end.word());
        self.head.store_release(word::MARK, mark);
    }

    /// It counts.
    fn settle(&mut self, end: End) {
        self.out.set_end(end);
        self.head.store_release(word::MARK, 0);
    }

    /// Something is about to be written to a socket. How much was is known only when
    /// [`Self::sent`] says so: the kernel does not tell afterwards.
    pub(crate) fn sending(&self) {
        self.head.store_release(word::SENT, SENDING | self.sent);
    }

    /// So many bytes more were sent; `outbox_is_empty`: all that there was.
    pub(crate) fn sent(&mut self, len: usize, outbox_is_empty: bool) {
        self.sent += len as u64;
        self.head.store_release(word::SENT, self.sent);
        if outbox_is_empty && (self.lost || self.out.len() > TAPE_BYTES) {
            self.out.restart(self.sent, &[]);
            if std::mem::take(&mut self.lost) {
                self.head.store_release(word::LOST, 0);
            }
        }
    }

    /// What was queued and not sent; `None` when that is not known. After
    /// [`Self::handed`].
    pub(crate) fn outbox(&mut self, inlet: &Inlet) -> Option<Vec<u8>> {
        let mark = self.head.load(word::MARK);
        let counts = match (mark & 3, mark >> 2) {
            (REPLY, no) => inlet.is_marked(Mark::Reply(InputNo(no))),
            (EVENT, no) => inlet.is_marked(Mark::Event(OutputNo(no))),
            (SKIPPED, taken) => self.taken == taken,
            _ => false,
        };
        if counts {
            self.out.settle(self.head.load(word::OUT_NEXT));
        }
        self.head.store_release(word::MARK, 0);
        if self.lost || self.head.load(word::SENT) & SENDING != 0 {
            return None;
        }
        let (place, mut bytes) = self.out.read().ok()?;
        let sent = usize::try_from(self.sent.checked_sub(place)?).ok()?;
        if sent > bytes.len() {
            return None;
        }
        bytes.drain(..sent);
        Some(bytes)
    }

    /// So many bytes were sent in all.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent
    }
}
