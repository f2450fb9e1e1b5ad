//! A client's socket, read such that the client sleeps on.
//!
//! When bytes are taken from a stream socket, the kernel wakes whoever sleeps on
//! its other end, since there is room to write again (`unix_write_space`). A
//! client that waits for its answer sleeps there: it would be woken for nothing,
//! on another core, with every request. Measured with eight clients, that was a
//! sixth of all the time of the component's core. So a request is only looked at
//! when it comes, and taken from the socket right before its answer is sent: the
//! client wakes up once, for both.
//!
//! Events are edge-triggered, because what is looked at stays readable.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use hypervisor::socket::{peek_offset, set_peek_offset};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use state_machine::ConnId;
use xenstore::wire::{HEADER_LEN, MAX_PAYLOAD};

use super::Token;
use crate::journal::Seat;

/// See the module.
#[derive(Debug)]
pub(super) struct Socket {
    conn: ConnId,
    stream: UnixStream,
    /// Bytes of the stream that were looked at.
    looked: u64,
    /// Bytes of the stream that were taken.
    settled: u64,
    may_have_more: bool,
    hung_up: bool,
    wants_room: bool,
}

/// The most that is only looked at: one request. Who sends more at once does not
/// sleep.
const LOOK_BYTES: usize = HEADER_LEN + MAX_PAYLOAD;

const INTEREST: EventFlags = EventFlags::IN.union(EventFlags::ET);

