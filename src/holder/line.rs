//! The socket between the holder and its daemon: words in one direction, from the
//! daemon to the holder, some with descriptors.
//!
//! What is in the socket counts, whether the holder has read it or not. So the daemon
//! does not wake the holder for each client that comes and goes: it rings a bell when
//! some dozens of words lie there, or one that must be heard now.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coordinator::Held;
use coordinator::events::{Events, Tag};
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair, sockopt,
};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

/// A word is at most so long, bytes.
const MAX_WORD: usize = 8192;
/// As many as the kernel lets a message carry.
pub(crate) const MAX_DESCRIPTORS: usize = 253;
/// What may be on its way, bytes of the kernel's memory: it takes about one KiB for a
/// word, and thousands of clients may come within one turn of the daemon.
const BUFFER_BYTES: usize = 8 << 20;
/// So many words about clients may lie in the socket without the holder being told.
/// Their descriptors stay open for as long, also of clients that are gone.
const UNHEARD_WORDS: u32 = 64;
/// How long a word that must arrive may find the line full.
const PATIENCE: Duration = Duration::from_millis(500);

/// A name as it travels; the holder does not know what it means.
pub(crate) type Name = [u8; Held::BYTES];

/// What a daemon tells its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Hold the descriptors that come with it, instead of what the name meant so far.
    Hold(Name),
    /// Hold them no longer.
    LetGo(Name),
    /// It serves.
    Ready {
        /// What, one line.
        serves: String,
        /// The daemon's version.
        version: String,
    },
    /// It was told to end.
    Stopping,
    /// It ends, for the program that comes with it to go on.
    Upgrade {
        /// Where that program was found, for people.
        path: PathBuf,
        /// Since when nobody serves, nanoseconds of the monotonic clock.
        since_ns: u64,
    },
}

/// Why a word was not sent.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Too much for one word.
    #[error("{what} of {len}; at most {max} go to the holder at once")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much it is.
        len: usize,
        /// How much may be.
        max: usize,
    },
    /// The line has no room just now, or is broken.
    #[error("the line to the holder: {0}")]
    Line(#[from] Errno),
    /// It cannot be written down.
    #[error("a word to the holder: {0}")]
    Word(#[from] serde_json::Error),
}

/// The daemon's end of a line, as it inherits it.
#[derive(Debug)]
pub(crate) struct Mouth {
    pub(crate) socket: OwnedFd,
    pub(crate) bell: OwnedFd,
}

/// A new line: the holder's end, what tells it that there is something to hear, and the
/// daemon's end.
pub(crate) fn line() -> rustix::io::Result<(Ear, OwnedFd, Mouth)> {
    let flags = SocketFlags::CLOEXEC;
    let (ear, socket) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // More than the system's limit takes root; with less, fewer words find room.
    if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES)?;
    }
    let (rings, bell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Ear(ear), rings, Mouth { socket, bell }))
}

/// The daemon's end of the line.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
    bell: OwnedFd,
    /// Words since the bell was rung.
    unheard: AtomicU32,
    events: Arc<Events>,
    /// That something could not be held was said.
    complained: AtomicBool,
}

impl Line {
    pub(super) fn new(mouth: Mouth, events: Arc<Events>) -> Self {
        Self {
            socket: mouth.socket,
            bell: mouth.bell,
            unheard: AtomicU32::new(0),
            events,
            complained: AtomicBool::new(false),
        }
    }

    /// Sends without ever waiting.
    fn say(&self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> Result<(), LineError> {
        if descriptors.len() > MAX_DESCRIPTORS {
            let (len, max) = (descriptors.len(), MAX_DESCRIPTORS);
            return Err(LineError::TooMuch { what: "descriptors", len, max });
        }
        let text = serde_json::to_vec(word)?;
        if text.len() > MAX_WORD {
            return Err(LineError::TooMuch { what: "bytes", len: text.len(), max: MAX_WORD });
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            // There is room for as many as were let through above.
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        // A holder that is gone takes this process with it; there is nobody to signal.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(&self.socket, &[IoSlice::new(&text)], &mut ancillary, flags)?;
        Ok(())
    }

    /// Sends what must arrive: it waits a moment where a full line is about to be read.
    pub(crate) fn insist(
        &self,
        word: &Word,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), LineError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outcome = self.say(word, descriptors);
            self.ring();
            match outcome {
                Err(LineError::Line(Errno::AGAIN)) if Instant::now() < deadline => {
                    let mut room = [PollFd::new(&self.socket, PollFlags::OUT)];
                    let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                    let _ = rustix::event::poll(&mut room, Some(&moment));
                }
                outcome => return outcome,
            }
        }
    }

    fn ring(&self) {
        self.unheard.store(0, Ordering::Relaxed);
        // One that is full has been rung.
        let _ = rustix::io::write(&self.bell, &[1]);
    }

    /// A word about this was sent, if there was room for it.
    fn said(&self, name: Held, outcome: Result<(), LineError>) {
        // Clients come and go all the time; all else is rare, and larger.
        let is_client = matches!(name, Held::Conn(_));
        let unheard = self.unheard.fetch_add(1, Ordering::Relaxed) + 1;
        if !is_client || outcome.is_err() || unheard >= UNHEARD_WORDS {
            self.ring();
        }
        if let Err(error) = outcome {
            self.complain(&error);
        }
    }

    fn complain(&self, error: &LineError) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            let text = format!("not all is held for the next daemon: {error}");
            self.events.warn(&[Tag::Host], text);
        }
    }
}

