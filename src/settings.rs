//! Code that all sections of the configuration share: the error of a setting that is out of bounds, and the checks that return
//! this error.
//!
//! Each section lives with the module that it configures (`store::settings`, `grpc::settings`, ...); `config` puts the sections
//! together.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{
    Serialize, Serializer,
    de::{self, Deserializer},
};
use thiserror::Error;

/// A setting is out of bounds, or its value has the wrong form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} = {value}: must be {bound}{}", origin_note(origin.as_deref()))]
pub struct SettingError {
    /// The key with its section, such as `server.drain`.
    pub key: String,
    /// The value, as the operator would write it.
    pub value: String,
    /// The values that are accepted, in words.
    pub bound: String,
    /// Where the value comes from, if it is known.
    pub origin: Option<Box<Origin>>,
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// No source sets the key.
    Default,
    /// The value belongs to the preset of the circuit breaker.
    Preset,
    /// A file sets the key.
    File {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: Option<usize>,
    },
    /// An environment variable sets the key.
    Variable {
        /// The name of the variable.
        name: String,
    },
    /// A command-line option sets the key.
    Option {
        /// The name of the option, with its dashes.
        name: &'static str,
    },
}

/// Maximum size in bytes of a file with certificates, a key or tokens.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);
/// One hour.
pub const HOUR: Duration = Duration::from_secs(60 * 60);
/// One day.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

// ===== impl SettingError =====

impl SettingError {
    /// Creates the error that the setting `key` has `value`, which must be `bound`. An empty value is written as `""`, and
    /// a long one is cut, so that the error is always one readable line.
    pub fn new(key: impl Into<String>, value: impl fmt::Display, bound: impl Into<String>) -> Self {
        SettingError {
            key: key.into(),
            value: in_one_line(&value.to_string()),
            bound: bound.into(),
            origin: None,
        }
    }
}

// ===== impl Origin =====

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Preset => f.write_str("breaker.preset"),
            Origin::File { path, line: None } => path.display().fmt(f),
            Origin::File {
                path,
                line: Some(line),
            } => write!(f, "{}, line {line}", path.display()),
            Origin::Variable { name } => f.write_str(name),
            Origin::Option { name } => f.write_str(name),
        }
    }
}

/// Maximum number of characters of a value or a name that an error shows.
const SHOWN_CHARS_MAX: usize = 200;

/// Returns `text` as an error shows it: control characters are escaped, an empty text is `""`, and a text of more than
/// `SHOWN_CHARS_MAX` characters is cut.
#[must_use]
pub fn in_one_line(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    let mut shown = String::new();
    for character in text.chars().take(SHOWN_CHARS_MAX) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Returns `url` with `***` instead of a user name and a password.
#[must_use]
pub fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    match authority.rsplit_once('@') {
        None => url.to_owned(),
        Some((_user, host)) if scheme.is_empty() => format!("***@{host}{path}"),
        Some((_user, host)) => format!("{scheme}://***@{host}{path}"),
    }
}

/// Describes the values from `minimum` to `maximum`. If both are the same, names this only value.
#[must_use]
pub fn range_text(minimum: &str, maximum: &str) -> String {
    if minimum == maximum {
        minimum.to_owned()
    } else {
        format!("{minimum} to {maximum}")
    }
}

/// Returns the end of an error text that names the origin of a value.
pub fn origin_note(origin: Option<&Origin>) -> String {
    origin.map_or_else(String::new, |origin| format!(" (from {origin})"))
}

/// Checks that `value` is in `range`. `bound` describes the range in words.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn check<T: PartialOrd + fmt::Display>(
    key: &str,
    value: T,
    range: &RangeInclusive<T>,
    bound: &str,
) -> Result<(), SettingError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(SettingError::new(key, value, bound))
}

/// Checks that the time `value` is in `range`. `bound` describes the range in words.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn check_time(
    key: &str,
    value: Duration,
    range: &RangeInclusive<Duration>,
    bound: &str,
) -> Result<(), SettingError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(SettingError::new(key, humantime::format_duration(value), bound))
}

/// Parses a time with a unit.
///
/// # Errors
/// The form of a time, in words.
pub fn parse_time(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "expected a time with a unit, for example 500ms, 2s or 1h")
}

