//! The declaration of keys. [`keys!`] is the one place where a key stands: its name, type with range,
//! default and documentation. The struct it makes reads a table of the file into typed fields; `KEYS` is
//! what the example, the reference and the JSON Schema are generated from.

use super::kinds::Describe;

/// A declared key.
pub struct Key {
    /// Its name, as [`name`](Self::name) cleans it.
    pub name: &'static str,
    /// Its type.
    pub kind: &'static dyn Describe,
    /// Its default value, written as in the environment.
    pub default: Option<&'static str>,
    /// A value to show if there is no default.
    pub example: Option<&'static str>,
    /// Whether its table is not good without it.
    pub required: bool,
    /// Lines of text, each with the space of its doc comment.
    pub doc: &'static str,
}

impl Key {
    /// Its name in its table.
    pub fn name(&self) -> &'static str {
        // `type` is a word of Rust.
        self.name.trim_start_matches("r#")
    }

    /// Its default, else its example, as the file has it: JSON of these types is TOML.
    pub fn shown(&self) -> String {
        self.kind.json(self.default.or(self.example).unwrap_or_default()).to_string()
    }

    /// What it does; one line of the declaration a line.
    pub fn doc(&self) -> impl Iterator<Item = &'static str> {
        self.doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line))
    }
}

/// Declares the keys of a table, in the order in which they are read and documented:
///
/// * `name: Kind = "default";` is read as `Given<Value>`, here and below written as in the environment;
/// * `name: Kind like "example";` has no default and is read as `Option<Given<Value>>`;
/// * `name: Kind required "example";` is a problem if it is missing.
macro_rules! keys {
    (
        $(#[$outer:meta])*
        $Keys:ident {
            $(
                $(#[doc = $doc:literal])+
                $name:ident: $kind:ident $(<$of:ty>)? $(($($range:tt)*))?
                $(= $default:literal)? $(like $example:literal)? $(required $needed:literal)?;
            )*
        }
    ) => {
        $(#[$outer])*
        pub struct $Keys {
            $($(#[doc = $doc])+ pub $name: $crate::config::keys::field!($kind $(<$of>)?, $($default)?),)*
        }

        impl $Keys {
            /// The declarations.
            pub const KEYS: &'static [$crate::config::keys::Key] = &[$(
                $crate::config::keys::Key {
                    name: stringify!($name),
                    kind: &$kind $(($($range)*))?,
                    default: $crate::config::keys::option!($($default)?),
                    example: $crate::config::keys::option!($($example)? $($needed)?),
                    required: $crate::config::keys::option!($($needed)?).is_some(),
                    doc: concat!($($doc, "\n"),+),
                }
            ),*];

            /// Reads the table.
            pub fn read(section: &mut $crate::config::section::Section<'_>) -> Self {
                let mut keys = Self::KEYS.iter();
                Self { $($name: {
                    let key = keys.next().expect("KEYS has one for each field");
                    $crate::config::keys::read!(section, key, $kind $(($($range)*))?, $($default)?)
                }),* }
            }
        }
    };
}

/// The type of a field.
macro_rules! field {
    ($kind:ty, $default:literal) => {
        $crate::config::diagnostics::Given<<$kind as $crate::config::kinds::Kind>::Value>
    };
    ($kind:ty,) => {
        Option<$crate::config::diagnostics::Given<<$kind as $crate::config::kinds::Kind>::Value>>
    };
}

/// Reads a field.
macro_rules! read {
    ($section:ident, $key:ident, $kind:expr, $default:literal) => {
        $section.or_default($key, &$kind, $default)
    };
    ($section:ident, $key:ident, $kind:expr,) => {
        $section.if_set($key, &$kind)
    };
}

/// What is there, if anything is.
macro_rules! option {
    () => {
        None::<&str>
    };
    ($text:literal) => {
        Some($text)
    };
}

pub(super) use {field, keys, option, read};
