//! The keys of all settings, and the names of their environment variables.

use std::collections::{BTreeMap, BTreeSet};

use super::settings::Config;
use crate::settings::nearest;

/// The prefix of the environment variables of settings.
pub(super) const ENV_PREFIX: &str = "TALLY__";
/// The separator between the parts of a key in an environment variable.
pub(super) const ENV_SEPARATOR: &str = "__";
/// The key of the table of the settings of single kinds of calls. The next part of a key in this table is the name of a
/// kind of call.
pub(super) const METHODS: &str = "breaker.methods";

/// Returns the name of the environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', ENV_SEPARATOR).to_uppercase())
}

/// Returns the key that the variable `name` sets: the key of a setting or of a table. `None` if no setting has this
/// variable. `known` are the keys of all settings.
pub(super) fn setting_key(name: &str, known: &BTreeSet<String>) -> Option<String> {
    let beginning = name.get(..ENV_PREFIX.len())?;
    let rest = name.get(ENV_PREFIX.len()..)?;
    if !beginning.eq_ignore_ascii_case(ENV_PREFIX) {
        return None;
    }
    let key = rest.to_lowercase().replace(ENV_SEPARATOR, ".");
    let general = general_key(&key);
    let is_known = known.contains(&general) || is_table(&general, known);
    let is_whole = key.split('.').all(|part| !part.is_empty());
    (is_known && is_whole).then_some(key)
}

/// Returns whether `key` is a table of settings.
pub(super) fn is_table(key: &str, known: &BTreeSet<String>) -> bool {
    let table = format!("{key}.");
    known
        .range(table.clone()..)
        .next()
        .is_some_and(|known| known.starts_with(&table))
}

/// Returns the keys of all settings, without those of single kinds of calls.
pub(super) fn known_keys() -> BTreeSet<String> {
    flatten(&Config::default()).into_keys().collect()
}

/// Returns the value of each key of `config`. A table without keys is the value `None`.
pub(super) fn flatten(config: &Config) -> BTreeMap<String, Option<String>> {
    fn add(value: &serde_json::Value, key: String, found: &mut BTreeMap<String, Option<String>>) {
        match value {
            serde_json::Value::Object(table) if !table.is_empty() => {
                for (name, value) in table {
                    let key = if key.is_empty() {
                        name.clone()
                    } else {
                        format!("{key}.{name}")
                    };
                    add(value, key, found);
                }
            }
            serde_json::Value::Object(_) | serde_json::Value::Null => {
                found.insert(key, None);
            }
            serde_json::Value::String(text) => {
                found.insert(key, Some(text.clone()));
            }
            other @ (serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Array(_)) => {
                found.insert(key, Some(other.to_string()));
            }
        }
    }
    let mut found = BTreeMap::new();
    // Every section has a form in JSON, because its keys are texts.
    if let Ok(value) = serde_json::to_value(config) {
        add(&value, String::new(), &mut found);
    }
    found
}

/// Returns the key of a setting without the name of a kind of call: `breaker.ramp` for `breaker.methods.NAME.ramp`.
pub(super) fn general_key(key: &str) -> String {
    match key.strip_prefix(METHODS).and_then(|rest| rest.strip_prefix('.')) {
        Some(rest) => rest
            .split_once('.')
            .map_or_else(|| METHODS.to_owned(), |(_, key)| format!("breaker.{key}")),
        None => key.to_owned(),
    }
}

/// Returns the key that the operator probably meant: a key of the same table with a similar name, a key of another table
/// with the same name, or a similar key.
pub(super) fn meant_key(key: &str, known: &BTreeSet<String>) -> Option<String> {
    let general = general_key(key);
    let (table, name) = general.rsplit_once('.').unwrap_or(("", &general));
    if table.is_empty() {
        let sections: BTreeSet<&str> = known
            .iter()
            .filter_map(|key| Some(key.split_once('.')?.0))
            .collect();
        if let Some(section) = nearest(name, sections) {
            return Some(section);
        }
    }
    let split = |key: &'_ String| -> Option<(String, String)> {
        let (table, name) = key.rsplit_once('.')?;
        Some((table.to_owned(), name.to_owned()))
    };
    let in_table: Vec<String> = known
        .iter()
        .filter_map(split)
        .filter(|(of, _)| of == table)
        .map(|(_, name)| name)
        .collect();
    if let Some(meant) = nearest(name, in_table.iter().map(String::as_str)) {
        let written_table = key.rsplit_once('.').map_or("", |(table, _)| table);
        return Some(format!("{written_table}.{meant}"));
    }
    nearest(&general, known.iter().map(String::as_str)).or_else(|| {
        let ending = format!(".{name}");
        known.iter().find(|known| known.ends_with(&ending)).cloned()
    })
}
