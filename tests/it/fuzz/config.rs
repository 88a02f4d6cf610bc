//! Loads TOML text and environment variables of any content. Nothing panics, each error explains itself, and accepted
//! settings are the same after they were printed and read again: as TOML, and as environment variables.

use std::{ffi::OsString, fmt::Write, os::unix::ffi::OsStringExt, path::Path};

use serde_json::Value;
use tally::{
    config::{Config, ConfigError, Loaded, check_variables},
    settings::SettingError,
};

/// Checks an input: the text of a file, and variables. A zero byte precedes each variable, `NAME=VALUE`. `TALLY__` is
/// added to the front of a name that does not begin with `TALLY`.
pub(crate) fn check(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default().to_vec();
    let variables: Vec<(OsString, OsString)> = parts.take(16).filter_map(variable).collect();
    let names = variables
        .iter()
        .filter_map(|(name, _)| name.clone().into_string().ok());
    match check_variables(names, &["TALLY_LISTEN".to_owned()]) {
        Ok(ignored) => assert!(ignored.warning().is_none_or(|warning| !warning.is_empty())),
        Err(error) => assert_explained(&error),
    }
    match load(text, variables) {
        Ok(loaded) => check_accepted(&loaded),
        Err(error) => assert_explained(&error),
    }
}

/// Returns inputs with valid and invalid settings.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let example = include_str!("../../../examples/tally.toml");
    let mut seeds: Vec<Vec<u8>> = [
        "[server]\nlisten = \"127.0.0.1:1\"\ndrain = \"3s\"\n[store]\nsegment_bytes = \"16MiB\"\n[breaker]\nslow_threshold = \"20ms\"",
        "[breaker.methods.CreateAccounts]\nslow_threshold = \"auto\"\n[admin]\nenabled = false\0BATCH__SIBLINGS=9\0TALLY_LISTEN=x",
        "[telemetry]\ntrace_ratio = 0.25\notlp_endpoint = \"http://user:secret@collector:4317/a\"\nlog = \"tally=debug,warn\"",
        "server.drian = \"3s\"\n[affinity]\nmode = \"auto\"\ncpus = { exec = \"3\" }\0SERVER__DRAIN=5s\0STORE__DATA=2024\0TALLY__UNKNOWN=1",
        "[store]\nsegment_bytes = 5\0BREAKER__METHODS={ ProcessTransaction = { mode = \"auto\" } }",
        "",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    // Each setting of the example by itself, so that the inputs stay short.
    let mut table = String::new();
    for line in example.lines() {
        if line.starts_with('[') {
            line.clone_into(&mut table);
        } else if let Some(setting) = line
            .strip_prefix("# ")
            .or(Some(line))
            .filter(|line| line.contains(" = "))
        {
            seeds.push(format!("{table}\n{setting}\n").into_bytes());
        }
    }
    seeds
}

fn variable(part: &[u8]) -> Option<(OsString, OsString)> {
    let equals = part.iter().position(|byte| *byte == b'=')?;
    let (name, value) = part.split_at(equals);
    let name = if name.starts_with(b"TALLY") {
        name.to_vec()
    } else {
        [b"TALLY__", name].concat()
    };
    Some((OsString::from_vec(name), OsString::from_vec(value[1..].to_vec())))
}

fn load(text: Vec<u8>, variables: Vec<(OsString, OsString)>) -> Result<Loaded, ConfigError> {
    Loaded::from_text(Path::new("tally.toml"), text, variables)
}

fn assert_explained(error: &ConfigError) {
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?} is not one line");
    match error {
        ConfigError::Setting(error) => assert_setting_explained(error),
        ConfigError::Syntax {
            line, column, reason, ..
        } => assert!(*line > 0 && *column > 0 && !reason.is_empty(), "{text}"),
        ConfigError::UnknownKeys { listed, .. } => {
            assert!(
                !listed.is_empty() && listed.iter().all(|unknown| !unknown.key.is_empty()),
                "{text}"
            );
        }
        ConfigError::UnknownVariables { listed, .. } => {
            assert!(
                !listed.is_empty() && listed.iter().all(|unknown| !unknown.name.is_empty()),
                "{text}"
            );
        }
        ConfigError::File { .. } | _ => panic!("no file is read, so this error can't occur: {text}"),
    }
}

fn assert_setting_explained(error: &SettingError) {
    let text = error.to_string();
    assert!(!error.key.is_empty(), "{text}: no key");
    assert!(!error.value.is_empty(), "{text}: no value");
    assert!(!error.bound.is_empty(), "{text}: no bound");
    assert!(!text.chars().any(char::is_control), "{text:?} is not one line");
}

fn check_accepted(loaded: &Loaded) {
    let printed = loaded.settings();
    assert!(printed.iter().all(|setting| !setting.key.is_empty()));
    match loaded.check() {
        Ok(_) => {
            check_toml(&loaded.config);
            check_printed(loaded);
        }
        Err(error) => assert_setting_explained(&error),
    }
}

/// Writes the settings as TOML, and reads them again.
fn check_toml(config: &Config) {
    let value = serde_json::to_value(config).expect("settings have a form in JSON");
    let mut text = String::new();
    put_toml(&mut text, "", &value);
    let again = load(text.clone().into_bytes(), Vec::new()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(
        serde_json::to_value(&again.config).expect("JSON"),
        value,
        "{text}"
    );
}

fn put_toml(text: &mut String, key: &str, value: &Value) {
    match value {
        Value::Object(table) => {
            let before = text.len();
            for (name, value) in table {
                let name = quoted(name);
                let key = if key.is_empty() {
                    name
                } else {
                    format!("{key}.{name}")
                };
                put_toml(text, &key, value);
            }
            // A table without values must still be written.
            if text.len() == before && !key.is_empty() {
                writeln!(text, "{key} = {{}}").expect("memory");
            }
        }
        Value::Null => {}
        Value::String(value) => writeln!(text, "{key} = {}", quoted(value)).expect("memory"),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            writeln!(text, "{key} = {value}").expect("memory")
        }
    }
}

/// Returns a string of TOML. All escapes of JSON are escapes of TOML, but TOML also wants DEL to be escaped.
fn quoted(text: &str) -> String {
    serde_json::to_string(text)
        .expect("JSON")
        .replace('\u{7f}', "\\u007f")
}

/// Writes the settings that are in force as environment variables, and reads them again.
fn check_printed(loaded: &Loaded) {
    let printed: Vec<(String, Option<String>)> = loaded
        .settings()
        .into_iter()
        .map(|setting| (setting.key, setting.value))
        .collect();
    let variables = printed.iter().filter_map(|(key, value)| {
        let name = format!("TALLY__{}", key.replace('.', "__").to_uppercase());
        // A variable can't have the name of a kind of call, because the names of variables have one case.
        (!key.starts_with("breaker.methods.")).then_some((name.into(), value.clone()?.into()))
    });
    // If no method has settings, the output has this key instead.
    let has_methods = !printed.iter().any(|(key, _)| key == "breaker.methods");
    let again = load(Vec::new(), variables.collect()).unwrap_or_else(|error| panic!("{error}\n{printed:?}"));
    if !has_methods {
        let settings = again.settings().into_iter();
        let read: Vec<_> = settings.map(|setting| (setting.key, setting.value)).collect();
        assert_eq!(read, printed);
        again
            .check()
            .unwrap_or_else(|error| panic!("{error}\n{printed:?}"));
    }
}
