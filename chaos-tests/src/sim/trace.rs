//! What happened in a run, step by step: a digest always, text when somebody
//! wants to read it.

use std::fmt;

use state_machine::Mixer;

/// How much of a run is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceMode {
    /// Only a digest.
    Digest,
    /// Every step as a line.
    Text,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trace {
    mode: TraceMode,
    digest: Mixer,
    lines: u64,
    text: String,
}

/// A step: who, what, and two numbers that tell it from others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) at_us: u64,
    pub(super) who: &'a str,
    pub(super) number: u64,
    pub(super) what: &'a str,
    pub(super) values: [u64; 4],
}

impl Trace {
    pub(super) fn new(mode: TraceMode) -> Self {
        Self { mode, digest: Mixer::new(), lines: 0, text: String::new() }
    }

    /// Notes a step. Everything that goes in here must follow from the seed.
    pub(super) fn step(&mut self, entry: &Entry<'_>) {
        self.lines += 1;
        let mixer = self.digest.word(entry.at_us).bytes(entry.who.as_bytes());
        let mixer = mixer.word(entry.number).bytes(entry.what.as_bytes());
        self.digest = entry.values.iter().fold(mixer, |mixer, value| mixer.word(*value));
        if self.mode == TraceMode::Text {
            use fmt::Write as _;
            let Entry { at_us, who, number, what, values } = entry;
            let _ = write!(self.text, "{at_us:>10} {who} {number}: {what}");
            for value in values {
                let _ = write!(self.text, " {value}");
            }
            self.text.push('\n');
        }
    }

    /// Notes something for people, in their words.
    pub(super) fn say(&mut self, at_us: u64, what: &dyn fmt::Display) {
        if self.mode == TraceMode::Text {
            use fmt::Write as _;
            let _ = writeln!(self.text, "{at_us:>10} ** {what}");
        }
    }

    pub(super) fn is_text(&self) -> bool {
        self.mode == TraceMode::Text
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}
