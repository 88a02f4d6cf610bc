//! A test that log lines contain no Debug forms of Rust, such as `Some(5)` or `RecoveryReport { .. }`.

use std::{fs, path::Path};

/// Adds the places below `directory` at which a field of a log line or of a span has the sigil `?`, which writes the Debug
/// form.
fn debug_fields(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            debug_fields(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let is_field = |sigil: &str| {
                    code.match_indices(sigil).any(|(at, _)| {
                        let name = &code[at + sigil.len()..];
                        name.starts_with(|character: char| character.is_ascii_lowercase() || character == '_')
                    })
                };
                // The operator `?` of Rust stands after an expression, and never before a name.
                if is_field("= ?") || is_field(", ?") || is_field("(?") || code.trim_start().starts_with('?')
                {
                    found.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
                }
            }
        }
    }
}

#[test]
fn no_log_line_has_a_field_in_the_debug_form_of_rust() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    debug_fields(&root.join("src"), &mut found);
    for package in fs::read_dir(root.join("crates")).unwrap() {
        debug_fields(&package.unwrap().path().join("src"), &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
