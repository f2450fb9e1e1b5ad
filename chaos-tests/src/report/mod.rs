//! Reports of fault runs: the records that a run writes line by line, and what
//! is made of them afterwards: [`render`] writes `summary.json`, `junit.xml` and
//! `report.html` beside `history.jsonl`.

mod html;
mod junit;
pub mod record;
pub mod summary;

use std::fs;
use std::path::{Path, PathBuf};

use record::{FILE_NAME, Reader, RecordError};
use summary::{Builder, Summary};

/// The summary's file.
pub const SUMMARY_NAME: &str = "summary.json";
/// The file for continuous integration.
pub const JUNIT_NAME: &str = "junit.xml";
/// The page for people.
pub const HTML_NAME: &str = "report.html";

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The records cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A file is no summary.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The summary cannot be written as JUnit XML.
    #[error("{JUNIT_NAME}: {0}")]
    Junit(#[from] quick_junit::SerializeError),
}

/// Reads `history.jsonl` in a directory and writes the three reports beside it,
/// in place of those that are there.
///
/// # Errors
/// [`ReportError`]; [`RecordError`] names the line that is no record.
pub fn render(dir: &Path) -> Result<Summary, ReportError> {
    let mut reader = Reader::open(&dir.join(FILE_NAME))?;
    let mut builder = Builder::default();
    let mut page = html::Page::default();
    for record in reader.by_ref() {
        let record = record?;
        builder.add(&record);
        page.add(&record);
    }
    let summary = builder.finish(reader.was_cut_off());
    write_summary(dir, &summary)?;
    let path = dir.join(HTML_NAME);
    let html = page.finish(&summary);
    let html = html.map_err(|source| ReportError::Json { path: path.clone(), source })?;
    write(&path, html.as_bytes())?;
    Ok(summary)
}

/// Writes `summary.json` and `junit.xml`, as of several runs added up.
///
/// # Errors
/// [`ReportError`].
pub fn write_summary(dir: &Path, summary: &Summary) -> Result<(), ReportError> {
    let path = dir.join(SUMMARY_NAME);
    let mut json = serde_json::to_vec_pretty(summary)
        .map_err(|source| ReportError::Json { path: path.clone(), source })?;
    json.push(b'\n');
    write(&path, &json)?;
    write(&dir.join(JUNIT_NAME), junit::junit(summary)?.as_bytes())
}

/// Reads the `summary.json` of a directory.
///
/// # Errors
/// [`ReportError::Io`], [`ReportError::Json`].
pub fn read_summary(dir: &Path) -> Result<Summary, ReportError> {
    let path = dir.join(SUMMARY_NAME);
    let json = fs::read(&path).map_err(|source| ReportError::Io { path: path.clone(), source })?;
    serde_json::from_slice(&json).map_err(|source| ReportError::Json { path, source })
}

/// Replaces a file at once, so that nobody ever reads half of it.
fn write(path: &Path, content: &[u8]) -> Result<(), ReportError> {
    let io = |source| ReportError::Io { path: path.to_owned(), source };
    let draft = path.with_extension("tmp");
    fs::write(&draft, content).map_err(io)?;
    fs::rename(&draft, path).map_err(io)
}
