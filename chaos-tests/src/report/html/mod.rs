//! The page for people: one file that needs no network. The data is embedded as
//! JSON; the script on the page draws it.

mod timeline;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::record::{Component, FaultClass, Outcome, Record, RunBegin};
use super::summary::Summary;
use timeline::{Capped, Timeline};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Takes in records, and makes the page. What it holds is bounded.
#[derive(Debug, Default)]
pub(super) struct Page {
    begin: Option<RunBegin>,
    timeline: Timeline,
}

/// Everything that the script draws.
#[derive(Serialize)]
struct Data<'a> {
    begin: Option<&'a RunBegin>,
    summary: &'a Summary,
    faults_total: u64,
    /// Percentiles, for the buckets are of no use on the page.
    phases: BTreeMap<&'static str, [u64; 5]>,
    timeline: Value,
    capped: Vec<Capped>,
    classes: BTreeMap<&'static str, &'static str>,
    components: BTreeMap<&'static str, &'static str>,
    outcomes: Vec<(&'static str, &'static str)>,
}

impl Page {
    /// Takes in a record.
    pub(super) fn add(&mut self, record: &Record) {
        if let Record::RunBegin(begin) = record {
            self.begin.get_or_insert_with(|| begin.clone());
        }
        self.timeline.add(record);
    }

    /// The page.
    pub(super) fn finish(self, summary: &Summary) -> Result<String, serde_json::Error> {
        let phases = summary.failovers.all().map(|(name, spread)| {
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| spread.quantile_us(share));
            (name, [spread.count(), p50, p90, p99, spread.max_us()])
        });
        let (timeline, capped) = self.timeline.finish()?;
        let data = Data {
            begin: self.begin.as_ref(),
            summary,
            faults_total: summary.faults_total(),
            phases: phases.into_iter().collect(),
            timeline,
            capped,
            classes: FaultClass::ALL.iter().map(|c| (c.name(), c.description())).collect(),
            components: Component::ALL.iter().map(|c| (c.name(), c.description())).collect(),
            outcomes: Outcome::ALL.iter().map(|o| (o.name(), o.description())).collect(),
        };
        let mut data = serde_json::to_value(data)?;
        for_the_page(&mut data);
        let json = escape(&serde_json::to_string(&data)?);
        // The data comes last, so that nothing in it is taken for a place.
        Ok(TEMPLATE
            .replacen("/*STYLE*/", STYLE, 1)
            .replacen("/*SCRIPT*/", SCRIPT, 1)
            .replacen("/*DATA*/", &json, 1))
    }
}

/// Leaves out the buckets of spreads, and makes texts of seeds: the numbers of
/// browsers do not hold 64 bits.
fn for_the_page(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("buckets");
            for (name, member) in members {
                if name.ends_with("seed") && member.is_u64() {
                    *member = Value::String(member.to_string());
                } else {
                    for_the_page(member);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(for_the_page),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// JSON that may stand inside a `script` element: nothing in it ends the element
/// or begins a comment.
fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::super::summary::Builder;
    use super::*;

    fn page(records: &[Record]) -> String {
        let (mut page, mut builder) = (Page::default(), Builder::default());
        for record in records {
            page.add(record);
            builder.add(record);
        }
        page.finish(&builder.finish(false)).expect("is made")
    }

    fn data(page: &str) -> &str {
        let start = page.find("<script id=\"data\" type=\"application/json\">").expect("is there");
        let rest = &page[start..];
        let start = rest.find('>').expect("is there") + 1;
        &rest[start..rest.find("</script>").expect("is there")]
    }

    quickcheck! {
        fn any_text_stays_inside_its_script(records: Vec<Record>, text: String) -> bool {
            let hostile = format!("</script><script>x</script><!--{text}/*DATA*//*SCRIPT*/");
            let begin = RunBegin { profile: hostile.clone(), ..RunBegin::default() };
            let page = page(&[vec![Record::RunBegin(begin)], records].concat());
            let parsed: Value = serde_json::from_str(data(&page)).expect("is JSON");
            parsed["begin"]["profile"] == Value::String(hostile)
                && page.matches("</script").count() == 2
        }
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&[]);
        for outside in ["http:", "https:", "src=", "@import", "url(", "<link"] {
            // A name that is never fetched, and a part of the page itself.
            let page = page.replace("http://www.w3.org/2000/svg", "").replace("url(#", "");
            assert!(!page.contains(outside), "{outside}");
        }
        for place in ["/*STYLE*/", "/*SCRIPT*/", "/*DATA*/"] {
            assert!(!page.contains(place), "{place}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("lang=\"en\""));
    }

    #[test]
    fn seeds_keep_all_their_digits() {
        let begin = RunBegin { seed: u64::MAX, ..RunBegin::default() };
        let page = page(&[Record::RunBegin(begin)]);
        let parsed: Value = serde_json::from_str(data(&page)).expect("is JSON");
        assert_eq!(parsed["begin"]["seed"], Value::String(u64::MAX.to_string()));
        assert_eq!(parsed["summary"]["first_seed"], Value::String(u64::MAX.to_string()));
    }
}