/// Parses a time with a unit, from `min` to `max`.
///
/// # Errors
/// The form or the bounds of the time, in words.
pub fn parse_time_between(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if (min..=max).contains(&time) => return Ok(time),
        Ok(_) | Err(humantime::DurationError::NumberOverflow) => {}
        Err(_) => return parse_time(text).map_err(str::to_owned),
    }
    let [min, max] = [min, max].map(humantime::format_duration);
    Err(format!("must be {min} to {max}"))
}

/// Returns the content of a file with certificates, a key or tokens. Reads a bounded number of bytes, because the path of
/// the operator may name a file without an end, such as `/dev/zero`.
///
/// # Errors
/// If the file can't be read, or is larger than 1 MiB.
pub fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // One byte above the limit is enough to detect a file that is too large.
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        let text = format!("the file is larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::other(text));
    }
    Ok(content)
}

/// Returns the word of `known` that an operator who wrote `word` probably meant, or `None` if no word is similar. Words are
/// similar if at most a third of the letters, but never more than 3, are wrong, missing, additional or swapped, or if one
/// word is the other one with at most 3 more letters at its end. Case does not matter. If `known` contains `word`, returns `word`.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    let distance = |known: &str| {
        let known = known.to_lowercase();
        let limit = (known.len() / 3).clamp(1, 3);
        let distance = strsim::damerau_levenshtein(&word, &known);
        let (shorter, longer) = if word.len() < known.len() {
            (&word, &known)
        } else {
            (&known, &word)
        };
        let is_beginning =
            shorter.len() >= 3 && longer.len() - shorter.len() <= 3 && longer.starts_with(&**shorter);
        if distance <= limit {
            Some(distance)
        } else {
            is_beginning.then_some(distance.max(limit))
        }
    };
    known
        .into_iter()
        .filter_map(|known| Some((distance(known)?, known)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known.to_owned())
}

/// Writes a number of bytes without a loss, in the largest unit of which the number is a whole multiple: `64MiB`.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match whole {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// Serializes a number of bytes like [`bytes_text`], because the form of `ByteSize` is rounded.
///
/// # Errors
/// The error of the serializer.
pub fn serialize_bytes<S: Serializer>(bytes: &bytesize::ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&bytes_text(bytes.0))
}

/// Reads a text that can look like a number, such as the CPU list `3`. The environment and TOML give such a text as a
/// number.
///
/// # Errors
/// The value is neither a text nor a whole number.
pub fn deserialize_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_none<E: de::Error>(self) -> Result<Option<String>, E> {
            Ok(None)
        }

        fn visit_unit<E: de::Error>(self) -> Result<Option<String>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
            deserializer.deserialize_any(self)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<String>, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<String>, E> {
            Ok(Some(number.to_string()))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<String>, E> {
            Ok(Some(number.to_string()))
        }
    }
    deserializer.deserialize_option(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_other_words_are_not() {
        let known = ["error", "warn", "info", "segment_bytes", "listen"];
        for (word, expected) in [
            ("inof", Some("info")),
            ("INFO", Some("info")),
            ("warning", Some("warn")),
            ("segment_byte", Some("segment_bytes")),
            ("segmnet_bites", Some("segment_bytes")),
            ("listn", Some("listen")),
            ("loud", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known).as_deref(), expected, "{word}");
        }
    }

    #[test]
    fn a_value_in_an_error_is_one_short_line() {
        let error = |value: &str| SettingError::new("a.b", value, "1").to_string();
        assert_eq!(error(""), "a.b = \"\": must be 1");
        assert_eq!(error("a\nb\u{1b}[1mé"), "a.b = a\\nb\\u{1b}[1mé: must be 1");
        assert_eq!(
            error(&"x".repeat(200)),
            format!("a.b = {}: must be 1", "x".repeat(200))
        );
        assert_eq!(
            error(&"x".repeat(201)),
            format!("a.b = {}...: must be 1", "x".repeat(200))
        );
        assert_eq!(range_text("2MiB", "2MiB"), "2MiB");
        assert_eq!(range_text("2MiB", "4MiB"), "2MiB to 4MiB");
    }

    #[test]
    fn bytes_are_written_without_a_loss() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1 << 10, "1KiB"),
            (1025, "1025B"),
            (3 << 30, "3GiB"),
            (1 << 50, "1024TiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
            assert_eq!(text.parse::<bytesize::ByteSize>().unwrap().0, bytes);
        }
    }
}
