//! House rules that neither the compiler nor clippy knows, among them the one that keeps the layers apart.

mod self_test;
mod text;

use std::{fs, path::Path};

use text::{blanked, functions, imported, place, words};

/// The layers, lowest first. A module imports from lower layers only, and not sideways.
const LAYERS: [(&str, &[&str]); 3] = [
    (
        "L0 vocabulary",
        &[
            "id",
            "money",
            "time",
            "distribution",
            "sys",
            "proto",
            "json",
            "ledger",
            "breaker",
            "batch",
            "topology",
        ],
    ),
    (
        "L3 adapters",
        &["store", "telemetry", "config", "client", "security"],
    ),
    ("L4 service", &["engine", "grpc", "admin", "cli", "main"]),
];

/// Modules that import less than their layer may: each could be a crate of its own.
const NARROWED: [(&str, &[&str]); 0] = [];

/// Imports that go sideways or upwards, and why.
const EXCEPTIONS: [(&str, &str, &str); 13] = [
    ("json", "proto", "the JSON form is that of the generated messages"),
    ("config", "store", "where all parts' settings meet"),
    ("config", "engine", "where all parts' settings meet"),
    ("config", "grpc", "where all parts' settings meet"),
    ("config", "security", "where all parts' settings meet"),
    ("telemetry", "config", "takes its own section of the settings"),
    ("grpc", "engine", "calls it"),
    ("admin", "engine", "shows it"),
    ("admin", "grpc", "shows what the calls of EngineService show"),
    ("cli", "admin", "serves it"),
    ("cli", "grpc", "serves it"),
    ("cli", "engine", "starts and stops it"),
    ("main", "cli", "runs it"),
];

/// Lines of a file of `src`, its tests apart.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function of `src`, from `fn` to the closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Words of code that are nowhere, and why.
const BANNED: [(&str, &str); 4] = [
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "a leftover of debugging"),
    ("#[ignore", "a test runs or is deleted"),
];
/// Words of code that are not in `src`, and why.
const BANNED_IN_SRC: [(&str, &str); 4] = [
    ("mpsc::channel()", "std's channel is unbounded without a number"),
    ("unbounded_channel", "every queue has a bound"),
    ("unbounded(", "every queue has a bound"),
    ("SegQueue", "every queue has a bound"),
];
/// Directories of somebody's machine. In two pieces, so that this file passes its own rule.
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work"), concat!("/", "root"), concat!("/", "home")];
/// Directories that are not ours to tidy.
const FOREIGN_DIRECTORIES: [&str; 5] = [".git", "target", "tally-data", "google", "__pycache__"];
/// Files that are text. Anything else (fixtures, images) is passed over.
const TEXT: [&str; 13] = [
    "rs", "toml", "proto", "md", "sh", "py", "txt", "yaml", "yml", "json", "test", "run", "tools",
];

#[test]
fn the_project_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, root, &mut files);
    for needed in ["src/lib.rs", "proto/tally/v1/types.proto", "CHANGELOG.md"] {
        assert!(
            files.iter().any(|(path, _)| path == needed),
            "{needed} was not found"
        );
    }
    let findings: Vec<String> = files.iter().flat_map(|(path, text)| check(path, text)).collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_module_of_the_crate_has_its_layer() {
    let lib = include_str!("../../src/lib.rs");
    for module in lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
    {
        assert!(
            layer(module).is_some(),
            "src/lib.rs has {module}, which is in no layer of tests/it/tidy.rs"
        );
    }
}

/// Reads every text file below `directory`.
fn collect(root: &Path, directory: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory)
        .expect("a directory of the project")
        .map(|entry| entry.expect("an entry"))
    {
        let (path, name) = (
            entry.path(),
            entry.file_name().into_string().expect("names are plain"),
        );
        if entry.file_type().expect("a type").is_dir() {
            if !FOREIGN_DIRECTORIES.contains(&name.as_str()) {
                collect(root, &path, files);
            }
        } else if TEXT.iter().any(|kind| name.rsplit('.').next() == Some(kind)) {
            let text = fs::read_to_string(&path).expect("text is UTF-8");
            files.push((
                path.strip_prefix(root)
                    .expect("below")
                    .to_str()
                    .expect("plain")
                    .to_owned(),
                text,
            ));
        }
    }
}

