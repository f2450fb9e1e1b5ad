//! What is wrong with a profile, and where.

use std::fmt;
use std::ops::Range;

/// Something that is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was asked for.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// The line itself, without what surrounds it.
    pub source: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.reason)?;
        if self.source.is_empty() { Ok(()) } else { write!(f, "; in: {}", self.source) }
    }
}

/// A profile that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is none of that name, or it cannot be read.
    #[error(
        "profile {asked}: {what}; a profile is a file, or one of {}",
        super::BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    )]
    Unreadable {
        /// What was asked for.
        asked: String,
        /// Why it cannot be had.
        what: String,
    },
    /// It was read, and this is wrong.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Problem>),
}

/// The text of a profile, to find places in.
pub(super) struct Text<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Text<'_> {
    pub(super) fn problem(&self, span: Option<Range<usize>>, reason: String) -> Problem {
        let at = span.map_or(0, |span| span.start).min(self.text.len());
        let before = &self.text.as_bytes()[..at];
        let begin = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let column = 1 + String::from_utf8_lossy(&before[begin..]).chars().count();
        let source = self.text.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
        Problem {
            file: self.file.to_owned(),
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
            column,
            source: source.trim().to_owned(),
            reason,
        }
    }
}
