//! House rules that neither the compiler nor clippy checks, among them the direction of imports.

mod cycles;
mod mutations;
mod self_test;
mod text;

use std::{collections::BTreeSet, fs, path::Path};

use cycles::cycles;
use text::{blanked, functions, location, paths, without_inline_tests, words};

/// The modules of the service, lowest first. A module imports only from modules before it in this list, without
/// exceptions.
const MODULES: [&str; 21] = [
    "proto",
    "version",
    "terminal",
    "sys",
    "wall_clock",
    "settings",
    "json",
    "certificates",
    "mutation",
    "ledger_clock",
    "store",
    "telemetry",
    "client",
    "security",
    "engine",
    "replica",
    "grpc",
    "admin",
    "config",
    "bench",
    "cli",
];
/// The crates that the service consists of. None of them depends on another or on tonic.
const CRATES: [&str; 7] = [
    "breaker",
    "batch",
    "topology",
    "ledger",
    "journal",
    "kafka",
    "replication",
];

/// Maximum number of lines of a source file. Test files may be longer.
const FILE_LINES_MAX: usize = 600;
/// Maximum number of lines of a function, from `fn` to the closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Words that must not occur in any code, each with the text that the finding shows.
const BANNED: [(&str, &str); 4] = [
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
    ("dbg!", "a leftover of debugging"),
    ("#[ignore", "a test runs or is deleted"),
];
/// Words that must not occur in the code of the service and of the crates, each with the text that the finding shows.
const BANNED_IN_SRC: [(&str, &str); 4] = [
    (
        "mpsc::channel()",
        "the channel of std is unbounded; use sync_channel",
    ),
    ("unbounded_channel", "every queue has a bound"),
    ("unbounded(", "every queue has a bound"),
    ("SegQueue", "every queue has a bound"),
];
/// The money path: the directories in which code must panic if an invariant is broken, instead of continuing.
const MONEY_PATH: [&str; 4] = [
    "crates/ledger/src/",
    "crates/journal/src/",
    "crates/replication/src/",
    "src/store/",
];
/// Code that would continue in spite of a broken invariant. It must not occur on the money path.
const SILENT_DEFAULTS: [&str; 4] = [".unwrap_or_default()", ".unwrap_or(", "let _ =", ".ok();"];
/// Statements with which an `else` block on the money path must not begin, because they continue in spite of a broken
/// invariant, too.
const SILENT_EXITS: [&str; 4] = ["return;", "return }", "continue;", "continue }"];
/// Functions that make a gRPC status. Only `src/grpc/status.rs` may call them, so that no status lacks its details.
const STATUS_CONSTRUCTORS: [&str; 3] = ["Status::new(", "Status::with_details(", "Status::with_metadata("];
/// Phrases that readers do not understand at the first reading, each with the words to write instead.
const STOCK_PHRASES: [(&str, &str); 5] = [
    ("under way", "in flight"),
    ("so many", "this many, or up to N"),
    ("is told", "receives, or learns"),
    ("what became of", "the outcome of"),
    ("that is there", "present, or existing"),
];
/// Directories of a developer's machine. No file may name them. Each path is in two pieces, so that this file passes
/// the rule.
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work"), concat!("/", "root"), concat!("/", "home")];
/// Directories that are not checked, because their files are generated or come from other projects.
const FOREIGN_DIRECTORIES: [&str; 5] = [".git", "target", "tally-data", "google", "__pycache__"];
/// Extensions of the files that are checked. A file without a dot is checked if its whole name is in this list. Other
/// files, such as images, are not checked.
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
    let mut findings: Vec<String> = files.iter().flat_map(|(path, text)| check(path, text)).collect();
    findings.extend(cycles("src", &files));
    for name in CRATES {
        findings.extend(cycles(&format!("crates/{name}/src"), &files));
    }
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_module_of_the_service_is_in_the_order_of_modules() {
    let lib = include_str!("../../src/lib.rs");
    for module in lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
    {
        assert!(
            MODULES.contains(&module),
            "src/lib.rs has the module {module}, which is not in MODULES of tests/it/tidy.rs"
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

/// Returns the findings of one file.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.contains('\t') {
            found.push(format!("{path}:{}: a tab", number + 1));
        }
        if !path.starts_with("tests/it/tidy") {
            for (phrase, instead) in STOCK_PHRASES.iter().filter(|(phrase, _)| line.contains(phrase)) {
                found.push(format!("{path}:{}: `{phrase}`: write {instead}", number + 1));
            }
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
    } else if CRATES
        .iter()
        .any(|name| path == format!("crates/{name}/Cargo.toml"))
    {
        check_manifest(path, text, &mut found);
    } else if path == "CHANGELOG.md" && !text.lines().any(|line| line.starts_with("## [Unreleased]")) {
        found.push(format!("{path}: no Unreleased section"));
    }
    found
}

fn check_rust(path: &str, text: &str, code: &str, found: &mut Vec<String>) {
    let ban = |(word, why): (&str, &str)| {
        words(code, word)
            .map(|at| format!("{}: {word}: {why}", location(path, code, at)))
            .collect::<Vec<_>>()
    };
    found.extend(BANNED.into_iter().flat_map(ban));
    // A test that needs `unsafe`, such as for its own allocator, has it in a file `sys.rs`.
    let is_sys = path.contains("src/sys/") || path.ends_with("/sys.rs");
    if !is_sys {
        let why = "only a directory src/sys and a sys.rs of the tests may contain it";
        found.extend(
            ["unsafe", "unsafe_code"]
                .into_iter()
                .flat_map(|word| ban((word, why))),
        );
    }
    let is_source = path.starts_with("src/") || (path.starts_with("crates/") && path.contains("/src/"));
    if !is_source {
        return;
    }
    found.extend(BANNED_IN_SRC.into_iter().flat_map(ban));
    check_money_path(path, code, found);
    if path.starts_with("src/grpc/") && path != "src/grpc/status.rs" && !path.ends_with("tests.rs") {
        let why = "statuses may be made only in src/grpc/status.rs";
        let shipped = without_inline_tests(code);
        let made = STATUS_CONSTRUCTORS
            .iter()
            .filter(|word| words(&shipped, word).next().is_some());
        found.extend(made.map(|word| format!("{path}: {word}: {why}")));
    }
    let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !is_test {
        found.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    for (at, name, lines) in functions(code).filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX) {
        found.push(format!(
            "{}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}",
            location(path, code, at)
        ));
    }
    if let Some(module) = path.strip_prefix("src/")
        && !is_test
    {
        check_order(path, module, &without_inline_tests(code), found);
    }
}

/// Checks that code on the money path does not continue in spite of a broken invariant.
fn check_money_path(path: &str, code: &str, found: &mut Vec<String>) {
    if !MONEY_PATH.iter().any(|directory| path.starts_with(directory)) || path.ends_with("tests.rs") {
        return;
    }
    let shipped = without_inline_tests(code);
    let why =
        "on the money path, use an assertion instead of a default, an early return or an ignored result";
    for word in SILENT_DEFAULTS {
        found.extend(words(&shipped, word).map(|_| format!("{path}: {word}: {why}")));
    }
    for at in words(&shipped, "else {") {
        let block = shipped[at + "else {".len()..].trim_start();
        if SILENT_EXITS.iter().any(|exit| block.starts_with(exit)) {
            let line = block.lines().next().unwrap_or_default();
            found.push(format!("{path}: else {{ {line}: {why}"));
        }
    }
}

/// Checks that a module of the service imports only from modules before it in [`MODULES`].
fn check_order(path: &str, module: &str, code: &str, found: &mut Vec<String>) {
    let from = module.split(['/', '.']).next().unwrap_or_default();
    if from == "lib" {
        return;
    }
    let prefix = if from == "main" { "tally::" } else { "crate::" };
    let imported = words(code, prefix).flat_map(|at| paths(&code[at..]));
    let modules: BTreeSet<String> = imported.filter_map(|path| path.into_iter().nth(1)).collect();
    for to in modules {
        if let Some(why) = why_forbidden(from, &to) {
            found.push(format!("{path}: {from} imports {to}: {why}"));
        }
    }
}

/// Returns why the module `from` may not import the module `to`; `None` if it may.
fn why_forbidden(from: &str, to: &str) -> Option<String> {
    if from == to {
        return None;
    }
    let position = |module| MODULES.iter().position(|known| *known == module);
    match (position(from), position(to)) {
        (_, None) => Some(format!("{to} is not in MODULES")),
        (None, Some(_)) if from == "main" => None,
        (None, _) => Some(format!("{from} is not in MODULES")),
        (Some(above), Some(below)) if above > below => None,
        _ => Some(format!("{to} is not below {from}")),
    }
}

/// Checks that the manifest of a crate names no dependency that the crate must not have.
fn check_manifest(path: &str, text: &str, found: &mut Vec<String>) {
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        let is_own = name.starts_with("tally-");
        let is_banned = match section {
            "[dependencies]" => is_own || name.starts_with("tonic"),
            "[dev-dependencies]" => is_own && name != "tally-testing",
            _ => false,
        };
        if is_banned {
            found.push(format!(
                "{path}: depends on {name}: the crates must not depend on each other or on tonic"
            ));
        }
    }
}

/// Checks that every service, call, message, enum and field of a proto file has a comment on the line before it.
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
