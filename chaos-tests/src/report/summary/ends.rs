//! What became of damage: by class, way and outcome, and by what the host said.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::record::{FaultClass, FaultJudged, Outcome};

/// Words beyond this many bytes are cut.
const SAID_BYTES: usize = 60;
/// More different ends than this are added up without what was said.
const MAX_ENDS: usize = 300;

/// How often damage ended how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<End>", from = "Vec<End>")]
pub struct Ends {
    counts: BTreeMap<Key, u64>,
}

type Key = (FaultClass, String, Outcome, String);

/// Faults that had the same end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What was done.
    pub class: FaultClass,
    /// In which way.
    pub how: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What the host first said of the replica, numbers left out; empty when it said
    /// nothing.
    pub said: String,
    /// How often.
    pub count: u64,
}

/// What was said, without what differs each time: numbers, names, and details behind
/// them. A name may hold anything, once it is damaged.
fn kind(said: &str) -> String {
    let told = said.strip_prefix("guest: ").unwrap_or(said);
    let named = told.find('"').zip(told.rfind('"')).filter(|(begin, end)| begin < end);
    let told = &match named {
        Some((begin, end)) => format!("{}#{}", &told[..begin], &told[end + 1..]),
        None => told.to_owned(),
    };
    let end = told.find([',', ';']).unwrap_or(told.len());
    let end = told[..end].find(" (exception").unwrap_or(end);
    let mut kind = String::new();
    for word in told[..end].split(' ') {
        let is_number = word.bytes().any(|byte| byte.is_ascii_digit());
        let word = if is_number { "#" } else { word };
        if kind.len() + word.len() >= SAID_BYTES {
            break;
        }
        if !kind.is_empty() {
            kind.push(' ');
        }
        kind += word;
    }
    kind
}

impl Ends {
    /// Takes in a fault, if the host was looked at for what it said, or could have
    /// said something.
    pub fn add(&mut self, judged: &FaultJudged) {
        let said = judged.said.as_deref().map(kind).unwrap_or_default();
        if judged.how.is_some() || !said.is_empty() {
            let how = judged.how.clone().unwrap_or_default();
            self.count((judged.class, how, judged.outcome, said), 1);
        }
    }

    fn count(&mut self, mut key: Key, count: u64) {
        if self.counts.len() >= MAX_ENDS && !self.counts.contains_key(&key) {
            key.3 = "...".to_owned();
        }
        let known = self.counts.entry(key).or_default();
        *known = known.saturating_add(count);
    }

    /// Adds what another one has.
    pub fn merge(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            self.count(key.clone(), *count);
        }
    }

    /// All of them.
    pub fn rows(&self) -> impl Iterator<Item = End> + '_ {
        self.counts.iter().map(|((class, how, outcome, said), count)| End {
            class: *class,
            how: how.clone(),
            outcome: *outcome,
            said: said.clone(),
            count: *count,
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, how, outcome, said, count } = self;
        let name = format!("{class} {how}");
        write!(f, "end {name:<30} {outcome:<10} {count:>6}")?;
        if said.is_empty() { Ok(()) } else { write!(f, "  {said}") }
    }
}

impl From<Ends> for Vec<End> {
    fn from(ends: Ends) -> Self {
        ends.rows().collect()
    }
}

impl From<Vec<End>> for Ends {
    fn from(rows: Vec<End>) -> Self {
        let mut ends = Self::default();
        for End { class, how, outcome, said, count } in rows {
            ends.count((class, how, outcome, said), count);
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::{Component, FaultId};
    use super::*;

    fn judged(said: Option<&str>) -> FaultJudged {
        FaultJudged {
            at_us: 1,
            fault: FaultId(1),
            class: FaultClass::Guest,
            component: Component::Primary,
            outcome: Outcome::Failover,
            note: None,
            how: Some("halt".into()),
            said: said.map(str::to_owned),
            seed: None,
        }
    }

    #[test]
    fn what_was_said_is_told_without_its_numbers() {
        for (said, expected) in [
            ("guest: halted, with nothing that could wake it", "halted"),
            ("guest: page fault (exception 14), error code 0x6, at 0x0", "page fault"),
            ("guest: an answer of 77 bytes does not fit", "an answer of # bytes does not fit"),
            ("hangs: busy loop", "hangs: busy loop"),
            ("corrupt state: node \"a, \"1\n\" is not what", "corrupt state: node # is not what"),
            ("a single \" is", "a single \" is"),
            ("", ""),
        ] {
            assert_eq!(kind(said), expected);
        }
        assert!(kind(&"long words ".repeat(30)).len() < SAID_BYTES);
    }

    #[test]
    fn ends_are_added_up_and_survive_a_file() {
        let mut ends = Ends::default();
        for said in [Some("guest: halted, once"), Some("guest: halted, twice"), None] {
            ends.add(&judged(said));
        }
        let rows: Vec<_> = ends.rows().map(|end| (end.said, end.count)).collect();
        assert_eq!(rows, [(String::new(), 1), ("halted".into(), 2)]);
        let json = serde_json::to_string(&ends).expect("serializes");
        let mut twice: Ends = serde_json::from_str(&json).expect("parses");
        assert_eq!(twice, ends);
        twice.merge(&ends);
        assert_eq!(twice.rows().map(|end| end.count).sum::<u64>(), 6);
        for number in 0..2 * MAX_ENDS {
            let letters = "x".repeat(number % 50) + &"y".repeat(number / 50);
            ends.add(&judged(Some(&letters)));
        }
        assert!(ends.rows().count() <= MAX_ENDS + 1);
    }

    #[test]
    fn an_end_is_a_line() {
        let mut ends = Ends::default();
        ends.add(&judged(Some("guest: halted, once")));
        let line = ends.rows().next().expect("there is one").to_string();
        assert_eq!(line, "end guest halt                     failover        1  halted");
    }
}
