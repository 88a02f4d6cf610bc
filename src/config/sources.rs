//! Merges the sources of the configuration, finds unknown keys, and finds the origin of a value.

use std::collections::BTreeSet;

use bytesize::ByteSize;
use figment::{
    Figment, Profile,
    error::Kind,
    providers::{Format, Serialized, Toml},
    value::{Dict, Value},
};

use super::{
    bounds::accepted,
    environment::Environment,
    error::{ConfigError, UNKNOWN_LISTED_MAX, UnknownKey},
    forms::Form,
    keys::{METHODS, general_key, is_table, known_keys, meant_key},
    settings::Config,
    toml_file::TomlFile,
};
use crate::settings::{Origin, SettingError, bytes_text, in_one_line, nearest};

/// A value that a command-line option sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// The key with its section.
    pub key: &'static str,
    /// The value.
    pub value: Value,
    /// The option.
    pub origin: Origin,
}

/// The sources that override the defaults, from the weakest to the strongest.
#[derive(Debug)]
pub(super) struct Sources(Vec<Source>);

/// A source of values.
#[derive(Debug)]
struct Source {
    kind: SourceKind,
    values: Dict,
}

#[derive(Debug)]
enum SourceKind {
    File(TomlFile),
    Environment(Environment),
    Option(Override),
}

// ===== impl Sources =====

impl Sources {
    /// Puts the sources in order.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] if the file has a value that no setting can have.
    pub(super) fn new(
        file: Option<TomlFile>,
        mut environment: Environment,
        overrides: &[Override],
    ) -> Result<Self, ConfigError> {
        let mut sources = Vec::new();
        if let Some(file) = file {
            let values = match figment::Provider::data(&Toml::string(&file.text)) {
                Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
                Err(error) => {
                    let source = Source {
                        kind: SourceKind::File(file),
                        values: Dict::new(),
                    };
                    return Err(source.wrong_form(&error).into());
                }
            };
            sources.push(Source {
                kind: SourceKind::File(file),
                values,
            });
        }
        sources.push(Source {
            values: std::mem::take(&mut environment.values),
            kind: SourceKind::Environment(environment),
        });
        for set in overrides {
            sources.push(Source {
                values: figment::util::nest(set.key, set.value.clone())
                    .into_dict()
                    .unwrap_or_default(),
                kind: SourceKind::Option(set.clone()),
            });
        }
        Ok(Sources(sources))
    }

    /// Returns the configuration. Checks the values of every source, also those that a stronger source overrides.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKeys`] with the unknown keys, and [`ConfigError::Setting`] for the first value that has the
    /// wrong form, or is overridden and out of bounds.
    pub(super) fn extract(&self) -> Result<Config, ConfigError> {
        self.check_keys()?;
        let mut merged = Figment::new();
        for source in &self.0 {
            source.config()?;
            merged = merged.merge(Serialized::globals(&source.values));
        }
        // Each source has only values of the right form, so the merged values have it, too.
        let config = merged
            .extract()
            .map_err(|error| self.with_origin(wrong_form(&error, None)))?;
        self.check_overridden(&merged)?;
        Ok(config)
    }

