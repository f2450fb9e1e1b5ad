//! The trace file: what clients ask and what they are told, message by message, in the
//! format of Xen's C daemon 4.17:
//!
//! ```text
//! CREATE connection 0x2a
//! IN 0x2a 20261123 12:45:00 READ (/vm/web/memory )
//! OUT 0x2a 20261123 12:45:00 READ (4096)
//! DESTROY connection 0x2a
//! ```
//!
//! A connection has its number for an address, times are UTC, and nothing is told of
//! watches and transactions, which the replicas have. A thread of its own formats and
//! writes: the host copies a message and goes on. When the file is slower than the
//! clients, or the disk is full, messages are left out, and how many is said in the file.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use state_machine::{ConnId, Input};
use xenstore::wire::{self, MessageType};

use crate::events::{Events, Tag};

/// Messages that wait for the disk; what comes beyond that is left out.
const WAITING_BYTES: usize = 4 << 20;
/// What a message takes besides its bytes.
const RECORD_BYTES: usize = size_of::<Record>();
/// How often the file is written to.
const PERIOD: Duration = Duration::from_millis(100);
/// How long the end of the daemon may wait for the disk.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// A trace file that is being written. Dropping it writes what waits, and ends it.
#[derive(Debug)]
pub(crate) struct Trace {
    shared: Arc<Shared>,
    is_on: bool,
    writer: Option<JoinHandle<()>>,
}

/// Has the file opened anew, for whoever has moved it away.
#[derive(Clone, Debug)]
pub struct Reopener(Arc<Shared>);

impl Reopener {
    /// Has it opened before the next message is written.
    pub fn reopen(&self) {
        self.0.waiting().reopen = true;
    }
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    waiting: Mutex<Waiting>,
}

impl Shared {
    /// Nobody can leave it half changed, so one who died holding it changes nothing.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)
    }
}

/// What the writer has not taken yet.
#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Record>,
    /// The messages of the records, one behind the other.
    bytes: Vec<u8>,
    left_out: u64,
    reopen: bool,
    ending: bool,
}

impl Waiting {
    fn taken_bytes(&self) -> usize {
        self.bytes.len() + self.records.len() * RECORD_BYTES
    }

    /// Keeps a message, if there is room for it.
    fn add(&mut self, what: What, conn: ConnId, frame: &[u8]) {
        if self.taken_bytes() + RECORD_BYTES + frame.len() > WAITING_BYTES {
            self.left_out += 1;
            return;
        }
        self.bytes.extend_from_slice(frame);
        self.records.push(Record { what, conn, at: SystemTime::now(), len: frame.len() });
    }
}

#[derive(Debug)]
struct Record {
    what: What,
    conn: ConnId,
    at: SystemTime,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Create,
    Destroy,
    In,
    Out,
}

impl Trace {
    /// Begins to append to `path`, which is made for its owner alone if it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened, or there can be no further thread.
    pub(crate) fn start(path: &Path, events: Arc<Events>) -> io::Result<Self> {
        let shared = Arc::new(Shared { path: path.to_path_buf(), waiting: Mutex::default() });
        let mut writer =
            Writer { file: shared.open()?, shared: Arc::clone(&shared), events, failed: false };
        let thread =
            std::thread::Builder::new().name("trace".into()).spawn(move || writer.run())?;
        Ok(Self { shared, is_on: true, writer: Some(thread) })
    }

    /// Has the file opened anew.
    #[must_use]
    pub(crate) fn reopener(&self) -> Reopener {
        Reopener(Arc::clone(&self.shared))
    }

    /// Writes from here on, or no longer.
    pub(crate) fn switch(&mut self, on: bool) {
        self.is_on = on;
    }

