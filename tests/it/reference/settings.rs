//! `docs/settings.md`: every setting of the service.

use std::fmt::Write as _;

use serde_json::Value;
use tally::config::{Config, bounds};

use super::check_page;
use crate::settings::source::Source;

/// The default of `breaker.shards`. It depends on the machine.
const SHARDS: &str = "the number of CPUs, at most 8";

/// Returns the default of a setting, as an operator would write it.
fn default_value(defaults: &Value, key: &str) -> String {
    if key == "breaker.shards" {
        return SHARDS.to_owned();
    }
    let value = key.split('.').fold(defaults, |at, part| &at[part]);
    match value {
        Value::Null => "unset".to_owned(),
        Value::Object(table) if table.is_empty() => "unset".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => format!("`{value}`"),
    }
}

#[test]
fn the_page_of_the_settings_agrees_with_the_code() {
    let source = Source::read();
    let defaults = serde_json::to_value(Config::default().effective()).unwrap();
    let (mut table, mut count) = (String::new(), 0);
    for section in source.sections() {
        write!(table, "\n## `[{}]`\n\n{}\n\n", section.name, section.doc).unwrap();
        table += "| key and variable | form | default | bounds | meaning |\n|---|---|---|---|---|\n";
        for setting in source.settings(&section.kind) {
            let key = format!("{}.{}", section.name, setting.name);
            let variable = format!("TALLY__{}", key.replace('.', "__").to_uppercase());
            let form = source.form(&setting.kind);
            let bounds = bounds(&key).unwrap_or_default();
            let doc = setting.doc.replace('|', "\\|");
            assert!(!doc.is_empty(), "{key} has no doc comment");
            let value = default_value(&defaults, &key);
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
