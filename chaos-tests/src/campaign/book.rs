//! The history of a campaign, written by several threads.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::report::record::{Micros, Record, RecordError, Writer};

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    began: Instant,
    /// None once it is closed, or could not be written.
    pages: Mutex<Pages>,
}

#[derive(Debug)]
struct Pages {
    writer: Option<Writer>,
    error: Option<RecordError>,
}

impl Book {
    pub(super) fn create(dir: &Path) -> Result<Self, RecordError> {
        let pages = Pages { writer: Some(Writer::create(dir)?), error: None };
        Ok(Self { began: Instant::now(), pages: Mutex::new(pages) })
    }

    /// Time since the start.
    pub(super) fn now(&self) -> Micros {
        self.at(Instant::now())
    }

    /// When that was, since the start.
    pub(super) fn at(&self, then: Instant) -> Micros {
        let since = then.saturating_duration_since(self.began);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Writes a record. The first failure is told by [`Self::close`]: a campaign
    /// does not end in the middle because a disk is full.
    pub(super) fn put(&self, record: &Record) {
        let mut pages = self.lock();
        let Pages { writer, error } = &mut *pages;
        if let Some(open) = writer
            && let Err(failed) = open.write(record)
        {
            *error = Some(failed);
            *writer = None;
        }
    }

    /// Writes everything out.
    pub(super) fn close(&self) -> Result<(), RecordError> {
        let mut pages = self.lock();
        if let Some(error) = pages.error.take() {
            return Err(error);
        }
        pages.writer.take().map_or(Ok(()), Writer::finish)
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
