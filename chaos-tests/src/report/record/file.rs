//! The file of records: written line by line, bounded, and read back with the
//! file and line of whatever is wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Component, FORMAT, FaultClass, FaultTally, LeftOut, Outcome, Record};

/// The file's name in the directory of a run.
pub const FILE_NAME: &str = "history.jsonl";

/// A file of so many bytes takes no more details; its figures stay right.
pub const MAX_DETAIL_BYTES: u64 = 256 << 20;

/// A longer line is refused, by reader and writer.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// Texts of a line that is too long are cut to so many characters.
const MAX_TEXT_CHARS: usize = 2000;

/// Why records could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// How it failed.
        source: std::io::Error,
    },
    /// A line is no record.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A record is too long to be one line.
    #[error("a {kind} record of {bytes} bytes is longer than {MAX_LINE_BYTES} allow")]
    TooLong {
        /// The record's kind.
        kind: &'static str,
        /// Its length.
        bytes: usize,
    },
}

/// Writes records. Details go through a buffer; what cannot be left out is
/// written out at once, so that a run that is killed leaves a usable file.
///
/// When the file is full, details are left out and counted, and the ends of
/// faults are added up: the counts are written at the end.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    written: u64,
    max_detail_bytes: u64,
    line: Vec<u8>,
    left_out: BTreeMap<&'static str, u64>,
    tally: BTreeMap<(FaultClass, Component, Outcome), u64>,
}

impl Writer {
    /// Creates `history.jsonl` in a directory, in place of one that is there.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn create(dir: &Path) -> Result<Self, RecordError> {
        Self::with_limit(&dir.join(FILE_NAME), MAX_DETAIL_BYTES)
    }

    /// Creates a file that takes details up to so many bytes.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn with_limit(path: &Path, max_detail_bytes: u64) -> Result<Self, RecordError> {
        let file = File::create(path).map_err(|source| io(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(1 << 16, file),
            written: 0,
            max_detail_bytes,
            line: Vec::new(),
            left_out: BTreeMap::new(),
            tally: BTreeMap::new(),
        })
    }

    /// Writes a record, or counts it when it is a detail and the file is full.
    /// Texts are cut where the line would be too long.
    ///
    /// # Errors
    /// [`RecordError::Io`], or [`RecordError::TooLong`] when it is no line.
    pub fn write(&mut self, record: &Record) -> Result<(), RecordError> {
        if record.is_detail() {
            if self.written < self.max_detail_bytes {
                return self.put(record);
            }
            if let Record::FaultJudged(end) = record {
                *self.tally.entry((end.class, end.component, end.outcome)).or_default() += 1;
            }
            *self.left_out.entry(record.kind()).or_default() += 1;
            return Ok(());
        }
        if matches!(record, Record::RunEnd(_)) {
            self.settle()?;
        }
        self.put(record)?;
        self.flush()
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn flush(&mut self) -> Result<(), RecordError> {
        self.out.flush().map_err(|source| io(&self.path, source))
    }

    /// Writes what is still to be said, and everything out. Dropping the writer
    /// does the same, but cannot say what failed.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn finish(mut self) -> Result<(), RecordError> {
        self.settle()?;
        self.flush()
    }

    /// Writes what was counted instead of written.
    fn settle(&mut self) -> Result<(), RecordError> {
        for ((class, component, outcome), count) in std::mem::take(&mut self.tally) {
            self.put(&Record::FaultTally(FaultTally { class, component, outcome, count }))?;
        }
        for (kind, count) in std::mem::take(&mut self.left_out) {
            self.put(&Record::LeftOut(LeftOut { of: kind.to_owned(), count }))?;
        }
        Ok(())
    }

    fn put(&mut self, record: &Record) -> Result<(), RecordError> {
        let json = |error: serde_json::Error| io(&self.path, error.into());
        self.line.clear();
        serde_json::to_writer(&mut self.line, record).map_err(json)?;
        if self.line.len() >= MAX_LINE_BYTES {
            let mut value = serde_json::to_value(record).map_err(json)?;
            cut_texts(&mut value);
            self.line.clear();
            serde_json::to_writer(&mut self.line, &value).map_err(json)?;
        }
        self.line.push(b'\n');
        if self.line.len() > MAX_LINE_BYTES {
            return Err(RecordError::TooLong { kind: record.kind(), bytes: self.line.len() });
        }
        self.out.write_all(&self.line).map_err(|source| io(&self.path, source))?;
        self.written += self.line.len() as u64;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody is left who could be told; the buffer flushes itself.
        let _ = self.settle();
    }
}

