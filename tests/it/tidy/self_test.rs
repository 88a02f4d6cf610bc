//! Applies the rules of `tidy` to invented files: code that breaks a rule is reported, and similar code that is allowed
//! is not.

use super::{FILE_LINES_MAX, FUNCTION_LINES_MAX, MACHINE_PATHS, check, cycles::cycles};

#[test]
fn code_that_breaks_a_rule_is_reported() {
    let long_function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX));
    let long_file = "// line\n".repeat(FILE_LINES_MAX + 1);
    let machine_path = format!("// see {}/x\n", MACHINE_PATHS[0]);
    for (path, text, finding) in [
        ("src/json.rs", "fn f() {\n\tg();\n}\n", "src/json.rs:2: a tab"),
        ("README.md", machine_path.as_str(), "README.md:1: /"),
        ("src/json.rs", long_file.as_str(), "601 lines"),
        (
            "src/json.rs",
            long_function.as_str(),
            "src/json.rs:1: fn f has 72 lines",
        ),
        ("src/json.rs", "fn f() { todo!() }", "todo!"),
        ("tests/it/x.rs", "fn f() { unimplemented!() }", "unimplemented!"),
        ("src/json.rs", "fn f() { dbg!(1); }", "dbg!"),
        (
            "tests/it/x.rs",
            "#[test]\n#[ignore = \"slow\"]\nfn f() {}",
            "tests/it/x.rs:2: #[ignore",
        ),
        (
            "src/json.rs",
            "fn f() { let (a, b) = mpsc::channel(); }",
            "mpsc::channel()",
        ),
        (
            "src/json.rs",
            "use tokio::sync::mpsc::unbounded_channel;",
            "unbounded_channel",
        ),
        (
            "crates/batch/src/ring.rs",
            "fn f() { unsafe { g() } }",
            "unsafe: only a directory src/sys and",
        ),
        (
            "crates/batch/src/lib.rs",
            "#![allow(unsafe_code)]",
            "unsafe_code: only a directory src/sys and",
        ),
        (
            "src/store/mod.rs",
            "use crate::engine::E;",
            "store imports engine: engine is not below store",
        ),
        ("src/engine/mod.rs", "use crate::grpc::G;", "engine imports grpc"),
        (
            "src/grpc/mod.rs",
            "use crate::{engine::{E, F}, cli};",
            "grpc imports cli",
        ),
        (
            "src/telemetry/mod.rs",
            "fn f() -> crate::config::C { g() }",
            "telemetry imports config",
        ),
        ("src/json.rs", "use crate::stray::S;", "stray is not in MODULES"),
        ("src/main.rs", "use tally::stray::S;", "stray is not in MODULES"),
        (
            "crates/ledger/src/table.rs",
            "fn f() { g().unwrap_or_default(); }",
            ".unwrap_or_default(): on the money path",
        ),
        (
            "crates/journal/src/writer.rs",
            "fn f() { let x = g().unwrap_or(0); }",
            ".unwrap_or(: on the money path",
        ),
        (
            "src/store/mod.rs",
            "fn f() { let _ = g(); }",
            "let _ =: on the money path",
        ),
        (
            "src/store/mod.rs",
            "fn f() { g().ok(); }",
            ".ok();: on the money path",
        ),
        (
            "crates/ledger/src/table.rs",
            "fn f() { let Some(x) = g() else {\n    return;\n}; }",
            "else { return;: on the money path",
        ),
        (
            "crates/ledger/src/table.rs",
            "fn f() { for y in z { let Some(x) = g() else { continue }; } }",
            "else { continue }; } }: on the money path",
        ),
        (
            "src/grpc/mod.rs",
            "fn f() { Status::new(Code::Internal, \"\") }",
            "Status::new(: statuses may be made only in src/grpc/status.rs",
        ),
        ("README.md", concat!("calls und", "er way\n"), "write in flight"),
        (
            "crates/batch/Cargo.toml",
            "[dependencies]\ntally-ledger.workspace = true\n",
            "depends on tally-ledger",
        ),
        (
            "crates/breaker/Cargo.toml",
            "[dependencies]\ntonic = \"0.14\"\n",
            "depends on tonic",
        ),
        (
            "crates/breaker/Cargo.toml",
            "[dev-dependencies]\ntally-batch = \"0.1\"\n",
            "depends on tally-batch",
        ),
        (
            "proto/tally/v1/x.proto",
            "// M.\nmessage M {\n  int32 a = 1;\n}\n",
            "proto:3: no comment before `int32 a = 1;`",
        ),
        (
            "proto/tally/v1/x.proto",
            "// S.\nservice S {\n  rpc F(A) returns (B);\n}\n",
            "no comment before `rpc F",
        ),
        ("CHANGELOG.md", "# Changelog\n", "no Unreleased section"),
    ] {
        let found = check(path, text);
        assert!(
            found.iter().any(|found| found.contains(finding)),
            "{text:?} gave {found:?}, not {finding:?}"
        );
    }
}

