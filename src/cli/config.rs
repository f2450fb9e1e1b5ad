//! `rvmm config`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Format, Settings, print, print_json};
use crate::config::{KEYS, Loaded, Value};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Tell everything that is wrong with the configuration
    Check(Check),
    /// Show every value, and where it came from
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    settings: Settings,
    /// Output format; text is valid TOML
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn config(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check(Check { settings }) => {
            let loaded = Loaded::load(&settings.sources())?;
            for warning in &loaded.warnings {
                print(format!("warning: {warning}\n"))?;
            }
            let file = loaded.file.map_or("defaults".to_owned(), |file| file.display().to_string());
            print(format!("ok: {file}\n"))?;
        }
        ConfigCommand::Show(Show { settings, output }) => {
            let loaded = Loaded::load(&settings.sources())?;
            match output {
                Format::Text => print(text(&loaded))?,
                Format::Json => print_json(&json(&loaded))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(loaded: &Loaded) -> String {
    let mut text = String::new();
    for key in KEYS {
        let value = key.get(&loaded.config);
        // What is not set has no spelling in TOML.
        let comment = if value == Value::Unset { "#" } else { "" };
        let setting = format!("{comment}{} = {value}", key.name);
        text += &format!("{setting:<46} # {}\n", loaded.origin(key));
    }
    text
}

fn json(loaded: &Loaded) -> serde_json::Value {
    KEYS.iter()
        .map(|key| {
            let value = match key.get(&loaded.config) {
                Value::Whole(number) => number.into(),
                Value::Switch(switch) => switch.into(),
                Value::Text(text) => text.into(),
                Value::Unset => serde_json::Value::Null,
            };
            serde_json::json!({
                "key": key.name,
                "value": value,
                "origin": loaded.origin(key).to_string(),
                "allowed": key.allowed.to_string(),
                "env": key.env(),
                "meaning": key.doc,
            })
        })
        .collect()
}
