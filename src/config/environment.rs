//! The environment variables of settings (`TALLY__SECTION__KEY`), as a source of the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use figment::value::{Dict, Value};

use super::{
    error::ConfigError,
    forms::Form,
    keys::{ENV_PREFIX, ENV_SEPARATOR, general_key, known_keys, setting_key},
    variables::is_kubernetes_variable,
};
use crate::settings::{Origin, SettingError, in_one_line};

/// Maximum number of parts in the name of a variable of a setting: `TALLY__BREAKER__METHODS__...` has the most.
const NAME_PARTS_MAX: usize = 8;
/// Maximum number of opening brackets in the value of a variable of a setting.
const BRACKETS_MAX: usize = 64;

/// The settings that environment variables set.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// The values.
    pub(super) values: Dict,
    /// The names of the variables, by key.
    pub(super) names: BTreeMap<String, String>,
}

// ===== impl Environment =====

impl Environment {
    /// Reads the variables of settings. Leaves out the variables that no setting has: see
    /// [`check_variables`](super::check_variables).
    ///
    /// # Errors
    /// [`ConfigError::Setting`] for the first variable that is too deep, or whose value is not UTF-8.
    pub(super) fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let known = known_keys();
        // The parser of a value is needed only for a setting that does not take any text: a path or a name may look
        // like a number.
        let mut texts: BTreeMap<String, bool> = BTreeMap::new();
        // In the order of their names, so that a table comes before the settings in the table.
        let mut sorted = BTreeSet::new();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if name.to_uppercase().starts_with(ENV_PREFIX) && !is_kubernetes_variable(&name.to_uppercase()) {
                check_shape(&name, &value)?;
                sorted.insert((name, value));
            }
        }
        let mut environment = Environment::default();
        for (name, value) in sorted {
            let Some(key) = setting_key(&name, &known) else {
                continue;
            };
            let value = value.into_string().map_err(|value| SettingError {
                origin: Some(Box::new(Origin::Variable { name: name.clone() })),
                ..SettingError::new(&key, value.to_string_lossy(), "UTF-8 text")
            })?;
            let is_text = *texts
                .entry(general_key(&key))
                .or_insert_with(|| Form::of(&key) == Form::Text);
            let value = if is_text {
                Value::from(value)
            } else {
                value.parse().unwrap_or_else(|never| match never {})
            };
            insert(&mut environment.values, &key, value);
            environment.names.insert(key, name);
        }
        Ok(environment)
    }
}

/// Checks a variable before its value is parsed. The parser and the table of keys are recursive, so a deep name or a deep
/// value would overflow the stack.
fn check_shape(name: &str, value: &OsString) -> Result<(), ConfigError> {
    let parts = name.split(ENV_SEPARATOR).count();
    if parts > NAME_PARTS_MAX {
        let bound = format!("at most {NAME_PARTS_MAX} parts, separated by {ENV_SEPARATOR}");
        let short: String = name.chars().take(64).collect();
        return Err(SettingError::new(in_one_line(&short), format!("a name of {parts} parts"), bound).into());
    }
    let is_bracket = |byte: &&u8| matches!(byte, b'[' | b'{');
    let brackets = value.as_encoded_bytes().iter().filter(is_bracket).count();
    if brackets > BRACKETS_MAX {
        let bound = format!("a value with at most {BRACKETS_MAX}");
        return Err(
            SettingError::new(in_one_line(name), format!("{brackets} opening brackets"), bound).into(),
        );
    }
    Ok(())
}

/// Sets `key` in `values`. Does nothing if a table that contains the key is set to a value that is no table, because the
/// check of this value reports it.
fn insert(values: &mut Dict, key: &str, value: Value) {
    let Some((table, rest)) = key.split_once('.') else {
        values.insert(key.to_owned(), value);
        return;
    };
    let inner = values
        .entry(table.to_owned())
        .or_insert_with(|| Value::from(Dict::new()));
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, String> {
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Environment::read(variables).map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_that_would_overflow_the_stack_is_an_error() {
        let methods = "{ ProcessTransaction = { mode = \"auto\" } }";
        assert!(read(&[("TALLY__BREAKER__METHODS", methods)]).is_ok());
        assert!(read(&[("OTHER", &"[".repeat(100_000))]).is_ok());
        let error = read(&[("TALLY__BREAKER__METHODS", &"{a=".repeat(2000))]).unwrap_err();
        assert!(error.contains("2000 opening brackets"), "{error}");
        let error = read(&[(&format!("TALLY{}", "__A".repeat(30_000)), "1")]).unwrap_err();
        assert!(error.contains("30001 parts"), "{error}");
    }

    #[test]
    fn a_text_that_looks_like_another_form_stays_a_text() {
        let environment = read(&[
            ("TALLY__STORE__DATA", "2024"),
            ("TALLY__SECURITY__TOKENS_FILE", "true"),
            ("TALLY__AFFINITY__CPUS__EXEC", "3"),
            ("TALLY__TELEMETRY__LOG", "{"),
            ("TALLY__ADMIN__ENABLED", "false"),
            ("TALLY__BATCH__SIBLINGS", "9"),
            ("TALLY__UNKNOWN", "1"),
            ("TALLY__SERVER__", "1"),
        ])
        .unwrap();
        let value = |key: &str| Value::from(environment.values.clone()).find(key);
        for (key, text) in [
            ("store.data", "2024"),
            ("security.tokens_file", "true"),
            ("affinity.cpus.exec", "3"),
            ("telemetry.log", "{"),
        ] {
            assert_eq!(value(key).unwrap().as_str(), Some(text), "{key}");
        }
        assert_eq!(value("admin.enabled").unwrap().to_bool(), Some(false));
        assert_eq!(value("batch.siblings").unwrap().to_u128(), Some(9));
        assert_eq!(environment.names.len(), 6);
    }
}
