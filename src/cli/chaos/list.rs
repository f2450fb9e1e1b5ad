//! `rvmm chaos list`.

use std::fmt::Write;
use std::process::ExitCode;

use chaos::campaign::{BUILT_IN, CLASSES, ClassInfo, Profile};
use clap::Args;

use crate::cli::{Format, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(serde::Serialize)]
struct Listed {
    name: &'static str,
    text: String,
}

#[derive(serde::Serialize)]
struct List {
    profiles: Vec<Listed>,
    faults: Vec<Listed>,
}

pub(crate) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let mut profiles = Vec::new();
    for (name, _) in BUILT_IN {
        let profile = Profile::load(name)?;
        profiles.push(Listed { name, text: profile.file.description });
    }
    let faults =
        CLASSES.iter().map(|info| Listed { name: info.class.name(), text: describe(info) });
    let list = List { profiles, faults: faults.collect() };
    match args.output {
        Format::Text => print(text(&list))?,
        Format::Json => print_json(&list)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(list: &List) -> String {
    let mut text = String::new();
    let mut part = |title: &str, entries: &[Listed]| {
        let _ = writeln!(text, "{title}:");
        for Listed { name, text: line } in entries {
            let _ = writeln!(text, "  {name:<22} {line}");
        }
    };
    part("profiles (rvmm chaos run PROFILE; a file of your own works too)", &list.profiles);
    part("\nfaults (a profile's [[fault]] class)", &list.faults);
    text
}

/// What a class does and takes, in a line.
fn describe(info: &ClassInfo) -> String {
    let mut line = info.means.to_owned();
    let mut words = |key: &str, words: Vec<&str>| {
        if !words.is_empty() {
            let _ = write!(line, "; {key}: {}", words.join(", "));
        }
    };
    words("target", info.aims.iter().map(|aim| aim.name()).collect());
    words("how", info.ways.iter().map(|(way, _)| *way).collect());
    let numbers = [("for", info.hold_ms), ("percent", info.percent), ("count", info.count)];
    let taken: Vec<_> = numbers.iter().filter(|(_, info)| info.is_some()).collect();
    words("takes", taken.into_iter().map(|(key, _)| *key).collect());
    line
}
