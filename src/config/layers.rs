//! The layers of the configuration, and what is wrong with them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::schema::{KEYS, Key};
use super::value::Value;
use super::{Config, check};

/// The environment variable that names the file.
pub const CONFIG_ENV: &str = "RVMM_CONFIG";
/// The file that is read when none is named and it exists.
const SYSTEM_FILE: &str = "/etc/rvmm/rvmm.toml";
/// A file beyond this many bytes is no configuration.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value given by a flag.
#[derive(Clone, Debug)]
pub struct Override {
    /// The flag, as the user knows it.
    pub flag: String,
    /// The key.
    pub key: String,
    /// The value's text.
    pub text: String,
}

/// What the layers above the defaults are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, when one is named by a flag.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(OsString, OsString)>,
    /// The flags, the last one of a key wins.
    pub flags: Vec<Override>,
}

impl Sources {
    /// The process's environment, and these flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Override>) -> Self {
        Self { file, env: std::env::vars_os().collect(), flags }
    }
}

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What, and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.what)
    }
}

/// A configuration that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// It was read, and everything that is wrong is listed.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Problem>),
}

/// A configuration that may stand.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<Problem>,
    origins: Origins,
}

impl Loaded {
    /// Where the value of `key` came from.
    #[must_use]
    pub fn origin(&self, key: &Key) -> Origin {
        self.origins.of(key.name)
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, not just the first.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        let file = chosen_file(sources);
        if let Some(path) = &file {
            layers.file(path)?;
        }
        layers.env(&sources.env);
        for flag in &sources.flags {
            let origin = Origin::Flag(flag.flag.clone());
            match Key::find(&flag.key) {
                Some(key) => layers.set(key, &key.allowed.parse(&flag.text), origin),
                None => layers.unknown(&flag.key, origin),
            }
        }
        check::cross(&layers.config, &layers.origins, &mut layers.problems);
        if !layers.problems.is_empty() {
            return Err(ConfigError::Refused(layers.problems));
        }
        check::doubtful(&layers.config, &layers.origins, &mut layers.warnings);
        let Layers { config, origins, warnings, .. } = layers;
        Ok(Self { config, file, warnings, origins })
    }
}

/// The flag's file, else the environment's (empty: none), else the system's.
fn chosen_file(sources: &Sources) -> Option<PathBuf> {
    if let Some(file) = &sources.file {
        return Some(file.clone());
    }
    match sources.env.iter().find(|(name, _)| name == CONFIG_ENV) {
        Some((_, path)) => (!path.is_empty()).then(|| path.into()),
        None => Some(PathBuf::from(SYSTEM_FILE)).filter(|path| path.exists()),
    }
}

/// Where each value that is not a default came from, by the key's name.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    pub(super) fn of(&self, name: &str) -> Origin {
        self.0.get(name).cloned().unwrap_or(Origin::Default)
    }
}

#[derive(Default)]
struct Layers {
    config: Config,
    origins: Origins,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Layers {
    fn set(&mut self, key: &'static Key, value: &Value, origin: Origin) {
        if key.allowed.admits(value) && (key.set)(&mut self.config, value) {
            self.origins.0.insert(key.name, origin);
        } else {
            let what = format!("{} = {value} is refused; allowed: {}", key.name, key.allowed);
            self.problems.push(Problem { origin, what });
        }
    }

    fn unknown(&mut self, name: &str, origin: Origin) {
        let what = format!("unknown key {name}; allowed {}", siblings(name));
        self.problems.push(Problem { origin, what });
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable = |what: String| ConfigError::Unreadable { path: path.to_path_buf(), what };
        let meta = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !meta.is_file() || meta.len() > MAX_FILE_LEN {
            return Err(unreadable(format!("not a file of at most {MAX_FILE_LEN} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let lines = Lines { path: path.into(), text: &text };
        match DeTable::parse(&text) {
            Ok(table) => self.table("", table.get_ref(), &lines),
            Err(error) => self.problems.push(Problem {
                origin: lines.origin(error.span().map_or(0, |span| span.start)),
                what: format!("not TOML: {}", error.message().replace('\n', ", ")),
            }),
        }
        Ok(())
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, lines: &Lines<'_>) {
        // In the file's order, so that problems are listed in it too.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let full = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let origin = lines.origin(name.span().start);
            match (Key::find(&full), value.get_ref()) {
                (Some(key), value) => match plain(value) {
                    Some(value) => self.set(key, &value, origin),
                    None => {
                        let kind = value.type_str();
                        let what =
                            format!("{full} cannot be of type {kind}; allowed: {}", key.allowed);
                        self.problems.push(Problem { origin, what });
                    }
                },
                (None, DeValue::Table(inner)) if is_section(&full) => {
                    self.table(&full, inner, lines);
                }
                (None, _) => self.unknown(&full, origin),
            }
        }
    }

    fn env(&mut self, env: &[(OsString, OsString)]) {
        let mut env: Vec<_> = env
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value)))
            .filter(|(name, _)| name.starts_with("RVMM_") && *name != CONFIG_ENV)
            .collect();
        env.sort();
        for (name, value) in env {
            let origin = Origin::Env(name.to_owned());
            match KEYS.iter().find(|key| key.env() == name) {
                Some(key) => {
                    self.set(key, &key.allowed.parse(&value.to_string_lossy()), origin);
                }
                // Not refused: the name may belong to somebody else. Only one
                // that is almost a key's is worth a word.
                None if is_almost_a_key(name) => {
                    let what = "not a key's variable, ignored".to_owned();
                    self.warnings.push(Problem { origin, what });
                }
                None => {}
            }
        }
    }
}

fn plain(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(switch) => Value::Switch(*switch),
        DeValue::Integer(number) => {
            match u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
                Ok(number) => Value::Whole(number),
                // Negative or huge: refused by its text.
                Err(_) => Value::Text(number.as_str().to_owned()),
            }
        }
        _ => return None,
    })
}

/// Whether a variable is named like those of a section's keys.
fn is_almost_a_key(env: &str) -> bool {
    let section = env.strip_prefix("RVMM_").and_then(|rest| rest.split('_').next());
    section.is_some_and(|section| is_section(&section.to_ascii_lowercase()))
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The section in which `name` stands, and the names that could stand there.
fn siblings(name: &str) -> String {
    let section = name.rsplit_once('.').map_or("", |(section, _)| section);
    let section = if is_section(section) { section } else { "" };
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let below = if section.is_empty() {
            Some(key.name)
        } else {
            key.name.strip_prefix(section).and_then(|rest| rest.strip_prefix('.'))
        };
        let name = below.and_then(|below| below.split('.').next());
        names.extend(name.filter(|name| names.last() != Some(name)));
    }
    let place = if section.is_empty() { "here".to_owned() } else { format!("in [{section}]") };
    format!("{place}: {}", names.join(", "))
}

/// Finds a byte's line.
struct Lines<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        Origin::File { path: self.path.clone(), line }
    }
}