impl Socket {
    pub(super) fn new(conn: ConnId, stream: UnixStream, epoll: &OwnedFd) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        set_peek_offset(&stream, 0)?;
        Self::attend(conn, stream, epoll)
    }

    fn attend(conn: ConnId, stream: UnixStream, epoll: &OwnedFd) -> io::Result<Self> {
        epoll::add(epoll, &stream, Token::Conn(conn).to_data(), INTEREST)?;
        Ok(Self {
            conn,
            stream,
            looked: 0,
            settled: 0,
            may_have_more: false,
            hung_up: false,
            wants_room: false,
        })
    }

    /// The socket of a host that has ended, which had handed in `taken` bytes of the
    /// stream. What that one looked at beyond is looked at again.
    pub(super) fn adopt(
        conn: ConnId,
        stream: UnixStream,
        taken: u64,
        seat: &Seat,
        epoll: &OwnedFd,
    ) -> io::Result<Self> {
        let settled = seat.settled_now(peek_offset(&stream)?);
        let ahead = taken.checked_sub(settled).ok_or(io::ErrorKind::InvalidData)?;
        set_peek_offset(&stream, ahead)?;
        seat.settling(settled);
        seat.settled(settled);
        seat.looked(taken);
        let socket = Self::attend(conn, stream, epoll)?;
        Ok(Self { looked: taken, settled, may_have_more: true, ..socket })
    }

    /// Ends the connection for both sides, whoever else holds the socket.
    pub(super) fn shut_down(&self) {
        // Fails where the client has closed its end: then there is nothing to end.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// For whoever holds it beside us.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether the other end has been closed.
    pub(super) fn has_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Notes that there is something to read.
    pub(super) fn is_readable(&mut self) {
        self.may_have_more = !self.hung_up;
    }

    /// Whether there may be something to read.
    pub(super) fn may_have_more(&self) -> bool {
        self.may_have_more
    }

    /// Looks at what has come, as far as the buffer holds it; `lazily` at most at
    /// [`LOOK_BYTES`]. It stays in the socket until [`Self::settle`].
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        lazily: bool,
        seat: &Seat,
        epoll: &OwnedFd,
    ) -> io::Result<usize> {
        let room = if lazily { buffer.len().min(LOOK_BYTES) } else { buffer.len() };
        match recv(&self.stream, &mut buffer[..room], RecvFlags::PEEK) {
            Ok((_, 0)) => {
                epoll::delete(epoll, &self.stream)?;
                self.hung_up = true;
                self.may_have_more = false;
                Ok(0)
            }
            Ok((_, len)) => {
                self.looked += len as u64;
                seat.looked(self.looked);
                // Less than there was room for was all; more will be told.
                self.may_have_more = len == room;
                Ok(len)
            }
            Err(Errno::WOULDBLOCK) => {
                self.may_have_more = false;
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the stream up to `taken` from the socket: what was handed in.
    pub(super) fn settle(&mut self, taken: u64, seat: &Seat) -> io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); LOOK_BYTES];
        while self.settled < taken {
            let part = (taken - self.settled).min(buffer.len() as u64) as usize;
            seat.settling(self.settled + part as u64);
            match recv(&self.stream, &mut buffer[..part], RecvFlags::empty()) {
                // It was there; that it is gone is beyond repair.
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, len)) => {
                    self.settled += len as u64;
                    seat.settling(self.settled);
                    seat.settled(self.settled);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sends as much as the socket takes; asks to be told of room if that is not
    /// all.
    pub(super) fn send(&mut self, bytes: &[u8], epoll: &OwnedFd) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match send(&self.stream, &bytes[sent..], SendFlags::NOSIGNAL) {
                Ok(len) => sent += len,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        let wants_room = sent < bytes.len();
        if self.wants_room != wants_room && !self.hung_up {
            let room = if wants_room { EventFlags::OUT } else { EventFlags::empty() };
            let data = Token::Conn(self.conn).to_data();
            epoll::modify(epoll, &self.stream, data, INTEREST.union(room))?;
            self.wants_room = wants_room;
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use state_machine::DomId;

    use super::*;
    use crate::front::FrontLimits;
    use crate::journal::{Journal, Kind};

    struct Pair {
        ours: Socket,
        seat: Seat,
        _journal: Journal,
        theirs: UnixStream,
        epoll: OwnedFd,
        buffer: [u8; 8],
    }

    fn pair() -> Pair {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut ours = Socket::new(ConnId(1), ours, &epoll).unwrap();
        ours.is_readable();
        let limits = FrontLimits {
            max_connections: 1,
            backlog_bytes: 0,
            outstanding: 1,
            guest_outstanding: 1,
        };
        let mut journal = Journal::new(limits, 4096, None).unwrap();
        let seat = journal.seat(ConnId(1), DomId(0), Kind::Socket).unwrap();
        Pair { ours, seat, _journal: journal, theirs, epoll, buffer: [0; 8] }
    }

    impl Pair {
        fn read(&mut self, lazily: bool) -> &[u8] {
            let len = self.ours.read(&mut self.buffer, lazily, &self.seat, &self.epoll).unwrap();
            &self.buffer[..len]
        }

        fn settle(&mut self, taken: u64) {
            self.ours.settle(taken, &self.seat).unwrap();
        }

        /// Bytes that the kernel still holds for us.
        fn unread(&self) -> u64 {
            rustix::io::ioctl_fionread(&self.ours.stream).unwrap()
        }

        fn events(&self) -> usize {
            let mut events = Vec::with_capacity(4);
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let space = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&self.epoll, space, Some(&none)).unwrap()
        }
    }

    #[test]
    fn what_was_looked_at_is_taken_when_the_answer_leaves() {
        let mut pair = pair();
        pair.theirs.write_all(b"ask").unwrap();
        assert_eq!(pair.events(), 1);
        assert_eq!(pair.read(true), b"ask");
        assert_eq!((pair.unread(), pair.events()), (3, 0), "left there, and told once");
        pair.theirs.write_all(b"more").unwrap();
        assert_eq!(pair.events(), 1, "what is new is told");
        pair.settle(3);
        assert_eq!(pair.ours.send(b"answer", &pair.epoll).unwrap(), 6);
        assert_eq!(pair.unread(), 4, "exactly what was handed in is gone");
        pair.ours.is_readable();
        assert_eq!(pair.read(false), b"more");
        pair.settle(7);
        assert_eq!(pair.unread(), 0);
    }

    /// The next host looks at what was not handed in, wherever this one ended.
    #[test]
    fn the_next_host_goes_on_with_what_was_not_handed_in() {
        type End = fn(&mut Pair);
        let ends: [End; 4] = [
            |_| {},
            |pair| pair.settle(3),
            // It ends right after the bytes were taken, or right before.
            |pair| {
                pair.seat.settling(3);
                recv(&pair.ours.stream, &mut [0; 3][..], RecvFlags::empty()).unwrap();
            },
            |pair| pair.seat.settling(3),
        ];
        for end in ends {
            let mut pair = pair();
            pair.theirs.write_all(b"one").unwrap();
            pair.theirs.write_all(b"two").unwrap();
            assert_eq!(pair.read(false), b"onetwo");
            end(&mut pair);
            let stream = pair.ours.stream.try_clone().unwrap();
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            pair.ours = Socket::adopt(ConnId(1), stream, 3, &pair.seat, &epoll).unwrap();
            assert!(pair.ours.may_have_more());
            assert_eq!(pair.read(false), b"two");
            pair.settle(6);
            assert_eq!(pair.unread(), 0);
        }
    }

    #[test]
    fn a_second_look_sees_only_what_is_new() {
        let mut pair = pair();
        pair.theirs.write_all(b"one").unwrap();
        assert_eq!(pair.read(true), b"one");
        pair.theirs.write_all(b"two").unwrap();
        assert_eq!(pair.read(true), b"two");
        pair.settle(6);
        assert_eq!(pair.unread(), 0);
    }

    #[test]
    fn a_full_buffer_says_that_there_may_be_more() {
        for lazily in [true, false] {
            let mut pair = pair();
            pair.theirs.write_all(b"more than eight").unwrap();
            assert_eq!(pair.read(lazily), b"more tha");
            assert!(pair.ours.may_have_more(), "no event will tell");
            assert_eq!(pair.read(lazily), b"n eight");
            assert!(!pair.ours.may_have_more());
        }
    }

    #[test]
    fn a_hang_up_comes_after_what_was_said() {
        let mut pair = pair();
        pair.theirs.write_all(b"bye").unwrap();
        assert_eq!(pair.read(true), b"bye");
        pair.theirs.shutdown(std::net::Shutdown::Write).unwrap();
        pair.ours.is_readable();
        assert!(!pair.ours.has_hung_up());
        assert_eq!(pair.read(true), b"");
        assert!(pair.ours.has_hung_up() && !pair.ours.may_have_more());
    }

    #[test]
    fn room_is_asked_for_only_while_it_lacks() {
        let mut pair = pair();
        let flood = vec![7; 1 << 20];
        let sent = pair.ours.send(&flood, &pair.epoll).unwrap();
        assert!(sent < flood.len());
        assert_eq!(pair.events(), 0);
        let mut taken = vec![0; sent];
        pair.theirs.read_exact(&mut taken).unwrap();
        assert_eq!(pair.events(), 1, "there is room");
        assert_eq!(pair.ours.send(b"rest", &pair.epoll).unwrap(), 4);
        pair.theirs.read_exact(&mut taken[..4]).unwrap();
        assert_eq!(pair.events(), 0, "nobody asked");
    }
}