impl coordinator::Holder for Line {
    fn hold(&self, name: Held, descriptors: &[BorrowedFd<'_>]) {
        self.said(name, self.say(&Word::Hold(name.encode()), descriptors));
    }

    fn let_go(&self, name: Held) {
        self.said(name, self.say(&Word::LetGo(name.encode()), &[]));
    }
}

/// The holder's end of the line.
#[derive(Debug)]
pub(crate) struct Ear(OwnedFd);

/// What the holder hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A word, and what came with it.
    Word(Word, Vec<OwnedFd>),
    /// Something that is no word.
    Noise(String),
    /// More descriptors for this name than this process can have open; some are lost.
    Full(Name),
    /// The daemon has closed its end.
    End,
}

impl Ear {
    /// The next word, without waiting.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is none yet.
    pub(crate) fn hear(&self) -> rustix::io::Result<Heard> {
        let mut text = [0; MAX_WORD];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message =
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags) {
                // It died with words unread in its own direction, of which there are none.
                Err(Errno::CONNRESET) => return Ok(Heard::End),
                message => message?,
            };
        let mut descriptors = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = part {
                descriptors.extend(some);
            }
        }
        if message.bytes == 0 {
            return Ok(Heard::End);
        }
        let is_cut = message.flags.contains(ReturnFlags::CTRUNC);
        Ok(match serde_json::from_slice(&text[..message.bytes]) {
            Ok(Word::Hold(name)) if is_cut => Heard::Full(name),
            Ok(word) => Heard::Word(word, descriptors),
            Err(error) => Heard::Noise(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use coordinator::Holder as _;
    use state_machine::ConnId;

    use super::*;

    fn pair() -> (Ear, Line, Arc<Events>) {
        let (ear, _, line, events) = with_bell();
        (ear, line, events)
    }

    fn with_bell() -> (Ear, OwnedFd, Line, Arc<Events>) {
        let (ear, bell, mouth) = line().unwrap();
        let events = Arc::new(Events::new(10));
        (ear, bell, Line::new(mouth, Arc::clone(&events)), events)
    }

    #[test]
    fn words_and_descriptors_arrive_also_after_death() {
        let (ear, line, _) = pair();
        assert!(matches!(ear.hear(), Err(Errno::AGAIN)));
        let (reader, writer) = std::io::pipe().unwrap();
        line.hold(Held::Control, &[reader.as_fd(), writer.as_fd()]);
        line.let_go(Held::Conn(ConnId(7)));
        drop((line, reader, writer));
        let Ok(Heard::Word(Word::Hold(name), held)) = ear.hear() else { panic!("not held") };
        assert_eq!((name, held.len()), (Held::Control.encode(), 2));
        rustix::io::write(&held[1], b"x").unwrap();
        assert_eq!(rustix::io::read(&held[0], &mut [0; 2]), Ok(1), "it is the pipe");
        let word = Word::LetGo(Held::Conn(ConnId(7)).encode());
        assert!(
            matches!(ear.hear(), Ok(Heard::Word(heard, fds)) if heard == word && fds.is_empty())
        );
        assert!(matches!(ear.hear(), Ok(Heard::End)));
    }

    #[test]
    fn the_holder_is_woken_for_many_clients_at_once_and_for_all_else_at_once() {
        let (_ear, bell, line, _) = with_bell();
        let rang = || rustix::io::read(&bell, &mut [0; 64]).is_ok();
        for conn in 1..u64::from(UNHEARD_WORDS) {
            line.let_go(Held::Conn(ConnId(conn)));
        }
        assert!(!rang());
        line.let_go(Held::Conn(ConnId(0)));
        assert!(rang());
        line.let_go(Held::Conn(ConnId(0)));
        assert!(!rang(), "it is counted anew");
        line.hold(Held::Control, &[]);
        assert!(rang());
        line.insist(&Word::Stopping, &[]).unwrap();
        assert!(rang());
    }

    #[test]
    fn noise_is_told_from_words() {
        let (ear, line, _) = pair();
        rustix::io::write(&line.socket, b"\xff\x00").unwrap();
        assert!(matches!(ear.hear(), Ok(Heard::Noise(_))));
    }

    #[test]
    fn a_full_line_is_told_once_and_holds_up_nobody() {
        let (ear, line, events) = pair();
        let began = Instant::now();
        let mut said = 0;
        while line.say(&Word::LetGo(Held::Conn(ConnId(said)).encode()), &[]).is_ok() {
            said += 1;
        }
        assert!(said > 100, "{said}");
        line.hold(Held::Journal, &[]);
        line.hold(Held::Fabric, &[]);
        assert!(began.elapsed() < PATIENCE * 4);
        assert!(matches!(line.insist(&Word::Stopping, &[]), Err(LineError::Line(Errno::AGAIN))));
        assert_eq!(events.after(0, 10).len(), 1);
        ear.hear().unwrap();
        line.insist(&Word::Stopping, &[]).unwrap();
    }

    #[test]
    fn what_is_too_much_for_a_word_is_refused() {
        let (_ear, line, _) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        let many = vec![null.as_fd(); MAX_DESCRIPTORS + 1];
        let error = line.say(&Word::Stopping, &many).unwrap_err().to_string();
        assert_eq!(error, "descriptors of 254; at most 253 go to the holder at once");
        line.say(&Word::Stopping, &many[1..]).unwrap();
        let (serves, version) = ("x".repeat(MAX_WORD), String::new());
        assert!(line.say(&Word::Ready { serves, version }, &[]).is_err());
    }
}
