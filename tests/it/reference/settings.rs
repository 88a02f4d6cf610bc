//! `docs/settings.md`: every setting of the service.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use serde_json::Value;
use tally::{
    config::{self, Config},
    settings::SettingError,
};
use tally_breaker::CircuitBreakerConfig;
use tally_topology::{AffinityConfig, AffinityError};

use super::{check_page, sources};

/// A field of a struct of settings.
#[derive(Debug, Clone)]
struct Field {
    name: String,
    kind: String,
    doc: String,
}

/// The source code of the settings: the fields of each struct, and the variants of each enumeration.
#[derive(Debug, Default)]
struct Source {
    structs: BTreeMap<String, Vec<Field>>,
    enums: BTreeMap<String, Vec<String>>,
}

/// A setting.
#[derive(Debug)]
struct Setting {
    /// The key with its section, such as `server.drain`.
    key: String,
    kind: String,
    doc: String,
}

/// Writes `CamelCase` as `snake_case`.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_lowercase());
    }
    text
}

/// Returns the sentences of a doc comment without those that link to other items of the code.
fn sentences(doc: &str) -> String {
    let kept: Vec<&str> = doc
        .split_inclusive(". ")
        .filter(|sentence| !sentence.contains("[`"))
        .collect();
    kept.concat().trim().replace('|', "\\|")
}

impl Source {
    fn read() -> Self {
        let mut source = Source::default();
        for file in sources() {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with("settings.rs") || file.ends_with("src/config/mod.rs") {
                source.add(&std::fs::read_to_string(&file).unwrap());
            }
        }
        source
    }

    fn add(&mut self, text: &str) {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some((name, is_struct)) = line
                .strip_prefix("pub struct ")
                .map(|rest| (rest, true))
                .or_else(|| line.strip_prefix("pub enum ").map(|rest| (rest, false)))
                .and_then(|(rest, is_struct)| Some((rest.strip_suffix(" {")?, is_struct)))
            else {
                continue;
            };
            let (mut fields, mut variants, mut doc) = (Vec::new(), Vec::new(), String::new());
            for line in lines.by_ref().take_while(|line| *line != "}") {
                let line = line.trim();
                if let Some(words) = line.strip_prefix("/// ") {
                    doc += words;
                    doc.push(' ');
                } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|f| f.split_once(": "))
                {
                    let kind = kind.trim_end_matches(',').to_owned();
                    let doc = std::mem::take(&mut doc).trim().to_owned();
                    let name = name.to_owned();
                    fields.push(Field { name, kind, doc });
                } else if let Some(variant) = line.strip_suffix(',').filter(|_| !is_struct) {
                    variants.push(snake_case(variant));
                    doc.clear();
                }
            }
            if is_struct {
                self.structs.insert(name.to_owned(), fields);
            } else {
                self.enums.insert(name.to_owned(), variants);
            }
        }
    }

    /// Adds the settings of a struct. `prefix` is the key of the struct, with a dot at its end.
    fn collect(&self, name: &str, prefix: &str, found: &mut Vec<Setting>) {
        for Field { name, kind, doc } in &self.structs[name] {
            let key = format!("{prefix}{name}");
            if self.structs.contains_key(kind) {
                self.collect(kind, &format!("{key}."), found);
            } else {
                let kind = kind
                    .strip_prefix("Option<")
                    .and_then(|kind| kind.strip_suffix('>'))
                    .unwrap_or(kind);
                let (kind, doc) = (kind.to_owned(), sentences(doc));
                found.push(Setting { key, kind, doc });
            }
        }
    }

    /// Describes the form of a value.
    fn form(&self, kind: &str) -> String {
        match kind {
            "SocketAddr" => "address and port".to_owned(),
            "Duration" => "time with unit".to_owned(),
            "SlowThreshold" => "time with unit, or `auto`".to_owned(),
            "ByteSize" => "bytes with unit".to_owned(),
            "u8" | "u16" | "u32" | "u64" | "usize" => "whole number".to_owned(),
            "f64" => "number".to_owned(),
            "bool" => "`true` or `false`".to_owned(),
            "String" => "text".to_owned(),
            "PathBuf" => "path".to_owned(),
            "BTreeMap<String, BreakerSettings>" => "tables by kind of call".to_owned(),
            kind => {
                let variants = &self.enums[kind];
                let quoted: Vec<String> = variants.iter().map(|variant| format!("`{variant}`")).collect();
                quoted.join(", ")
            }
        }
    }
}

