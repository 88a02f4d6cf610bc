//! Merges the sources of the configuration, finds unknown keys, and finds the origin of a value.

use std::collections::BTreeSet;

use figment::{
    Figment, Profile,
    error::{Actual, Kind},
    providers::{Env, Format, Serialized, Toml},
    value::{Dict, Value},
};

use super::{
    bounds::bounds,
    error::{ConfigError, UnknownKey},
    keys::{ENV_PREFIX, ENV_SEPARATOR, METHODS, general_key, known_keys, meant_key, variable},
    settings::Config,
    toml_file::TomlFile,
    variables::is_kubernetes_variable,
};
use crate::settings::{Origin, SettingError, nearest};

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
pub(super) struct Sources {
    file: Option<TomlFile>,
    /// The keys that environment variables set.
    variables: BTreeSet<String>,
    overrides: Vec<Override>,
    /// The values of all sources.
    figment: Figment,
}

// ===== impl Sources =====

impl Sources {
    /// Reads the environment, and merges all sources.
    pub(super) fn new(file: Option<TomlFile>, overrides: &[Override]) -> Self {
        let mut figment = Figment::new();
        if let Some(file) = &file {
            figment = figment.merge(Toml::string(&file.text));
        }
        let variables = Env::prefixed(ENV_PREFIX)
            .filter(|name| !is_kubernetes_variable(&format!("{ENV_PREFIX}{name}").to_uppercase()))
            .split(ENV_SEPARATOR);
        let keys = variables.iter().map(|(key, _)| key.to_string()).collect();
        figment = figment.merge(variables);
        for Override { key, value, .. } in overrides {
            figment = figment.merge(Serialized::global(key, value));
        }
        Sources {
            file,
            variables: keys,
            overrides: overrides.to_vec(),
            figment,
        }
    }

    /// Returns the configuration.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKeys`] with all unknown keys, and [`ConfigError::Setting`] for the first value that has the
    /// wrong form.
    pub(super) fn extract(&self) -> Result<Config, ConfigError> {
        let values = match figment::Provider::data(&self.figment) {
            Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
            Err(error) => return Err(self.wrong_form(&error, &Dict::new())),
        };
        self.check_keys(&values)?;
        Figment::from(Serialized::defaults(Config::default()))
            .merge(&self.figment)
            .extract()
            .map_err(|error| self.wrong_form(&error, &values))
    }

    /// Returns what sets `key`: the strongest source that sets the key or a table that contains the key.
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        let tables = key
            .char_indices()
            .filter(|(_, character)| *character == '.')
            .map(|(dot, _)| &key[..dot]);
        let keys: Vec<&str> = std::iter::once(key)
            .chain(tables.collect::<Vec<_>>().into_iter().rev())
            .collect();
        if let Some(set) = self.overrides.iter().find(|set| keys.contains(&set.key)) {
            return Some(set.origin.clone());
        }
        let is_set = |key: &&&str| self.variables.contains(**key);
        if let Some(key) = keys.iter().find(is_set) {
            return Some(Origin::Variable { name: variable(key) });
        }
        let file = self.file.as_ref()?;
        let line = file.lines.get(key).copied()?;
        Some(Origin::File {
            path: file.path.clone(),
            line: Some(line),
        })
    }

    /// Adds the origin to the error of a value.
    pub(super) fn with_origin(&self, mut error: SettingError) -> SettingError {
        error.origin = self.origin(&error.key).map(Box::new);
        error
    }

    /// Checks that every key is the key of a setting.
    fn check_keys(&self, values: &Dict) -> Result<(), ConfigError> {
        let known = known_keys();
        let mut unknown = Vec::new();
        find_unknown(values, "", &known, &mut unknown);
        if unknown.is_empty() {
            return Ok(());
        }
        let described = unknown.into_iter().map(|key| {
            let meant = meant_key(&key, &known);
            match self.origin(&key) {
                // The operator wrote the name of a variable.
                Some(Origin::Variable { name }) if name == variable(&key) => UnknownKey {
                    key: name,
                    meant: meant.map(|key| variable(&key)),
                    origin: None,
                },
                origin => UnknownKey {
                    key,
                    meant,
                    origin: origin.map(Box::new),
                },
            }
        });
        Err(ConfigError::UnknownKeys(described.collect()))
    }

    /// Converts the error of a value that has the wrong form.
    fn wrong_form(&self, error: &figment::Error, values: &Dict) -> ConfigError {
        let key = error.path.join(".");
        let value = Value::from(values.clone()).find(&key);
        let (value, mut bound) = match &error.kind {
            Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
                (written(value.as_ref(), Some(actual)), form(expected))
            }
            Kind::UnknownVariant(word, variants) => {
                let mut bound = format!("one of {}", variants.join(", "));
                if let Some(meant) = nearest(word, variants.iter().copied()) {
                    bound.push_str(&format!("; did you mean {meant}?"));
                }
                (word.clone(), bound)
            }
            // The text is that of the standard library.
            Kind::Message(reason) if reason.starts_with("invalid socket address") => (
                written(value.as_ref(), None),
                "an IP address with a port, for example 127.0.0.1:50051".to_owned(),
            ),
            Kind::Message(reason) => (written(value.as_ref(), None), format!("readable: {reason}")),
            other @ (Kind::InvalidLength(..)
            | Kind::UnknownField(..)
            | Kind::MissingField(_)
            | Kind::DuplicateField(_)
            | Kind::ISizeOutOfRange(_)
            | Kind::USizeOutOfRange(_)
            | Kind::Unsupported(_)
            | Kind::UnsupportedKey(..)) => (written(value.as_ref(), None), format!("readable: {other}")),
        };
        if let Some(limits) = bounds(&key) {
            bound.push_str(&format!(", {limits}"));
        }
        self.with_origin(SettingError::new(key, value, bound)).into()
    }
}

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
        let known_name = general_key(&key);
        let table = format!("{known_name}.");
        let is_table = known
            .range(table.clone()..)
            .next()
            .is_some_and(|known| known.starts_with(&table));
        match value {
            _ if known.contains(&known_name) => {}
            Value::Dict(_, inner) if is_table => find_unknown(inner, &format!("{key}."), known, unknown),
            _ if is_table => {}
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

/// Returns a value as the operator would write it.
fn written(value: Option<&Value>, actual: Option<&Actual>) -> String {
    match (value, actual) {
        (Some(Value::String(_, text)), _) => text.clone(),
        (Some(Value::Dict(..)), _) => "a table".to_owned(),
        (Some(Value::Array(..)), _) => "a list".to_owned(),
        (Some(value @ (Value::Num(..) | Value::Bool(..) | Value::Char(..) | Value::Empty(..))), _) => {
            serde_json::to_string(value).unwrap_or_default()
        }
        (None, Some(actual)) => actual.to_string(),
        (None, None) => "?".to_owned(),
    }
}

/// Describes the form that `serde` expects.
fn form(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "a text" | "path string" => "a text in quotes".to_owned(),
        "a duration" => "a time with a unit, such as 20ms".to_owned(),
        table if table.starts_with("struct ") || table == "a map" => "a table of settings".to_owned(),
        other => other.to_owned(),
    }
}
