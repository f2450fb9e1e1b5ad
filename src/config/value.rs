//! Values on their way between text, TOML and the configuration's fields.

use std::fmt;
use std::path::PathBuf;

/// A value, whatever it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// True or false.
    Switch(bool),
    /// Text: a choice or a path.
    Text(String),
    /// Not set.
    Unset,
}

impl fmt::Display for Value {
    /// As TOML writes it; an unset value as a word that is no TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Switch(switch) => switch.fmt(f),
            Self::Text(text) => toml_string(text, f),
            Self::Unset => f.write_str("unset"),
        }
    }
}

fn toml_string(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for char in text.chars() {
        match char {
            '"' | '\\' => write!(f, "\\{char}")?,
            char if char.is_control() => write!(f, "\\u{:04x}", u32::from(char))?,
            char => write!(f, "{char}")?,
        }
    }
    f.write_str("\"")
}

/// What a key's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number within bounds.
    Whole {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// A power of two within bounds.
    PowerOfTwo {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// True or false.
    Switch,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An absolute path.
    Path,
    /// `auto`, `off`, or the number of a core.
    Core,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::PowerOfTwo { min, max } => write!(f, "a power of two from {min} to {max}"),
            Self::Switch => f.write_str("true or false"),
            Self::OneOf(names) => {
                for (i, name) in names.iter().enumerate() {
                    write!(f, "{}\"{name}\"", if i == 0 { "" } else { " or " })?;
                }
                Ok(())
            }
            Self::Path => f.write_str("an absolute path"),
            Self::Core => f.write_str("\"auto\", \"off\" or the number of a core"),
        }
    }
}

impl Allowed {
    /// Whether `value` may stand.
    #[must_use]
    pub fn admits(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Whole { min, max }, Value::Whole(number)) => (min..=max).contains(&number),
            (Self::PowerOfTwo { min, max }, Value::Whole(number)) => {
                (min..=max).contains(&number) && number.is_power_of_two()
            }
            (Self::Switch, Value::Switch(_)) => true,
            (Self::OneOf(names), Value::Text(text)) => names.contains(&text.as_str()),
            (Self::Path, Value::Text(text)) => text.starts_with('/') && !text.contains('\0'),
            (Self::Core, Value::Text(text)) => text == "auto" || text == "off",
            (Self::Core, Value::Whole(number)) => *number < 4096,
            _ => false,
        }
    }

    /// What the text of a flag or an environment variable stands for.
    #[must_use]
    pub fn parse(&self, text: &str) -> Value {
        let whole = || text.parse().map(Value::Whole).ok();
        let value = match self {
            Self::Whole { .. } | Self::PowerOfTwo { .. } | Self::Core => whole(),
            Self::Switch => text.parse().map(Value::Switch).ok(),
            Self::OneOf(_) | Self::Path => None,
        };
        value.unwrap_or_else(|| Value::Text(text.to_owned()))
    }
}

/// A field of the configuration that a [`Value`] fits.
pub(super) trait Field: Sized {
    fn to_value(&self) -> Value;
    /// None when the value is of another kind, or too large.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! whole_fields {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn to_value(&self) -> Value {
                Value::Whole(u64::from(*self))
            }

            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Whole(number) => Self::try_from(*number).ok(),
                    _ => None,
                }
            }
        }
    )*};
}
whole_fields!(u8, u32);

impl Field for bool {
    fn to_value(&self) -> Value {
        Value::Switch(*self)
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Switch(switch) => Some(*switch),
            _ => None,
        }
    }
}

impl Field for PathBuf {
    fn to_value(&self) -> Value {
        Value::Text(self.to_string_lossy().into_owned())
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(Self::from(text)),
            _ => None,
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Unset, Field::to_value)
    }

    fn from_value(value: &Value) -> Option<Self> {
        T::from_value(value).map(Some)
    }
}

/// Which core the threads of a component share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// One that the daemon chooses, and chooses anew when it is contended.
    Auto,
    /// Wherever the kernel puts them.
    Off,
    /// This one.
    Core(u32),
}

impl Field for Affinity {
    fn to_value(&self) -> Value {
        match self {
            Self::Auto => Value::Text("auto".into()),
            Self::Off => Value::Text("off".into()),
            Self::Core(core) => Value::Whole((*core).into()),
        }
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) if text == "auto" => Some(Self::Auto),
            Value::Text(text) if text == "off" => Some(Self::Off),
            Value::Whole(core) => u32::try_from(*core).ok().map(Self::Core),
            _ => None,
        }
    }
}

/// Defines an enum whose variants have names in the configuration.
macro_rules! choices {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        pub enum $type { $($(#[$vdoc])* #[serde(rename = $name)] $variant,)* }

        impl $type {
            /// The names, in order.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name in the configuration.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl $crate::config::value::Field for $type {
            fn to_value(&self) -> $crate::config::Value {
                $crate::config::Value::Text(self.as_str().into())
            }

            fn from_value(value: &$crate::config::Value) -> Option<Self> {
                match value {
                    $($crate::config::Value::Text(text) if text == $name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(super) use choices;