/// Reads records, one after another.
#[derive(Debug)]
pub struct Reader<R> {
    path: PathBuf,
    input: R,
    line: u64,
    buffer: Vec<u8>,
    cut_off: bool,
    ended: bool,
}

impl Reader<BufReader<File>> {
    /// Opens a file of records.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let file = File::open(path).map_err(|source| io(path, source))?;
        Ok(Reader::new(path, BufReader::new(file)))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`, which errors call `path`.
    pub fn new(path: &Path, input: R) -> Self {
        let path = path.to_owned();
        Self { path, input, line: 0, buffer: Vec::new(), cut_off: false, ended: false }
    }

    /// Whether the last line was not written to its end, as when the writer was
    /// killed. That line is not an error, and is left out.
    #[must_use]
    pub fn was_cut_off(&self) -> bool {
        self.cut_off
    }

    fn read(&mut self) -> Result<Option<Record>, RecordError> {
        loop {
            self.line += 1;
            self.buffer.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let read = self.input.by_ref().take(limit).read_until(b'\n', &mut self.buffer);
            read.map_err(|source| io(&self.path, source))?;
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(self.bad(format!("longer than {MAX_LINE_BYTES} bytes")));
            }
            if self.buffer.is_empty() {
                return Ok(None);
            }
            if self.buffer.last() != Some(&b'\n') {
                self.cut_off = true;
                return Ok(None);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let record: Record =
            serde_json::from_slice(&self.buffer).map_err(|error| self.bad(error.to_string()))?;
        if let Record::RunBegin(begin) = &record
            && begin.format > FORMAT
        {
            let format = begin.format;
            return Err(self.bad(format!("format {format} is newer than {FORMAT}, the last known")));
        }
        Ok(Some(record))
    }

    fn bad(&self, reason: String) -> RecordError {
        RecordError::Line { path: self.path.clone(), line: self.line, reason }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, RecordError>;

    /// The next record. Nothing follows an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.read().transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
    }
}

/// Cuts every text to its first [`MAX_TEXT_CHARS`]: a verdict with a long
/// history in it is better cut than lost.
fn cut_texts(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
                text.truncate(end);
                text.push_str(" ... (cut)");
            }
        }
        Value::Array(values) => values.iter_mut().for_each(cut_texts),
        Value::Object(members) => members.values_mut().for_each(cut_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn io(path: &Path, source: std::io::Error) -> RecordError {
    RecordError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::super::{CheckerVerdict, FaultId, FaultJudged, Pause, RunEnd, RunOutcome};
    use super::*;

    fn read(path: &Path) -> Result<Vec<Record>, RecordError> {
        Reader::open(path)?.collect()
    }

    fn text_file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, text).expect("is written");
        (dir, path)
    }

    quickcheck! {
        fn what_is_written_is_read(records: Vec<Record>) -> bool {
            let dir = tempfile::tempdir().expect("a directory");
            let mut writer = Writer::create(dir.path()).expect("is created");
            records.iter().for_each(|record| writer.write(record).expect("is written"));
            writer.finish().expect("is written");
            read(&dir.path().join(FILE_NAME)).expect("is right") == records
        }
    }

    fn judged(outcome: Outcome) -> Record {
        let (class, component) = (FaultClass::Hang, Component::Primary);
        let (at_us, fault) = (7, FaultId(1));
        Record::FaultJudged(FaultJudged {
            at_us,
            fault,
            class,
            component,
            outcome,
            note: None,
            how: None,
            said: None,
            seed: None,
        })
    }

    fn end() -> Record {
        let outcome = RunOutcome::Passed;
        Record::RunEnd(RunEnd {
            at_us: 9,
            outcome,
            reason: None,
            seeds: 1,
            simulated_us: 0,
            operations: 0,
            faults: BTreeMap::new(),
            reproduce: None,
        })
    }

    #[test]
    fn a_full_file_still_knows_how_faults_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let mut writer = Writer::with_limit(&path, 150).expect("is created");
        for _ in 0..20 {
            writer.write(&judged(Outcome::Failover)).expect("is written");
        }
        writer.write(&judged(Outcome::Failed)).expect("is written");
        for _ in 0..5 {
            let pause = Pause { at_us: 1, duration_us: 2, client: None };
            writer.write(&Record::Pause(pause)).expect("is written");
        }
        writer.write(&end()).expect("is written");
        drop(writer);
        let records = read(&path).expect("is right");
        let tally = |outcome, count| {
            let (class, component) = (FaultClass::Hang, Component::Primary);
            Record::FaultTally(FaultTally { class, component, outcome, count })
        };
        let left_out = |of: &str, count| Record::LeftOut(LeftOut { of: of.to_owned(), count });
        assert_eq!(
            records,
            [
                judged(Outcome::Failover),
                judged(Outcome::Failover),
                tally(Outcome::Failover, 18),
                tally(Outcome::Failed, 1),
                left_out("fault-judged", 19),
                left_out("pause", 5),
                end(),
            ]
        );
    }

    #[test]
    fn a_long_text_is_cut_and_nothing_else_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = Writer::create(dir.path()).expect("is created");
        let mut verdict = CheckerVerdict {
            at_us: 1,
            checker: "linearizability".to_owned(),
            passed: false,
            judged: true,
            checked: 3,
            detail: Some("\u{e9}".repeat(MAX_LINE_BYTES)),
            seed: Some(u64::MAX),
            reproduce: Some("rvmm chaos replay 7".to_owned()),
        };
        writer.write(&Record::Checker(verdict.clone())).expect("is written");
        writer.finish().expect("is written");
        verdict.detail = Some("\u{e9}".repeat(MAX_TEXT_CHARS) + " ... (cut)");
        let records = read(&dir.path().join(FILE_NAME)).expect("is right");
        assert_eq!(records, [Record::Checker(verdict)]);
    }

    #[test]
    fn bad_input_is_named_by_file_and_line() {
        let good = serde_json::to_string(&end()).expect("serializes");
        let long = format!("{good}\n\"{}\"\n", "x".repeat(MAX_LINE_BYTES));
        let newer =
            r#"{"kind":"run-begin","format":2,"profile":"ci","seed":1,"version":"1","target":"x"}"#;
        for (text, line, reason) in [
            (format!("{good}\n\n{{\"kind\":\"nonsense\"}}\n"), 3, "nonsense"),
            (format!("{good}\nnonsense\n"), 2, "expected"),
            (format!("{good}\n\u{0}\n"), 2, "expected"),
            (format!("{{\"kind\":\"pause\",\"at_us\":-1}}\n{good}\n"), 1, "invalid value"),
            (long, 2, "longer than"),
            (format!("{newer}\n"), 1, "newer"),
        ] {
            let (_dir, path) = text_file(&text);
            let error = read(&path).expect_err("is wrong").to_string();
            let place = format!("{}:{line}: ", path.display());
            assert!(error.starts_with(&place) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn nothing_follows_an_error() {
        let (_dir, path) = text_file("nonsense\nnonsense\n");
        assert_eq!(Reader::open(&path).expect("opens").count(), 1);
    }

    #[test]
    fn a_line_that_was_cut_off_is_no_error() {
        let good = serde_json::to_string(&end()).expect("serializes");
        for (rest, cut_off) in [("", false), ("{\"kind\":\"pau", true)] {
            let (_dir, path) = text_file(&format!("{good}\n{rest}"));
            let mut reader = Reader::open(&path).expect("opens");
            let records: Result<Vec<Record>, RecordError> = reader.by_ref().collect();
            assert_eq!(records.expect("is right"), [end()]);
            assert_eq!(reader.was_cut_off(), cut_off);
        }
    }
}