/// Returns the defaults that the sections leave to the parts that they configure, by key.
fn inner_defaults() -> BTreeMap<String, String> {
    let affinity = AffinityConfig::default();
    let mut found = BTreeMap::from([
        ("affinity.net_threads_max", affinity.net_threads_max.to_string()),
        (
            "affinity.verify_interval",
            format!("{:?}", affinity.verify_interval),
        ),
        ("affinity.fifo.priority", affinity.fifo.priority.to_string()),
        (
            "affinity.fifo.rttime_max",
            format!("{:?}", affinity.fifo.rttime_max),
        ),
        ("breaker.preset", "default".to_owned()),
        ("breaker.mode", "auto".to_owned()),
        ("breaker.strict", "false".to_owned()),
    ])
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect::<BTreeMap<String, String>>();
    // The fields have the names of the settings.
    let breaker = format!("{:?}", CircuitBreakerConfig::default());
    let fields = breaker
        .split_once("{ ")
        .and_then(|(_, rest)| rest.strip_suffix(" }"))
        .expect("a derived Debug");
    for (name, value) in fields.split(", ").filter_map(|field| field.split_once(": ")) {
        let value = value
            .strip_prefix("Some(")
            .and_then(|value| value.strip_suffix(')'))
            .unwrap_or(value);
        let value = if value == "None" { "unset" } else { value };
        found.insert(format!("breaker.{name}"), value.to_owned());
    }
    // Depends on the machine.
    found.insert(
        "breaker.shards".to_owned(),
        "the number of CPUs, at most 8".to_owned(),
    );
    found
}

/// Returns the default of a setting, as an operator would write it.
fn default_value(defaults: &Value, inner: &BTreeMap<String, String>, key: &str) -> String {
    let value = key.split('.').fold(defaults, |at, part| &at[part]);
    let text = match value {
        Value::Null => inner.get(key).cloned().unwrap_or_else(|| "unset".to_owned()),
        // `256.0 MiB` is `256MiB`.
        Value::String(text) if text.ends_with("iB") => text.replace(".0 ", ""),
        Value::String(text) => text.clone(),
        Value::Object(table) if table.is_empty() => "unset".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    match text.as_str() {
        "unset" | "the number of CPUs, at most 8" => text,
        _ => format!("`{text}`"),
    }
}

/// Returns the first error of a setting, after all checks of a start.
fn first_error(config: &Config) -> Result<(), SettingError> {
    config.server.check()?;
    config.telemetry.check()?;
    config.engine()?;
    let affinity = config.affinity.config()?;
    if let Err(AffinityError::InvalidConfig { field, value, bound }) = affinity.validate() {
        return Err(SettingError::new(field, value, bound));
    }
    Ok(())
}

/// Returns the bounds of a setting: sets values that are too small or too large, and reads the errors.
fn bounds(key: &str, kind: &str) -> String {
    let candidates: &[&str] = match kind {
        "Duration" | "SlowThreshold" => &["\"0s\"", "\"1ns\"", "\"100000days\""],
        "ByteSize" => &["\"1B\"", "\"4096B\"", "\"1000PiB\""],
        "u8" | "u16" | "u32" | "u64" | "usize" => &["0", "255", "4000000000"],
        "f64" => &["-1.0", "1e9"],
        "String" => &["\"?\""],
        _ => &[],
    };
    let mut found: Vec<String> = Vec::new();
    for candidate in candidates {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{key} = {candidate}").unwrap();
        // A number can be too large for its type.
        let Ok(config) = config::load(Some(file.path()), &[]) else {
            continue;
        };
        if let Err(error) = first_error(&config)
            && error.key == key
        {
            // After a colon, the bound says what is wrong with this value.
            let bound = error.bound.split(": ").next().unwrap_or_default();
            let bound = bound.trim_start_matches("from ").to_owned();
            if !found.contains(&bound) {
                found.push(bound);
            }
        }
    }
    found.join("; ")
}

#[test]
fn the_page_of_the_settings_agrees_with_the_code() {
    let source = Source::read();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let inner = inner_defaults();
    let mut table = String::new();
    let mut count = 0;
    for section in &source.structs["Config"] {
        let name = &section.name;
        let mut settings = Vec::new();
        source.collect(&section.kind, &format!("{name}."), &mut settings);
        write!(table, "\n## `[{name}]`\n\n{}\n\n", sentences(&section.doc)).unwrap();
        table += "| key and variable | form | default | bounds | meaning |\n|---|---|---|---|---|\n";
        for Setting { key, kind, doc } in settings {
            let variable = format!("TALLY__{}", key.replace('.', "__").to_uppercase());
            let value = default_value(&defaults, &inner, &key);
            let (form, bounds) = (source.form(&kind), bounds(&key, &kind));
            assert!(!doc.is_empty(), "{key} has no doc comment");
            writeln!(
                table,
                "| `{key}` `{variable}` | {form} | {value} | {bounds} | {doc} |"
            )
            .unwrap();
            count += 1;
        }
    }
    assert!(count > 70, "only {count} settings were found");
    table.push('\n');
    check_page("docs/settings.md", &table);
}