    /// Returns what sets `key`: the strongest source that sets the key, or a key in the table `key`.
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        self.0.iter().rev().find_map(|source| source.origin(key))
    }

    /// Adds the origin to the error of a value, and shows the value as the source writes it.
    pub(super) fn with_origin(&self, mut error: SettingError) -> SettingError {
        error.origin = self.origin(&error.key).map(Box::new);
        let value = self.0.iter().rev().find_map(|source| source.value(&error.key));
        show_as_written(&mut error, value);
        error
    }

    /// Checks that every key is the key of a setting.
    fn check_keys(&self) -> Result<(), ConfigError> {
        let known = known_keys();
        let (mut listed, mut more) = (Vec::new(), 0);
        for source in &self.0 {
            let mut unknown = Vec::new();
            find_unknown(&source.values, "", &known, &mut unknown);
            for key in unknown {
                if listed.len() < UNKNOWN_LISTED_MAX {
                    listed.push(UnknownKey {
                        meant: meant_key(&key, &known),
                        origin: source.origin(&key).map(Box::new),
                        key: in_one_line(&key),
                    });
                } else {
                    more += 1;
                }
            }
        }
        if listed.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::UnknownKeys { listed, more })
        }
    }

    /// Checks the bounds of the values that a stronger source overrides. The bounds of some settings depend on other
    /// settings. So an overridden value is an error only if it is out of bounds both among the values in force, and among
    /// the values of the same source.
    fn check_overridden(&self, merged: &Figment) -> Result<(), ConfigError> {
        let known = known_keys();
        for (index, source) in self.0.iter().enumerate() {
            let stronger = self.0.get(index + 1..).unwrap_or_default();
            let mut keys = Vec::new();
            add_settings(&source.values, "", &known, &mut keys);
            let is_overridden = |key: &&String| stronger.iter().any(|other| other.value(key).is_some());
            for key in keys.iter().filter(is_overridden) {
                let Some(value) = source.value(key) else {
                    continue;
                };
                let in_force = merged.clone().merge(Serialized::global(key, value));
                let error_of = |config: Option<Config>| {
                    let error = config?.check_bounds().err()?;
                    (error.key == *key).then_some(error)
                };
                let (first, second) = (error_of(in_force.extract().ok()), error_of(source.config().ok()));
                if let (Some(mut error), Some(_)) = (first, second) {
                    error.origin = source.origin(key).map(Box::new);
                    show_as_written(&mut error, Some(value));
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

// ===== impl Source =====

impl Source {
    /// Returns the defaults with the values of this source.
    fn config(&self) -> Result<Config, SettingError> {
        Figment::from(Serialized::globals(&self.values))
            .extract()
            .map_err(|error| self.wrong_form(&error))
    }

    /// Returns the value that this source sets.
    fn value(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let first = self.values.get(parts.next()?)?;
        parts.try_fold(first, |value, part| match value {
            Value::Dict(_, table) => table.get(part),
            Value::String(..)
            | Value::Char(..)
            | Value::Bool(..)
            | Value::Num(..)
            | Value::Empty(..)
            | Value::Array(..) => None,
        })
    }

    /// Returns what in this source sets `key`, a key in the table `key`, or else a table with the key in it.
    fn origin(&self, key: &str) -> Option<Origin> {
        match &self.kind {
            SourceKind::File(file) => Some(Origin::File {
                path: file.path.clone(),
                line: Some(*file.lines.get(key)?),
            }),
            SourceKind::Environment(environment) => {
                self.value(key)?;
                let names = &environment.names;
                let table = format!("{key}.");
                let in_table = || {
                    let (first, name) = names.range(table.clone()..).next()?;
                    first.starts_with(&table).then_some(name)
                };
                let of_table = || {
                    let mut dots = key.rmatch_indices('.');
                    dots.find_map(|(dot, _)| names.get(key.get(..dot)?))
                };
                let name = names.get(key).or_else(in_table).or_else(of_table)?;
                Some(Origin::Variable { name: name.clone() })
            }
            SourceKind::Option(set) => {
                let is_in = set.key == key || set.key.starts_with(&format!("{key}."));
                is_in.then(|| set.origin.clone())
            }
        }
    }

    /// Converts the error of a value that has the wrong form.
    fn wrong_form(&self, error: &figment::Error) -> SettingError {
        let key = error.path.join(".");
        let mut error = wrong_form(error, self.value(&key));
        error.origin = self.origin(&key).map(Box::new);
        error
    }
}

/// Describes the error of a value that has the wrong form. The words come from the form of the setting, and not from the
/// error, because the texts of the libraries are not for operators.
fn wrong_form(error: &figment::Error, value: Option<&Value>) -> SettingError {
    let key = error.path.join(".");
    let form = Form::of(&key);
    let mut bound = accepted(&key);
    if let (Form::OneOf(words), Some(Value::String(_, word))) = (&form, value)
        && let Some(meant) = nearest(word, words.iter().copied())
    {
        bound.push_str(&format!("; did you mean {meant}?"));
    }
    let value = match (value, &error.kind) {
        (Some(value), _) => written(value),
        (None, Kind::InvalidType(actual, _) | Kind::InvalidValue(actual, _)) => actual.to_string(),
        (None, _) => "?".to_owned(),
    };
    SettingError::new(key, value, bound)
}

/// Replaces the value in `error` by `value`, the text in the source, if both are the same time or the same size: the error of
/// `99h` must not show `4days 3h`. Other values stay as they are, because the error may hide a part of them.
fn show_as_written(error: &mut SettingError, value: Option<&Value>) {
    let Some(Value::String(_, text)) = value else {
        return;
    };
    let time = humantime::parse_duration(text).map(|time| humantime::format_duration(time).to_string());
    let size = text.parse().map(|size: ByteSize| bytes_text(size.0));
    if time.as_ref() == Ok(&error.value) || size.as_ref() == Ok(&error.value) {
        error.value = in_one_line(text);
    }
}

/// Adds the keys that no setting has.
fn find_unknown(values: &Dict, prefix: &str, known: &BTreeSet<String>, unknown: &mut Vec<String>) {
    for (name, value) in values {
        let key = format!("{prefix}{name}");
        if key == METHODS {
            if let Value::Dict(_, methods) = value {
                for (method, value) in methods {
                    if let Value::Dict(_, settings) = value {
                        find_unknown(settings, &format!("{key}.{method}."), known, unknown);
                    }
                }
            }
            continue;
        }
        let general = general_key(&key);
        match value {
            Value::Dict(_, inner) if !inner.is_empty() && known.contains(&general) => {
                unknown.extend(inner.keys().map(|name| format!("{key}.{name}")));
            }
            _ if known.contains(&general) => {}
            Value::Dict(_, inner) if is_table(&general, known) => {
                find_unknown(inner, &format!("{key}."), known, unknown);
            }
            _ if is_table(&general, known) => {}
            Value::String(..)
            | Value::Char(..)
            | Value::Bool(..)
            | Value::Num(..)
            | Value::Empty(..)
            | Value::Dict(..)
            | Value::Array(..) => unknown.push(key),
        }
    }
}

/// Adds the keys of the settings in `values`.
fn add_settings(values: &Dict, prefix: &str, known: &BTreeSet<String>, found: &mut Vec<String>) {
    for (name, value) in values {
        let key = format!("{prefix}{name}");
        match value {
            Value::Dict(_, inner) => add_settings(inner, &format!("{key}."), known, found),
            Value::String(..)
            | Value::Char(..)
            | Value::Bool(..)
            | Value::Num(..)
            | Value::Empty(..)
            | Value::Array(..) => {
                if known.contains(&general_key(&key)) {
                    found.push(key);
                }
            }
        }
    }
}

/// Returns a value as the operator would write it.
fn written(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
        Value::Num(..) | Value::Bool(..) | Value::Char(..) | Value::Empty(..) => {
            serde_json::to_string(value).unwrap_or_default()
        }
    }
}
