//! `examples/tally.toml`: every setting with its meaning, its form, its bounds and its default. The file is generated from the
//! code. This command writes the file:
//!
//! ```sh
//! WRITE_DOCS=1 cargo test --locked --workspace --test it -- settings::example::
//! ```

use std::{fmt::Write as _, fs, io::Write as _, path::PathBuf};

use serde_json::Value;
use tally::config::{Config, bounds, load};

use super::source::Source;

/// The beginning of the file.
const INTRODUCTION: &str = "\
# The settings of `tally serve`, each with its meaning, its form, its bounds and its default.
#
#   tally serve --config tally.toml           starts the service with this file
#   tally serve --config tally.toml --check   checks this file
#   tally config --config tally.toml          shows the settings in force, and where each value comes from
#
# A line that begins with `#` and a key has the default of the setting. To change a setting, remove the `#`
# and write another value. A setting without a default has an example instead.
#
# An environment variable overrides the file: TALLY__SERVER__DRAIN=20s overrides `drain` in the section
# `[server]`. A command-line option overrides both. An unknown key is an error, and so is a variable that is
# similar to a known one, such as TALLY_LISTN. Variables that Kubernetes sets for a Service with the name
# tally, such as TALLY_SERVICE_HOST and TALLY_PORT, are ignored.
#
# This file is generated from the code: see tests/it/settings/example.rs.
";
/// Maximum length of a line, in characters.
const WIDTH: usize = 108;

/// Examples for the settings that have no default, by key.
const EXAMPLES: [(&str, &str); 22] = [
    ("affinity.cpus.aux", "\"0\""),
    ("affinity.cpus.exec", "\"1\""),
    ("affinity.cpus.net", "\"3-5\""),
    ("affinity.cpus.wal", "\"2\""),
    ("batch.latency_budget", "\"10ms\""),
    (
        "breaker.methods",
        "{ StreamTransactions = { slow_threshold = \"2s\" } }",
    ),
    ("security.client_ca", "\"/etc/tally/clients.crt\""),
    ("security.tls_certificate", "\"/etc/tally/tls.crt\""),
    ("security.tls_key", "\"/etc/tally/tls.key\""),
    ("security.tokens_file", "\"/etc/tally/tokens\""),
    ("store.replicated.advertise", "\"http://tally-0.tally:50051\""),
    (
        "store.replicated.brokers",
        "\"kafka-0:9092,kafka-1:9092,kafka-2:9092\"",
    ),
    ("store.replicated.peer_ca_file", "\"/etc/tally/peers.crt\""),
    ("store.replicated.peer_token_file", "\"/etc/tally/peer-token\""),
    (
        "store.replicated.peers",
        "\"http://tally-0.tally:50051,http://tally-1.tally:50051,http://tally-2.tally:50051\"",
    ),
    ("store.replicated.sasl_mechanism", "\"scram-sha-512\""),
    (
        "store.replicated.sasl_password_file",
        "\"/etc/tally/kafka-password\"",
    ),
    ("store.replicated.sasl_username", "\"tally\""),
    ("store.replicated.tls_ca_file", "\"/etc/tally/kafka-ca.crt\""),
    ("store.replicated.tls_cert_file", "\"/etc/tally/kafka.crt\""),
    ("store.replicated.tls_key_file", "\"/etc/tally/kafka.key\""),
    ("telemetry.otlp_endpoint", "\"http://127.0.0.1:4317\""),
];
/// The setting whose default depends on the machine.
const SHARDS: (&str, &str) = ("breaker.shards", "8");

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/tally.toml")
}

/// Adds a comment, in lines of at most [`WIDTH`] characters.
fn comment(text: &str, page: &mut String) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(page, "{line}").unwrap();
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(page, "{line}").unwrap();
}

/// Returns the default of a setting in TOML, if it has a default.
fn default_of(defaults: &Value, key: &str) -> Option<String> {
    if key == SHARDS.0 {
        return Some(SHARDS.1.to_owned());
    }
    let value = key.split('.').fold(defaults, |at, part| &at[part]);
    match value {
        Value::Null => None,
        Value::Object(table) => {
            assert!(table.is_empty(), "{key} is a table with a default");
            None
        }
        Value::String(_) | Value::Bool(_) | Value::Number(_) | Value::Array(_) => Some(value.to_string()),
    }
}

fn generated() -> String {
    let source = Source::read();
    let defaults = serde_json::to_value(Config::default().effective()).unwrap();
    let (mut page, mut count) = (INTRODUCTION.to_owned(), 0);
    for section in source.sections() {
        page.push('\n');
        comment(&section.doc, &mut page);
        writeln!(page, "[{}]", section.name).unwrap();
        for setting in source.settings(&section.kind) {
            let key = format!("{}.{}", section.name, setting.name);
            assert!(!setting.doc.is_empty(), "{key} has no doc comment");
            page.push('\n');
            comment(&setting.doc, &mut page);
            let limits = bounds(&key).map_or_else(String::new, |bounds| format!(" Bounds: {bounds}."));
            comment(
                &format!("Form: {}.{limits}", source.form(&setting.kind)),
                &mut page,
            );
            match default_of(&defaults, &key) {
                Some(value) => writeln!(page, "#{} = {value}", setting.name).unwrap(),
                None => {
                    let (_, example) = EXAMPLES.iter().find(|(name, _)| *name == key).unwrap();
                    writeln!(page, "# No default. Example:\n#   {} = {example}", setting.name).unwrap();
                }
            }
            count += 1;
        }
    }
    assert!(count > 70, "only {count} settings were found");
    page
}

/// Loads and checks a file.
fn loaded(text: &str) -> Config {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let config = load(Some(file.path()), &[]).unwrap();
    config.check().unwrap();
    config
}

#[test]
fn the_example_file_agrees_with_the_code() {
    let wanted = generated();
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::create_dir_all(path().parent().unwrap()).unwrap();
        fs::write(path(), wanted).unwrap();
        return;
    }
    let text = fs::read_to_string(path()).unwrap();
    let changed = wanted.lines().zip(text.lines()).find(|(new, old)| new != old);
    assert!(
        wanted == text,
        "examples/tally.toml does not agree with the code. The first different line, from the code and in the file: \
         {changed:#?}\nWRITE_DOCS=1 cargo test --locked --workspace --test it -- settings::example:: writes the file."
    );
}

#[test]
fn the_example_file_states_the_defaults_and_its_examples_are_valid() {
    let text = fs::read_to_string(path()).unwrap();
    loaded(&text);
    let with_defaults: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') && !setting.is_empty() => format!("{setting}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    let mut stated = loaded(&with_defaults).effective();
    let defaults = Config::default().effective();
    stated.breaker.shards = defaults.breaker.shards;
    assert_eq!(
        serde_json::to_value(&stated).unwrap(),
        serde_json::to_value(&defaults).unwrap()
    );
    let with_examples = with_defaults.replace("#   ", "");
    let lines = with_examples.lines().filter(|line| !line.starts_with("tally "));
    loaded(&lines.collect::<Vec<_>>().join("\n"));
}
