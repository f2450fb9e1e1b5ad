//! The log: a bounded ring of the last events, which `rvmm dmesg` shows, and
//! which also goes to standard error.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What an event is about. Shown as `[SD_...]`, as users of the R-VMM
/// prototype grep for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tag {
    /// The daemon itself: start, stop, configuration.
    #[serde(rename = "SD_HOST")]
    Host,
    /// The monitor: what it noticed about replicas.
    #[serde(rename = "SD_MON")]
    Monitor,
    /// Stopping a replica for certain.
    #[serde(rename = "SD_FENCE")]
    Fence,
    /// Choosing and installing a primary.
    #[serde(rename = "SD_PROMOTE")]
    Promote,
    /// Starting replicas and bringing them up to date.
    #[serde(rename = "SD_REBUILD")]
    Rebuild,
    /// The xenstore component.
    #[serde(rename = "SD_XS")]
    Xenstore,
    /// A client of a component: what it was refused.
    #[serde(rename = "SD_CLIENT")]
    Client,
    /// An operator's command.
    #[serde(rename = "SD_CTL")]
    Control,
    /// An injected fault.
    #[serde(rename = "SD_FAULT")]
    Fault,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "[SD_HOST]",
            Self::Monitor => "[SD_MON]",
            Self::Fence => "[SD_FENCE]",
            Self::Promote => "[SD_PROMOTE]",
            Self::Rebuild => "[SD_REBUILD]",
            Self::Xenstore => "[SD_XS]",
            Self::Client => "[SD_CLIENT]",
            Self::Control => "[SD_CTL]",
            Self::Fault => "[SD_FAULT]",
        })
    }
}

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Part of normal work.
    Info,
    /// Somebody was refused, or something was lost that is made up for.
    Warn,
    /// Something is lost for good.
    Error,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the log, from 1.
    pub seq: u64,
    /// When, microseconds since the Unix epoch.
    pub unix_us: u64,
    /// How grave.
    pub severity: Severity,
    /// What it is about.
    pub tags: Vec<Tag>,
    /// What happened, one line.
    pub text: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = UNIX_EPOCH + Duration::from_micros(self.unix_us);
        write!(f, "{}", humantime::format_rfc3339_micros(at))?;
        for tag in &self.tags {
            write!(f, " {tag}")?;
        }
        match self.severity {
            Severity::Info => {}
            Severity::Warn => f.write_str(" warning:")?,
            Severity::Error => f.write_str(" error:")?,
        }
        write!(f, " {}", self.text)
    }
}

/// An event's text beyond this many bytes is cut.
const MAX_TEXT: usize = 1024;

/// The ring. When it is full the oldest event gives way; readers see the gap in
/// the numbers.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<Ring>,
    /// The last number, for those who wait for more.
    last: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Event>,
    capacity: usize,
    next_seq: u64,
}

impl Events {
    /// An empty ring for `capacity` events.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let ring = Ring { events: VecDeque::new(), capacity: capacity.max(1), next_seq: 1 };
        Self { ring: Mutex::new(ring), last: watch::Sender::new(0) }
    }

    /// Notes something that is part of normal work.
    pub fn info(&self, tags: &[Tag], text: impl Into<String>) {
        self.note(Severity::Info, tags, text.into());
    }

    /// Notes a refusal, or a loss that is made up for.
    pub fn warn(&self, tags: &[Tag], text: impl Into<String>) {
        self.note(Severity::Warn, tags, text.into());
    }

    /// Notes a loss for good.
    pub fn error(&self, tags: &[Tag], text: impl Into<String>) {
        self.note(Severity::Error, tags, text.into());
    }

    fn note(&self, severity: Severity, tags: &[Tag], text: String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let mut event = Event { seq: 0, unix_us, severity, tags: tags.to_vec(), text: tame(text) };
        let mut ring = self.lock();
        event.seq = ring.next_seq;
        forward(&event);
        ring.next_seq += 1;
        if ring.events.len() == ring.capacity {
            ring.events.pop_front();
        }
        let seq = event.seq;
        ring.events.push_back(event);
        drop(ring);
        self.last.send_replace(seq);
    }

    /// At most `limit` events after the one numbered `after`, oldest first.
    #[must_use]
    pub fn after(&self, after: u64, limit: usize) -> Vec<Event> {
        let ring = self.lock();
        let skip = ring.events.partition_point(|event| event.seq <= after);
        ring.events.iter().skip(skip).take(limit).cloned().collect()
    }

    /// Tells of each new event's number.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A ring is whole between any two statements of `note`.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps text that a client may have had a hand in from forging lines or
/// driving the terminal, and cuts what is too long.
fn tame(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    if text.chars().any(char::is_control) {
        text = text.chars().flat_map(tame_char).collect();
    }
    text
}

fn tame_char(char: char) -> Box<dyn Iterator<Item = char>> {
    if char.is_control() { Box::new(char.escape_default()) } else { Box::new([char].into_iter()) }
}

fn forward(event: &Event) {
    match event.severity {
        Severity::Info => tracing::info!(target: "rvmm", "{event}"),
        Severity::Warn => tracing::warn!(target: "rvmm", "{event}"),
        Severity::Error => tracing::error!(target: "rvmm", "{event}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_time_tags_and_text() {
        let event = Event {
            seq: 1,
            unix_us: 1_700_000_000_123_456,
            severity: Severity::Warn,
            tags: vec![Tag::Monitor, Tag::Xenstore],
            text: "replica 2 stands still".into(),
        };
        assert_eq!(
            event.to_string(),
            "2023-11-14T22:13:20.123456Z [SD_MON] [SD_XS] warning: replica 2 stands still"
        );
    }

    #[test]
    fn the_ring_is_bounded_and_shows_its_gap() {
        let events = Events::new(3);
        let last = events.subscribe();
        for i in 1..=5 {
            events.info(&[Tag::Host], format!("event {i}"));
        }
        assert_eq!(*last.borrow(), 5);
        let seqs = |after, limit| -> Vec<u64> {
            events.after(after, limit).iter().map(|event| event.seq).collect()
        };
        assert_eq!(seqs(0, 10), [3, 4, 5]);
        assert_eq!(seqs(3, 1), [4]);
        assert!(seqs(5, 10).is_empty());
    }

    #[test]
    fn hostile_text_cannot_forge_a_line() {
        let events = Events::new(3);
        events.warn(&[Tag::Client], "bad path /a\n2023 [SD_MON] all is well\x1b[2J");
        events.warn(&[Tag::Client], "\u{e4}".repeat(MAX_TEXT));
        let noted = events.after(0, 9);
        assert_eq!(noted[0].text, "bad path /a\\n2023 [SD_MON] all is well\\u{1b}[2J");
        assert!(noted[1].text.len() <= MAX_TEXT + 3 && noted[1].text.ends_with("..."));
    }
}
