//! Cases that once showed a bug, kept so that they are run for ever.
//!
//! A line is a case as `rvmm chaos replay` takes it, and after a `#` what it once
//! found. Whole lines may be comments, too.

use std::fmt;

use super::case::{Case, CaseError};

/// The file in the repository.
const FILE: &str = "chaos-tests/seeds/kept.txt";
const TEXT: &str = include_str!("../../seeds/kept.txt");

/// A case with its story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What is run.
    pub case: Case,
    /// What it once found.
    pub found: String,
}

/// A line that is no kept case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct KeptError {
    file: String,
    line: usize,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error("after a # is to stand what this case once found")]
    NoStory,
    #[error("the same case stands in line {0}")]
    Twice(usize),
}

impl Kept {
    /// Those of the repository.
    ///
    /// # Errors
    /// [`KeptError`] names the line.
    pub fn committed() -> Result<Vec<Self>, KeptError> {
        Self::parse(&FILE, TEXT)
    }

    /// Those of a file with this name and content.
    ///
    /// # Errors
    /// [`KeptError`] names the line.
    pub fn parse(file: &dyn fmt::Display, text: &str) -> Result<Vec<Self>, KeptError> {
        let mut kept: Vec<(usize, Self)> = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let at = |problem| KeptError { file: file.to_string(), line, problem };
            let (case, found) = content.split_once('#').unwrap_or((content, ""));
            if case.trim().is_empty() {
                continue;
            }
            let case: Case = case.parse().map_err(|error: CaseError| at(error.into()))?;
            let found = found.trim().to_owned();
            if found.is_empty() {
                return Err(at(Problem::NoStory));
            }
            if let Some((other, _)) = kept.iter().find(|(_, kept)| kept.case == case) {
                return Err(at(Problem::Twice(*other)));
            }
            kept.push((line, Self { case, found }));
        }
        Ok(kept.into_iter().map(|(_, kept)| kept).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_ones_are_in_order() {
        let kept = Kept::committed().unwrap_or_else(|error| panic!("{error}"));
        assert!(kept.iter().any(|kept| kept.case == Case::of(249)));
    }

    #[test]
    fn a_line_is_a_case_and_its_story() {
        let kept = Kept::parse(&"f", "# all\n\n8 # a\n 8 --span 5s --only 1,2\t# b # c\n");
        let kept = kept.expect("is in order");
        let shown: Vec<_> = kept.iter().map(|k| (k.case.to_string(), k.found.as_str())).collect();
        assert_eq!(shown, [("8".into(), "a"), ("8 --span 5s --only 1,2".into(), "b # c")]);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        for (text, problem) in [
            ("8 # a\nx # b", "f:2: \"x\" is no seed"),
            ("\n8 --without crush # a", "f:2: --without: no fault is called \"crush\""),
            ("8", "f:1: after a # is to stand"),
            ("8 #  ", "f:1: after a # is to stand"),
            ("8 # a\n9 # b\n8 # c", "f:3: the same case stands in line 1"),
        ] {
            let error = Kept::parse(&"f", text).expect_err(text).to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