    /// An input that was taken.
    pub(crate) fn input(&self, input: &Input<'_>) {
        match *input {
            Input::Open { conn, .. } => self.push(What::Create, conn, &[]),
            Input::Close { conn } => self.push(What::Destroy, conn, &[]),
            Input::Request { conn, frame } => self.push(What::In, conn, frame),
            // What the host itself has to say is in its log.
            _ => {}
        }
    }

    /// An answer or an event.
    pub(crate) fn output(&self, conn: ConnId, frame: &[u8]) {
        self.push(What::Out, conn, frame);
    }

    fn push(&self, what: What, conn: ConnId, frame: &[u8]) {
        if !self.is_on {
            return;
        }
        let mut waiting = self.shared.waiting();
        waiting.add(what, conn, frame);
        let much = waiting.taken_bytes() > WAITING_BYTES / 2;
        drop(waiting);
        if much && let Some(writer) = &self.writer {
            writer.thread().unpark();
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.shared.waiting().ending = true;
        let Some(writer) = self.writer.take() else { return };
        writer.thread().unpark();
        let deadline = std::time::Instant::now() + END_PATIENCE;
        while !writer.is_finished() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    file: File,
    events: Arc<Events>,
    /// It was told that the file cannot be written, and could not be since.
    failed: bool,
}

impl Writer {
    fn run(&mut self) {
        loop {
            std::thread::park_timeout(PERIOD);
            let waiting = {
                let mut waiting = self.shared.waiting();
                let ending = waiting.ending;
                std::mem::replace(&mut *waiting, Waiting { ending, ..Waiting::default() })
            };
            match self.write(&waiting) {
                Ok(()) => self.failed = false,
                Err(error) => {
                    // They may be in the file in part; they count as left out.
                    let mut next = self.shared.waiting();
                    next.left_out += waiting.left_out + waiting.records.len() as u64;
                    next.reopen |= waiting.reopen;
                    drop(next);
                    self.tell(&error);
                }
            }
            if waiting.ending {
                return;
            }
        }
    }

    fn write(&mut self, waiting: &Waiting) -> io::Result<()> {
        let mut text = String::new();
        if waiting.reopen {
            self.file = self.shared.open()?;
            text.push_str("\n***\n");
        }
        let mut at = 0;
        for record in &waiting.records {
            format(record, &waiting.bytes[at..][..record.len], &mut text);
            at += record.len;
        }
        if waiting.left_out > 0 {
            let _ = writeln!(text, "\n*** {} messages left out", waiting.left_out);
        }
        self.file.write_all(text.as_bytes())
    }

    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            let path = self.shared.path.display();
            self.events.warn(&[Tag::Host], format!("trace file {path}: {error}"));
        }
    }
}

fn format(record: &Record, frame: &[u8], text: &mut String) {
    let Record { what, conn, at, .. } = record;
    // To write to a string cannot fail.
    let _ = match what {
        What::Create => writeln!(text, "CREATE connection {:#x}", conn.0),
        What::Destroy => writeln!(text, "DESTROY connection {:#x}", conn.0),
        What::In | What::Out => {
            let way = if matches!(what, What::In) { "IN" } else { "OUT" };
            let time = humantime::format_rfc3339_seconds(*at).to_string();
            let time = time.replace('-', "").replace('T', " ").replace('Z', "");
            let (kind, payload) = match wire::split(frame) {
                Some((header, payload)) => (name_of(header.kind), payload),
                None => ("**UNKNOWN**".to_owned(), frame),
            };
            let _ = write!(text, "{way} {:#x} {time} {kind} (", conn.0);
            for &byte in payload {
                // One message, one line, whatever a client has in it.
                let _ = match byte {
                    0 => write!(text, " "),
                    b' '..=b'~' => write!(text, "{}", char::from(byte)),
                    other => write!(text, "\\x{other:02x}"),
                };
            }
            writeln!(text, ")")
        }
    };
}

