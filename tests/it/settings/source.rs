//! Reads the settings and their doc comments from the source code.

use std::{collections::BTreeMap, fs, path::Path};

/// The structs and enumerations of the settings, by name.
#[derive(Debug, Default)]
pub(crate) struct Source {
    structs: BTreeMap<String, Vec<Field>>,
    enums: BTreeMap<String, Vec<String>>,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) doc: String,
}

// ===== impl Source =====

impl Source {
    /// Reads the files whose names end with `settings.rs` below `src`.
    pub(crate) fn read() -> Self {
        let mut source = Source::default();
        source.add_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        source
    }

    /// Returns the sections of the configuration.
    pub(crate) fn sections(&self) -> &[Field] {
        &self.structs["Config"]
    }

    /// Returns the settings of a struct. Their names are keys within the section.
    pub(crate) fn settings(&self, name: &str) -> Vec<Field> {
        let mut found = Vec::new();
        for field in &self.structs[name] {
            if self.structs.contains_key(&field.kind) {
                for inner in self.settings(&field.kind) {
                    found.push(Field {
                        name: format!("{}.{}", field.name, inner.name),
                        ..inner
                    });
                }
            } else {
                let kind = field
                    .kind
                    .strip_prefix("Option<")
                    .and_then(|kind| kind.strip_suffix('>'));
                found.push(Field {
                    kind: kind.unwrap_or(&field.kind).to_owned(),
                    ..field.clone()
                });
            }
        }
        found
    }

    /// Describes the form of a value.
    pub(crate) fn form(&self, kind: &str) -> String {
        match kind {
            "SocketAddr" => "address and port".to_owned(),
            "Duration" => "time with a unit (ns, us, ms, s, min, h)".to_owned(),
            "SlowThreshold" => "time with a unit (ns, us, ms, s, min, h), or \"auto\"".to_owned(),
            "ByteSize" => "bytes with a unit (B, KiB, MiB, GiB)".to_owned(),
            "u8" | "u16" | "u32" | "u64" | "usize" => "whole number".to_owned(),
            "f64" => "number".to_owned(),
            "bool" => "true or false".to_owned(),
            "String" => "text".to_owned(),
            "PathBuf" => "path".to_owned(),
            "BTreeMap<String, BreakerSettings>" => "settings by kind of call".to_owned(),
            kind => {
                let variants = self.enums[kind].iter().map(|variant| format!("\"{variant}\""));
                variants.collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn add_directory(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add_directory(&path);
            } else if path.to_string_lossy().ends_with("settings.rs") {
                self.add(&fs::read_to_string(&path).unwrap());
            }
        }
    }

    fn add(&mut self, text: &str) {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let opened = |keyword: &str| line.strip_prefix(keyword)?.strip_suffix(" {");
            let body = lines.clone().take_while(|line| *line != "}").map(str::trim);
            if let Some(name) = opened("pub struct ") {
                self.structs.insert(name.to_owned(), fields(body));
            } else if let Some(name) = opened("pub enum ") {
                self.enums.insert(name.to_owned(), variants(body));
            }
        }
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Field> {
    let (mut fields, mut doc) = (Vec::new(), String::new());
    for line in lines {
        if let Some(words) = line.strip_prefix("/// ") {
            doc += words;
            doc.push(' ');
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|field| field.split_once(": "))
        {
            fields.push(Field {
                name: name.to_owned(),
                kind: kind.trim_end_matches(',').to_owned(),
                doc: sentences(&std::mem::take(&mut doc)),
            });
        }
    }
    fields
}

/// Returns the names of the variants of an enumeration in the settings.
fn variants<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let (mut variants, mut renamed) = (Vec::new(), None);
    for line in lines {
        if let Some(name) = line.strip_prefix("#[serde(rename = \"") {
            renamed = name.strip_suffix("\")]").map(str::to_owned);
        } else if let Some(name) = line.strip_suffix(',') {
            variants.push(renamed.take().unwrap_or_else(|| snake_case(name)));
        }
    }
    variants
}

/// Returns the sentences of a doc comment without those that link to other items of the code.
fn sentences(doc: &str) -> String {
    let kept = doc
        .split_inclusive(". ")
        .filter(|sentence| !sentence.contains("[`"));
    kept.collect::<String>().trim().to_owned()
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