/// All that is wrong with one file.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.contains('\t') {
            found.push(format!("{path}:{}: a tab", number + 1));
        }
        for machine in MACHINE_PATHS
            .iter()
            .filter(|machine| words(line, machine).next().is_some())
        {
            found.push(format!(
                "{path}:{}: {machine} is a path of one machine",
                number + 1
            ));
        }
    }
    if path.ends_with(".rs") {
        check_rust(path, text, &blanked(text), &mut found);
    } else if path.starts_with("proto/") && path.ends_with(".proto") {
        check_comments(path, text, &mut found);
    } else if path == "CHANGELOG.md" && !text.lines().any(|line| line.starts_with("## [Unreleased]")) {
        found.push(format!("{path}: no Unreleased section"));
    }
    found
}

fn check_rust(path: &str, text: &str, code: &str, found: &mut Vec<String>) {
    let ban = |(word, why): (&str, &str)| {
        words(code, word)
            .map(|at| format!("{}: {word}: {why}", place(path, code, at)))
            .collect::<Vec<_>>()
    };
    found.extend(BANNED.into_iter().flat_map(ban));
    // Tests may need an allocator or a signal of their own; it stands in a file of that name, too.
    let is_sys = path.starts_with("src/sys/")
        || (path.starts_with("crates/") && path.contains("/src/sys"))
        || (path.starts_with("tests/") && path.ends_with("/sys.rs"));
    if !is_sys {
        let why = "only src/sys may, and a sys.rs of the tests";
        found.extend(
            ["unsafe", "unsafe_code"]
                .into_iter()
                .flat_map(|word| ban((word, why))),
        );
    }
    let Some(module) = path.strip_prefix("src/") else {
        return;
    };
    found.extend(BANNED_IN_SRC.into_iter().flat_map(ban));
    let is_test = module.ends_with("tests.rs") || module.contains("/tests/");
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !is_test {
        found.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    for (at, name, lines) in functions(code).filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX) {
        found.push(format!(
            "{}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}",
            place(path, code, at)
        ));
    }
    check_imports(path, module, code, found);
}

fn check_imports(path: &str, module: &str, code: &str, found: &mut Vec<String>) {
    let from = module.split(['/', '.']).next().unwrap_or_default();
    if from == "lib" {
        return;
    }
    // Elsewhere in a module's root, `super` would be the crate's root by another name.
    let is_root = [format!("{from}.rs"), format!("{from}/mod.rs")]
        .iter()
        .any(|root| module == root);
    let outside_inline_modules = code.split("\nmod tests {").next().unwrap_or_default();
    if is_root && words(outside_inline_modules, "super::").next().is_some() {
        found.push(format!("{path}: super:: is the crate here, say crate::"));
    }
    let prefix = if from == "main" { "tally::" } else { "crate::" };
    for at in words(code, prefix) {
        for to in imported(code.get(at + prefix.len()..).unwrap_or_default()) {
            if let Some(why) = forbidden(from, &to) {
                found.push(format!("{}: {from} imports {to}: {why}", place(path, code, at)));
            }
        }
    }
}

/// Why `from` may not import `to`; `None` if it may.
fn forbidden(from: &str, to: &str) -> Option<String> {
    if from == to
        || EXCEPTIONS
            .iter()
            .any(|(above, below, _)| (*above, *below) == (from, to))
    {
        return None;
    }
    let (Some(above), Some(below)) = (layer(from), layer(to)) else {
        return Some("one of them is in no layer".to_owned());
    };
    let narrowed = NARROWED.iter().find(|(module, _)| *module == from);
    match narrowed {
        Some((_, allowed)) if allowed.contains(&to) => None,
        Some((_, allowed)) => Some(format!("it may import {allowed:?} only")),
        None if above > below => None,
        None => Some(format!("{} is not below {}", LAYERS[below].0, LAYERS[above].0)),
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&module))
}

/// Every service, call, message, enum and field has a comment on the line before it.
fn check_comments(path: &str, text: &str, found: &mut Vec<String>) {
    let mut before = "";
    for (number, line) in text.lines().map(str::trim).enumerate() {
        let file_level = ["syntax ", "package ", "import ", "option "]
            .iter()
            .any(|word| line.starts_with(word));
        let block = ["service ", "rpc ", "message ", "enum ", "oneof "]
            .iter()
            .any(|word| line.starts_with(word));
        let field = line.contains(" = ") && !line.starts_with("//") && !file_level;
        if (block || field) && !before.starts_with("//") {
            found.push(format!("{path}:{}: no comment before `{line}`", number + 1));
        }
        before = line;
    }
}