/// A message type by the name that Xen has for it: `GET_PERMS`.
fn name_of(kind: u32) -> String {
    let Some(kind) = MessageType::from_u32(kind) else { return "**UNKNOWN**".to_owned() };
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use state_machine::DomId;

    use super::*;

    fn frame(kind: MessageType, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::frame(kind, 7, 0, payload, &mut bytes);
        bytes
    }

    fn start(path: &Path) -> Trace {
        Trace::start(path, Arc::new(Events::new(8))).unwrap()
    }

    /// The lines of a file without their times.
    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let timeless = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                [way @ ("IN" | "OUT"), conn, day, time, ..] => {
                    assert_eq!((day.len(), time.len()), (8, 8), "{line}");
                    format!("{way} {conn} {}", words[4..].join(" "))
                }
                _ => line.to_owned(),
            }
        };
        text.lines().map(timeless).collect()
    }

    #[test]
    fn messages_are_written_as_xens_daemon_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let mut trace = start(&path);
        let conn = ConnId(0x2a);
        trace.input(&Input::Open { conn, domid: DomId(0) });
        let request = frame(MessageType::GetDomainPath, b"5\0");
        trace.input(&Input::Request { conn, frame: &request });
        trace.output(conn, &frame(MessageType::GetDomainPath, b"/local/domain/5\0"));
        trace.output(conn, &frame(MessageType::WatchEvent, b"a\nb)\xff\0token\0"));
        trace.switch(false);
        trace.output(conn, &request);
        trace.switch(true);
        trace.input(&Input::Boot);
        trace.input(&Input::Close { conn });
        drop(trace);
        let expected = [
            "CREATE connection 0x2a",
            "IN 0x2a GET_DOMAIN_PATH (5 )",
            "OUT 0x2a GET_DOMAIN_PATH (/local/domain/5 )",
            "OUT 0x2a WATCH_EVENT (a\\x0ab)\\xff token )",
            "DESTROY connection 0x2a",
        ];
        assert_eq!(lines(&path), expected);
        drop(start(&path));
        assert_eq!(lines(&path).len(), expected.len(), "it is appended to");
        let nowhere = dir.path().join("no/such");
        assert!(Trace::start(&nowhere, Arc::new(Events::new(8))).is_err());
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("trace"), dir.path().join("trace.1"));
        let trace = start(&path);
        std::fs::rename(&path, &moved).unwrap();
        trace.reopener().reopen();
        trace.input(&Input::Close { conn: ConnId(1) });
        drop(trace);
        assert_eq!(lines(&path), ["", "***", "DESTROY connection 0x1"]);
        assert_eq!(std::fs::read(moved).unwrap(), b"");
    }

    #[test]
    fn what_the_disk_does_not_take_is_left_out_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let trace = start(&path);
        let big = frame(MessageType::Write, &[b'x'; 4096]);
        let fit = WAITING_BYTES / (big.len() + RECORD_BYTES);
        // The writer takes nothing meanwhile.
        let mut waiting = trace.shared.waiting();
        for _ in 0..fit + 3 {
            waiting.add(What::In, ConnId(1), &big);
        }
        assert!(waiting.taken_bytes() <= WAITING_BYTES);
        drop(waiting);
        drop(trace);
        let lines = lines(&path);
        assert_eq!(lines.len(), fit + 2, "an empty line stands before what is not a message");
        assert_eq!(lines.last().unwrap(), "*** 3 messages left out");
    }

    #[test]
    fn a_full_disk_is_told_of_once_and_costs_messages_only() {
        let events = Arc::new(Events::new(8));
        let trace = Trace::start(Path::new("/dev/full"), Arc::clone(&events)).unwrap();
        for _ in 0..2 {
            trace.input(&Input::Close { conn: ConnId(1) });
            std::thread::sleep(PERIOD * 2);
        }
        assert_eq!(trace.shared.waiting().left_out, 2);
        drop(trace);
        let told = format!("{events:?}").matches("trace file /dev/full").count();
        assert_eq!(told, 1);
    }
}