#[test]
fn allowed_code_that_resembles_broken_code_is_not_reported() {
    for (path, text) in [
        (
            "src/store/mod.rs",
            "// crate::engine, todo!() and unsafe\n/* dbg! */\nuse crate::{proto, wall_clock};",
        ),
        (
            "src/store/mod.rs",
            r##"const A: &str = "\" unsafe"; const B: &str = r#"" todo!"#; const C: char = '"';"##,
        ),
        (
            "src/json.rs",
            "fn f<'a>(x: &'a str) -> [u8; 4] { g('\\'', '\u{e9}', b'x') }",
        ),
        (
            "src/engine/mod.rs",
            "use crate::{security::B, telemetry, store::{embedded::{self, X}, Y}, sys};",
        ),
        (
            "crates/batch/src/tests.rs",
            &"// line\n".repeat(FILE_LINES_MAX + 1),
        ),
        ("src/sys/affinity.rs", "fn f() { unsafe { g() } }"),
        ("crates/topology/src/sys/affinity.rs", "fn f() { unsafe { g() } }"),
        (
            "crates/batch/Cargo.toml",
            "[dependencies]\ntower-service = \"0.3\"\n[dev-dependencies]\ntally-testing.workspace = true\n",
        ),
        ("tests/it/x/sys.rs", "fn f() { unsafe { g() } }"),
        (
            "src/store/open.rs",
            "fn f() { g(); }\n#[cfg(test)]\nmod tests {\n    use crate::engine::E;\n}\n",
        ),
        (
            "README.md",
            "Reads ../shared/network and /workers, then a/rooted/tree.",
        ),
    ] {
        assert_eq!(check(path, text), Vec::<String>::new(), "{text:?}");
    }
}

#[test]
fn an_import_cycle_is_reported_with_its_arrows() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("src/lib.rs", "mod a;\nmod b;\nmod c;\n"),
        file("src/a.rs", "use super::b::{self, B};\n"),
        file(
            "src/b/mod.rs",
            "mod deep;\npub use deep::D;\npub struct B(crate::c::C);\n",
        ),
        // The path names an item that the parent defines, so the arrow leads to the file of the parent.
        file("src/b/deep.rs", "use super::B;\n"),
        file("src/c.rs", "use crate::{a::A, x};\n"),
        // Paths in tests and comments are no arrows.
        file(
            "src/d.rs",
            "// crate::e\n#[cfg(test)]\nmod tests {\n    use crate::e::E;\n}\n",
        ),
        file("src/e.rs", "use crate::d::D;\n"),
        file("src/e/tests.rs", "use crate::{d::D, e::E};\n"),
    ];
    assert_eq!(
        cycles("src", &files),
        [
            "import cycle: src/a.rs -> src/b/mod.rs (super::b::self), src/b/mod.rs -> src/c.rs (crate::c::C), \
             src/c.rs -> src/a.rs (crate::a::A)",
            "import cycle: src/b/deep.rs -> src/b/mod.rs (super::B), src/b/mod.rs -> src/b/deep.rs (deep)",
        ]
    );
}

#[test]
fn files_without_a_cycle_give_no_finding() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file(
            "crates/x/src/lib.rs",
            "mod a;\nmod b;\npub use a::A;\npub use b::B;\n",
        ),
        file("crates/x/src/a.rs", "use crate::b::B;\n"),
        file("crates/x/src/b.rs", "use std::collections::BTreeMap;\n"),
        // This file belongs to another crate, so it is ignored.
        file("crates/y/src/b.rs", "use crate::a::A;\n"),
    ];
    assert_eq!(cycles("crates/x/src", &files), Vec::<String>::new());
}
